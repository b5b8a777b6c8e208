"""Tau over pairs against scipy's and against loops; its null distribution against enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cl_bench.statistics.kendall import (
    Pairs,
    all_pairs,
    along,
    between,
    counts,
    equivalence,
    fieller_interval,
    null_distribution,
    tau_b,
    within,
)


def listed(pairs: Pairs) -> set[tuple[int, int]]:
    return {(int(i), int(j)) for i, j in zip(pairs.first, pairs.second, strict=True)}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=12))
def test_tau_b_is_scipys(points: list[tuple[int, int]]) -> None:
    x, y = np.array(points, dtype=float).T
    wanted = stats.kendalltau(x, y, variant="b").statistic
    assert tau_b(x, y) == pytest.approx(wanted, nan_ok=True)


def test_many_draws_are_counted_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cl_bench.statistics.kendall._CHUNK", 50)  # two draws at a time
    rng = np.random.default_rng(0)
    x, y = np.round(rng.normal(size=(2, 7, 8)))
    pairs = all_pairs(8)
    for a, b in ((x, y), (x[:1], y), (x, y[:1])):
        found = counts(a, b, pairs)
        alone = [tau_b(a[k % len(a)], b[k % len(b)]) for k in range(7)]
        assert found.tau == pytest.approx(np.array(alone), nan_ok=True)
    with pytest.raises(ValueError, match="as many, or one for all, got 7 and 3"):
        counts(x, y[:3], pairs)


def test_pairs_within_between_and_along_a_knob() -> None:
    families = ["a", "a", "b", "b", "b"]
    assert listed(within(families)) == {(0, 1), (2, 3), (2, 4), (3, 4)}
    assert listed(within(families)) | listed(between(families)) == listed(all_pairs(5))
    assert not listed(within(families)) & listed(between(families))
    nan = math.nan
    places = np.array([[nan, nan, 0.1], [nan, nan, 0.2], [1, 1, nan], [1, 2, nan], [3, 2, nan]])
    assert [listed(along(families, places, axis)) for axis in range(3)] == [{(3, 4)}, {(2, 3)}, {(0, 1)}]


@pytest.mark.parametrize("sizes", [(4, 4), (5,), (1, 3), (2, 3, 1)])
def test_the_null_distribution_is_that_of_all_orders(sizes: tuple[int, ...]) -> None:
    def s(order: tuple[int, ...]) -> int:
        return sum(1 if a < b else -1 for a, b in itertools.combinations(order, 2))

    orders = itertools.product(*(itertools.permutations(range(m)) for m in sizes))
    found = [sum(map(s, parts)) for parts in orders]
    values, chance = null_distribution(sizes)
    assert chance == pytest.approx(np.array([found.count(v) / len(found) for v in values]))
    assert chance.sum() == pytest.approx(1) and set(found) <= set(values.tolist())


@pytest.mark.parametrize("n", [6, 20, 200])
@pytest.mark.parametrize("tau", [-0.9, -0.4, -0.1, 0.0, 0.2, 0.7])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_no_correlation_is_what_an_interval_within_the_bounds_shows(n: float, tau: float, alpha: float) -> None:
    p, against = equivalence(tau, n, 0.3)
    low, high = fieller_interval(tau, n, stats.norm.isf(alpha))
    assert (p < alpha) == (low > -0.3 and high < 0.3)
    low, high = fieller_interval(tau, n, stats.norm.isf(alpha / 2))
    assert (against < alpha) == (high < -0.3 or low > 0.3)
    assert equivalence(-tau, n, 0.3) == pytest.approx((p, against))


def test_of_four_configurations_nothing_is_shown_either_way() -> None:
    assert equivalence(0.0, 4, 0.3) == equivalence(1.0, 3, 0.3) == equivalence(math.nan, 50, 0.3) == (1, 1)


def test_fieller_s_interval() -> None:
    low, high = fieller_interval(-0.5, 24, 1.96)
    half = 1.96 * math.sqrt(0.437 / 20)
    assert (low, high) == pytest.approx((math.tanh(math.atanh(-0.5) - half), math.tanh(math.atanh(-0.5) + half)))
    assert fieller_interval(0.3, 4, 1.96) == (-1, 1)
    assert all(map(math.isnan, fieller_interval(math.nan, 9, 1.96)))
    low, high = fieller_interval(1.0, 10, 1.96)
    assert 0.5 < low < 1 == high  # a perfect order of ten is no certainty
