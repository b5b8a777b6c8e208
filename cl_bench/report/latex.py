r"""LaTeX tables of our rows and the paper's Tables 1 to 3, for ``\input``; they need booktabs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from cl_bench.claims import paper
from cl_bench.report.paper_tables import SHORT, PaperLine, agreements, footnotes, order, paper_lines, paper_notes
from cl_bench.report.row import RowResult
from cl_bench.spec.records import NAMES
from cl_bench.statistics.correlation import Correlation
from cl_bench.statistics.power import FEWEST

_ESCAPES = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}"}
)


def escape(text: str) -> str:
    """Escape text for LaTeX, with a minus sign for negative numbers."""
    return re.sub(r"(?<![\w-])-(?=\.?\d)", "$-$", text.translate(_ESCAPES))


def paper_latex(rows: Sequence[RowResult]) -> str:
    """Return a table for each of the paper's, and notes; a comment alone if no row corresponds to a printed one.

    Tables fit into 345 points, the width of text of LaTeX's article, and each onto a page; the notes are running text.
    """
    lines = paper_lines(rows)
    first = f"% Beside {paper.SOURCE}; needs booktabs."
    body = _tables(lines, [*paper_notes(rows)]) if lines else ["% No row of this run answers to a printed one."]
    return "".join(f"{line}\n" for line in (first, *body))


def _tables(lines: Sequence[PaperLine], notes: Sequence[str]) -> Iterator[str]:
    letters = footnotes(lines)
    for number, of_table in groupby(lines, lambda line: line.printed.table):
        yield from _table(number, [*of_table], letters)
    yield r"{\footnotesize\raggedright"
    yield from (rf"\par\noindent {text}" for text in (*_agreements(lines), *map(escape, notes)))
    yield r"\par}"


def _table(number: int, lines: Sequence[PaperLine], letters: Mapping[str, str]) -> Iterator[str]:
    avg = any(line.averages for line in lines)
    ours, printed = ("rrrl", "rlr") if avg else ("rrl", "rl")
    columns, middle = 3 + len(ours) + len(printed), 2 + len(ours)
    mean = ["avg"] if avg else []
    heads = (["row", "evaluation"], ["$n$", r"$\tau$ [95\,\%]", *mean, "verdict"], ["$n$", r"$\tau$", *mean], ["sign"])
    yield r"\begin{table}"
    size, space = ("scriptsize", 2) if avg else ("footnotesize", 3)
    yield rf"\centering\{size}\setlength{{\tabcolsep}}{{{space}pt}}"
    yield rf"\caption{{Ours beside Table {number} of {escape(paper.CITED)}.}}"
    yield rf"\begin{{tabular}}{{@{{}}ll{ours}{printed}l@{{}}}}"
    yield r"\toprule"
    yield rf" & & \multicolumn{{{len(ours)}}}{{c}}{{ours}} & \multicolumn{{{len(printed)}}}{{c}}{{paper}} & \\"
    yield rf"\cmidrule(lr){{3-{middle}}}\cmidrule(lr){{{middle + 1}-{columns - 1}}}"
    yield " & ".join(name for part in heads for name in part) + r" \\"
    for group, of_group in groupby(lines, lambda line: line.group):
        yield r"\midrule"
        setting = escape(group.partition(": ")[2])
        yield rf"\multicolumn{{{columns}}}{{@{{}}p{{0.9\linewidth}}@{{}}}}{{\raggedright {setting}}} \\"
        yield from (_line(line, letters, avg=avg) for line in of_group)
    yield r"\bottomrule"
    yield r"\end{tabular}"
    used = {mark for line in lines for mark in line.marks(letters)}
    own = [rf"\textsuperscript{{{mark}}} {escape(note)}." for note, mark in letters.items() if mark in used]
    if any(j.claim.exploratory for line in lines for j in line.judgements):
        own.append("$^*$ exploratory: the paper does not claim it.")
    yield from (rf"\par\raggedright {text}" for text in own)
    yield r"\end{table}"


def _line(line: PaperLine, letters: Mapping[str, str], *, avg: bool) -> str:
    score, marks = line.pair.printed, line.marks(letters)
    means = [f"{mean:.2f}" for mean in line.averages] if line.averages else ["", ""]
    verdict = r"\\".join(rf"\textsc{{{j.verdict.lower()}}}{'$^*$' * j.claim.exploratory}" for j in line.judgements)
    if len(line.judgements) > 1:
        verdict = rf"\shortstack[l]{{{verdict}}}"
    cells = [
        *(escape(NAMES[line.printed.loss]), SHORT[line.level], str(line.correlation.n), _tau(line.correlation)),
        *means[:avg],
        *(verdict, str(score.models)),
        f"${score.tau:.2f}$" + (rf"\textsuperscript{{{marks}}}" if marks else ""),
        *means[1 : 1 + avg],
        line.sign.replace("-", "--"),
    ]
    return " & ".join(cells) + r" \\"


def _tau(found: Correlation) -> str:
    if math.isnan(found.tau):
        return "undefined"
    return f"${found.tau:.2f}$" + (f" [${found.low:.2f}$, ${found.high:.2f}$]" if found.n >= FEWEST else "")


def _agreements(lines: Sequence[PaperLine]) -> Iterator[str]:
    for name, found in agreements(lines):
        certain = f"{found.certain_same} of {found.certain} without ?"
        yield escape(
            f"Rows that share no model, {name}: signs agree in {found.same} of {found.signed} ({certain}); order of "
            f"the {found.rows} rows (tau-b, one-sided p): {order(found)}."
        )
