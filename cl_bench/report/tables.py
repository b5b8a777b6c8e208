"""The tables of a run, laid out like the paper's Tables 1 to 3."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from cl_bench import paper
from cl_bench.claims import (
    EVALUATIONS,
    FAMILIES,
    Claim,
    Correlation,
    Family,
    Judgement,
    Verdict,
    configurations,
    correlate,
    holm,
)
from cl_bench.records import LEVELS, RANDOM_INIT, Level, Record

NAMES: dict[Family, str] = {"align_uniform": "L_a & L_u", "info_nce": "InfoNCE", "total": "total"}
UNITS: dict[Level, str] = {"instance": "accuracy, %", "dense": "AP, %"}
COLOURS = {Verdict.SUPPORTED: "green", Verdict.REFUTED: "red", Verdict.INCONCLUSIVE: "yellow"}
BEST = 10


@dataclass(frozen=True)
class RowResult:
    """One row of the comparison: a method on some data, and what was made of it.

    Attributes:
        name: Short and unique, as in file names.
        title: For people.
        method: The method with its options.
        scheme: Pre-training scheme, ``instance`` or ``dense``.
        data: Pre-training data.
        views: ``overlapping`` or ``disjoint``.
        records: Trained encoders of the row.
        random_init: Randomly initialised encoders to compare with.
        judgements: Claims about the row, judged.
        expected: Number of trained encoders that the row asks for.
        profile: Name of the profile.
        detection_protocol: How detection was evaluated, in a sentence.
        linear_protocol: How linear evaluation was done, in a sentence.
        known: Claims that the profile is known not to reproduce, each with its reason.
    """

    name: str
    title: str
    method: str
    scheme: Level
    data: str
    views: str
    records: tuple[Record, ...]
    random_init: tuple[Record, ...]
    judgements: tuple[Judgement, ...]
    expected: int
    profile: str
    detection_protocol: str
    linear_protocol: str
    known: tuple[tuple[Claim, str], ...] = ()

    @cached_property
    def correlations(self) -> dict[tuple[Level, Family], Correlation]:
        """Tau by level and family; that of the total is the one that was judged, where a claim was."""
        judged = {j.correlation.level: j.correlation for j in self.judgements if j.correlation}
        return {
            (level, family): (judged.get(level) if family == "total" else None)
            or correlate(self.records, level, family)
            for level in LEVELS
            for family in FAMILIES
        }

    def untrained(self, level: Level) -> list[float]:
        """Performance of the randomly initialised encoders, percent."""
        values = (r.performance.get(level, math.nan) for r in self.random_init if r.status == "complete")
        return [v for v in values if math.isfinite(v)]


def summary_table(rows: Sequence[RowResult]) -> Group:
    """What a run says, as a rich renderable that needs 80 columns and no colour.

    A table for each row and evaluation, one line a family: models, best, mean, mean of the best ten, tau with its
    interval and the verdict; the paper's line and the untrained encoders; beneath it every claim in a sentence.
    """
    blocks = [block for row in rows for block in _row(row)]
    return Group(*blocks, *_notes(rows))


def _row(row: RowResult) -> Iterator[RenderableType]:
    yield Rule(Text(row.title, style="bold"), align="left", style="dim")
    facts = f"{row.method} · {row.scheme} scheme · {row.data} · {row.views} views · profile {row.profile}"
    yield Text(f"{facts} · {_runs(row)}", style="dim")
    measured = [level for level in LEVELS if any(level in r.performance for r in row.records)]
    for level in LEVELS:
        unit = UNITS[level] if level in measured else "not measured"
        yield Text(f"{EVALUATIONS[level].capitalize()} ({unit})", style="underline")
        if level in measured:
            yield _level(row, level, header=level == measured[0])
    left_out = {case for level in measured for case in row.correlations[level, "total"].left_out}
    for record in row.records:
        if record.status != "complete" or record.case in left_out:
            why = record.status if record.status != "complete" else "its configuration is not complete"
            yield Text(f"left out: {record.case} ({': '.join(filter(None, (why, record.detail)))})", style="red")
    for judgement in row.judgements:
        sentence = Text(f"- {judgement.sentence.removeprefix(f'{judgement.row}: ')}")
        sentence.highlight_words([judgement.verdict.value], style=f"bold {COLOURS[judgement.verdict]}")
        yield sentence
        for claim, reason in row.known:
            if claim == judgement.claim:
                yield Text(f"  profile {row.profile} declares that this is known not to hold: {reason}", style="dim")
    yield Text()


def _runs(row: RowResult) -> str:
    trained = [r for r in row.records if r.family != RANDOM_INIT]
    counts = Counter[str](r.status for r in trained)
    counts["missing"] = max(0, row.expected - len(trained))
    others = [f"{counts[s]} {s}" for s in ("diverged", "failed", "missing") if counts[s]]
    return ", ".join([f"{counts['complete']} of {row.expected} runs complete", *others])


def _level(row: RowResult, level: Level, *, header: bool) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim", show_header=header)
    table.add_column("", width=17, no_wrap=True)
    widths = {"models": 6, "max": 5, "avg": 5, f"best {BEST}": 9, "tau-b\n[95 % interval]": 20}
    for name, width in widths.items():
        table.add_column(name, width=width, justify="right", no_wrap=True, vertical="bottom")
    table.add_column("verdict", min_width=12, overflow="fold")
    for family in FAMILIES:
        kept, _ = configurations(row.records, level, family)
        table.add_row(
            NAMES[family],
            *_statistics([c.performance for c in kept]),
            str(row.correlations[level, family]),
            _verdict(row, level, about_tau=True) if family == "total" else "",
            style="bold" if family == "total" else "",
        )
    if level == "dense":
        ap50 = [r.extra["coco_ap50"] for r in row.records if r.status == "complete" and "coco_ap50" in r.extra]
        table.add_row("AP50", *_statistics(ap50), style="dim")
    for family in FAMILIES:
        printed = paper.lookup(row.data, row.views, row.scheme, family)
        if printed is not None:
            score = printed.score(level)
            figures = (f"{v:.2f}" for v in (score.max, score.avg, score.top10, score.tau))
            where = f"on {paper.SETTING_NAMES[printed.data]}*"
            table.add_row(f"paper, {NAMES[family]}", str(score.models), *figures, where, style="dim")
    untrained = row.untrained(level)
    spread = f"sd {statistics.stdev(untrained):.2f} over {len(untrained)} seeds" if len(untrained) > 1 else ""
    verdict = _verdict(row, level, about_tau=False)
    table.add_row("untrained", *_statistics(untrained), spread, verdict, style="dim")
    return table


def _statistics(performance: Sequence[float]) -> tuple[str, str, str, str]:
    """Models, max, avg and mean of the best ten; with fewer than ten, how many there are."""
    if not performance:
        return "0", "-", "-", "-"
    best = sorted(performance, reverse=True)[:BEST]
    few = "" if len(best) == BEST else f" ({len(best)})"
    top, mean, mean_of_best = (_number(v) for v in (best[0], statistics.fmean(performance), statistics.fmean(best)))
    return str(len(performance)), top, mean, mean_of_best + few


def _number(value: float) -> str:
    """Five characters: two decimals, one from 100 on."""
    return f"{value:.2f}" if value < 99.995 else f"{value:.1f}"


def _verdict(row: RowResult, level: Level, *, about_tau: bool) -> Text:
    found = [j for j in row.judgements if j.claim.level == level and (j.claim.kind != "at_random_level") is about_tau]
    return Text("\n").join(Text(j.verdict.value, style=f"bold {COLOURS[j.verdict]}") for j in found)


def _notes(rows: Sequence[RowResult]) -> Iterator[Text]:
    notes = [
        "tau-b: rank correlation of minmax(L_a) + minmax(L_u) with performance over configurations of the objective "
        "(models; their seeds are averaged first). Below 0: better aligned and more uniform goes with better.",
        f"best {BEST}: mean of the best ten; (k) is shown where there are only k. untrained: encoders as initialised.",
        *dict.fromkeys(f"linear evaluation: {row.linear_protocol}" for row in rows),
        *dict.fromkeys(f"detection: {row.detection_protocol}" for row in rows),
        "AP: average precision, averaged over IoU .50 to .95 in steps of .05; AP50: at .50 alone, run by run.",
        f"*: the paper's own numbers, of another setting ({paper.SOURCE}). {paper.NOTE}",
        _multiplicity([j for row in rows for j in row.judgements]),
    ]
    return (Text(note, style="dim") for note in notes)


def _multiplicity(judgements: Sequence[Judgement]) -> str:
    adjusted = zip(judgements, holm(judgements), strict=True)
    tested = [(j, p) for j, p in adjusted if not math.isnan(p)]
    supported = [j for j, _ in tested if j.verdict is Verdict.SUPPORTED]
    survive = [f"{j.row} ({EVALUATIONS[j.claim.level]})" for j, p in tested if j in supported and p < j.alpha]
    return (
        f"claims: {len(judgements)} judged; of {len(tested)} on tau {len(supported)} supported by their own one-sided "
        f"test, {len(survive)} after Holm's correction for testing {len(tested)}"
        + (f": {', '.join(survive)}." if survive else ".")
    )
