"""Tables of a run, with the layout of the paper's Tables 1 to 3."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from cl_bench.claims import paper
from cl_bench.claims.paper import PaperRow
from cl_bench.claims.validity import warnings
from cl_bench.report.comparison_table import comparison_notes, comparison_table
from cl_bench.report.html.words import multiplicity
from cl_bench.report.league_table import league_notes, league_table
from cl_bench.report.paper_tables import average_notes, paper_notes, paper_tables
from cl_bench.report.probes_table import shortcut_notes, shortcut_table
from cl_bench.report.row import BEST, COLOURS, Metric, RowResult, number, performance_of, verdicts
from cl_bench.spec.records import EVALUATIONS, FAMILIES, LEVELS, NAMES, Level, configurations
from cl_bench.statistics.controls import Controls
from cl_bench.statistics.correlation import Correlation

AP_NAMES: dict[Metric, str] = {"coco_ap": "COCO AP", "voc07_ap": "VOC07 11-point AP"}


def summary_table(rows: Sequence[RowResult]) -> Group:
    """Make the summary of a run, a rich renderable that needs 80 columns and no colour.

    It has a table for each row and evaluation, with one line per family: models, best, mean, mean of the best ten, tau
    with its interval and the verdict. The paper's line and the untrained encoders follow, and below them every claim in
    a sentence. After these come the comparison of dense methods that share data and views, the league of predictors,
    and the comparison with the paper's tables.
    """
    blocks = [block for row in rows for block in _row(row)]
    return Group(*blocks, *comparison_table(rows), *league_table(rows), *paper_tables(rows), *_notes(rows))


def _row(row: RowResult) -> Iterator[RenderableType]:
    yield Rule(Text(row.title, style="bold"), align="left", style="dim")
    facts = f"{row.method} · {row.scheme} scheme · {row.data} · {row.views} views · profile {row.profile}"
    yield Text(f"{facts} · {row.runs}", style="dim")
    if row.matching_precision:
        low, mean, high = (f(row.matching_precision) for f in (min, statistics.fmean, max))
        shares = f"{low:.2f} to {high:.2f} over {len(row.matching_precision)} encoders"
        yield Text(f"matching precision: {mean:.2f} of the positives are correct ({shares})", style="dim")
    yield from shortcut_table(row)
    yield from (Text(line, style="yellow") for line in warnings(row.records, row.random_init))
    measured = row.measured
    for level in LEVELS:
        unit = row.unit(level) if level in measured else "not measured"
        yield Text(f"{EVALUATIONS[level].capitalize()} ({unit})", style="underline")
        if level in measured:
            yield _level(row, level, header=level == measured[0])
    left_out = {case for level in measured for case in row.correlations[level, "total"].left_out}
    for record in row.records:
        if record.status != "complete" or record.case in left_out:
            why = record.status if record.status != "complete" else "its configuration is not complete"
            yield Text(f"left out: {record.case} ({': '.join(filter(None, (why, record.detail)))})", style="red")
    for judgement in row.claimed:
        sentence = Text(f"- {judgement.sentence.removeprefix(f'{judgement.row}: ')}")
        sentence.highlight_words([judgement.verdict.value], style=f"bold {COLOURS[judgement.verdict]}")
        yield sentence
        if judgement.controls is not None and judgement.correlation is not None:
            yield Text(
                f"  controls, within families: {_controls(judgement.controls, judgement.correlation)}", style="dim"
            )
        own = row.papers_own(judgement.claim)
        if own is not None:
            yield Text(f"  {own}", style="dim")
        for claim, reason in row.known:
            if claim == judgement.claim:
                yield Text(f"  profile {row.profile} declares that this is known not to hold: {reason}", style="dim")
    yield Text()


def _controls(found: Controls, correlation: Correlation) -> str:
    placebo = correlation.placebo
    told = "" if math.isnan(placebo) else f"; 1 in 20 random curves is below {placebo:.2f}"
    return f"{found}{told}"


def _level(row: RowResult, level: Level, *, header: bool) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim", show_header=header)
    table.add_column("", width=17, no_wrap=True)
    widths = {"models": 6, "max": 5, "avg": 5, f"best {BEST}": 9, "tau-b\n[95 % interval]": 20}
    for name, width in widths.items():
        table.add_column(name, width=width, justify="right", no_wrap=True, vertical="bottom")
    table.add_column("verdict", min_width=12, overflow="fold")
    of_level = [j for j in row.judgements if j.claim.level == level]
    judged = verdicts([j for j in of_level if j.claim.about_tau])
    for family in FAMILIES:
        kept, _ = configurations(row.records, level, family)
        table.add_row(
            NAMES[family],
            *_statistics([c.performance for c in kept]),
            str(row.correlations[level, family]),
            judged if family == "total" and math.isnan(row.correlations[level, "total"].between) else "",
            style="bold" if family == "total" else "",
        )
    total = row.correlations[level, "total"]
    if not math.isnan(total.between):
        table.add_row("within families", f"~{total.effective_n:.0f}", "", "", "", total.inside, judged, style="bold")
    if level == "dense":
        name = f"{row.detection_metric}50"
        ap50 = [r.extra[name] for r in row.records if r.status == "complete" and name in r.extra]
        table.add_row("AP50", *_statistics(ap50), style="dim")
    for family in FAMILIES:
        printed = row.printed(family)
        if printed is not None:
            score = printed.score(level)
            figures = (f"{v:.2f}" for v in (score.max, score.avg, score.top10, score.tau))
            where = _setting(row, printed, level)
            table.add_row(f"paper, {NAMES[family]}", str(score.models), *figures, where, style="dim")
    untrained = row.untrained(level)
    spread = f"sd {statistics.stdev(untrained):.2f} over {len(untrained)} seeds" if len(untrained) > 1 else ""
    verdict = verdicts([j for j in of_level if j.claim.about_untrained])
    table.add_row("untrained", *_statistics(untrained), spread, verdict, style="dim")
    return table


def _statistics(performance: Sequence[float]) -> tuple[str, str, str, str]:
    """Format the number of models, max, avg and mean of the best ten, or of all with their number if they are fewer."""
    found = performance_of(performance)
    if found is None:
        return "0", "-", "-", "-"
    return str(found.models), number(found.max), number(found.avg), number(found.top10) + found.few


def _setting(row: RowResult, printed: PaperRow, level: Level) -> str:
    """Describe the differences in setting that make a printed row's figures incomparable; empty if there are none."""
    if row.of_papers_setting(printed, level):
        return ""
    if not row.of_papers_data(printed):
        return f"on {paper.SETTING_NAMES[printed.data]}*"
    return "full recipe*" if row.departs else f"in {paper.METRIC_NAME}*"


