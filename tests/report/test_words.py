"""The answer of a run in plain words."""

from __future__ import annotations

from dataclasses import replace

from helpers import asked, sweep
from test_report import make_row

from cl_bench.claims.judge import judge
from cl_bench.claims.judgement import IncompleteSweep, Judgement, Verdict
from cl_bench.report import RowResult
from cl_bench.report.html.words import answer, answers, headline
from cl_bench.spec.claim import Claim
from cl_bench.spec.records import LEVELS


def judged(row: RowResult, kind: str = "tau_negative", level: str = "dense") -> Judgement:
    return judge(Claim(kind, level), asked(row.records, row.name), row.random_init)  # type: ignore[arg-type]


def test_the_answer_is_a_sentence() -> None:
    row = make_row()
    (linear, detection) = answers([row])
    found = row.correlations["instance", "total"]
    assert linear.verdict is detection.verdict is Verdict.SUPPORTED
    assert linear.said == (
        "On single-object images, better aligned and more uniform features go with better linear evaluation"
    )
    tau, inside, low, high = (
        f"{v:.2f}".replace("-", "\u2212") for v in (found.tau, found.within, found.within_low, found.within_high)
    )
    told = f"tau {tau} over all pairs, {inside} within families, 95 % interval {low} to {high}; 20 configurations"
    assert linear.evidence == f"{told}, 1 seed each" and not linear.why
    assert headline([linear, detection]).endswith(
        "two claims about alignment, uniformity and performance that were tested here, this run supports two, speaks "
        "against none and leaves none open."
    )
    one = "This run tested one claim about alignment, uniformity and performance, and supports it."
    assert headline([linear]) == one
    missing = replace(detection, judged=False)
    assert headline([linear, missing]) == f"{one} One more could not be judged, because encoders are missing."
    assert headline([missing]).endswith("no claim about a correlation yet: encoders are missing.")


def test_the_answer_says_the_contrary_or_nothing_and_why() -> None:
    row = make_row()
    worse = tuple(replace(r, performance={level: 99 - v for level, v in r.performance.items()}) for r in row.records)
    refuted = replace(row, records=worse)
    one = answer(refuted, judged(refuted), [refuted])
    assert one.verdict is Verdict.REFUTED and one.said.endswith("more uniform features go with worse detection")
    still = answer(row, judged(row, "tau_not_negative"), [row])
    assert still.verdict is Verdict.REFUTED and still.said.endswith("uniform features still go with better detection")
    lost = replace(
        row,
        random_init=tuple(
            replace(r, performance=dict.fromkeys(LEVELS, 99.0 + k / 10)) for k, r in enumerate(row.random_init)
        ),
    )
    one = answer(lost, judged(lost), [lost])
    assert one.said.endswith(
        "this run leaves open whether better aligned and more uniform features go with better detection"
    )
    assert one.why == "Too few encoders learnt for a verdict: 0 of 20 did clearly better than untrained ones."
    few = replace(row, records=tuple(sweep(range(6), [60, 40, 55, 45, 50, 42])))
    assert "There are too few configurations" in answer(few, judged(few), [few]).why
    error = IncompleteSweep(row.name, ["a", "b"])
    missing = answer(row, Judgement.incomplete(Claim("tau_negative", "dense"), error), [row])
    assert missing.evidence == "2 encoders are missing"
    disjoint = replace(row, views="disjoint", data="multi_object", method="x")
    said = answer(disjoint, judged(row), [row, disjoint]).said
    assert said.startswith("On multi-object images whose two views do not overlap (x), better aligned")
