"""Fixtures of tests of the report."""

from __future__ import annotations

import pytest
from report_rows import make_row

from cl_bench.report import RowResult


@pytest.fixture(scope="module")
def row() -> RowResult:
    return make_row()
