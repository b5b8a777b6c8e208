"""Verdicts on claims, computed from records without reading or writing anything."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from cl_bench.claims.comparison import compare, contrast
from cl_bench.claims.judgement import IncompleteSweep, Judgement, Sweep, Verdict
from cl_bench.claims.league import holm_adjusted, predicted
from cl_bench.claims.validity import Validity, performances, validity
from cl_bench.errors import listed
from cl_bench.spec.claim import NEGLIGIBLE, TWIN, Claim
from cl_bench.spec.records import FAMILIES, NAMES, OTHER_LEVEL, RANDOM_INIT, Better, Level, Record, configurations
from cl_bench.statistics.controls import controls
from cl_bench.statistics.correlation import Correlation, correlate
from cl_bench.statistics.kendall import equivalence
from cl_bench.statistics.power import FEWEST, POWER, needed_for_none


def judge(
    claim: Claim,
    sweep: Sweep,
    random_init: Sequence[Record],
    alpha: float = 0.05,
    margin: float = 1.0,
    reference: Sweep | None = None,
    twin: Sweep | None = None,
    better: Mapping[str, Better] | None = None,
) -> Judgement:
    """Judge a claim by the records of a row.

    ``tau_negative`` is supported by a one-sided p of tau < 0 below alpha and refuted by one of tau > 0. Both are of tau
    within families and allow for neighbours on a knob being alike (``cl_bench.statistics.correlation.association``).
    ``tau_not_negative`` is its mirror image. Finding no correlation is no support for it, since a small sweep never
    finds one; only a tau that is significantly positive shows that it is no longer negative. ``no_correlation`` is
    supported by two one-sided tests that the same tau is less than .3 from 0, and refuted by a two-sided test that it
    is more.

    ``predictor_against`` is decided like ``tau_not_negative``, with the predictor in place of alignment and uniformity.

    The other claims are decided by t tests, which agree with a ``1 - 2 alpha`` interval: of mean performance minus that
    of random initialisation (``at_random_level``: below ``margin``, refuted above it; ``above_random_level``: above 0,
    refuted below 0), or of the mean difference over configurations (``no_worse_than``, reference minus row, and
    ``keeps_up``, row minus reference: above ``-margin``, refuted below it; ``falls_behind``, reference minus row: above
    0, refuted below 0).

    The verdict is INCONCLUSIVE with fewer than four configurations (or pairs), and if more than half are left out. A
    claim about an order (tau) is also INCONCLUSIVE where performance does not even predict itself (the positive
    control, ``controls``). Every claim is where the encoders that it is about did not learn at its level
    (``validity``). Those encoders are the row's and the reference's. For disjoint views, where not learning is the
    prediction, they are the twin's alone; for ``falls_behind``, where doing badly is the prediction, the reference's
    alone. A claim about the level of random initialisation without a twin is itself about learning at that level, so
    that learning has to show at the other level.

    Args:
        claim: The claim.
        sweep: The row. Diverged and failed records count as present.
        random_init: Randomly initialised encoders.
        alpha: One-sided level.
        margin: Percentage points (our choice).
        reference: Row that a paired claim compares with.
        twin: Row of the same method on the same data with overlapping views, for a row of disjoint views.
        better: Better values (low or high) of each predictor, by its name without the level.

    Raises:
        IncompleteSweep: If an expected case has no record, or a complete one was not measured at the claim's level; or
            if there is no randomly initialised encoder to compare with.
        ValueError: If the records of a row are of more than one; or if the rows of a pair differ in more than the
            method or the data, or one of them is not given.
    """
    level, records = claim.level, sweep.present
    gate_level = OTHER_LEVEL[level] if claim.about_untrained and twin is None else level
    _complete({level, gate_level}, sweep, random_init, reference, twin)
    kept, left_out = configurations(records, level)
    remain, asked, unit = len(kept), len({r.config for r in records if r.family != RANDOM_INIT}), "configurations"
    correlation = compared = comparison = prediction = checked = None
    if claim.about_tau:
        correlation, checked = correlate(records, level, alpha=alpha), controls(records, level)
        p, against, evidence = _on_tau(claim, correlation, alpha)
    elif claim.about_predictor:
        prediction, checked = predicted(records, level, claim.predictor, better or {}), controls(records, level)
        remain = prediction.n
        p, against = prediction.p_positive, prediction.p_negative
        evidence = f"tau = {prediction}, n = {remain}, p(tau > 0) = {p:.2g}"
    elif claim.paired:
        if reference is None:
            raise ValueError(f"claim {claim.kind!r} needs the records of a reference row")
        sides = (records, reference.present) if claim.kind == "keeps_up" else (reference.present, records)
        behind = 0.0 if claim.kind == "falls_behind" else margin
        comparison = compare(*sides, level, alpha, behind)
        left_out, unit = comparison.left_out, "pairs"
        remain, asked = comparison.n, comparison.n + len(left_out)
        p, against, evidence = comparison.p, comparison.p_against, str(comparison)
    else:
        above = claim.kind == "above_random_level"
        scores = {NAMES[f]: [c.performance for c in kept if c.family == f] for f in FAMILIES[:2]}
        compared = contrast(scores, performances(random_init, level), alpha, 0.0 if above else margin)
        p, against = compared.p_below, compared.p_above
        p, against, evidence = (against, p, str(compared)) if above else (p, against, str(compared))
    gate = _gate(claim, gate_level, sweep, random_init, alpha, reference, twin)
    uncontrolled = checked.failed(alpha) if checked else ""
    verdict = Verdict.SUPPORTED if p < alpha else Verdict.REFUTED if against < alpha else Verdict.INCONCLUSIVE
    if remain < FEWEST or 2 * remain < asked:
        verdict = Verdict.INCONCLUSIVE
        evidence += f"; too few: {remain} of {asked} {unit} remain"
    elif gate.reason or uncontrolled:
        verdict = Verdict.INCONCLUSIVE
    elif verdict is Verdict.INCONCLUSIVE and correlation:
        evidence += _needed(claim, correlation, alpha)
    if correlation and correlation.disagrees:
        evidence += (
            "; tau over all pairs and tau within families disagree: it is families that differ here, not the "
            "configurations of one"
        )
    if checked and checked.unmeasured and remain >= FEWEST:
        evidence += "; without the positive control, since performance on halves of the test data was not measured"
    if left_out:
        evidence += f"; left out: {listed(left_out)}"
    reasons = [reason for reason in (gate.reason, uncontrolled) if reason]
    said = [*reasons, claim.text, evidence, *([] if gate.reason else [f"{gate.whose}: {gate}"])]
    return Judgement(
        claim=claim,
        row=sweep.row,
        verdict=verdict,
        correlation=correlation,
        contrast=compared,
        sentence=f"{sweep.row}: {verdict}{' (exploratory)' if claim.exploratory else ''}: {'; '.join(said)}",
        alpha=alpha,
        comparison=comparison,
        validity=gate,
        prediction=prediction,
        controls=checked,
        p=p,
        p_against=against,
    )


def _complete(
    levels: Collection[Level],
    sweep: Sweep,
    random_init: Sequence[Record],
    reference: Sweep | None,
    twin: Sweep | None,
) -> None:
    """Raise IncompleteSweep where a record is missing that the verdict needs; another row is named with its cases."""
    missing = sweep.missing(levels)
    for other in (reference, twin):
        missing += [f"{case} of {other.row}" for case in other.missing(levels)] if other else []
    if not all(performances(random_init, level) for level in levels):
        missing.append(RANDOM_INIT)
    if missing:
        raise IncompleteSweep(sweep.row, missing)


def _gate(
    claim: Claim,
    level: Level,
    sweep: Sweep,
    random_init: Sequence[Record],
    alpha: float,
    reference: Sweep | None,
    twin: Sweep | None,
) -> Validity:
    """Return the validity of the rows that must have learnt: the first that fails, or else the first."""
    asked = [(TWIN, twin)] if twin else [] if claim.kind == "falls_behind" else [("this row", sweep)]
    if reference and not twin:
        asked.append((reference.row, reference))
    found = [
        validity(
            sweep.present,
            random_init,
            level,
            gate=gated.present,
            whose=whose,
            ordered=claim.about_tau or claim.about_predictor,
            alpha=alpha,
        )
        for whose, gated in asked
    ]
    return next((gate for gate in found if gate.reason), found[0])


def _on_tau(claim: Claim, found: Correlation, alpha: float) -> tuple[float, float, str]:
    """Return the p of a claim, the p of its contrary, and the evidence in words with the p that decided."""
    if claim.kind == "no_correlation":
        p, against = equivalence(found.within, found.effective_n, NEGLIGIBLE)
        way, method = ("|tau| > {:g}", "|tau| < {:g}")[against >= alpha].format(NEGLIGIBLE), "two one-sided tests"
    else:
        p, against, sides = found.p_negative, found.p_positive, "<>"
        if claim.kind == "tau_not_negative":
            p, against, sides = against, p, "><"
        way, method = f"tau {sides[against < alpha]} 0", found.method
    shown = against if against < alpha else p
    return p, against, f"{found.told}, {found.counted}, p({way}) = {shown:.2g} ({method})"


def _needed(claim: Claim, found: Correlation, alpha: float) -> str:
    """Say how many configurations would decide a claim about tau if the observed tau were the true one."""
    if claim.kind == "no_correlation":
        n, way, given = needed_for_none(NEGLIGIBLE, alpha), "support", "if the true tau is 0"
    elif found.needed is None:
        return ""
    else:
        n, given = found.needed, f"if the true tau within families is {found.within:.2f}"
        way = "support" if (found.within < 0) == (claim.kind == "tau_negative") else "refute"
    return f"; {given}, it takes {n} independent configurations to {way} the claim with power {POWER}"


def holm(judgements: Sequence[Judgement], *, against: bool = False) -> list[float]:
    """Adjust the p of each claim of a run by Holm's procedure, in order; of its contrary if ``against``.

    It is nan without a p, and for an exploratory claim, which does not count as a test.
    """
    p = [j.p_against if against else j.p for j in judgements]
    return holm_adjusted([math.nan if j.claim.exploratory else one for j, one in zip(judgements, p, strict=True)])
