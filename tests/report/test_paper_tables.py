"""Our rows beside the paper's tables: in the terminal, as CSV, LaTeX and HTML."""

from __future__ import annotations

import csv
import math
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import asked, disordered, line_of, record, shown, untrained
from scipy import stats

from cl_bench.claims import paper
from cl_bench.claims.judge import judge
from cl_bench.claims.judgement import Verdict
from cl_bench.report import RowResult, summary_table, write_report
from cl_bench.report.latex import escape, paper_latex
from cl_bench.report.paper_tables import footnotes, paper_lines
from cl_bench.spec.claim import Claim
from cl_bench.spec.records import LEVELS, configurations

BLOCK = "Beside the paper's Tables 1-3"
DATASETS = {"single_object": "stl10", "multi_object": "coco"}


def sweep(
    align_uniform: int = 28,
    info_nce: int = 28,
    *,
    n: int = 8,
    method: str = "dense_index",
    data: str = "single_object",
    views: str = "overlapping",
    metric: str = "coco_ap",
    **changes: object,
) -> RowResult:
    """Two families of n, in so many of whose n (n - 1) / 2 pairs the more aligned and uniform does better."""
    records = []
    for shift, (family, better) in enumerate({"align_uniform": align_uniform, "info_nce": info_nce}.items()):
        for k, rank in enumerate(disordered(n, better)):
            place = dict.fromkeys(LEVELS, (2 * k + shift) / 100)
            records.append(
                record(
                    f"{family}-k{k}",
                    family,
                    method,
                    data=data,
                    views=views,
                    alignment=place,
                    uniformity={level: value - 2 for level, value in place.items()},
                    performance={"instance": 30.0 + rank + shift / 2, "dense": 10.0 + rank + shift / 2},
                    extra={f"{metric}50": 20.0 + rank},
                )
            )
    name, low = f"{data}-{views}-{method}", untrained(1.0, 1.01)
    row = RowResult(
        name=name,
        title=f"{method}: {data}, {views}",
        method=method,
        scheme="instance" if method == "instance" else "dense",
        data=data,
        views=views,
        records=tuple(records),
        random_init=(),
        judgements=tuple(judge(Claim("tau_negative", level), asked(records, name), low) for level in LEVELS),
        expected=len(records),
        profile="smoke",
        detection_protocol="Faster R-CNN",
        linear_protocol="frozen encoder",
        detection_metric=metric,  # type: ignore[arg-type]
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def every_row(**changes: str) -> list[RowResult]:
    """One that answers to each printed row."""
    rows = []
    for method, views in (("instance", "overlapping"), ("dense_index", "overlapping"), ("dense_index", "disjoint")):
        for k, data in enumerate(DATASETS):
            rows.append(sweep(28 - 5 * k, 20 - 3 * k, method=method, views=views, data=data, **changes))
    return rows


def block(rows: Sequence[RowResult], width: int = 80) -> str:
    """Return the paper's tables without the notes below them."""
    return shown(summary_table(rows), width).partition(BLOCK)[2].partition("tau-b: rank")[0]


def cells(text: str, row: str, nth: int = 0) -> list[str]:
    return re.sub(r"\[[^]]*\]", "", line_of(text, row, nth)).split()


# ---- in the terminal


@pytest.mark.parametrize(
    ("better", "tau", "sign"),
    [(28, "-1.00", "same"), (27, "-0.93", "same"), (14, "0.00", "-"), (15, "-0.07", "same?"), (13, "0.07", "other?")],
)
def test_a_line_of_a_family(better: int, tau: str, sign: str) -> None:
    row = sweep(align_uniform=better)
    text = block([row])
    assert cells(text, "L_a & L_u linear")[3:] == ["linear", "8", tau, "70", "-0.19", sign]
    assert cells(text, "L_a & L_u detection")[3:] == ["detection", "8", tau, "70", "-0.22", sign]
    assert str(row.correlations["dense", "align_uniform"]) in line_of(text, "L_a & L_u detection")


def test_an_uncertain_printed_tau_makes_the_sign_uncertain() -> None:
    text = block([sweep(info_nce=0)])
    assert cells(text, "InfoNCE   linear")[2:] == ["8", "1.00", "30", "-0.01", "other?"]
    assert cells(text, "InfoNCE   detection")[2:] == ["8", "1.00", "30", "-0.54", "other"]


def test_a_line_of_a_total_has_the_verdict_and_the_marks() -> None:
    row = sweep(28, 28)
    text = block([row])
    tau = f"{row.correlations['instance', 'total'].tau:.2f}"
    assert cells(text, "total     linear")[2:] == ["16", tau, "SUPPORTED", "100", "-0.32", "ab", "same"]
    assert cells(text, "total     detection")[4:] == ["SUPPORTED", "100", "-0.12", "cd", "same?"]
    assert "SUPPORTED" not in line_of(text, "L_a & L_u")
    assert cells(block([sweep(15, 15)]), "total     linear")[4:6] == ["INCONCLUSIVE", "100"]
    assert cells(block([replace(row, judgements=())]), "total     linear")[4] == "100"


@pytest.mark.parametrize("width", [80, 110])
@pytest.mark.parametrize("setting", [{}, {"metric": "voc07_ap"}], ids=["scenes", "the paper's"])
def test_nothing_is_cut(width: int, setting: dict[str, str]) -> None:
    rows = every_row(**setting)
    rows = [replace(row, dataset=DATASETS[row.data]) for row in rows] if setting else rows
    text = block(rows, width)
    assert all(len(line) <= width for line in text.splitlines()) and "…" not in text
    assert set(text) - set(map(chr, range(128))) == {"─"}
    for title in ("1: STL-10, instance", "1: STL-10, dense", "2: COCO, instance", "2: COCO, dense"):
        assert text.count(f"Table {title} scheme (ours: ") == 1
    for title in ("3: STL-10, dense scheme, disjoint", "3: COCO, dense scheme, disjoint"):
        assert text.count(f"Table {title} views (ours: ") == 1
    lines = paper_lines(rows)
    assert len(lines) == 28 and len(re.findall(r" (same|other)\??\s*$", text, re.MULTILINE)) == 28
    letters = footnotes(lines)
    assert sorted(letters.values()) == list("abcdefghijklm")
    assert [line[3:] for line in text.splitlines() if re.match("[a-z]: ", line)] == list(letters)
    for line in lines:
        assert [note for note, mark in letters.items() if mark in line.marks(letters)] == sorted(
            line.notes, key=letters.__getitem__
        )


def test_agreement_of_the_rows_that_share_no_model() -> None:
    rows = every_row()
    text, found = block(rows), {}
    for level, name in (("instance", "linear evaluation"), ("dense", "detection")):
        separate = [
            x for x in paper_lines(rows) if x.level == level and (x.printed.loss != "total" or x.printed.table == 3)
        ]
        ours, theirs = [x.correlation.tau for x in separate], [x.printed.score(x.level).tau for x in separate]
        found[name] = (ours, theirs)
        same = sum(a * b > 0 for a, b in zip(ours, theirs, strict=True))
        tau = stats.kendalltau(ours, theirs).statistic
        assert re.fullmatch(
            rf"{name} +10 +{same} of 10 +\d+ of \d+ +{tau:.2f}, p = [\d.]+ \((exact|permutation)\) *",
            line_of(text, name),
        )
    (a, b), (c, d) = found.values()
    tau = stats.kendalltau([*a, *c], [*b, *d]).statistic
    assert re.fullmatch(rf"both +20 +\d+ of 20 +\d+ of \d+ +{tau:.2f} *", line_of(text, "both"))


def test_few_rows_have_no_order() -> None:
    text = block([sweep()])
    assert re.fullmatch("linear evaluation +2 +2 of 2 +1 of 1 +too few rows *", line_of(text, "linear evaluation"))
    assert re.fullmatch("both +4 +4 of 4 +3 of 3 +undefined *", line_of(text, "both"))


def test_three_configurations_have_no_interval_and_two_alike_no_tau() -> None:
    few = sweep(3, 3, n=3)
    assert cells(block([few]), "L_a & L_u linear")[4:] == ["3", "-1.00", "70", "-0.19", "same?"]
    same = tuple(replace(r, performance=dict.fromkeys(LEVELS, 50.0)) for r in few.records)
    alike = block([replace(few, records=same, judgements=())])
    assert cells(alike, "L_a & L_u linear")[5:] == ["undefined", "70", "-0.19", "-"]
    assert re.fullmatch("linear evaluation +0 +0 of 0 +0 of 0 +too few rows *", line_of(alike, "linear evaluation"))


def test_a_level_that_was_not_measured_is_left_out() -> None:
    row = sweep()
    linear = tuple(replace(r, performance={"instance": r.performance["instance"]}) for r in row.records)
    text = block([replace(row, records=linear, judgements=())])
    assert "detection" not in text and cells(text, "InfoNCE")[1] == "linear" and "\nboth " not in text


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [sweep(method="dense_emd")],
        [sweep(data="other")],
        [sweep(method="instance", views="disjoint")],
        [replace(sweep(), records=(), judgements=())],
    ],
    ids=["no row", "another strategy", "other data", "not printed", "no record"],
)
def test_where_nothing_answers_there_is_no_block(rows: list[RowResult], tmp_path: Path) -> None:
    text = shown(summary_table(rows), 80)
    assert BLOCK not in text and "beside the paper:" not in text and "avg: mean performance" not in text
    assert all(line.startswith("%") for line in paper_latex(rows).splitlines())
    write_report(rows, tmp_path)
    assert len((tmp_path / "paper.csv").read_text().splitlines()) == 1


