"""The controls of a row against their definitions, and what follows where the positive one fails."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from helpers import asked, point, record, sweep, untrained
from scipy import stats

from cl_bench.claims.judge import judge
from cl_bench.claims.judgement import Judgement, Verdict
from cl_bench.spec.claim import Claim
from cl_bench.spec.records import LEVELS, Record
from cl_bench.statistics.controls import Controls, controls
from cl_bench.statistics.correlation import correlate

LOW = untrained(-9.0, -9.1)
DOWN = Claim("tau_negative", "dense")


def halved(records: Sequence[Record], first: Sequence[float], second: Sequence[float]) -> list[Record]:
    return [replace(r, halves={"dense": (float(a), float(b))}) for r, a, b in zip(records, first, second, strict=True)]


def random_row(n: int, seed: int = 0, names: Sequence[str] = ()) -> list[Record]:
    """One family of n configurations, nothing of which goes with anything."""
    drawn = np.random.default_rng(seed).normal(size=(n, 3))
    return [
        record(
            names[k] if names else f"info_nce-k{k:03d}",
            alignment=dict.fromkeys(LEVELS, -0.5 + a / 10),
            uniformity=dict.fromkeys(LEVELS, -1.0 + u / 10),
            performance=dict.fromkeys(LEVELS, 50.0 + y),
        )
        for k, (a, u, y) in enumerate(drawn)
    ]


def columns(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    figures = [(r.alignment["dense"], r.uniformity["dense"], r.performance["dense"]) for r in records]
    L_a, L_u, y = np.array(figures).T
    return L_a, L_u, y


def tau(x: np.ndarray, y: np.ndarray) -> float:
    return float(stats.kendalltau(x, y).statistic)


def minmax(column: np.ndarray) -> np.ndarray:
    return np.asarray((column - column.min()) / (column.max() - column.min()))


@pytest.mark.parametrize("n", [5, 12])
def test_other_sums_and_the_losses_together_are_what_scipy_has(n: int) -> None:
    records = random_row(n, seed=n)
    L_a, L_u, y = columns(records)
    found = controls(records, "dense")
    assert found.rank == pytest.approx(tau(stats.rankdata(L_a) + stats.rankdata(L_u), y))
    assert found.z == pytest.approx(tau(stats.zscore(L_a) + stats.zscore(L_u), y))
    assert found.losses == pytest.approx(stats.pearsonr(L_a, L_u).statistic)
    without = []
    for k in range(n):
        a, u, p = (np.delete(column, k) for column in (L_a, L_u, y))
        without.append(tau(minmax(a) + minmax(u), p))
    assert (found.without_low, found.without_high) == pytest.approx((min(without), max(without)))


def test_sums_over_two_families_are_told_within_them() -> None:
    """One family does better throughout, and in each the order is that of the claim: tau within is -1 for any sum."""
    records = [point(k, k, -k, family="info_nce") for k in range(5)]
    records += [point(k, k, 50 - k, family="align_uniform") for k in range(5)]
    found = controls(records, "dense")
    assert (found.rank, found.z, found.without_low, found.without_high) == (-1, -1, -1, -1)
    assert correlate(records, "dense").tau > -1


def test_the_knob_alone_is_tau_with_how_much_it_pushes_apart() -> None:
    temperatures = [0.05, 0.1, 0.2, 0.5, 1.0]
    weights = [(1, 0.1), (1, 1), (0.5, 1), (0.1, 1), (0, 1)]
    names = [f"info_nce-t{t:g}" for t in temperatures] + [f"align_uniform-a{a:g}-u{u:g}" for a, u in weights]
    rising = [*(1 / t for t in temperatures), *range(5)]
    records = [
        replace(r, family=r.config.split("-")[0], performance=dict.fromkeys(LEVELS, float(y)))
        for r, y in zip(random_row(10, names=names), rising, strict=True)
    ]
    assert controls(records, "dense").knob == 1
    assert math.isnan(controls(random_row(6), "dense").knob), "their names tell no knob"


def test_halves_that_tell_each_other_pass_and_halves_that_do_not_leave_no_verdict() -> None:
    records = sweep(range(8), range(8, 0, -1))
    told = judge(DOWN, asked(halved(records, range(8, 0, -1), range(16, 8, -1))), LOW)
    assert told.verdict is Verdict.SUPPORTED and told.controls is not None
    assert told.controls.halves == 1 and told.controls.halves_p == pytest.approx(1 / math.factorial(8))
    untold = judge(DOWN, asked(halved(records, range(8, 0, -1), [3, 6, 1, 4, 7, 2, 5, 4.5])), LOW)
    assert untold.verdict is Verdict.INCONCLUSIVE and untold.controls is not None
    why = "performance on one half of the test data does not tell performance on the other (tau "
    assert untold.sentence.startswith(f"row: INCONCLUSIVE: {why}{untold.controls.halves:.2f}, p = ")
    assert "p(tau < 0) = 2.5e-05" in untold.sentence, "what was found is told all the same"


@pytest.mark.parametrize("claim", [Claim("tau_not_negative", "dense"), Claim("no_correlation", "dense")])
def test_no_claim_about_an_order_is_refuted_by_performance_that_does_not_tell_itself(claim: Claim) -> None:
    records = sweep(range(30), range(30, 0, -1))
    noise = np.random.default_rng(1).permutation(30)
    assert judge(claim, asked(records), LOW).verdict is Verdict.REFUTED
    assert judge(claim, asked(halved(records, range(30), noise)), LOW).verdict is Verdict.INCONCLUSIVE


def test_a_claim_about_a_mean_has_no_order_to_control() -> None:
    records = halved(sweep(range(8), [3.0] * 8), range(8), [3, 6, 1, 4, 7, 2, 5, 4.5])
    found = judge(Claim("at_random_level", "dense"), asked(records), untrained(9.0, 9.1), twin=asked(learnt(8)))
    assert found.verdict is Verdict.SUPPORTED and found.controls is None


def learnt(n: int) -> list[Record]:
    return sweep(range(n), range(60, 60 - n, -1))


def test_halves_are_averaged_over_seeds_and_an_unmeasured_one_is_no_control() -> None:
    rows = [point(k, k, -k, seed=s) for k in range(6) for s in (0, 1)]
    first = [k + (10 if s else -10) for k in range(6) for s in (0, 1)]  # a seed moves both halves of all
    records = halved(rows, first, first)
    assert controls(records, "dense").halves == 1
    records[3] = replace(records[3], halves={})
    unmeasured = controls(records, "dense")
    assert math.isnan(unmeasured.halves) and unmeasured.failed(0.05) == "" and "halves" not in str(unmeasured)


def test_a_verdict_without_the_positive_control_says_so() -> None:
    said = "without the positive control, since performance on halves of the test data was not measured"
    records = learnt(8)
    assert said in judge(DOWN, asked(records), LOW).sentence
    assert said not in judge(DOWN, asked(halved(records, range(8), range(8))), LOW).sentence


def test_an_undefined_control_has_failed() -> None:
    """A half on which all configurations do alike ranks nothing."""
    found = controls(halved(sweep(range(6), range(6)), range(6), [1.0] * 6), "dense")
    assert math.isnan(found.halves) and found.halves_p == 1
    assert "(tau undefined, p = 1)" in found.failed(0.05)


def test_seeds_that_agree_leave_tau_where_it_is_and_one_seed_tells_nothing() -> None:
    records = [point(k, k, -k, seed=s) for k in range(6) for s in range(3)]
    found = controls(records, "dense")
    assert (found.seeds_low, found.seeds_high, found.negative) == (-1, -1, 1)
    alone = controls(records[::3], "dense")
    assert math.isnan(alone.seeds_low) and math.isnan(alone.negative) and "re-seeded" not in str(alone)


def test_seeds_that_disagree_widen_the_interval() -> None:
    drawn = np.random.default_rng(2).normal(size=(4, 8, 2))
    records = [point(k, float(x), float(y), seed=s) for s in range(4) for k, (x, y) in enumerate(drawn[s])]
    found = controls(records, "dense")
    assert found.seeds_low < -0.3 and found.seeds_high > 0.3 and 0.1 < found.negative < 0.9


def test_controls_of_nothing_are_nothing_and_survive_json() -> None:
    for records in ([], sweep([1], [2]), sweep([1, 2, 3], [2, 2, 2])):
        found = controls(records, "dense")
        assert found.failed(0.05) == "" and "nan" not in str(found)
    judged = judge(DOWN, asked(sweep(range(8), range(8))), LOW)
    back = Judgement.from_json(judged.to_json())
    assert back == judged or repr(back.controls) == repr(judged.controls)
    assert isinstance(back.controls, Controls)


def test_a_sentence_names_every_control_that_there_is() -> None:
    rows = [point(k, k, -k, seed=s) for k in range(6) for s in (0, 1)]
    values = [float(k) for k in range(6) for _ in (0, 1)]
    assert str(controls(halved(rows, values, values), "dense")) == (
        "halves of the test data 1.00 (p = 0.0014); rank sum -1.00; z sum -1.00; without one configuration -1.00 to "
        "-1.00; re-seeded [-1.00, -1.00], below 0 in 100%"
    )