def _notes(rows: Sequence[RowResult]) -> Iterator[Text]:
    notes = [
        "tau-b: rank correlation of minmax(L_a) + minmax(L_u) with performance over configurations of the objective "
        "(models; their seeds are averaged first). Below 0, better aligned and more uniform encoders perform better.",
        "within families: tau over pairs of the same family, on which the verdict rests. Models with neighbouring "
        "values of a knob are alike, so they count as fewer independent ones, ~k; intervals and p allow for that "
        "(docs/statistics.md).",
        f"best {BEST}: mean of the best ten; (k) is shown where there are only k. untrained: encoders as initialised.",
        *dict.fromkeys(f"linear evaluation: {row.linear_protocol}" for row in rows),
        *dict.fromkeys(f"detection: {row.detection_protocol}" for row in rows),
        *_precision_notes(rows),
        *shortcut_notes(rows),
        *comparison_notes(rows),
        *league_notes(rows),
        *dict.fromkeys(
            f"AP: {AP_NAMES[row.detection_metric]}, averaged over IoU .50 to .95 in steps of .05; AP50: at .50 alone, "
            "of single runs."
            for row in rows
        ),
        *_printed_notes(rows),
        *paper_notes(rows),
        *average_notes(rows),
        multiplicity(rows),
    ]
    return (Text(note, style="dim") for note in notes)


def _printed_notes(rows: Sequence[RowResult]) -> Iterator[str]:
    shown = [(row, p, level) for row in rows for p in map(row.printed, FAMILIES) if p for level in row.measured]
    if any(_setting(*line) for line in shown):
        yield f"*: the paper's own numbers, of another setting than this run's ({paper.SOURCE}). {paper.NOTE}"
    elif shown:
        yield f"paper: its own numbers ({paper.SOURCE}). {paper.NOTE}"


def _precision_notes(rows: Sequence[RowResult]) -> Iterator[str]:
    if any(row.matching_precision for row in rows):
        yield (
            "matching precision: of the positives an encoder was trained on, at the logged steps, the share whose two "
            "cells overlap in the source image."
        )
