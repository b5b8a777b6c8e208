"""Tables of the page, whose cells carry the values by which they are sorted."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cl_bench.claims.judge import holm
from cl_bench.claims.judgement import Judgement
from cl_bench.report.comparison_table import comparison_lines
from cl_bench.report.html.svg import minus
from cl_bench.report.league_table import standings
from cl_bench.report.paper_tables import agreements, footnotes, order, paper_lines
from cl_bench.report.probes_table import COLUMNS
from cl_bench.report.row import BEST, RowResult, number, performance_of
from cl_bench.spec.records import EVALUATIONS, FAMILIES, LEVELS, NAMES, Level, configurations
from cl_bench.statistics.correlation import Correlation


@dataclass(frozen=True)
class Cell:
    """Cell of a table; its line is sorted by the value, or by the text if there is none."""

    text: str
    value: float | None = None
    verdict: str = ""

    @property
    def numeric(self) -> bool:
        """True if the cell holds a number, which is aligned to the right."""
        return self.value is not None


@dataclass(frozen=True)
class Grid:
    """Table whose lines begin with their header cell."""

    caption: str
    columns: tuple[str, ...]
    lines: tuple[tuple[Cell, ...], ...]
    sortable: bool = False

    @property
    def numeric(self) -> list[bool]:
        """For each column True if it holds numbers."""
        return [any(line[k].numeric for line in self.lines) for k in range(len(self.columns))]


Line = Sequence[str | float | Cell]


def grid(caption: str, columns: Sequence[str], lines: Iterable[Line], *, sortable: bool = True) -> Grid:
    """Make a table of texts, numbers with two decimals, and cells; one of three lines or more can be sorted."""
    cells = tuple(tuple(_cell(value) for value in line) for line in lines)
    return Grid(caption, tuple(columns), cells, sortable and len(cells) > 2)


def _cell(value: str | float | Cell) -> Cell:
    if isinstance(value, Cell):
        return value
    if isinstance(value, str):
        return Cell(value)
    if isinstance(value, int):
        return Cell(str(value), float(value))
    return Cell("" if math.isnan(value) else minus(f"{value:.2f}"), None if math.isnan(value) else value)


def _signed(value: float) -> Cell:
    return Cell("", None) if math.isnan(value) else Cell(minus(f"{value:+.2f}"), value)


def _p(value: float) -> Cell:
    return Cell("", None) if math.isnan(value) else Cell(f"{value:.2g}", value)


def _tau(found: Correlation) -> Cell:
    return Cell(minus(str(found)), None if math.isnan(found.tau) else found.tau)


def _verdicts(judgements: Sequence[Judgement]) -> Cell:
    told = list(dict.fromkeys(f"{j.verdict}{' (exploratory)' * j.claim.exploratory}" for j in judgements))
    return Cell(", ".join(told), verdict=told[0].lower() if len(told) == 1 else "")


def families_grid(row: RowResult, level: Level) -> Grid:
    """Tabulate models, performance and tau of each family, of the paper's, and of the untrained encoders."""
    lines: list[Line] = []
    for family in FAMILIES:
        kept, _ = configurations(row.records, level, family)
        lines.append(
            [NAMES[family], _tau(row.correlations[level, family]), *_performance([c.performance for c in kept])]
        )
    total = row.correlations[level, "total"]
    if not math.isnan(total.between):
        inside = Cell(minus(total.inside), total.within)
        lines.append([f"total, within families (worth {total.effective_n:.0f})", inside, "", "", "", ""])
    for family in FAMILIES:
        printed = row.printed(family)
        if printed is not None:
            score = printed.score(level)
            same = "" if row.of_papers_setting(printed, level) else " *"
            figures = (score.tau, score.models, score.max, score.avg, score.top10)
            lines.append([f"paper, {NAMES[family]}{same}", *figures])
    plain = row.untrained(level)
    if plain:
        lines.append(["untrained", "", *_performance(plain)])
    columns = ("family", "tau [95 % interval]", "models", "best", "mean", f"mean of best {BEST}")
    return grid(f"{EVALUATIONS[level].capitalize()} ({row.unit(level)})", columns, lines)


