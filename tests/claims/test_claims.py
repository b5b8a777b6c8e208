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
from helpers import asked, disordered, in_full, point, sweep, untrained

from cl_bench.claims.comparison import Contrast
from cl_bench.claims.judge import holm, judge
from cl_bench.claims.judgement import IncompleteSweep, Judgement, Verdict
from cl_bench.spec.claim import Claim
from cl_bench.spec.records import Record

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
        for part in (
            f"{found.correlation.tau:.2f} [",
            "n = 8",
            "p(tau",
            f"if the true tau within families is {found.correlation.within:.2f}, it takes {found.correlation.needed} ",
        ):
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
    assert "the row: 3 records missing" in str(caught.value) and records[5].case in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    shown = Judgement.incomplete(DOWN, caught.value)
    assert shown.verdict is Verdict.INCONCLUSIVE and shown.missing == caught.value.missing
    assert judge(Claim("tau_negative", "instance"), asked(records), LOW).correlation is not None


def test_records_that_were_not_asked_for_take_no_part() -> None:
    records = sweep(range(6), range(6))
    found = judge(DOWN, asked([*records, point(9, -9, 9)], expected=records), LOW)
    assert in_full(found) == in_full(judge(DOWN, asked(records), LOW))


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


def test_the_level_of_random_initialisation_is_told_by_family_and_has_a_p_either_way() -> None:
    better = {"align_uniform": 3.0, "info_nce": 5.0}
    records = [point(k, k, least + k / 10, family=family) for family, least in better.items() for k in range(4)]
    found = judge(LEVEL, asked(records), untrained(3.0, 3.1, 3.2), twin=LEARNT)
    assert found.contrast is not None
    assert found.contrast.by_family == pytest.approx({"L_a & L_u": 3.15, "InfoNCE": 5.15})
    assert "by family: L_a & L_u 3.15, InfoNCE 5.15" in found.sentence
    assert found.p == found.contrast.p_below and found.p + found.p_against == pytest.approx(1)


# ---- no correlation

NONE = Claim("no_correlation", "dense")


