"""Cells that a spreadsheet would run, and numbers that must stay numbers."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import some
from hypothesis import given
from hypothesis import strategies as st
from test_report import make_row

from cl_bench.report import write_report
from cl_bench.report.cells import harmless, plain, write_lines
from cl_bench.report.latex import escape
from cl_bench.report.records_csv import read_records

COMMAND = "=cmd|' /C calc'!A0"


@pytest.mark.parametrize("text", [COMMAND, "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "'=1", "-x", "+", "--5"])
def test_what_begins_as_a_formula_gets_an_apostrophe(text: str) -> None:
    assert harmless(text) == f"'{text}" and plain(harmless(text)) == text


@pytest.mark.parametrize(
    "value", [-0.31, -3, "-0.31", "+2", "-1e-05", ".5", "-inf", float("-inf"), "", "a=b", "'a", None]
)
def test_numbers_and_plain_texts_stay(value: object) -> None:
    assert harmless(value) is value


@some(300)
@given(st.text(alphabet="'=+-@\t\ra1.e", max_size=6))
def test_every_text_comes_back(text: str) -> None:
    told = harmless(text)
    assert plain(told) == text
    assert not told.startswith(("=", "@", "\t", "\r"))


def test_heads_are_cells_too() -> None:
    out = io.StringIO()
    write_lines(out, ["a", "=b"], [{"a": -1.5, "=b": "=c"}])
    assert out.getvalue() == "a,'=b\n-1.5,'=c\n"


@pytest.mark.usefixtures("no_figures")
def test_no_file_of_a_report_has_a_formula(tmp_path: Path) -> None:
    first = make_row("one")
    row = replace(
        first,
        method=COMMAND,
        data=COMMAND,
        name=COMMAND,
        records=tuple(
            replace(r, method=COMMAND, case=COMMAND, detail="@x", predictors={"=p@dense": 1.0 * k})
            for k, r in enumerate(first.records)
        ),
    )
    other = replace(row, name="other", method="+m", records=tuple(replace(r, method="+m") for r in row.records))
    tables = [path for path in write_report([row, other], tmp_path) if path.suffix == ".csv"]
    assert len(tables) == 4
    for path in tables:
        with path.open(newline="") as file:
            cells = [cell for line in csv.reader(file) for cell in line]
        for cell in cells:
            if cell.startswith(("=", "+", "-", "@")):
                float(cell)  # raises
        if path.name in ("records.csv", "comparison.csv"):
            assert f"'{COMMAND}" in cells
    found = read_records(tmp_path / "records.csv")
    assert [r.case for r in found[COMMAND]][: len(row.records)] == [COMMAND] * len(row.records)
    assert found[COMMAND][3].predictors == row.records[3].predictors
    assert found[COMMAND][0].alignment == row.records[0].alignment, "negative numbers come back"


@pytest.mark.parametrize("name", ["\\input{x}", "100%_&#", "$\\write18{rm}$", "a\\\\b", "^^5cinput{x}", "{\\tt", "~/x"])
def test_latex_of_a_name_prints_it(name: str) -> None:
    told = escape(name)
    commands = ("textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater")
    rest = told
    for command in commands:
        rest = rest.replace(f"\\{command}{{}}", "")
    for character in "&%$#_{}":
        rest = rest.replace(f"\\{character}", "")
    assert not set(rest) & set("\\&%$#_{}^~"), told
