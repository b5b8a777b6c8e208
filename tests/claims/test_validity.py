"""The gate against closed forms, scipy's analysis of variance and each planted failure: learning, spread, shortcuts."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import point, sweep, untrained
from scipy import stats

from cl_bench.claims.validity import at_shortcut, collapsed, performances, place_sentence, validity
from cl_bench.spec.records import Record

LOW = untrained(1.0, 1.1)


def seeded(table: Sequence[Sequence[float]]) -> list[Record]:
    """Make records of a table with a configuration per line and a seed per column."""
    return [point(k, k, float(v), seed=s) for k, line in enumerate(table) for s, v in enumerate(line)]


# ---- learning


@pytest.mark.parametrize(
    ("learnt", "of", "valid"), [(4, 8, True), (3, 8, False), (4, 7, True), (3, 7, False), (0, 0, True)]
)
def test_half_of_the_configurations_must_beat_the_mean_by_its_error(learnt: int, of: int, valid: bool) -> None:
    random = untrained(10.0, 12.0, 14.0)
    threshold = 12 + 2 / math.sqrt(3)
    scores = [threshold + 0.01] * learnt + [threshold - 0.01] * (of - learnt)
    found = validity(sweep(range(of), scores), random, "dense", ordered=False)
    assert (found.learnt, found.of) == (learnt, of) and found.threshold == pytest.approx(threshold)
    assert (found.reason == "") == valid
    beat = f"{learnt} of {of} beat the untrained mean by more than its standard error (detection above 13.15)"
    said = f"encoders of this row did not learn: {beat}"
    assert valid or found.reason.startswith(said)


def test_seeds_are_averaged_before_they_are_counted() -> None:
    found = validity(seeded([[0, 3], [0, 1.9], [5, 5]]), untrained(1.0, 1.0), "dense")
    assert (found.learnt, found.of, found.threshold) == (2, 3, 1.0)


def test_what_diverged_is_no_configuration_and_untrained_encoders_that_failed_are_none() -> None:
    records = seeded([[9, 9], [9, 8], [7, 9]])
    records[2] = replace(records[2], status="diverged", performance={})
    broken = replace(untrained(50.0)[0], status="failed")
    found = validity(records, [*LOW, broken], "instance")
    assert found.of == 2 and found.threshold == pytest.approx(1.1)
    assert performances([*LOW, broken], "dense") == [1.0, 1.1]


@pytest.mark.parametrize("count", [0, 1])
def test_it_takes_two_untrained_encoders(count: int) -> None:
    found = validity(sweep(range(5), range(5)), untrained(*[1.0] * count), "dense")
    assert found.reason == f"too few untrained encoders to compare with: {count}; set random_inits to 2 or more"
    assert math.isnan(found.threshold) and found.learnt == 0


# ---- spread


@pytest.mark.parametrize("seed", range(4))
def test_the_spread_is_judged_by_the_analysis_of_variance(seed: int) -> None:
    table = np.random.default_rng(seed).normal(50, 2, size=(6, 3)) + np.arange(6)[:, None]
    found = validity(seeded(table.tolist()), LOW, "dense")
    foreign = stats.f_oneway(*table)
    assert found.p == pytest.approx(foreign.pvalue) and found.own_seeds
    assert found.reliability == pytest.approx(1 - 1 / foreign.statistic)
    assert (found.reason == "") == (foreign.pvalue < 0.05)


def test_configurations_of_unlike_many_seeds_are_weighed() -> None:
    groups = [[50.0, 52, 51], [55.0, 54], [60.0]]
    found = validity(seeded(groups), LOW, "dense")
    assert found.p == pytest.approx(stats.f_oneway(*groups).pvalue)


def test_with_one_seed_that_of_untrained_encoders_stands_in_and_is_said_to() -> None:
    random, scores = untrained(10.0, 11.0, 12.0, 13.0), [20.0, 22.0, 21.0, 25.0, 30.0]
    found = validity(sweep(range(5), scores), random, "dense")
    ratio = np.var(scores, ddof=1) / np.var([10, 11, 12, 13], ddof=1)
    assert found.p == pytest.approx(stats.f(4, 3).sf(ratio)) and not found.own_seeds
    assert "one seed each, so held against untrained encoders' seeds" in str(found)
    assert "one seed each" not in str(validity(seeded([[1, 2], [5, 6]]), random, "dense"))


def test_a_row_that_varies_no_more_than_its_seeds_passes_as_rarely_as_alpha() -> None:
    rng = np.random.default_rng(11)
    tables = rng.normal(50, 2, size=(400, 8, 3))
    found = [validity(seeded(table.tolist()), LOW, "dense") for table in tables]
    assert 0.02 < sum(f.reason == "" for f in found) / 400 < 0.09
    failed = next(f for f in found if f.reason)
    assert failed.reason.startswith("configurations of this row differ no more than their seeds do: reliability 0.")
    assert not validity(seeded(tables[0].tolist()), LOW, "dense", ordered=False).reason


def test_without_any_variance_of_seeds_a_difference_is_one() -> None:
    same = untrained(0.0, 0.0)
    one, two = (validity(sweep(range(4), scores), same, "dense") for scores in ([5.0, 5.1, 5, 5], [50.1] * 4))
    assert (one.reliability, one.p, one.reason) == (1, 0, "")
    assert (two.reliability, two.p) == (0, 1) and "differ no more" in two.reason


# ---- shortcuts


def with_loss(losses: Sequence[float], optimum: float, **changes: Any) -> Record:
    return replace(point(0, 0, 0), losses=tuple(enumerate(losses)), position_only_loss=optimum, **changes)


@pytest.mark.parametrize(
    ("last", "optimum", "there"),
    [
        (5.03, 5.0, True),
        (4.951, 5.0, True),
        (4.949, 5.0, False),
        (7.0, 5.0, True),
        (-2.019, -2.0, True),
        (-2.021, -2.0, False),
        (-0.009, 0.0, True),  # near 0 the distance is absolute
        (-0.011, 0.0, False),
        (5.0, math.nan, False),
        (math.nan, 5.0, False),
    ],
)
def test_a_training_that_ends_at_the_place_alone_is_named(last: float, optimum: float, there: bool) -> None:
    assert at_shortcut([with_loss([9.0, 5.0, last], optimum)]) == ((point(0, 0, 0).case,) if there else ())


def test_only_trained_encoders_end_anywhere() -> None:
    assert at_shortcut([with_loss([], 5.0), with_loss([5.0], 5.0, status="diverged"), *LOW]) == ()


def test_a_collapse_is_named() -> None:
    levels = [-0.019, -0.021, 0.0, -3.0]
    records = [replace(point(k, 0, 0), uniformity={"instance": 0.0, "dense": u}) for k, u in enumerate(levels)]
    unmeasured = replace(point(9, 0, 0), uniformity={})
    assert collapsed([*records, unmeasured, *LOW]) == (records[0].case, records[2].case)


def knowing(records: Sequence[Record], shares: Sequence[float]) -> list[Record]:
    return [replace(r, probes={"position_share": s}) for r, s in zip(records, shares, strict=True)]


@pytest.mark.parametrize(
    ("shares", "told"),
    [([0.9, 0.3, 0.8], "0.80"), ([0.6, 0.49, 0.2], ""), ([0.5, 0.5, 0.5], ""), ([math.nan, 0.9, 0.8], "0.85")],
)
def test_a_row_that_mostly_knows_the_place_says_so(shares: list[float], told: str) -> None:
    records = knowing(sweep(range(3), range(3)), shares)
    said = place_sentence(records, knowing(LOW, [0.5, 0.54]))
    start = f"encoders of this row mostly know the place: the median's position share is {told}"
    assert said == (f"{start}, 0.52 of untrained ones" if told else "")
    assert place_sentence(records, LOW) == (start if told else "")
    assert validity(records, LOW, "dense").knows_place == bool(told)
    assert place_sentence(sweep(range(3), range(3)), LOW) == ""


def test_shortcuts_are_of_the_row_and_learning_of_its_gate() -> None:
    own = [replace(r, views="disjoint", uniformity={"dense": 0.0}) for r in sweep(range(4), [0.0] * 4)]
    found = validity(own, LOW, "dense", gate=sweep(range(5), range(10, 15)), whose="the twin")
    assert (found.learnt, found.of, found.reason) == (5, 5, "") and len(found.collapsed) == 4
    missed = validity(own, LOW, "dense", gate=sweep(range(5), [0.0] * 5), whose="the twin")
    assert missed.reason.startswith("encoders of the twin did not learn: 0 of 5 beat")


def test_neither_torch_nor_pytest_is_loaded() -> None:
    code = "import sys, cl_bench.claims.validity; print([m for m in ('torch', 'pytest') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
