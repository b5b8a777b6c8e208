"""Tau, its p and its interval against enumeration, against scipy's own tests, and where there is nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from helpers import in_full, point, sweep, untrained
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cl_bench.spec.records import Record, configurations
from cl_bench.statistics.correlation import correlate, normalised_sum, tau_of
from cl_bench.statistics.power import effective, needed_for, spread


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
    alone = in_full(correlate(records, "dense"))
    assert in_full(correlate([*records, *untrained(1, 2)], "dense")) == alone
    assert correlate(records, "dense", "info_nce").n == 4
    within = correlate(records, "dense", "align_uniform"), correlate(records[4:], "dense", "align_uniform")
    assert in_full(within[0]) == in_full(within[1])


def test_the_order_of_records_is_of_no_effect_and_the_interval_is_reproducible() -> None:
    rng = np.random.default_rng(3)
    records = sweep(rng.normal(size=8), np.round(rng.normal(size=8)))
    assert in_full(correlate(records, "dense")) == in_full(correlate(records[::-1], "dense"))


def test_the_interval_is_fieller_s_for_as_many_as_the_configurations_are_worth() -> None:
    rng = np.random.default_rng(4)
    found = correlate(sweep(rng.normal(size=10), rng.normal(size=10)), "dense")
    assert found.effective_n == pytest.approx(10) and found.within == found.tau
    half = 1.96 * math.sqrt(0.437 / 6)
    assert math.atanh(found.high) - math.atanh(found.tau) == pytest.approx(half, rel=1e-3)
    assert math.atanh(found.tau) - math.atanh(found.low) == pytest.approx(half, rel=1e-3)


# ---- families and knobs

TEMPERATURES = (0.05, 0.1, 0.2, 0.5, 1, 2, 5)
WEIGHTS = ("1-u0.1", "1-u0.2", "1-u0.5", "1-u1", "0.5-u1", "0.2-u1", "0.1-u1")


def on_the_grid(x: Sequence[float], y: Sequence[float], knobs: bool = True) -> list[Record]:
    """Seven temperatures and seven weightings; with their names' knobs, or without any."""
    names = [f"info_nce-t{t:g}" for t in TEMPERATURES] + [f"align_uniform-a{w}" for w in WEIGHTS]
    return [
        replace(r, config=names[k] if knobs else f"c{k:02d}", family=names[k].split("-")[0])
        for k, r in enumerate(sweep(x, y))
    ]


def test_an_offset_between_families_moves_tau_over_all_pairs_and_not_within() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=14), rng.normal(size=14)
    offset = np.repeat([5.0, 0.0], 7)
    plain, moved = (correlate(on_the_grid(x + a, y - a), "dense") for a in (0 * offset, offset))
    assert moved.between == -1 and moved.tau < plain.tau - 0.2 and moved.tau < moved.within
    for name in ("within", "p_negative", "p_positive"):
        assert getattr(moved, name) == getattr(plain, name)
    assert plain.within == pytest.approx(
        sum(stats.kendalltau(x[k : k + 7], y[k : k + 7]).statistic for k in (0, 7)) / 2
    )


@pytest.mark.parametrize("seed", range(3))
def test_p_of_two_families_of_four_is_the_share_of_all_orders(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=8), rng.normal(size=8)
    records = [replace(r, family="ab"[k // 4], config=f"c{k}") for k, r in enumerate(sweep(x, y))]
    found = correlate(records, "dense")

    def s(first: Sequence[int], second: Sequence[int]) -> float:
        order = [*first, *(4 + k for k in second)]
        return sum(
            math.copysign(1, (x[i] - x[j]) * (y[order[i]] - y[order[j]]))
            for part in (range(4), range(4, 8))
            for i, j in itertools.combinations(part, 2)
        )

    orders = [*itertools.permutations(range(4))]
    values = np.array([s(a, b) for a in orders for b in orders])
    observed = s(range(4), range(4))
    assert found.within == pytest.approx(observed / 12) and found.method == "exact"
    assert found.p_negative == pytest.approx(np.mean(values <= observed))
    assert found.p_positive == pytest.approx(np.mean(values >= observed))
    assert found.effective_n == pytest.approx(effective(np.std(values) / 12))


def test_two_curves_that_rise_and_fall_as_one_are_less_evidence_than_so_many_points() -> None:
    k = np.arange(7)
    x, y = np.tile(k, 2), np.tile(-k - 0.5 * (k == 3), 2)
    curves, points = (correlate(on_the_grid(x, y, knobs), "dense") for knobs in (True, False))
    assert curves.tau == points.tau and (curves.method, points.method) == ("curves", "exact")
    assert points.p_negative < 0.001 < 0.01 < curves.p_negative
    assert curves.effective_n < 0.7 * points.effective_n and curves.within_high > points.within_high


@pytest.mark.slow
def test_independent_curves_are_seldom_taken_for_correlated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves of which shuffling finds every sixth pair correlated."""
    monkeypatch.setattr("cl_bench.statistics.correlation.DRAWS", 399)
    rng = np.random.default_rng(8)
    at = np.linspace(0, 1, 7)
    factor = np.linalg.cholesky(np.exp(-((at[:, None] - at) ** 2) / (2 * 0.5**2)) + 1e-6 * np.eye(7))
    p = []
    for _ in range(150):
        x, y = (np.concatenate([factor @ rng.normal(size=7) for _ in range(2)]) for _ in range(2))
        records = (on_the_grid(x, y, knobs) for knobs in (True, False))
        p.append([correlate(r, "dense").p_negative for r in records])
    curves, points = (np.array(p) < 0.05).mean(0)
    assert curves < 0.1 < points


def test_tau_along_each_knob_is_over_pairs_that_differ_in_it_alone() -> None:
    grid = [(a, u) for a in (0.5, 1, 2) for u in (0.1, 1)]
    y = [1.0, 6, 2, 5, 3, 4]  # rises with a at u = .1, falls with it at u = 1
    names = [f"align_uniform-a{a:g}-u{u:g}" for a, u in grid]
    points = zip(sweep(range(6), y), names, strict=True)
    records = [replace(r, config=name, family="align_uniform") for r, name in points]
    found = correlate(records, "dense")
    assert found.by_knob == {"a": pytest.approx(0), "u": pytest.approx(1)}


def test_tau_alone_is_the_same_tau() -> None:
    rng = np.random.default_rng(9)
    records = on_the_grid(rng.normal(size=14), rng.normal(size=14))
    assert tau_of(records, "dense") == correlate(records, "dense").tau
    assert math.isnan(tau_of([], "dense"))


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


@pytest.mark.parametrize("n", [2, 7, 30])
def test_as_many_configurations_as_spread_so_far(n: int) -> None:
    assert effective(spread(n)) == pytest.approx(n)
    assert effective(0.0) == math.inf


def test_configurations_are_named_and_averaged() -> None:
    kept, left_out = configurations([point(0, -1, 10), point(0, -0.5, 20, seed=1)], "dense")
    assert left_out == ()
    assert (kept[0].name, kept[0].alignment, kept[0].performance) == ("info_nce-k000", -0.75, 15)
