"""Report as files: text, CSV, JSON, LaTeX, figures and HTML, each written atomically."""

from __future__ import annotations

import io
import json
import os
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from cl_bench.claims.judge import holm
from cl_bench.report.cells import write_lines
from cl_bench.report.comparison_table import comparison_lines
from cl_bench.report.environment import ORIGIN, environment, origin
from cl_bench.report.html import Picture, report_html
from cl_bench.report.latex import paper_latex
from cl_bench.report.league_table import league_csv
from cl_bench.report.paper_tables import PaperLine, footnotes, paper_lines
from cl_bench.report.records_csv import records_csv
from cl_bench.report.row import RowResult
from cl_bench.report.tables import summary_table
from cl_bench.spec.records import Record
from cl_bench.store import write_atomically

_OWN = ("data", "views", "level", "method", "models", "best", "mean", "matching_precision")
_AGAINST = (
    *("reference", "pairs", "mean_difference", "mean_low", "mean_high", "best_difference", "best_low", "best_high"),
    *("p", "margin", "verdict", "left_out"),
)
_FIGURES = ("max", "avg", "top10")
_PAPER = (
    *("table", "data", "views", "scheme", "loss", "level", "row", "dataset", "n", "tau", "tau_low", "tau_high"),
    *("verdict", "exploratory", "paper_n", "paper_tau", "paper_p", "paper_verdict", "sign", "certain", "separate"),
    *("comparable", *_FIGURES, *(f"paper_{name}" for name in _FIGURES), "marks", "notes"),
)
_STAMP = ("profile", *ORIGIN)


def write_report(
    rows: Sequence[RowResult],
    directory: str | os.PathLike[str],
    command: str = "",
    commit: str = "",
    store: str = "",
    pictures: Sequence[Picture] = (),
) -> list[Path]:
    """Write the run as text, tables and figures.

    ``summary.txt``, ``records.csv``, ``environment.json``, ``claims.json``, ``comparison.csv``, ``league.csv``,
    ``paper.csv``, ``paper_tables.tex``, up to three PNGs a row, and ``report.html``, the page that people read. Figures
    of rows that are no longer there are removed.

    Args:
        rows: Rows of the run.
        directory: Folder, made if it does not exist; files of the same names are replaced atomically.
        command: Command line of the run, for ``environment.json``.
        commit: Commit of the code, likewise.
        store: Folder of the records, for the page.
        pictures: Pictures of data, views and matched cells, for the page.

    Returns:
        Paths of the files, in the order above.

    Raises:
        OSError: If a file cannot be written, for lack of space or permission. Files written before stay.
        ValueError: If two rows would share a figure's file name.
    """
    from cl_bench.report import figures  # matplotlib is slow to load, and only files need it

    stems = [re.sub(r"[^A-Za-z0-9._-]+", "_", row.name) for row in rows]
    names = [f"{stem}{kind.suffix}.png" for stem in stems for kind in figures.KINDS]
    if len({name.lower() for name in names}) < len(names):
        raise ValueError(f"rows would share a figure: {sorted(names)}")
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    stamp = environment(rows, command, commit)
    contents = {
        "summary.txt": _summary(rows),
        "records.csv": records_csv(rows, commit),
        "environment.json": json.dumps(stamp, indent=2) + "\n",
        "claims.json": _claims(rows),
        "comparison.csv": _comparison(rows, commit),
        "league.csv": league_csv(rows, commit),
        "paper.csv": _paper(rows, commit),
        "paper_tables.tex": paper_latex(rows),
    }
    written = [_write(folder / name, text.encode()) for name, text in contents.items()]
    for stem, row in zip(stems, rows, strict=True):
        written += [_write(file, image) for _, file, image in figures.drawn(row, folder / stem)]
    now = {"written": datetime.now(UTC).isoformat(timespec="seconds")}
    page = report_html(rows, {**stamp, **now, "store": store}, pictures)
    written.append(_write(folder / "report.html", page.encode()))
    figures.remove_others(folder, written)
    return written


def _write(path: Path, content: bytes) -> Path:
    write_atomically(path, content)
    return path