def _performance(values: Sequence[float]) -> Line:
    found = performance_of(values)
    if found is None:
        return [0, "", "", ""]
    return [found.models, found.max, found.avg, Cell(f"{number(found.top10)}{found.few}", found.top10)]


def configurations_grid(row: RowResult) -> Grid:
    """Tabulate every configuration, with the numbers that the charts show."""
    by_level = {level: {c.name: c for c in configurations(row.records, level)[0]} for level in row.measured}
    names = sorted({name for found in by_level.values() for name in found})
    columns = ["configuration", "seeds"]
    for level in by_level:
        columns += [f"L_a, {level}", f"L_u, {level}", EVALUATIONS[level]]
    lines: list[Line] = []
    for name in names:
        seeds = max(len(found[name].seeds) for found in by_level.values() if name in found)
        line: list[str | float | Cell] = [name, seeds]
        for found in by_level.values():
            c = found.get(name)
            line += [c.alignment, c.uniformity, c.performance] if c else ["", "", ""]
        lines.append(line)
    return grid("Every configuration, its seeds averaged", columns, lines)


def probes_grid(row: RowResult) -> Grid | None:
    """Tabulate the shortcut probes: median, least and most of each family's encoders."""
    families = {NAMES[f]: [r for r in row.records if r.family == f and r.probes] for f in FAMILIES[:2]}
    if not any(families.values()):
        return None
    untrained = "untrained" if row.measured_untrained else "untrained, on other images or views"
    lines: list[Line] = []
    for name, records in {**families, untrained: [r for r in row.random_init if r.probes]}.items():
        if records:
            cells: list[str | float | Cell] = [name]
            for key in COLUMNS.values():
                values = [v for r in records for v in ({**r.extra, **r.probes}.get(key),) if v is not None]
                cells.append(_spread(values))
            lines.append(cells)
    probed = [r for records in families.values() for r in records]
    chance = statistics.median(r.probes.get("position_chance", math.nan) for r in probed)
    at = "" if math.isnan(chance) else f"; place read is {chance:.2f} by chance"
    return grid(f"What dense features know: median (least to most){at}", ("family", *COLUMNS), lines)


def _spread(values: Sequence[float]) -> Cell:
    if not values:
        return Cell("")
    middle = statistics.median(values)
    return Cell(f"{middle:.2f} ({min(values):.2f} to {max(values):.2f})", middle)


def controls_grid(row: RowResult) -> Grid | None:
    """Tabulate the controls of each tau, over pairs of one family."""
    lines: list[Line] = []
    for level in LEVELS:
        judged = next((j for j in row.judgements if j.claim.about_tau and j.claim.level == level and j.controls), None)
        if judged is None or judged.controls is None or judged.correlation is None:
            continue
        found, tau = judged.controls, judged.correlation
        halves = "" if math.isnan(found.halves) else minus(f"{found.halves:.2f} (p {found.halves_p:.2g})")
        lines.append(
            [
                EVALUATIONS[level],
                Cell(halves, found.halves) if halves else "",
                tau.within,
                minus(tau.along),
                *(found.rank, found.z, found.knob, tau.placebo),
                _range(found.without_low, found.without_high),
                _range(found.seeds_low, found.seeds_high),
                "" if math.isnan(found.negative) else Cell(f"{found.negative:.0%}", found.negative),
                found.losses,
            ]
        )
    if not lines:
        return None
    columns = (
        "evaluation",
        "halves of the test data",
        "tau within",
        "along one knob",
        "rank sum",
        "z sum",
        "knob alone",
        "placebo: 1 in 20 random curves is below",
    )
    more = ("without one configuration", "re-seeded", "of those below 0", "r(L_a, L_u)")
    return grid("Controls of tau, within families", (*columns, *more), lines)


def _range(low: float, high: float) -> str:
    return "" if math.isnan(low) else minus(f"{low:.2f}") + " to " + minus(f"{high:.2f}")


def claims_grid(rows: Sequence[RowResult]) -> Grid | None:
    """Tabulate every judged claim, with its p before and after correction for their number."""
    judged = [(row, j) for row in rows for j in row.claimed]
    adjusted = holm([j for _, j in judged])
    lines: list[Line] = [
        [
            row.title,
            Cell(str(j.verdict), verdict=str(j.verdict).lower()),
            j.claim.text + (" (exploratory)" if j.claim.exploratory else ""),
            _p(j.p),
            _p(held),
        ]
        for (row, j), held in zip(judged, adjusted, strict=True)
    ]
    columns = ("row", "verdict", "claim", "p", "p (Holm)")
    return grid("Every claim", columns, lines) if lines else None


