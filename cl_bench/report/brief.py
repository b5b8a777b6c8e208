"""One screen of a run: the answer in a sentence and a line for each tau, for a terminal and in Markdown."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cl_bench.claims.judgement import Judgement, Verdict
from cl_bench.report.html.words import answers, headline, other_claims
from cl_bench.report.league_table import failures
from cl_bench.report.quote import markdown_table
from cl_bench.report.row import COLOURS, RowResult
from cl_bench.spec.records import EVALUATIONS, LEVELS, Level

_SHORT: Mapping[Level, str] = {"instance": "linear", "dense": "detection"}
_HEADS = ("tau", "95 % interval", "verdict", "paper")
_EXPLORATORY = "*: exploratory, the paper does not claim it"
_RESTS = "A verdict rests on tau within families, and on whether the encoders learnt."


class Line(NamedTuple):
    """Tau of a row at one evaluation, as text; ``verdicts`` are those of the claims about this tau."""

    row: RowResult
    level: Level
    tau: str
    interval: str
    verdicts: tuple[Judgement, ...]
    paper: str


def answer_sentence(rows: Sequence[RowResult]) -> str:
    """Return the sentence that the HTML report of these rows begins with."""
    return headline(answers(rows))


def brief_summary(rows: Sequence[RowResult]) -> Group:
    """Make the short summary of a run, a rich renderable that needs 80 columns: about 20 lines for four rows."""
    return Group(Text(answer_sentence(rows)), Text(), *_blocks(rows))


def _blocks(rows: Sequence[RowResult]) -> Iterator[RenderableType]:
    lines = [line for row in rows for line in _lines(row)]
    if lines:
        yield _table(lines)
    yield from (Text(f"{row.name}: {row.runs}", style="red") for row in rows if not row.whole)
    yield from (Text(line, style="yellow") for line in failures(rows))
    if any(j.claim.exploratory for line in lines for j in line.verdicts):
        yield Text(_EXPLORATORY, style="dim")
    if any(_stricter(j) for line in lines for j in line.verdicts):
        yield Text(_RESTS, style="dim")
    others = other_claims(rows)
    if others:
        yield Text(others, style="dim")


def brief_markdown(rows: Sequence[RowResult]) -> str:
    """Return the short summary of a run in Markdown, for the page of a build in CI."""
    lines = [line for row in rows for line in _lines(row)]
    cells = [
        [
            _plain(line.row.name),
            EVALUATIONS[line.level],
            line.tau,
            line.interval,
            _plain(_all_told(line)),
            line.paper,
        ]
        for line in lines
    ]
    parts = [_plain(answer_sentence(rows))]
    if cells:
        parts.append(markdown_table(("row", "evaluation", *_HEADS), cells))
    parts += [f"{_plain(row.name)}: {row.runs}" for row in rows if not row.whole]
    if any(j.claim.exploratory for line in lines for j in line.verdicts):
        parts.append(_EXPLORATORY.replace("*", r"\*"))
    others = other_claims(rows)
    return "\n\n".join([*parts, *([others] if others else [])]) + "\n"


def _lines(row: RowResult) -> Iterator[Line]:
    printed = row.printed("total")
    for level in LEVELS:
        if level in row.measured:
            found = row.correlations[level, "total"]
            tau = "-" if math.isnan(found.tau) else f"{found.tau:.2f}"
            interval = "-" if math.isnan(found.low) else f"[{found.low:.2f}, {found.high:.2f}]"
            judged = tuple(j for j in row.judgements if j.claim.about_tau and j.claim.level == level)
            yield Line(row, level, tau, interval, judged, f"{printed.score(level).tau:.2f}" if printed else "-")


def _table(lines: Sequence[Line]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("row", width=23, overflow="fold")
    table.add_column("evaluation", width=10, no_wrap=True)
    for name, width in zip(_HEADS[:2], (5, 14), strict=True):
        table.add_column(name, width=width, justify="right", no_wrap=True)
    table.add_column(_HEADS[2], width=13, no_wrap=True)
    table.add_column(_HEADS[3], width=5, justify="right", no_wrap=True)
    last = None
    for line in lines:
        views = "" if line.row.views == "overlapping" else f" {line.row.views}"
        name = line.row.method if line.row is last else f"{line.row.data}{views}"
        style = "dim" if line.row is last else ""
        only = line.verdicts[0] if len(line.verdicts) == 1 else None
        verdict = _verdict(only) if only else Text("" if line.verdicts else "-")
        table.add_row(Text(name, style=style), _SHORT[line.level], line.tau, line.interval, verdict, line.paper)
        for judgement in () if only else line.verdicts:
            table.add_row("", "", "", judgement.claim.symbols, _verdict(judgement), "")
        last = line.row
    return table


def _verdict(judgement: Judgement) -> Text:
    return Text(_told(judgement), style=COLOURS[judgement.verdict])


def _stricter(judgement: Judgement) -> bool:
    """Return whether a claim is open although the interval over all pairs leaves out 0."""
    found = judgement.correlation
    return judgement.verdict is Verdict.INCONCLUSIVE and found is not None and found.low * found.high > 0


def _told(judgement: Judgement) -> str:
    return f"{judgement.verdict}{'*' if judgement.claim.exploratory else ''}"


def _all_told(line: Line) -> str:
    """Return the verdicts of a line; where there are several, each with its claim."""
    if len(line.verdicts) < 2:
        return "".join(map(_told, line.verdicts)) or "-"
    return ", ".join(f"{j.claim.symbols}: {_told(j)}" for j in line.verdicts)


def _plain(text: str) -> str:
    """Escape a text for Markdown."""
    return re.sub(r"([\\`*_~\[\]#])", r"\\\1", html.escape(text, quote=False))


def figure(judgement: Judgement) -> str:
    """Return the figure that a verdict is about, in two words: ``tau -0.56``; empty where there is none."""
    found = judgement.correlation or judgement.prediction
    if found is not None:
        return f"tau {'undefined' if math.isnan(found.tau) else f'{found.tau:.2f}'}"
    difference = _difference(judgement)
    return "" if math.isnan(difference) else f"difference {difference:+.2f}"


def _difference(judgement: Judgement) -> float:
    if judgement.contrast is not None:
        return judgement.contrast.difference
    return math.nan if judgement.comparison is None else judgement.comparison.mean


def flat_figures(judgement: Judgement) -> dict[str, str]:
    """Return a judgement as flat text: row, verdict, tau or difference, low, high, p, n; without what is undefined.

    ``tau``, ``low`` and ``high`` are over all pairs; where there are several families, ``tau_within`` is the tau
    within them, which ``p`` tests. ``difference`` is in percentage points.
    """
    found = judgement.correlation or judgement.prediction or judgement.contrast or judgement.comparison
    values: dict[str, float] = {}
    if judgement.correlation or judgement.prediction:
        values["tau"] = getattr(found, "tau", math.nan)
        values["tau_within"] = getattr(found, "within", math.nan)
    else:
        values["difference"] = _difference(judgement)
    values |= {name: getattr(found, name, math.nan) for name in ("low", "high")}
    values["p"] = judgement.p
    told = {name: f"{value:.4g}" for name, value in values.items() if not math.isnan(value)}
    told |= {} if found is None else {"n": str(found.n)}
    return {"row": judgement.row, "verdict": judgement.verdict.value, **told}
