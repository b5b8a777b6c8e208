"""The gate: what it fails and what it lets pass, and how often it cries wolf where nothing changed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cl_bench.claims.gate import (
    Check,
    Finding,
    Held,
    NotComparable,
    findings,
    holm,
    paired,
    performance_check,
    tau_check,
)
from cl_bench.spec.claim import Claim
from cl_bench.statistics.reseeding import Seeded

NEGATIVE, POSITIVE = Claim("tau_negative", "dense"), Claim("tau_not_negative", "dense")
NEITHER = Claim("no_correlation", "dense")
N = 20
X = np.linspace(0, 1, N)


def row(order: np.ndarray, seeds: int = 3, noise: float = 0.5, stream: int = 0, shift: float = 0.0) -> Seeded:
    """Make performances in that order over rising L_a and L_u, one point apart."""
    rng = np.random.default_rng(stream)
    performance = order + shift + noise * rng.normal(size=(seeds, N))
    flat = np.broadcast_to(X, (seeds, N))
    names = tuple(map(str, range(N)))
    return Seeded(names, ("info_nce",) * N, tuple(range(seeds)), np.stack([flat, flat, performance]))


def made(p: float = 0.001, worse: float = 0.3, bound: float = 0.14, **changes: Any) -> Check:
    """Make a check without computing it."""
    given = {"row": "row", "what": "tau with detection", "unit": "", "before": -0.6, "now": -0.3, **changes}
    return Check(
        **{"allowed": (0.1, "max_tau_drop"), "compared": (9, 9), **given}, worse=worse, p=p, bound=lambda _: bound
    )


FALLS, RISES = np.arange(N, 0.0, -1), np.arange(1.0, N + 1)
MIXED = np.random.default_rng(0).permutation(N).astype(float)


@pytest.mark.parametrize(
    ("claim", "before", "now", "fails"),
    [
        (NEGATIVE, FALLS, FALLS, False),
        (NEGATIVE, FALLS, MIXED, True),
        (NEGATIVE, FALLS, RISES, True),
        (NEGATIVE, MIXED, FALLS, False),
        (POSITIVE, RISES, MIXED, True),
        (POSITIVE, MIXED, RISES, False),
        (NEITHER, MIXED, RISES, True),
        (NEITHER, MIXED, FALLS, True),
        (NEITHER, FALLS, RISES, False),  # as far from 0 as before
        (NEITHER, FALLS, MIXED, False),
    ],
)
def test_a_correlation_that_moved_against_its_claim_fails(
    claim: Claim, before: np.ndarray, now: np.ndarray, fails: bool
) -> None:
    check = tau_check("row", claim, row(before), row(now, stream=1))
    assert (check.p < 0.01) == fails
    assert (check.bound(0.05) > 0.1) == fails


def test_the_figures_of_a_check_are_tau_of_the_means() -> None:
    before, now = row(FALLS), row(MIXED, stream=1)
    check = tau_check("row", NEGATIVE, before, now)
    expected = [stats.kendalltau(X, side.means[2]).statistic for side in (before, now)]
    assert [check.before, check.now] == pytest.approx(expected)
    assert check.worse == pytest.approx(expected[1] - expected[0])
    mirrored = tau_check("row", POSITIVE, row(RISES), now)
    assert mirrored.now == check.now and mirrored.before > 0


@pytest.mark.parametrize("level", [0.05, 0.003, 0.001])
def test_the_bound_exceeds_what_is_allowed_where_p_is_below_the_level(level: float) -> None:
    for allowed in np.linspace(0, 1, 5):
        for stream in range(1, 4):
            check = tau_check("row", NEGATIVE, row(FALLS, noise=6), row(MIXED, noise=6, stream=stream), allowed, 999)
            assert (check.p <= level) == (check.bound(level) > allowed and check.worse > allowed)


@pytest.mark.parametrize("allowed", [0.0, 0.1])
@pytest.mark.parametrize("noise", [0.0, 5.0])
def test_the_same_records_never_fail(allowed: float, noise: float) -> None:
    same = row(MIXED, noise=noise)
    checks = [
        tau_check("row", NEGATIVE, same, same, allowed),
        performance_check("row", "dense", same, same, allowed),
    ]
    assert [check.p for check in checks] == [1, 1]
    assert not any(f.failed for f in holm(checks))
    assert findings([Held("row", NEGATIVE, same, same)], 0.05, allowed, allowed) == [[]]


def test_the_same_records_never_fail_where_there_are_too_few_to_compare() -> None:
    few = row(MIXED, 1).only(["1", "2"])
    assert findings([Held("row", NEGATIVE, few, few)]) == [[]]
    (told,) = findings([Held("row", NEGATIVE, few, row(MIXED, 1, stream=1).only(["1", "2"]))])
    assert [str(one)[:40] for one in told] == ["row: 2 of the 2 configurations of the ba"]


def test_a_tau_that_is_undefined_now_counts_as_none() -> None:
    check = tau_check("row", NEGATIVE, row(FALLS), row(np.zeros(N), noise=0))
    assert check.now == 0 and check.p < 0.001


@pytest.mark.parametrize("seeds", [(2, 2), (3, 2), (1, 3), (3, 1)])
def test_performance_is_students_t_of_the_seeds_means(seeds: tuple[int, int]) -> None:
    before, now = row(FALLS, seeds[0]), row(FALLS, seeds[1], stream=1, shift=-2)
    check = performance_check("row", "dense", before, now, 1.0)
    old, new = (side.values[2].mean(1) for side in (before, now))
    if 1 not in seeds:
        expected = stats.ttest_ind(old - 1.0, new, alternative="greater")
        assert check.p == pytest.approx(expected.pvalue)
        assert check.bound(0.05) - 1 == pytest.approx(expected.confidence_interval(0.95).low)
    assert check.worse == pytest.approx(old.mean() - new.mean())
    for level in (0.2, 0.05, 0.001):
        assert (check.p <= level) == (check.bound(level) > 1)


def test_what_a_seed_does_to_all_alike_is_noise_of_the_mean_and_none_of_tau() -> None:
    before, now = row(FALLS, noise=0.01), row(FALLS, noise=0.01, stream=1)
    common = np.array([[[-8.0], [0.0], [8.0]]]) * np.array([[[0]], [[0]], [[1]]])
    loud = [replace(s, values=s.values + common) for s in (before, now)]
    dropped = replace(loud[1], values=loud[1].values - np.array([[[0]], [[0]], [[4]]]))
    assert performance_check("row", "dense", before, row(FALLS, noise=0.01, stream=1, shift=-4)).p < 1e-4
    assert performance_check("row", "dense", loud[0], dropped).p > 0.2
    apart = tau_check("row", NEGATIVE, loud[0], dropped)
    assert apart.worse < 0.05


def test_only_configurations_of_both_sides_are_compared() -> None:
    before, now = row(FALLS), row(FALLS, stream=1).only([str(k) for k in range(5, N)])
    old, new = paired("row", before, now)
    assert old.names == new.names == now.names
    with pytest.raises(NotComparable, match=r"^row: 9 of the 20 configurations of the baseline are complete in this"):
        paired("row", before, now.only([str(k) for k in range(5, 14)]))
    few = before.only(["1", "2", "3"])
    with pytest.raises(NotComparable, match="row: 3 of the 3 configurations"):
        paired("row", few, few)


def test_one_seed_on_both_sides_is_refused_and_on_one_it_takes_the_others_spread() -> None:
    with pytest.raises(NotComparable, match=r"^row: with one seed before and one now there is no spread"):
        tau_check("row", NEGATIVE, row(FALLS, 1), row(RISES, 1))
    for before, now in ((1, 3), (3, 1)):
        check = tau_check("row", NEGATIVE, row(FALLS, before), row(RISES, now, stream=1))
        assert check.p < 0.001


def test_holm_over_all_checks() -> None:
    found = holm([made(p) for p in (0.2, 0.01, 0.02, 0.013)], 0.05)
    assert [f.failed for f in found] == [False, True, True, True]
    assert [f.level for f in found] == pytest.approx([0.05, 0.0125, 0.025, 0.05 / 3])
    assert not any(f.failed for f in holm([made(0.013), made(0.001 + 0.05 / 2)], 0.02))
    # A step that is not passed ends it, whatever comes after; what comes after is shown at the level of that step.
    found = holm([made(p) for p in (0.03, 0.03)], 0.05)
    assert [(f.failed, f.level) for f in found] == [(False, 0.025), (False, 0.025)]
    assert holm([]) == []


def test_a_finding_is_one_line() -> None:
    assert str(Finding(made(), 0.0125, True)) == (
        "row: tau with detection -0.60 before, -0.30 now: worse by 0.30, at least 0.14 at one-sided level 0.013; "
        "more than max_tau_drop = 0.1"
    )
    points = {"what": "mean performance at detection", "unit": "points", "before": 20, "now": 22}
    better = made(1.0, -2.0, -math.inf, **points, allowed=(1.0, "max_performance_drop"), compared=(8, 9))
    assert str(Finding(better, 0.05, False)) == (
        "row: mean performance at detection 20.00 before, 22.00 now (over 8 of 9 configurations): "
        "better by 2.00 points; allowed: max_performance_drop = 1"
    )


def test_each_claim_tells_its_tau_and_the_first_that_can_fail_the_means_of_its_row() -> None:
    linear = Claim("tau_negative", "instance", exploratory=True)
    random = Claim("at_random_level", "dense")
    before, now = row(FALLS), row(MIXED, stream=1, shift=-4)
    held = [
        Held("row", linear, before, now),
        Held("row", NEGATIVE, before, now),
        Held("row", random, before, now),
        Held("other", linear, before, now),
        Held("same", NEGATIVE, before, before),
    ]
    told = findings(held)
    assert [[str(f).split(" ", 4)[1:4] for f in found] for found in told] == [
        [],
        [["mean", "performance", "at"], ["tau", "with", "detection"], ["mean", "performance", "at"]],
        [],
        [],
        [],
    ]
    assert [getattr(f, "failed", None) for f in told[1]] == [True, True, True]
    assert {getattr(f, "level", 0) for f in told[1]} == {0.05 / 3, 0.05 / 2, 0.05}
    lenient = findings(held, max_tau_drop=1.9, max_performance_drop=99)
    assert [getattr(f, "failed", None) for f in lenient[1]] == [False, False, False]


def test_what_is_not_to_be_compared_is_told_once_a_level() -> None:
    before, now = row(FALLS), row(FALLS, stream=1).only(["1", "2", "3"])
    held = [Held("row", claim, before, now) for claim in (NEGATIVE, Claim("at_random_level", "dense"))]
    assert [[str(one) for one in told] for told in findings(held)] == [
        [
            "row: 3 of the 20 configurations of the baseline are complete in this run too; a comparison takes at least "
            "half of them, and at least 4"
        ],
        [],
    ]


@pytest.mark.parametrize("seeds", [(2, 2), (3, 3), (2, 4)])
def test_unchanged_code_fails_no_more_often_than_the_level(seeds: tuple[int, int]) -> None:
    runs, level, hits = 150, 0.05, np.zeros(2)
    for k in range(runs):
        before, now = (row(MIXED, s, 3.0, 2 * k + side) for side, s in enumerate(seeds))
        tau = tau_check("row", NEGATIVE, before, now, 0.0, 399)
        hits += tau.p <= level, performance_check("row", "dense", before, now, 0.0).p <= level
    assert (hits <= stats.binom.ppf(0.999, runs, level)).all(), hits
    assert hits[1] >= stats.binom.ppf(0.001, runs, level), "a test that never fails is none"


@pytest.mark.parametrize("seeds", [(5, 1), (6, 2), (1, 5)])
def test_a_strong_tau_is_no_alarm_where_the_other_run_has_fewer_seeds(seeds: tuple[int, int]) -> None:
    """A mean over fewer seeds is noisier and its tau nearer to 0, though the code is the same."""
    runs, level = 60, 0.05
    hits = sum(
        tau_check("row", NEGATIVE, *(row(FALLS, s, 5.0, 2 * k + side) for side, s in enumerate(seeds)), 0.1, 399).p
        <= level
        for k in range(runs)
    )
    assert hits <= stats.binom.ppf(0.999, runs, level), hits
