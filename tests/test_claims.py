"""Verdicts against their definition, and against what they promise when there is nothing."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from helpers import asked, point, sweep, untrained

from cl_bench.claims import Claim, IncompleteSweep, Judgement, Verdict, holm, judge
from cl_bench.comparison import Contrast

LOW = untrained(-9.0, -9.1)  # below whatever these sweeps hold
DOWN, UP = Claim("tau_negative", "dense"), Claim("tau_not_negative", "dense")


@pytest.mark.parametrize(
    ("slope", "verdict", "mirrored"),
    [(-1, Verdict.SUPPORTED, Verdict.REFUTED), (1, Verdict.REFUTED, Verdict.SUPPORTED)],
)
def test_verdicts_on_tau_are_mirrors(slope: int, verdict: Verdict, mirrored: Verdict) -> None:
    records = sweep(range(8), [slope * k for k in range(8)])
    down, up = (judge(claim, asked(records), LOW) for claim in (DOWN, UP))
    assert (down.verdict, up.verdict) == (verdict, mirrored)
    # Either sentence gives the p that decided, whichever way it went.
    assert all(f"p(tau {'<' if slope < 0 else '>'} 0) = 2.5e-05" in j.sentence for j in (down, up))


def test_absence_of_a_correlation_supports_nothing() -> None:
    records = sweep(range(8), [3, 6, 1, 4, 7, 2, 5, 4.5])
    for claim in (DOWN, UP):
        found = judge(claim, asked(records), LOW)
        assert found.verdict is Verdict.INCONCLUSIVE
        assert found.correlation is not None
        for part in (f"{found.correlation.tau:.2f} [", "n = 8", "p(tau", f"n = {found.correlation.needed}"):
            assert part in found.sentence


def test_three_configurations_conclude_nothing() -> None:
    records = sweep(range(3), [3, 2, 1])
    found = judge(DOWN, asked(records), LOW)
    assert found.verdict is Verdict.INCONCLUSIVE and "too few" in found.sentence


@pytest.mark.parametrize(("lost", "verdict"), [(6, Verdict.SUPPORTED), (7, Verdict.INCONCLUSIVE)])
def test_with_most_of_a_sweep_diverged_nothing_is_concluded(lost: int, verdict: Verdict) -> None:
    records = sweep(range(12), range(12, 0, -1))
    records = [replace(r, status="diverged", performance={}) if k < lost else r for k, r in enumerate(records)]
    found = judge(DOWN, asked(records), LOW)
    assert found.verdict is verdict
    assert found.correlation is not None and len(found.correlation.left_out) == lost
    assert records[0].case in found.sentence and f"and {lost - 5} more" in found.sentence


def test_false_support_is_as_rare_as_alpha() -> None:
    rng = np.random.default_rng(7)
    verdicts = []
    for k in range(600):  # the exact test of 12 has size .043
        y = rng.normal(size=12)
        records = sweep(range(12), y if k % 8 else np.round(2 * y))
        verdicts.append(judge(DOWN, asked(records), LOW).verdict)
    assert 0.015 < verdicts.count(Verdict.SUPPORTED) / 600 < 0.075
    assert 0.015 < verdicts.count(Verdict.REFUTED) / 600 < 0.075


def test_what_is_missing_is_listed_and_never_averaged_away() -> None:
    records = sweep(range(6), range(6))
    records[2] = replace(records[2], performance={"instance": 1.0})  # detection did not run
    with pytest.raises(IncompleteSweep) as caught:
        judge(DOWN, asked(records[:4], "the row", records), LOW)
    assert caught.value.missing == tuple(records[k].case for k in (2, 4, 5))
    assert "the row: 3 record(s) missing" in str(caught.value) and records[5].case in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    shown = Judgement.incomplete(DOWN, caught.value)
    assert shown.verdict is Verdict.INCONCLUSIVE and shown.missing == caught.value.missing
    assert judge(Claim("tau_negative", "instance"), asked(records), LOW).correlation is not None


def test_records_that_were_not_asked_for_take_no_part() -> None:
    records = sweep(range(6), range(6))
    found = judge(DOWN, asked([*records, point(9, -9, 9)], expected=records), LOW)
    assert found == judge(DOWN, asked(records), LOW)


LEVEL = Claim("at_random_level", "dense")
LEARNT = asked([point(k, k, 50.0 + k) for k in range(5)], "twin")


@pytest.mark.parametrize(
    ("performance", "verdict"),
    [
        ([3.0, 3.1, 3.2, 3.1, 3.0], Verdict.SUPPORTED),
        ([2.0, 1.1, 1.2, 1.1, 2.0], Verdict.SUPPORTED),  # below random initialisation
        ([30.0, 31, 32, 31, 30], Verdict.REFUTED),
        ([3.0, 9, 1, 12, 0], Verdict.INCONCLUSIVE),
    ],
)
def test_verdicts_on_the_random_level(performance: list[float], verdict: Verdict) -> None:
    records = sweep(range(5), performance)
    found = judge(LEVEL, asked(records), untrained(3.0, 3.1, 3.2), twin=LEARNT)
    assert found.verdict is verdict and found.correlation is None
    assert found.contrast is not None and found.contrast.n_random == 3 and "margin 1" in found.sentence


def test_no_random_initialisation_is_an_incomplete_sweep() -> None:
    records = sweep(range(5), range(5))
    broken = [replace(r, status="failed") for r in untrained(3.0)]
    with pytest.raises(IncompleteSweep, match="random_init"):
        judge(LEVEL, asked(records[1:], expected=records), broken)


def test_judgements_survive_json() -> None:
    records = sweep(range(6), range(6))
    constant = sweep(range(6), [1.0] * 6)
    for found in (
        judge(DOWN, asked(records), LOW),
        judge(LEVEL, asked(records), untrained(1.0, 1.2)),
        judge(DOWN, asked(constant), LOW),
        Judgement(LEVEL, "row", Verdict.INCONCLUSIVE, None, Contrast(1, 2, -1, math.nan, math.nan, 1, 1, 1.0), "s"),
        Judgement.incomplete(UP, IncompleteSweep("row", ["a", "b"])),
    ):
        text = found.to_json()
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        back = Judgement.from_json(text)
        assert repr(asdict(back)) == repr(asdict(found)) and isinstance(back.verdict, Verdict)
        assert type(back.correlation) is type(found.correlation) and type(back.contrast) is type(found.contrast)
    found = judge(DOWN, asked(records), LOW)
    assert Judgement.from_json(found.to_json()) == found


@pytest.mark.parametrize(("kind", "level"), [("tau_positive", "dense"), ("tau_negative", "pixel")])
def test_an_unknown_claim_is_refused(kind: str, level: str) -> None:
    with pytest.raises(ValueError, match="kinds"):
        Claim(kind, level)  # type: ignore[arg-type]


def test_holm_steps_down_and_keeps_the_order() -> None:
    def with_p(p: float) -> Judgement:
        records = sweep(range(6), range(6))
        found = judge(DOWN, asked(records), LOW)
        assert found.correlation is not None
        return replace(found, correlation=replace(found.correlation, p_negative=p))

    none = Judgement.incomplete(DOWN, IncompleteSweep("row", ["a"]))
    adjusted = holm([with_p(0.03), none, with_p(0.01), with_p(0.04)])
    assert math.isnan(adjusted[1])
    assert [adjusted[k] for k in (0, 2, 3)] == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


@pytest.mark.parametrize("module", ["cl_bench.claims", "cl_bench.paper", "cl_bench.report"])
def test_neither_torch_nor_pytest_is_loaded(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'pytest') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
