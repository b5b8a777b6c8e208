"""The league as people read it: the table of the summary, its notes, and league.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace

import pytest
from helpers import line_of, point, shown
from rich.console import Group

from cl_bench.claims.league import league
from cl_bench.report import RowResult, summary_table
from cl_bench.report.league_table import SHOWN, league_csv, league_notes, league_table
from cl_bench.spec.records import Record

Y = [60.0, 50.0, 40.0, 30.0, 20.0, 10.0]
PREDICTORS = {f"p{k:02d}": [float((k + 1) * i % 7) for i in range(6)] for k in range(SHOWN)}
BETTER = dict.fromkeys([*PREDICTORS, "best"], "low") | {"gone": "high"}


def row(name: str, swapped: Sequence[float], **changes: object) -> RowResult:
    """Six configurations; L_a predicts but for what is swapped, ``best`` as well as can be, ``gone`` never."""
    records = [
        point(
            k,
            swapped[k],
            y,
            predictors={"best@dense": -y, **{f"{p}@dense": values[k] for p, values in PREDICTORS.items()}},
            failed_predictors={"gone": "predictor 'gone' (gone.py:6): ValueError: by nought"},
        )
        for k, y in enumerate(Y)
    ]
    plain = {"title": name, "method": "dense_index", "scheme": "dense", "data": "single_object", "views": "overlapping"}
    told = {"judgements": (), "expected": 6, "profile": "tiny", "detection_protocol": "", "linear_protocol": ""}
    more = {"random_init": (), "better": BETTER, **plain, **told, **changes}
    return RowResult(name=name, records=tuple(records), **more)  # type: ignore[arg-type]


@pytest.fixture
def rows() -> list[RowResult]:
    return [row("one", [1, 2, 3, 4, 6, 5]), row("two", [2, 1, 3, 4, 5, 6])]


def without(record: Record) -> Record:
    return replace(record, predictors={}, failed_predictors={})


def test_the_table_has_the_best_the_reference_and_the_number_of_the_rest(rows: list[RowResult]) -> None:
    text = shown(Group(*league_table(rows)), 80)
    assert all(len(line) <= 80 for line in text.splitlines()) and "…" not in text
    found = {(s.predictor, s.level): s for s in league({r.name: r.records for r in rows}, BETTER)}
    best, ours = found["best@dense", "dense"], found["sum_minmax@dense", "dense"]
    assert (best.tau, ours.tau) == pytest.approx((-1, -13 / 15))
    names = [line.split()[0] for line in text.splitlines() if "@" in line]
    assert names[0] == "best@dense" and SHOWN <= len(names) <= SHOWN + 2 < len(found) / 2
    assert {"sum_minmax@dense", "sum_minmax@instance"} <= set(names)
    total = len({s.predictor for s in found.values()})
    assert f"... {total} in all: league.csv" in text
    assert line_of(text, "best@dense").count(f"-1.00  {best.difference:+.2f} (") == 2 and best.difference < 0
    assert line_of(text, "sum_minmax@dense").split()[1:] == ["-0.87", "+0.00", "(", "1)", "-0.87"]


def test_what_failed_is_told_once_with_the_number_of_encoders(rows: list[RowResult]) -> None:
    text = shown(Group(*league_table(rows)), 120)
    assert text.count("without: ") == 1
    assert "without: predictor 'gone' (gone.py:6): ValueError: by nought (of 12 encoders)" in text


def test_a_line_of_the_csv_is_a_predictor_for_one_performance(rows: list[RowResult]) -> None:
    lines = list(csv.DictReader(io.StringIO(league_csv(rows))))
    expected = league({r.name: r.records for r in rows}, BETTER)
    assert len(lines) == len(expected) > 2 * SHOWN
    for line, standing in zip(lines, expected, strict=True):
        assert line["predictor"] == standing.predictor and int(line["rows"]) == 2
        assert float(line["tau"]) == pytest.approx(standing.tau)
        assert [float(line[f"tau.{name}"]) for name in ("one", "two")] == list(standing.taus.values())
    reference = next(line for line in lines if line["predictor"] == "sum_minmax@dense")
    assert reference["performance"] == "linear evaluation" and float(reference["difference"]) == 0
    own = next(s for s in lines if s["predictor"] == "sum_minmax@instance")
    assert (own["difference"], own["p"], own["p_holm"]) == ("", "", ""), "the reference of that performance itself"


def test_the_csv_has_the_profile_and_the_origin_of_its_records(rows: list[RowResult]) -> None:
    rows = [
        replace(r, profile=name, records=tuple(replace(x, provenance={"torch": version}) for x in r.records))
        for r, name, version in zip(rows, ("tiny", "ci"), ("2.14", "2.11"), strict=True)
    ]
    for line in csv.DictReader(io.StringIO(league_csv(rows, "abc"))):
        assert (line["profile"], line["torch"], line["commit"]) == ("ci; tiny", "2.11; 2.14", "abc")


def test_where_nothing_was_measured_nothing_is_said(rows: list[RowResult]) -> None:
    bare = [replace(r, records=tuple(map(without, r.records))) for r in rows]
    assert list(league_table(bare)) == list(league_notes(bare)) == []
    assert len(league_csv(bare).splitlines()) == 1
    assert "Predictors of performance" not in shown(summary_table(bare), 100)
    text = shown(summary_table(rows), 100)
    assert "Predictors of performance" in text and "minmax(L_a) + minmax(L_u)" in text