def comparison_grid(rows: Sequence[RowResult]) -> Grid | None:
    """Tabulate dense methods that share data and views against each other; None if there is only one."""
    lines: list[Line] = []
    for line in comparison_lines(rows):
        found, scores = line.comparison, line.performance
        figures = [max(scores), statistics.fmean(scores)] if scores else ["", ""]
        precision = statistics.fmean(line.row.matching_precision) if line.row.matching_precision else math.nan
        interval = "the reference"
        if found is not None:
            interval = minus(f"{found.low:+.2f} to {found.high:+.2f}") if found.n and found.low == found.low else ""
        lines.append(
            [
                line.row.method,
                f"{line.row.data}, {line.row.views}",
                EVALUATIONS[line.level],
                *(len(scores), *figures, precision),
                _signed(found.mean) if found and found.n else "",
                interval,
                Cell(line.verdict or "", verdict=(line.verdict or "").lower()),
            ]
        )
    columns = ("method", "data and views", "evaluation", "models", "best", "mean", "matching precision")
    more = ("reference minus method, points", "interval", "verdict")
    return grid("Dense methods against the reference", (*columns, *more), lines) if lines else None


def league_grid(rows: Sequence[RowResult]) -> Grid | None:
    """Tabulate predictors of performance by mean tau over the rows; None if none was measured."""
    lines: list[Line] = [
        [
            one.predictor,
            EVALUATIONS[one.level],
            len(one.taus),
            _signed(one.tau),
            _signed(one.difference),
            _p(one.p_holm),
        ]
        for one in sorted(standings(rows), key=lambda one: (LEVELS.index(one.level), one.tau))
    ]
    columns = ("predictor", "performance", "rows", "mean tau", "within families, minus that of L_a + L_u", "p (Holm)")
    return grid("Mean tau of each predictor over the rows: below 0 it predicts well", columns, lines) if lines else None


def paper_grids(rows: Sequence[RowResult]) -> tuple[list[Grid], dict[str, str]]:
    """Tabulate our rows beside each of the paper's tables; and return the notes on printed values by letter."""
    found = paper_lines(rows)
    letters = footnotes(found)
    tables: dict[str, list[Line]] = {}
    for line in found:
        printed = line.pair.printed
        tables.setdefault(line.group, []).append(
            [
                f"{NAMES[line.printed.loss]}, {EVALUATIONS[line.level]}",
                _tau(line.correlation),
                Cell(minus(f"{printed.tau:.2f}") + f" {line.marks(letters)}".rstrip(), printed.tau),
                _verdicts(line.judgements),
                line.sign,
                line.correlation.n,
                printed.models,
            ]
        )
    columns = ("family, evaluation", "our tau [95 % interval]", "paper's tau", "verdict", "sign", "our n", "paper's n")
    return [grid(title, columns, lines) for title, lines in tables.items()], {a: note for note, a in letters.items()}


def agreement_grid(rows: Sequence[RowResult]) -> Grid | None:
    """Tabulate how far signs and order of our taus agree with the paper's; None without a row to compare."""
    lines: list[Line] = [
        [
            name,
            found.rows,
            Cell(f"{found.same} of {found.signed}", found.same),
            Cell(f"{found.certain_same} of {found.certain}", found.certain_same),
            order(found),
        ]
        for name, found in agreements(paper_lines(rows))
    ]
    columns = ("rows that share no model", "rows", "signs agree", "of them without ?", "order (tau-b, one-sided p)")
    return grid("Agreement with the paper's taus", columns, lines) if lines else None


_STAMP = {"command": "command that wrote this report", "commit": "commit of the code that wrote it"}


def stamp_grid(stamp: Mapping[str, Any]) -> Grid:
    """Tabulate the provenance of the figures."""
    lines = [(_STAMP.get(name, name), _plain(value)) for name, value in stamp.items() if value not in ("", [], None)]
    return grid("Where these figures come from", ("what", "value"), lines, sortable=False)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return value if isinstance(value, str) else json.dumps(value)
