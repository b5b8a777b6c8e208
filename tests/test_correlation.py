"""Tau, its p and its interval against enumeration, against scipy's own tests, and where there is nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from helpers import point, sweep, untrained
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cl_bench.correlation import correlate, normalised_sum
from cl_bench.power import needed_for
from cl_bench.records import configurations


def tau_by_loops(x: Sequence[float], y: Sequence[float]) -> float:
    s = tx = ty = 0
    for i, j in itertools.combinations(range(len(x)), 2):
        a, b = (int(v[i] > v[j]) - int(v[i] < v[j]) for v in (x, y))
        s, tx, ty = s + a * b, tx + abs(a), ty + abs(b)
    return s / math.sqrt(tx * ty)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("seed", range(3))
def test_exact_p_is_the_share_of_all_orders(n: int, seed: int) -> None:
    y = np.random.default_rng(seed).permutation(n).astype(float)
    x = np.arange(n, dtype=float)
    found = correlate(sweep(x, y), "dense")
    taus = np.array([tau_by_loops(x, y[list(order)]) for order in itertools.permutations(range(n))])
    observed = tau_by_loops(x, y)
    assert found.method == "exact"
    assert found.tau == pytest.approx(observed)
    assert found.p_negative == pytest.approx(np.mean(taus <= observed + 1e-12))
    assert found.p_positive == pytest.approx(np.mean(taus >= observed - 1e-12))


def test_permutation_p_with_ties_agrees_with_scipy() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=9), np.round(rng.normal(size=9))
    found = correlate(sweep(x, y), "instance")
    assert found.method == "permutation"
    assert found.tau == pytest.approx(tau_by_loops(x, y))
    for alternative, p in (("less", found.p_negative), ("greater", found.p_positive)):
        foreign = stats.permutation_test(
            (y,),
            lambda v: stats.kendalltau(x, v, variant="b").statistic,
            permutation_type="pairings",
            n_resamples=1500,
            alternative=alternative,
            rng=np.random.default_rng(0),
        )
        assert p == pytest.approx(foreign.pvalue, abs=0.04)


def test_permutation_p_with_ties_agrees_with_enumeration() -> None:
    x, y = [0.0, 1, 2, 3, 4, 5], [2.0, 2, 1, 1, 0, 1]
    found = correlate(sweep(x, y), "instance")
    observed = tau_by_loops(x, y)
    taus = np.array([tau_by_loops(x, order) for order in itertools.permutations(y)])
    assert found.p_negative == pytest.approx(np.mean(taus <= observed + 1e-12), abs=0.01)
    assert found.p_positive == pytest.approx(np.mean(taus >= observed - 1e-12), abs=0.01)


def test_the_normalised_sum_is_over_the_configurations_that_take_part() -> None:
    assert normalised_sum(np.array([1.0, 3, 2]), np.array([0.0, 0, 0])).tolist() == [0, 1, 0.5]
    assert normalised_sum(np.array([1.0, 3]), np.array([-2.0, -4])).tolist() == [1, 1]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(*[st.integers(-3, 3)] * 3), min_size=0, max_size=7))
def test_any_sweep_has_an_answer(points: list[tuple[int, int, int]]) -> None:
    records = [
        point(k, 0, 0, alignment={"dense": a / 7}, uniformity={"dense": u / 5}, performance={"dense": float(p)})
        for k, (a, u, p) in enumerate(points)
    ]
    found = correlate(records, "dense")
    assert found.n == len(points)
    assert 0 < found.p_negative <= 1 and 0 < found.p_positive <= 1
    assert math.isnan(found.tau) == (found.method == "none")
    if not math.isnan(found.low):
        assert -1 <= found.low <= found.high <= 1


def test_seeds_are_averaged_before_anything_else() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=6), rng.normal(size=6)
    records = [point(k, x[k] + d, y[k] - d, seed=s) for k in range(6) for s, d in enumerate((-0.3, 0.1, 0.2))]
    found, alone = correlate(records, "dense"), correlate(sweep(x, y), "dense")
    assert found.n == 6
    assert found.tau == pytest.approx(alone.tau) and found.p_negative == alone.p_negative


def test_a_configuration_with_a_diverged_seed_is_left_out_by_name() -> None:
    records = [point(k, k, -k, seed=s) for k in range(6) for s in range(2)]
    records[3] = replace(records[3], status="diverged", performance={})
    found = correlate(records, "dense")
    assert found.n == 5
    assert found.left_out == ("dense_index-info_nce-k001-s0", "dense_index-info_nce-k001-s1")


def test_random_initialisation_and_other_families_take_no_part() -> None:
    rng = np.random.default_rng(2)
    y = rng.normal(size=10)
    records = [point(k, k, y[k], family="info_nce" if k < 4 else "align_uniform") for k in range(10)]
    alone = correlate(records, "dense")
    assert correlate([*records, *untrained(1, 2)], "dense") == alone
    assert correlate(records, "dense", "info_nce").n == 4
    assert correlate(records, "dense", "align_uniform") == correlate(records[4:], "dense", "align_uniform")


def test_the_order_of_records_is_of_no_effect_and_the_interval_is_reproducible() -> None:
    rng = np.random.default_rng(3)
    records = sweep(rng.normal(size=8), np.round(rng.normal(size=8)))
    assert correlate(records, "dense") == correlate(records[::-1], "dense")


def test_the_interval_is_the_percentile_of_recomputed_taus() -> None:
    rng = np.random.default_rng(4)
    L_a, L_u, p = rng.normal(size=(3, 10))
    records = [
        point(k, 0, 0, alignment={"dense": L_a[k]}, uniformity={"dense": L_u[k]}, performance={"dense": p[k]})
        for k in range(10)
    ]
    found = correlate(records, "dense")
    taus = []
    for _ in range(400):
        i = rng.integers(10, size=10)
        a, u = ((c - c.min()) / (c.max() - c.min()) for c in (L_a[i], L_u[i]))
        taus.append(stats.kendalltau(a + u, p[i]).statistic)
    assert np.allclose((found.low, found.high), np.percentile(taus, [2.5, 97.5]), atol=0.12)
    assert found.low <= found.tau <= found.high


def test_records_of_two_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="more than one row"):
        correlate([point(0, 0, 0), point(1, 1, 1, data="multi_object")], "dense")


@pytest.mark.parametrize("tau", [-0.9, -0.5, 0.3, 0.05])
def test_needed_is_the_smallest_that_will_do(tau: float) -> None:
    z = stats.norm.ppf(0.95) + stats.norm.ppf(0.8)

    def enough(n: int) -> bool:
        return abs(tau) >= z * math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1)))

    n = needed_for(tau)
    assert n is not None and enough(n) and not enough(n - 1)
    assert needed_for(0.0) is None and needed_for(math.nan) is None


def test_configurations_are_named_and_averaged() -> None:
    kept, left_out = configurations([point(0, -1, 10), point(0, -0.5, 20, seed=1)], "dense")
    assert left_out == ()
    assert (kept[0].name, kept[0].alignment, kept[0].performance) == ("info_nce-k000", -0.75, 15)