def test_no_correlation_is_supported_by_many_configurations_and_by_few_never() -> None:
    many, few = ((n, disordered(n, n * (n - 1) // 4)) for n in (80, 12))
    found = judge(NONE, asked(sweep(range(many[0]), many[1])), LOW)
    assert found.verdict is Verdict.SUPPORTED and "p(|tau| < 0.3) = " in found.sentence
    assert judge(UP, asked(sweep(range(many[0]), many[1])), LOW).verdict is Verdict.INCONCLUSIVE
    found = judge(NONE, asked(sweep(range(few[0]), few[1])), LOW)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert (
        "if the true tau is 0, it takes 44 independent configurations to support the claim with power 0.8"
        in found.sentence
    )
    found = judge(NONE, asked(sweep(range(40), range(40))), LOW)
    assert found.verdict is Verdict.REFUTED and "p(|tau| > 0.3) = " in found.sentence


def test_no_random_initialisation_is_an_incomplete_sweep() -> None:
    records = sweep(range(5), range(5))
    broken = [replace(r, status="failed") for r in untrained(3.0)]
    with pytest.raises(IncompleteSweep, match="random_init"):
        judge(LEVEL, asked(records[1:], expected=records), broken)


# ---- the gate


@pytest.mark.parametrize("slope", [-1, 1])
@pytest.mark.parametrize("claim", [DOWN, UP])
def test_of_encoders_that_did_not_learn_nothing_is_concluded_and_that_is_said_first(claim: Claim, slope: int) -> None:
    records = sweep(range(9), [50 + slope * k for k in range(9)])
    found = judge(claim, asked(records), untrained(53.9, 54.1) if slope < 0 else untrained(54.9, 55.1))
    assert found.verdict is Verdict.INCONCLUSIVE and found.correlation is not None and found.validity is not None
    beat = f"{found.validity.learnt} of 9 beat the untrained mean by more than its standard error"
    said = f"row: INCONCLUSIVE: encoders of this row did not learn: {beat}"
    assert found.sentence.startswith(said) and 2 * found.validity.learnt < 9
    assert f"tau = {found.correlation}" in found.sentence and "were this tau true" not in found.sentence
    learnt = judge(claim, asked(records), LOW)
    assert learnt.verdict is not Verdict.INCONCLUSIVE and learnt.sentence.endswith(f"; this row: {learnt.validity}")


def test_an_order_within_the_noise_of_seeds_is_none() -> None:
    """Tau is -1 in either case; only the seeds differ."""
    noise, alike = (
        [point(k, k, 50 - k / 10 + d, seed=s) for k in range(8) for s, d in enumerate((-width, width))]
        for width in (5.0, 0.01)
    )
    found = judge(DOWN, asked(noise), LOW)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.sentence.startswith(
        "row: INCONCLUSIVE: configurations of this row differ no more than their seeds do: "
    )
    assert judge(DOWN, asked(alike), LOW).verdict is Verdict.SUPPORTED


@pytest.mark.parametrize("claim", [LEVEL, DOWN, UP])
def test_of_confusing_positives_the_twin_must_have_learnt(claim: Claim) -> None:
    scores = [3.0, 3.0, 2.9, 2.9, 2.8] if claim is LEVEL else [3.0 + k * (1 if claim is UP else -1) for k in range(5)]
    disjoint = asked([replace(r, views="disjoint") for r in sweep(range(5), scores)])
    failed = asked(sweep(range(5), [3.0, 3.2, 9.0, 2.0, 1.0]), "twin")
    random = untrained(5.0, 5.1)
    found = judge(claim, disjoint, random, twin=LEARNT)
    assert found.verdict is Verdict.SUPPORTED and "the same row with overlapping views: 5 of 5 beat" in found.sentence
    found = judge(claim, disjoint, random, twin=failed)
    assert found.verdict is Verdict.INCONCLUSIVE
    beat = "1 of 5 beat the untrained mean by more than its standard error"
    said = f"row: INCONCLUSIVE: encoders of the same row with overlapping views did not learn: {beat}"
    assert found.sentence.startswith(said)


def test_a_twin_that_is_missing_is_listed_with_its_row() -> None:
    records = sweep(range(5), [3.0] * 5)
    twin = asked(LEARNT.records[1:], "twin", LEARNT.records)
    with pytest.raises(IncompleteSweep) as caught:
        judge(LEVEL, asked(records), LOW, twin=twin)
    assert caught.value.missing == (f"{LEARNT.records[0].case} of twin",)


def test_no_untrained_encoder_is_an_incomplete_sweep_for_any_claim() -> None:
    with pytest.raises(IncompleteSweep, match="random_init"):
        judge(DOWN, asked(sweep(range(5), range(5))), [])
    found = judge(DOWN, asked(sweep(range(5), range(5))), untrained(-9.0))
    assert found.verdict is Verdict.INCONCLUSIVE and "too few untrained encoders to compare with: 1" in found.sentence


# ---- transfer between schemes, and between data

ABOVE = Claim("above_random_level", "dense")


def transfer(detection: list[float], linear: float = 80.0) -> list[Record]:
    """Make a sweep with this detection and the same linear evaluation everywhere."""
    return [
        replace(r, performance={"instance": linear, "dense": r.performance["dense"]})
        for r in sweep(range(5), detection)
    ]


@pytest.mark.parametrize(
    ("detection", "verdict"),
    [
        ([12.0, 13, 14, 13, 12], Verdict.SUPPORTED),
        ([10.6, 10.7, 10.8, 10.7, 10.6], Verdict.SUPPORTED),  # the margin plays no part
        ([7.0, 8, 7, 8, 7], Verdict.REFUTED),
        ([5.0, 19, 2, 20, 9], Verdict.INCONCLUSIVE),
    ],
)
def test_verdicts_on_being_above_the_random_level(detection: list[float], verdict: Verdict) -> None:
    found = judge(ABOVE, asked(transfer(detection)), untrained(9.9, 10.0, 10.1))
    assert found.verdict is verdict and found.contrast is not None and found.contrast.margin == 0
    assert "(linear evaluation above 10.06)" in found.sentence


def test_to_be_above_the_random_level_is_asked_of_encoders_that_learnt_at_the_other_level() -> None:
    """Of its own level it would be the claim itself, and could never be refuted."""
    found = judge(ABOVE, asked(transfer([12.0, 13, 14, 13, 12], linear=9.0)), untrained(9.9, 10.0, 10.1))
    assert found.verdict is Verdict.INCONCLUSIVE and "did not learn: 0 of 5" in found.sentence
    unmeasured = [replace(r, performance={"dense": 9.0}) for r in transfer([12.0] * 5)]
    with pytest.raises(IncompleteSweep):
        judge(ABOVE, asked(unmeasured), LOW)


OTHER = [50.0, 60, 40, 55, 45]


@pytest.mark.parametrize(
    ("shift", "kept_up", "fell_behind"),
    [
        (3.0, Verdict.SUPPORTED, Verdict.REFUTED),
        (-0.6, Verdict.SUPPORTED, Verdict.SUPPORTED),
        (-3.0, Verdict.REFUTED, Verdict.SUPPORTED),
        (-1.0, Verdict.INCONCLUSIVE, Verdict.SUPPORTED),
        (0.0, Verdict.SUPPORTED, Verdict.INCONCLUSIVE),
    ],
)
def test_verdicts_on_keeping_up_and_on_falling_behind(shift: float, kept_up: Verdict, fell_behind: Verdict) -> None:
    scores = [v + shift + d for v, d in zip(OTHER, (0.1, -0.1, 0.2, -0.2, 0.0), strict=True)]
    mine, theirs = sweep(range(5), scores), sweep(range(5), OTHER)
    rival = asked([replace(r, method="instance") for r in theirs], "rival")
    found = judge(Claim("keeps_up", "dense"), asked(mine), LOW, reference=rival)
    assert found.verdict is kept_up and found.comparison is not None
    assert (found.comparison.reference, found.comparison.other) == ("dense_index", "instance")
    multi = asked([replace(r, data="multi_object") for r in mine])
    found = judge(Claim("falls_behind", "instance"), multi, LOW, reference=asked(theirs, "single"))
    assert found.verdict is fell_behind and found.comparison is not None
    assert found.comparison.mean == pytest.approx(-shift)
    assert f"single_object - multi_object = {-shift:+.2f} points" in found.sentence or shift == 0
    assert f"(p(difference {'<' if fell_behind is Verdict.REFUTED else '>'} 0) = " in found.sentence


def test_what_is_expected_to_do_badly_need_not_have_learnt() -> None:
    poor, rich = sweep(range(5), [1.0, 2, 1, 2, 1]), sweep(range(5), OTHER)
    poor_multi = [replace(r, data="multi_object") for r in poor]
    random, behind = untrained(5.0, 5.1), Claim("falls_behind", "dense")
    assert judge(behind, asked(poor_multi), random, reference=asked(rich, "single")).verdict is Verdict.SUPPORTED
    found = judge(
        behind, asked([replace(r, data="multi_object") for r in rich]), random, reference=asked(poor, "single")
    )
    assert found.sentence.startswith("row: INCONCLUSIVE: encoders of single did not learn: 0 of 5")
    up, rivals = Claim("keeps_up", "dense"), [replace(r, method="instance") for r in rich]
    for mine, theirs, whose in ((poor, rivals, "this row"), (rich, [replace(r, method="m") for r in poor], "rival")):
        found = judge(up, asked(mine), random, reference=asked(theirs, "rival"))
        assert found.sentence.startswith(f"row: INCONCLUSIVE: encoders of {whose} did not learn")


def test_a_pair_without_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="'keeps_up' needs the records of a reference row"):
        judge(Claim("keeps_up", "dense"), asked(sweep(range(5), OTHER)), LOW)


def test_an_exploratory_claim_is_the_same_claim_and_is_corrected_for_with_none() -> None:
    records = asked(sweep(range(6), range(6)))
    claim = Claim("tau_negative", "dense", exploratory=True)
    found, plain = judge(claim, records, LOW), judge(DOWN, records, LOW)
    assert claim == DOWN and hash(claim) == hash(DOWN)
    assert found.sentence == plain.sentence.replace("REFUTED:", "REFUTED (exploratory):")
    assert holm([found, plain]) == pytest.approx([math.nan, plain.p], nan_ok=True)
    assert Judgement.from_json(found.to_json()).claim.exploratory


def test_judgements_survive_json() -> None:
    records = sweep(range(6), range(6))
    constant = sweep(range(6), [1.0] * 6)
    for found in (
        judge(DOWN, asked(records), LOW),
        judge(LEVEL, asked(records), untrained(1.0, 1.2)),
        judge(DOWN, asked(constant), LOW),
        Judgement(
            LEVEL, "row", Verdict.INCONCLUSIVE, None, Contrast(1, 2, -1, math.nan, math.nan, 1, 1, 1, 1, 1.0), "s"
        ),
        Judgement.incomplete(UP, IncompleteSweep("row", ["a", "b"])),
    ):
        text = found.to_json()
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        back = Judgement.from_json(text)
        assert repr(asdict(back)) == repr(asdict(found)) and isinstance(back.verdict, Verdict)
        assert type(back.correlation) is type(found.correlation) and type(back.contrast) is type(found.contrast)
        assert type(back.validity) is type(found.validity)
    found = judge(DOWN, asked(records), LOW)
    assert in_full(Judgement.from_json(found.to_json())) == in_full(found)


@pytest.mark.parametrize(("kind", "level"), [("tau_positive", "dense"), ("tau_negative", "pixel")])
def test_an_unknown_claim_is_refused(kind: str, level: str) -> None:
    with pytest.raises(ValueError, match=r"no (kind|level) of claim .*; (kind|level)s: "):
        Claim(kind, level)  # type: ignore[arg-type]


def test_holm_steps_down_and_keeps_the_order() -> None:
    def with_p(p: float) -> Judgement:
        return replace(judge(DOWN, asked(sweep(range(6), range(6))), LOW), p=p, p_against=1 - p)

    none = Judgement.incomplete(DOWN, IncompleteSweep("row", ["a"]))
    adjusted = holm([with_p(0.03), none, with_p(0.01), with_p(0.04)])
    assert math.isnan(adjusted[1])
    assert [adjusted[k] for k in (0, 2, 3)] == pytest.approx([0.06, 0.03, 0.06])
    assert holm([with_p(0.99), with_p(0.98)], against=True) == pytest.approx([0.02, 0.02])
    assert holm([]) == []


@pytest.mark.parametrize("module", ["cl_bench.claims.judgement", "cl_bench.claims.paper", "cl_bench.report"])
def test_neither_torch_nor_pytest_is_loaded(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'pytest') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