def test_other_strategies_do_not_stand_beside_the_paper() -> None:
    index, other = sweep(), sweep(0, 0, method="dense_emd")
    assert block([other, index]) == block([index])
    assert [line.row.method for line in paper_lines([other, index])] == ["dense_index"] * 6


def test_what_the_agreement_does_not_mean_is_said() -> None:
    text = " ".join(shown(summary_table([sweep()]), 100).split())
    assert "27 of the paper's 28 taus are negative" in text and "It is a count, not a test" in text
    assert "Table 1: of random initialisation only n = 1 and the score are printed" in text
    assert "Table 1: of random" not in shown(summary_table([sweep(data="multi_object")]), 100)


# ---- in the paper's own setting


@pytest.mark.parametrize(
    ("data", "dataset", "metric", "departs", "settings"),
    [
        ("single_object", "scenes", "coco_ap", False, ["on STL-10*", "on STL-10*"]),
        ("single_object", "scenes", "voc07_ap", False, ["on STL-10*", "on STL-10*"]),
        ("multi_object", "stl10", "voc07_ap", False, ["on COCO*", "on COCO*"]),
        ("single_object", "stl10", "coco_ap", False, ["", "in VOC07 AP*"]),
        ("single_object", "stl10", "voc07_ap", False, ["", ""]),
        ("multi_object", "coco", "voc07_ap", False, ["", ""]),
        ("stl10", "stl10", "voc07_ap", False, ["", ""]),
        ("single_object", "stl10", "voc07_ap", True, ["full recipe*", "full recipe*"]),
        ("multi_object", "scenes", "voc07_ap", True, ["on COCO*", "on COCO*"]),
    ],
)
def test_only_another_setting_is_said_to_be_one(
    data: str, dataset: str, metric: str, departs: bool, settings: list[str]
) -> None:
    row = sweep(data=data, dataset=dataset, metric=metric, departs=departs)
    text = shown(summary_table([row]), 80)
    taus = {"multi_object": ("-0.01", "-0.21")}.get(data, ("-0.32", "-0.12"))
    for nth, end in enumerate(setting or tau for setting, tau in zip(settings, taus, strict=True)):
        assert line_of(text, "paper, total", nth).rstrip().endswith(end)
    assert ("of another setting" in text) == any(settings)
    assert paper.SOURCE in " ".join(text.split())
    unit = "VOC07 AP, %" if metric == "voc07_ap" else "AP, %"
    assert f"Detection ({unit})" in text.splitlines()
    assert cells(text, "AP50")[1:4] == ["16", "27.00", "23.50"]
    notes = " ".join(text.split())
    assert ("AP: VOC07 11-point AP," in notes, "AP: COCO AP," in notes) == (metric == "voc07_ap", metric == "coco_ap")
    assert len(re.findall(r"\bavg \d", text.partition(BLOCK)[2].partition("a: ")[0])) == 3 * settings.count("")


