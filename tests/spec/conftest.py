"""Fixtures of tests of profiles and keys."""

from __future__ import annotations

import pytest
from specs import smoke


@pytest.fixture
def raw():
    """Return the smoke profile as a table that a file may hold."""
    tree = smoke().model_dump(mode="json", exclude_none=True)
    del tree["name"], tree["known"]
    return tree
