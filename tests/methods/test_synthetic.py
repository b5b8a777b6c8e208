"""Options tried out on synthetic views before anything trains."""

from __future__ import annotations

import pytest

from cl_bench import Match, matching
from cl_bench.errors import MethodError
from cl_bench.methods.method import REGISTERED
from cl_bench.methods.synthetic import try_options


@pytest.fixture
def asked(forget_methods):
    """Return the options of each call of the strategy ``picky``, which accepts a reach above 0 only."""
    calls = []

    @matching("picky")
    def picky(views, *, reach: float = 1.0):
        calls.append(reach)
        if reach <= 0:
            raise ValueError(f"reach must be above 0, got {reach}")
        return Match.identity(views)

    @matching("hopeless")
    def hopeless(views, *, reach: float = 1.0):
        raise ValueError("never works")

    return calls


def test_a_refused_value_is_told_of(asked):
    with pytest.raises(
        MethodError, match=r"method 'picky' \(.*test_synthetic\.py:\d+\): .*reach must be above 0, got -1"
    ):
        try_options(REGISTERED["picky"](reach=-1))
    try_options(REGISTERED["picky"](reach=2))


def test_defaults_are_not_tried(asked):
    try_options(REGISTERED["picky"]())
    assert not asked


def test_a_strategy_that_fails_anyway_is_left_to_its_own_cases(asked):
    try_options(REGISTERED["hopeless"](reach=2))