def test_means_stand_beside_the_papers_where_they_can_be_compared() -> None:
    text = block([sweep(dataset="stl10", metric="voc07_ap")]).splitlines()
    at = next(k for k, line in enumerate(text) if line.startswith("total     detection"))
    assert text[at + 1].split() == ["avg", "13.75", "39.20"]


# ---- files


def test_the_csv_is_read_back(tmp_path: Path) -> None:
    rows = [*every_row(metric="voc07_ap")[:2], sweep(3, 1, n=3, dataset="stl10")]
    first = rows[0]
    rows[0] = replace(first, records=tuple(replace(r, provenance={"torch": "2.14"}) for r in first.records))
    write_report(rows, tmp_path, commit="abc")
    with (tmp_path / "paper.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    lines = paper_lines(rows)
    letters = footnotes(lines)
    assert len(written) == len(lines) == 18
    for got, line in zip(written, lines, strict=True):
        printed, ours, score = line.printed, line.correlation, line.printed.score(line.level)
        key = (str(printed.table), printed.data, printed.views, printed.scheme, printed.loss, line.level)
        assert tuple(got[k] for k in ("table", "data", "views", "scheme", "loss", "level")) == key
        assert (got["row"], got["our_data"], got["dataset"]) == (line.row.name, line.row.data, line.row.dataset)
        assert (got["profile"], got["commit"]) == (line.row.profile, "abc")
        assert got["torch"] == ("2.14" if line.row is rows[0] else "")
        assert (int(got["n"]), float(got["tau"])) == (ours.n, ours.tau)
        bounds = [math.nan if got[k] == "" else float(got[k]) for k in ("tau_low", "tau_high")]
        assert bounds == pytest.approx([ours.low, ours.high], nan_ok=True)
        assert (int(got["paper_n"]), float(got["paper_tau"])) == (score.models, score.tau)
        assert (got["sign"] + "?" * (got["certain"] == "False" and got["sign"] != "-")) == line.sign
        assert (got["separate"] == "True") == (printed.loss != "total")
        assert got["verdict"] == " ".join(j.verdict for j in line.judgements)
        (own,) = [line.row.papers_own(j.claim) for j in line.judgements] or [None]
        assert got["paper_verdict"] == ((own and own.verdict) or "")
        assert got["paper_p"] == (f"{own.p:.3g}" if own else "") and got["exploratory"] == "False"
        assert (got["marks"], got["notes"]) == (line.marks(letters), "; ".join(line.notes))
        assert got["comparable"] == str(line.row.dataset == "stl10" and line.level == "instance")
        kept = [c.performance for c in configurations(line.row.records, line.level, printed.loss)[0]]
        best = sorted(kept)[-10:]
        ours = [max(kept), sum(kept) / len(kept), sum(best) / len(best)]
        assert [float(got[name]) for name in ("max", "avg", "top10")] == pytest.approx(ours)
        theirs = [float(got[f"paper_{name}"]) for name in ("max", "avg", "top10")]
        assert theirs == [score.max, score.avg, score.top10]
    assert {got["verdict"] for got in written} == {"", "SUPPORTED", "INCONCLUSIVE"}


@pytest.mark.parametrize("own", [False, True])
def test_the_latex_is_balanced_and_escaped(own: bool) -> None:
    rows = every_row(metric="voc07_ap" if own else "coco_ap")
    rows = [replace(row, dataset=DATASETS[row.data] if own else "a_b & 5 % of {x}#^~\\") for row in rows]
    text = paper_latex(rows)
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    bare = re.sub(r"\\[&%$#_{}]|\\\\|\$\^\*\$", "", code)
    assert bare.count("$") % 2 == 0 and bare.count("{") == bare.count("}") and not re.search(r"[%#_~^]", bare)
    opened = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", code):
        assert what == "begin" or opened.pop() == name
        opened += [name] * (what == "begin")
    assert not opened and code.count(r"\begin{") == 2 * 6
    tables = re.findall(r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}(.*?)\\end\{tabular\}", code, re.DOTALL)
    table = [(len(columns), line) for columns, body in tables for line in re.sub(r"\\&", "", body).splitlines()]
    table = [(columns, line) for columns, line in table if line.endswith(r"\\")]
    lines = [(columns, line) for columns, line in table if r"\multicolumn" not in line]
    assert len(lines) == 2 * (3 + 28) and all(line.count("&") == columns - 1 for columns, line in lines)
    assert sum(r"\multicolumn" in line for _, line in table) == 2 * (3 + 6)
    assert [code.count(rf"\{rule}") for rule in ("toprule", "midrule", "bottomrule", "cmidrule")] == [6, 12, 6, 12]
    assert ("cannot be compared" in code) == (not own) and code.count("63.47") > 1
    for mark in footnotes(paper_lines(rows)).values():
        assert len(re.findall(rf"\\textsuperscript\{{\w*{mark}\w*\}}", code)) >= 2
    assert (
        r"$-0.32$\textsuperscript{" in code
        and r"\textsc{supported}" in code
        and "Rows that share no model, both" in code
    )


DOCUMENT = r"""\documentclass{article}
\usepackage{booktabs}
\begin{document}
\input{paper_tables.tex}
\end{document}
"""


@pytest.mark.skipif(not any(map(shutil.which, ("pdflatex", "tectonic"))), reason="no TeX here: pdflatex or tectonic")
@pytest.mark.parametrize("case", ["paper's setting", "another setting", "two claims a row"])
def test_the_latex_compiles_and_no_box_is_overfull(case: str, tmp_path: Path) -> None:
    rows = every_row(metric="coco_ap" if case == "another setting" else "voc07_ap")
    rows = [replace(r, dataset="a_b & 5 % of {x}#^~\\" if "another" in case else DATASETS[r.data]) for r in rows]
    times = 2 if case == "two claims a row" else 1
    longest = [tuple(replace(j, verdict=Verdict.INCONCLUSIVE) for j in r.judgements) * times for r in rows]
    rows = [replace(r, judgements=judgements) for r, judgements in zip(rows, longest, strict=True)]
    (tmp_path / "paper_tables.tex").write_text(paper_latex(rows))
    (tmp_path / "main.tex").write_text(DOCUMENT)
    if shutil.which("pdflatex"):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    else:
        command = ["tectonic", "--keep-logs", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and (tmp_path / "main.pdf").stat().st_size > 0, done.stdout[-2000:]
    log = (tmp_path / "main.log").read_text(errors="replace")
    assert [line for line in log.splitlines() if re.search(r"Overfull|Float too large|^!|undefined", line)] == []


def test_latex_escapes() -> None:
    assert escape("L_a & 5 % #{x} 2$ ~^\\ <a>") == (
        r"L\_a \& 5 \% \#\{x\} 2\$ \textasciitilde{}\textasciicircum{}\textbackslash{} \textless{}a\textgreater{}"
    )
    assert escape("tau -0.32, -.5 in Tables 1-3 of STL-10") == "tau $-$0.32, $-$.5 in Tables 1-3 of STL-10"
