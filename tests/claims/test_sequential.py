"""Looks and their levels: what is spent sums to the level, and a claim without an effect is decided no oftener."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from helpers import ROOT, asked, some, sweep, untrained
from hypothesis import given
from hypothesis import strategies as st

from cl_bench.claims.judge import judge
from cl_bench.claims.judgement import Judgement, Verdict
from cl_bench.claims.sequential import Look, first_decided, looks, spent
from cl_bench.errors import SpecError
from cl_bench.spec.claim import Claim
from cl_bench.statistics.correlation import one_sided


@pytest.fixture
def simulation(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """``benchmarks/sequential.py``."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import importlib
    import sys

    yield importlib.import_module("sequential")
    del sys.modules["sequential"]


# ---- looks


@pytest.mark.parametrize(
    ("first", "most", "seeds"),
    [
        (1, 16, [2, 4, 8, 16]),
        (2, 16, [2, 4, 8, 16]),
        (3, 20, [3, 6, 12, 20]),
        (5, 5, [5]),
        (1, 2, [2]),
        (16, 17, [16, 17]),
    ],
)
def test_seeds_are_doubled_up_to_the_maximum(first: int, most: int, seeds: list[int]) -> None:
    found = looks(first, most, 0.05)
    assert [look.seeds for look in found] == seeds
    assert [(look.number, look.of) for look in found] == [(n + 1, len(seeds)) for n in range(len(seeds))]


def test_the_levels_of_the_default() -> None:
    """By hand: .05 log(1 + (e - 1) t) at t = 1/8, 1/4, 1/2 and 1 is .0097284, .0178687, .0310057 and .05."""
    assert [look.alpha for look in looks(1, 16, 0.05)] == pytest.approx(
        [0.0097284, 0.0081403, 0.0131370, 0.0189943], abs=1e-7
    )
    assert str(looks(1, 16, 0.05)[1]) == "look 2 of 4, 4 seeds, alpha .0081"


@some(200)
@given(st.integers(1, 50), st.integers(0, 200), st.floats(1e-4, 0.49))
def test_the_levels_sum_to_the_whole(first: int, more: int, alpha: float) -> None:
    found = looks(first, max(2, first) + more, alpha)
    assert all(look.alpha > 0 for look in found)
    assert sum(look.alpha for look in found) == pytest.approx(alpha, rel=1e-12)
    for share, look in zip(np.cumsum([look.alpha for look in found]), found, strict=True):
        assert share == pytest.approx(spent(look.seeds / found[-1].seeds, alpha))


def test_fewer_than_the_first_look_has_is_refused() -> None:
    with pytest.raises(SpecError, match=r"^max_seeds is 4, less than the 5 of the first look; --set max_seeds=5$"):
        looks(5, 4, 0.05)
    with pytest.raises(SpecError, match=r"^max_seeds is 1, less than the 2 of the first look"):
        looks(1, 1, 0.05)


def judgement(verdict: Verdict, sentence: str) -> Judgement:
    return Judgement(Claim("tau_negative", "dense"), "row", verdict, None, None, sentence)


def test_what_a_look_decided_stays_decided() -> None:
    no, yes, against = (
        judgement(v, f"{n}") for n, v in enumerate((Verdict.INCONCLUSIVE, Verdict.SUPPORTED, Verdict.REFUTED))
    )
    assert first_decided([no, yes, against]) is yes
    assert first_decided([against, yes]) is against
    last = judgement(Verdict.INCONCLUSIVE, "last")
    assert first_decided([no, last]) is last
    asked = iter([yes, no])
    assert first_decided(asked) is yes and next(asked) is no, "what follows is not even judged"
    with pytest.raises(ValueError):
        first_decided([])


# ---- how often a verdict is wrong

SHARES = (0.0, 0.5, 0.9, 1.0)
REPEATS = 6000


def above(alpha: float) -> float:
    """Four standard errors above a share."""
    return alpha + 4 * math.sqrt(alpha * (1 - alpha) / REPEATS)


@pytest.mark.parametrize("share", SHARES, ids="seeds' share of the noise {}".format)
@pytest.mark.parametrize("n", [6, 15])
def test_without_an_effect_a_verdict_is_as_rare_as_the_level_says(simulation: ModuleType, share: float, n: int) -> None:
    """Exchangeable configurations, whose own part of the noise more seeds do not draw anew."""
    plan = [(look.seeds, look.alpha) for look in looks(2, 16, 0.05)]
    found = simulation.run(plan, share, 0.0, n, REPEATS)
    assert found.supported <= above(0.05)
    assert found.refuted <= above(0.05)
    assert found.seeds > 14


def test_the_simulation_sees_a_level_that_is_not_spent(simulation: ModuleType) -> None:
    """Judged at .05 each time, noise is called an effect in over a tenth of the runs: what the looks are there for."""
    naive = simulation.run([(seeds, 0.05) for seeds in (2, 4, 8, 16)], 1.0, 0.0, 15, REPEATS)
    assert min(naive.supported, naive.refuted) > above(0.09)


def test_an_effect_is_found_with_fewer_seeds(simulation: ModuleType) -> None:
    plan = [(look.seeds, look.alpha) for look in looks(2, 16, 0.05)]
    found = simulation.run(plan, 0.5, 0.8, 15, REPEATS)
    assert found.supported > 0.9 and found.refuted < 0.001 and found.seeds < 6
    at_once = simulation.run([(16, 0.05)], 0.5, 0.8, 15, REPEATS)
    assert found.supported > at_once.supported - 0.06 and at_once.seeds == 16


def test_the_simulation_s_p_is_the_package_s(simulation: ModuleType) -> None:
    draws = np.random.default_rng(0).standard_normal((40, 8))
    found = simulation.at_least(8)[simulation.inversions(draws)]
    assert found == pytest.approx([one_sided(np.arange(8.0), y)[0] for y in draws])


def test_a_judgement_is_at_the_level_of_its_look() -> None:
    """Two pairs of six in the wrong order: p = 20 / 720."""
    records = sweep(range(6), [80, 90, 60, 70, 50, 40])
    for alpha, verdict in ((0.05, Verdict.SUPPORTED), (looks(1, 16, 0.05)[0].alpha, Verdict.INCONCLUSIVE)):
        found = judge(Claim("tau_negative", "dense"), asked(records), untrained(10, 11), alpha)
        assert (found.verdict, found.alpha) == (verdict, alpha)
        assert found.p == pytest.approx(20 / 720)


def test_a_look_in_words() -> None:
    assert str(Look(3, 10, 8, 0.0123)) == "look 3 of 10, 8 seeds, alpha .012"
