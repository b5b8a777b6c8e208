"""Answer of a run in plain words, for readers who are new to tau."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cl_bench.claims.judge import holm
from cl_bench.claims.judgement import Judgement, Verdict
from cl_bench.report.html.svg import two
from cl_bench.report.row import RowResult
from cl_bench.spec.records import EVALUATIONS, LEVELS, configurations

_NO_COUNT = {0: "none", 1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight"}


@dataclass(frozen=True)
class Answer:
    """Answer to one claim: the sentence ``said``, its ``evidence``, and ``why`` the claim is open if it is.

    It was not ``judged`` where encoders are missing.
    """

    verdict: Verdict
    said: str
    evidence: str
    why: str = ""
    judged: bool = True


def answers(rows: Sequence[RowResult]) -> list[Answer]:
    """Answer each claim about tau that the paper makes: first the decided ones, both in the order of the rows."""
    found = [
        answer(row, judgement, rows)
        for row in rows
        for level in LEVELS
        for judgement in row.judgements
        if judgement.claim.about_tau and judgement.claim.level == level and not judgement.claim.exploratory
    ]
    return sorted(found, key=lambda one: one.verdict is Verdict.INCONCLUSIVE)


def headline(found: Sequence[Answer]) -> str:
    """Return a sentence that says how many of the claims hold, and one on those that could not be judged."""
    judged = [one for one in found if one.judged]
    if not judged:
        why = ": encoders are missing" if found else ""
        return f"This run has judged no claim about a correlation yet{why}."
    rest = len(found) - len(judged)
    more = f" {_count(rest).capitalize()} more could not be judged, because encoders are missing." if rest else ""
    about = "about alignment, uniformity and performance"
    told = [
        (Verdict.SUPPORTED, "supports {}"),
        (Verdict.REFUTED, "speaks against {}"),
        (Verdict.INCONCLUSIVE, "leaves {} open"),
    ]
    if len(judged) == 1:
        verb = next(text for verdict, text in told if judged[0].verdict is verdict).format("it")
        return f"This run tested one claim {about}, and {verb}.{more}"
    parts = [text.format(_count(sum(one.verdict is verdict for one in judged))) for verdict, text in told]
    said = f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"Of the {_count(len(judged))} claims {about} that were tested here, this run {said}.{more}"


def _count(number: int) -> str:
    return _NO_COUNT.get(number, str(number))


def other_claims(rows: Sequence[RowResult]) -> str:
    """Count the verdicts on claims that are not about tau; empty where there are none."""
    counts = Counter(j.verdict for row in rows for j in row.judgements if not j.claim.about_tau)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    return f"other claims: {told}" if told else ""


def multiplicity(rows: Sequence[RowResult]) -> str:
    """Count the claims that their own test decides, and those of them that Holm's correction leaves decided."""
    judgements = [j for row in rows for j in row.judgements]
    exploratory = sum(j.claim.exploratory for j in judgements)
    aside = f", {exploratory} of them exploratory and left out of these counts" if exploratory else ""
    tested = 0
    told = []
    for verdict, against in ((Verdict.SUPPORTED, False), (Verdict.REFUTED, True)):
        adjusted = zip(judgements, holm(judgements, against=against), strict=True)
        counted = [(j, p) for j, p in adjusted if not math.isnan(p)]
        own = [(j, p) for j, p in counted if j.verdict is verdict]
        survive = [_short(j) for j, p in own if p < j.alpha]
        named = f" ({', '.join(survive)})" if survive else ""
        tested = len(counted)
        told.append(f"{len(own)} {verdict.lower()} by their own test, {len(survive)} after Holm's correction{named}")
    return f"claims: {len(judgements)} judged{aside}; of {tested} tested {'; '.join(told)}."


def _short(judgement: Judgement) -> str:
    found = judgement.comparison
    other = found and (found.other if judgement.claim.kind == "keeps_up" else found.reference)
    about = judgement.claim.predictor
    told = f"{f' against {other}' if other else ''}{f', {about}' if about else ''}"
    return f"{judgement.row}: {judgement.claim.kind} ({EVALUATIONS[judgement.claim.level]}{told})"


def answer(row: RowResult, judgement: Judgement, rows: Sequence[RowResult]) -> Answer:
    """Answer one claim about a row."""
    method = f" ({row.method})" if len({one.method for one in rows}) > 1 else ""
    images = f"{row.data.replace('_', '-').replace(',', ', ')} images"
    views = " whose two views do not overlap" if row.views == "disjoint" else ""
    said = f"On {images}{views}{method}, {_said(judgement)}"
    return Answer(judgement.verdict, said, _evidence(row, judgement), _why(judgement), not judgement.missing)


def _said(judgement: Judgement) -> str:
    text = re.sub(r" \((\|?tau.*?)\)$", "", judgement.claim.text)
    if judgement.verdict is Verdict.SUPPORTED:
        return text
    if judgement.verdict is Verdict.INCONCLUSIVE:
        return f"this run leaves open whether {text}"
    if judgement.claim.kind == "tau_negative":
        return text.replace("go with better", "go with worse")
    if judgement.claim.kind == "tau_not_negative":
        return text.replace("no longer go", "still go")
    return f"the opposite of this claim holds: {text}"


def _evidence(row: RowResult, judgement: Judgement) -> str:
    if judgement.missing:
        return f"{len(judgement.missing)} encoders are missing"
    found = judgement.correlation
    if found is None:
        return ""
    alone = math.isnan(found.between) or math.isnan(found.within)
    low, high = (found.low, found.high) if alone else (found.within_low, found.within_high)
    interval = "" if math.isnan(low) else f", 95 % interval {_two(low)} to {_two(high)}"
    kept, _ = configurations(row.records, found.level)
    seeds = round(statistics.fmean(len(c.seeds) for c in kept)) if kept else 0
    each = f", {seeds} seed{'s' if seeds != 1 else ''} each" if seeds else ""
    inside = "" if alone else f" over all pairs, {_two(found.within)} within families"
    return f"tau {_two(found.tau)}{inside}{interval}; {found.n} configurations{each}"


def _why(judgement: Judgement) -> str:
    """Return the reason that a claim is open as a sentence; empty if it is decided."""
    if judgement.verdict is not Verdict.INCONCLUSIVE or judgement.missing:
        return ""
    failed = judgement.controls.failed(judgement.alpha) if judgement.controls else ""
    reason = judgement.validity.reason if judgement.validity else ""
    gate = judgement.validity
    if gate and 2 * gate.learnt < gate.of:
        whose = "" if gate.whose == "this row" else f" of {gate.whose}"
        beat = f"{gate.learnt} of {gate.of} did clearly better than untrained ones"
        return f"Too few encoders{whose} learnt for a verdict: {beat}."
    if reason or failed:
        return sentence(reason or failed)
    needed = judgement.correlation and judgement.correlation.needed
    if judgement.claim.kind == "tau_negative" and needed and judgement.correlation and judgement.correlation.within < 0:
        worth = judgement.correlation.effective_n
        has = (
            "" if math.isnan(worth) else f", and the {judgement.correlation.n} here are worth only {worth:.0f} of those"
        )
        return (
            "There are too few configurations: if the true tau is the one measured here, it takes about "
            f"{needed} independent ones to show it{has}."
        )
    return "Figures like these would occur too often by chance alone."


def sentence(text: str) -> str:
    """Return the text with a capital letter and one full stop."""
    return f"{text[:1].upper()}{text[1:].removesuffix('.')}."


def _two(value: float) -> str:
    return "undefined" if math.isnan(value) else two(value)
