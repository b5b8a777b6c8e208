"""Fixtures of tests of methods."""

from __future__ import annotations

from textwrap import dedent

import pytest
from method_files import HEADER


@pytest.fixture
def plugin(tmp_path):
    """Write a plugin; returns its path."""

    def write(file, text, folder="."):
        path = tmp_path / folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(HEADER + dedent(text), encoding="utf-8")
        return path

    return write
