"""The table of methods side by side, and comparison.csv."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import asked, line_of, untrained
from report_rows import render

from cl_bench.claims.comparison import compare
from cl_bench.claims.judge import judge
from cl_bench.report import RowResult, write_report
from cl_bench.spec.claim import Claim
from cl_bench.spec.records import LEVELS

LOW = untrained(-9.0, -9.1)


def rival(row: RowResult, method: str, shift: float, *, precision: float = 0.5, judged: bool = True) -> RowResult:
    """Make the same sweep under another method, better by about ``shift`` points."""
    noise = np.random.default_rng(len(method)).normal(0, 1, size=len(row.records))
    records = tuple(
        replace(
            r,
            method=method,
            case=r.case.replace(row.method, method),
            performance={level: v + shift + e for level, v in r.performance.items()},
            extra={**r.extra, "matching_precision": precision},
        )
        for r, e in zip(row.records, noise, strict=True)
    )
    claims = [Claim("no_worse_than", level) for level in LEVELS if judged]
    judgements = tuple(judge(claim, asked(records, method), LOW, reference=asked(row.records)) for claim in claims)
    return replace(row, name=method, title=method, method=method, records=records, judgements=judgements)


def table_of(text: str) -> str:
    return text.partition("Matching strategies")[2].partition("tau-b: ")[0]


@pytest.mark.parametrize("width", [80, 120])
def test_methods_are_compared_with_the_reference(row: RowResult, width: int) -> None:
    others = [rival(row, "dense_emd", -5.0), rival(row, "dense_geometric", 5.0, precision=1.0)]
    unjudged = rival(row, "dense_vicregl", 0.0, judged=False)
    text = render(others[0], row, others[1], unjudged, width=width)
    assert all(len(line) <= width for line in text.splitlines()) and "…" not in text
    table = table_of(text)
    for nth, level in enumerate(LEVELS):
        own = line_of(table, "dense_index", nth)
        values = [r.performance[level] for r in row.records]
        assert own.split()[1:5] == ["20", f"{max(values):.2f}", f"{np.mean(values):.2f}", "-"]
        assert own.rstrip().endswith("the reference")
        for other, verdict in ((others[0], "SUPPORTED"), (others[1], "REFUTED"), (unjudged, "")):
            found = compare(row.records, other.records, level)
            line = line_of(table, other.method, nth)
            values = [r.performance[level] for r in other.records]
            precision = f"{other.matching_precision[0]:.2f}"
            assert line.split()[1:5] == ["20", f"{max(values):.2f}", f"{np.mean(values):.2f}", precision]
            assert f"mean {found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]" in line
            assert f"best {found.best:+.2f} [{found.best_low:+.2f}, {found.best_high:+.2f}]" in table
            assert re.search(r"\] *(\w*) *$", line).group(1) == verdict  # type: ignore[union-attr]
    said = " ".join(text.split())
    assert "90 % paired t interval over configurations" in said and "lies above -1." in said
    assert "matching precision: 0.50 of the positives are correct (0.50 to 0.50 over 20 encoders)" in said
    assert "the share whose two cells overlap in the source image" in said
    assert all(line.split()[-1] != "SUPPORTED" for line in render(others[0], width=width).splitlines() if "sd" in line)
    # The row has two on tau, which hold, and two at the random level, which do not; of four comparisons half do.
    assert "8 judged; of 8 tested 4 supported by their own test" in said and "; 4 refuted by their own test" in said
    assert "dense_emd: no_worse_than (detection against dense_index)" in said


def test_without_index_wise_matching_the_first_method_is_the_reference(row: RowResult) -> None:
    first, second = (rival(row, method, 0.0, judged=False) for method in ("dense_setsim", "dense_cosine"))
    table = table_of(render(first, second, width=80))
    assert line_of(table, "dense_setsim").rstrip().endswith("the reference")
    assert "mean " in line_of(table, "dense_cosine")


def test_only_dense_methods_on_the_same_data_and_views_are_compared(row: RowResult) -> None:
    other = rival(row, "other", 0.0, judged=False)
    for change in ({"data": "multi_object"}, {"views": "disjoint"}, {"scheme": "instance"}):
        text = render(row, replace(other, **change), width=80)  # type: ignore[arg-type]
        assert "Matching strategies" not in text and "reference - method" not in text
    alone = render(row, width=80)
    assert "Matching strategies" not in alone and "matching precision" not in alone


def test_large_differences_long_names_and_lost_pairs_fit(row: RowResult) -> None:
    name = "dense_setsim:threshold=0.25,cosine=0.5"
    zeros = tuple(replace(r, performance=dict.fromkeys(LEVELS, 0.0)) for r in row.records)
    full = tuple(
        replace(r, method=name, performance=dict.fromkeys(LEVELS, 100.0 * (k % 2))) for k, r in enumerate(row.records)
    )
    broken = replace(full[0], status="diverged", performance={})
    other = replace(row, name="b", method=name, records=(broken, *full[1:]), judgements=())
    text = render(replace(row, records=zeros, judgements=()), other, width=80)
    assert all(len(line) <= 80 for line in text.splitlines()) and "…" not in text
    table = table_of(text)
    assert "best -100 [-100, -100]" in table and re.search(r"mean -52\.6 \[-73\.0, -32\.2\]", table)
    assert name in "".join(line[:15].strip() for line in table.splitlines())
    assert f"{name}: 19 pairs, left out: {broken.config}" in " ".join(table.split())


def test_a_comparison_without_pairs_or_with_few_says_so(row: RowResult) -> None:
    other = rival(row, "dense_emd", 0.0, judged=False)
    few = table_of(render(replace(row, records=row.records[:3]), other, width=80))
    mean = np.mean([row.records[k].performance["dense"] - other.records[k].performance["dense"] for k in range(3)])
    assert f"mean {mean:+.2f} " in line_of(few, "dense_emd ", 1) and "nan" not in few
    none = table_of(render(replace(row, records=row.records[:3]), replace(other, records=other.records[3:]), width=80))
    assert "no pair" in none
    nothing = table_of(render(replace(row, records=()), replace(other, records=()), width=80))
    assert "not measured" in nothing and "mean" not in nothing


@pytest.mark.usefixtures("no_figures")
def test_the_comparison_is_written(row: RowResult, tmp_path: Path) -> None:
    other, alone = rival(row, "dense_emd", -5.0), rival(row, "dense_cosine", 1.0, judged=False)
    alone = replace(alone, records=alone.records[:3])
    other = replace(other, records=tuple(replace(r, provenance={"device": "cuda:0"}) for r in other.records))
    row = replace(row, records=tuple(replace(r, provenance={"device": "cpu"}) for r in row.records))
    with write_report([row, other, alone], tmp_path, commit="abc")[4].open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {(x["profile"], x["commit"]) for x in lines} == {(row.profile, "abc")}
    assert [x["device"] for x in lines[:3]] == ["cpu", "cpu; cuda:0", "cpu"]
    methods = ["dense_index", "dense_emd", "dense_cosine"]
    assert [(x["level"], x["method"]) for x in lines] == [(level, m) for level in LEVELS for m in methods]
    assert {x["reference"] for x in lines} == {"dense_index"}
    found = compare(row.records, other.records, "dense")
    names = {"mean_difference": "mean", "mean_low": "low", "mean_high": "high", "best_difference": "best", "p": "p"}
    names |= {"best_low": "best_low", "best_high": "best_high", "pairs": "n", "margin": "margin"}
    assert {k: float(lines[4][k]) for k in names} == {k: getattr(found, v) for k, v in names.items()}
    assert (lines[4]["verdict"], lines[4]["left_out"], float(lines[4]["matching_precision"])) == ("SUPPORTED", "", 0.5)
    assert all(lines[3][k] == "" for k in (*names, "verdict", "left_out", "matching_precision"))
    assert (lines[5]["pairs"], lines[5]["mean_low"], len(lines[5]["left_out"].split())) == ("3", "", 17)
    assert (tmp_path / "comparison.csv").read_text().splitlines()[0].startswith("data,views,level,method,models,best")