def _summary(rows: Sequence[RowResult]) -> str:
    console = Console(file=io.StringIO(), width=120, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(summary_table(rows))
    assert isinstance(console.file, io.StringIO)
    return "".join(f"{line.rstrip()}\n" for line in console.file.getvalue().splitlines())


def _comparison(rows: Sequence[RowResult], commit: str) -> str:
    """Return one line per dense method and level, also the reference's; a cell without a value is empty."""
    out = io.StringIO()
    lines = []
    for line in comparison_lines(rows):
        row, performance, found = line.row, line.performance, line.comparison
        about = {"data": row.data, "views": row.views, "level": line.level, "method": row.method}
        values: dict[str, Any] = {"models": len(performance), "reference": line.reference.method}
        if performance:
            values |= {"best": max(performance), "mean": statistics.fmean(performance)}
        if row.matching_precision:
            values["matching_precision"] = statistics.fmean(row.matching_precision)
        if found is not None:
            values |= {"pairs": found.n, "p": found.p, "margin": found.margin, "left_out": " ".join(found.left_out)}
            values |= {"mean_difference": found.mean, "mean_low": found.low, "mean_high": found.high}
            values |= {"best_difference": found.best, "best_low": found.best_low, "best_high": found.best_high}
            values["verdict"] = line.verdict or ""
        values |= _stamp(row, (*row.records, *line.reference.records), commit)
        lines.append({**about, **{name: "" if value != value else value for name, value in values.items()}})
    write_lines(out, (*_OWN, *_AGAINST, *_STAMP), lines)
    return out.getvalue()


def _paper(rows: Sequence[RowResult], commit: str) -> str:
    """Return one line per printed row and level that this run has; a cell without a value is empty."""
    lines = paper_lines(rows)
    letters = footnotes(lines)
    out = io.StringIO()
    told = ({**_beside(line, letters), **_stamp(line.row, line.row.records, commit)} for line in lines)
    write_lines(out, (*_PAPER, "our_data", *_STAMP), told)
    return out.getvalue()


def _stamp(row: RowResult, records: Sequence[Record], commit: str) -> dict[str, str]:
    return {"profile": row.profile, **origin(records, commit)}


def _beside(line: PaperLine, letters: Mapping[str, str]) -> dict[str, Any]:
    printed, ours, score = line.printed, line.correlation, line.pair.printed
    about = {name: getattr(printed, name) for name in ("table", "data", "views", "scheme", "loss", "separate")}
    values = {"n": ours.n, "tau": ours.tau, "tau_low": ours.low, "tau_high": ours.high}
    performance = line.performance
    own = [found for j in line.judgements if (found := line.row.papers_own(j.claim))]
    return {
        **about,
        **{name: "" if value != value else value for name, value in values.items()},
        "level": line.level,
        "row": line.row.name,
        "dataset": line.row.dataset,
        "our_data": line.row.data,
        "verdict": " ".join(j.verdict for j in line.judgements),
        "exploratory": any(j.claim.exploratory for j in line.judgements),
        "paper_n": score.models,
        "paper_tau": score.tau,
        "paper_p": " ".join(f"{found.p:.3g}" for found in own),
        "paper_verdict": " ".join(found.verdict or "" for found in own),
        "sign": line.pair.sign,
        "certain": line.pair.certain,
        "comparable": line.comparable,
        **{name: getattr(performance, name) if performance else "" for name in _FIGURES},
        **{f"paper_{name}": getattr(score, name) for name in _FIGURES},
        "marks": line.marks(letters),
        "notes": "; ".join(line.notes),
    }


def _claims(rows: Sequence[RowResult]) -> str:
    judged = [(row, j) for row in rows for j in row.judgements]
    both = (holm([j for _, j in judged], against=against) for against in (False, True))
    claims = []
    for (row, judgement), *adjusted in zip(judged, *both, strict=True):
        own = row.papers_own(judgement.claim)
        paper = own and {**asdict(own), "p": None if own.verdict is None else own.p}
        p, against = (None if p != p else p for p in adjusted)
        held = {"p_holm": p, "p_against_holm": against}
        claims.append({**json.loads(judgement.to_json()), **held, "paper": paper})
    return json.dumps(claims, indent=2) + "\n"
