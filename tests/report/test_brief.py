"""One screen of a run: 80 columns, about 24 lines, figures whole; and the same in Markdown."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from helpers import asked, record
from rich.console import Console

from cl_bench.claims.judge import judge
from cl_bench.claims.judgement import IncompleteSweep, Judgement
from cl_bench.report import RowResult
from cl_bench.report.brief import answer_sentence, brief_markdown, brief_summary, figure, flat_figures
from cl_bench.report.environment import environment
from cl_bench.report.html import report_html
from cl_bench.spec.claim import Claim
from cl_bench.spec.records import LEVELS, RANDOM_INIT, Level, Record


def encoder(k: int, slope: float) -> Record:
    family = "info_nce" if k < 5 else "align_uniform"
    both = {"alignment": -0.9 + k / 10, "uniformity": -2 + k / 10, "performance": 80.0 + slope * k}
    return record(f"{family}-k{k}", family, **{name: dict.fromkeys(LEVELS, value) for name, value in both.items()})


UNTRAINED = [
    record(RANDOM_INIT, RANDOM_INIT, RANDOM_INIT, seed, performance=dict.fromkeys(LEVELS, 20.0 + seed))
    for seed in range(3)
]


def row(
    data: str, views: str, slope: float = -5.0, method: str = "dense_index", exploratory: bool = False
) -> RowResult:
    records = [encoder(k, slope) for k in range(10)]
    name = f"{data}-{views}-{method}"
    claims = [
        Claim("tau_negative", "instance", exploratory=exploratory),
        Claim("tau_negative", "dense"),
        Claim("above_random_level", "dense"),
    ]
    return RowResult(
        name=name,
        title=name,
        method=method,
        scheme="dense",
        data=data,
        views=views,
        records=tuple(records),
        random_init=tuple(UNTRAINED),
        judgements=tuple(judge(claim, asked(records, name), UNTRAINED) for claim in claims),
        expected=10,
        profile="tiny",
        detection_protocol="",
        linear_protocol="",
    )


def four() -> list[RowResult]:
    places = [(data, views) for data in ("single_object", "multi_object") for views in ("overlapping", "disjoint")]
    return [row(*place, exploratory=n == 1) for n, place in enumerate(places)]


def text(rows: list[RowResult], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(brief_summary(rows), highlight=False)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 140])
def test_four_rows_are_one_screen_and_no_figure_is_cut(width: int) -> None:
    rows = four()
    said = text(rows, width)
    lines = said.splitlines()
    assert len(lines) <= 20 and max(map(len, lines)) <= width
    assert " ".join(said.split()).startswith(answer_sentence(rows))
    for shown in rows:
        for level in LEVELS:
            found, printed = shown.correlations[level, "total"], shown.printed("total")
            figures = f"{found.tau:.2f}", f"[{found.low:.2f},", f"{found.high:.2f}]"
            assert printed is not None
            wanted = [*figures, f"{printed.score(level).tau:.2f}"]
            assert any(set(wanted) <= set(line.split()) for line in lines), (shown.name, level)
    assert said.count("SUPPORTED*") == 1 and "*: exploratory" in said
    assert "other claims: 4 SUPPORTED" in said


def test_two_claims_about_one_tau_are_told_apart() -> None:
    records = asked([encoder(k, -5.0) for k in range(10)], "own")
    judgements = [judge(Claim(kind, "instance"), records, UNTRAINED) for kind in ("tau_not_negative", "no_correlation")]
    one = replace(row("single_object", "disjoint"), judgements=tuple(judgements))
    lines = [" ".join(line.split()) for line in text([one]).splitlines()]
    at = next(k for k, line in enumerate(lines) if "linear" in line and "-1.00" in line)
    assert lines[at + 1 : at + 3] == ["tau > 0 REFUTED", "|tau| < 0.3 REFUTED"]
    assert r"tau &gt; 0: REFUTED, \|tau\| &lt; 0.3: REFUTED" in brief_markdown([one])


def test_a_verdict_that_an_interval_does_not_explain_is_explained() -> None:
    """If no encoder is better than untrained ones, a tau of -1 does not support the claim."""
    sweep = asked([encoder(k, -5.0) for k in range(10)], "own")
    better = [replace(one, performance=dict.fromkeys(LEVELS, 90.0 + one.seed)) for one in UNTRAINED]
    for untrained, told in ((UNTRAINED, False), (better, True)):
        judgement = judge(Claim("tau_negative", "instance"), sweep, untrained)
        said = text([replace(row("single_object", "overlapping"), judgements=(judgement,))])
        assert ("rests on tau within families" in said) == told


def test_it_begins_as_the_page_does() -> None:
    rows = four()
    assert answer_sentence(rows) in report_html(
        rows, {**environment(rows, "pytest", ""), "written": "now", "store": ""}
    )
    assert answer_sentence(rows).startswith("Of the seven claims")


def test_a_long_name_does_not_move_the_figures() -> None:
    """The name goes on in the next line; every other column stays as it is."""
    long = replace(row("a_folder_of_images_of_my_own", "disjoint"), method="own:temperature=0.123,another_option=4")
    lines = text([long]).splitlines()
    assert max(map(len, lines)) <= 80
    names = "".join(line[:23].strip() for line in lines[3:])
    assert "a_folder_of_images_of_my_own disjoint" in names and long.method in names
    assert sum("[-1.00, -1.00]" in line or "-1.00" in line.split() for line in lines) == 2


def test_what_is_not_whole_is_said() -> None:
    rows = [replace(row("single_object", "overlapping"), expected=12)]
    for said in (text(rows), brief_markdown(rows)):
        assert "single_object-overlapping-dense_index: 10 of 12 runs complete, 2 missing" in said.replace("\\_", "_")
    assert "runs complete" not in text(four())


def test_markdown_is_a_table_of_every_tau() -> None:
    rows = [*four(), row("single_object", "overlapping", method="own:a=1|b<i>")]
    said = brief_markdown(rows)
    table = [line for line in said.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 10 and {line.replace("\\|", "").count("|") for line in table} == {7}
    assert "&lt;i&gt;" in said and "<i>" not in said
    assert "single\\_object-overlapping-dense\\_index | linear evaluation | -1.00 |" in said


@pytest.mark.parametrize(("slope", "verdict", "tau"), [(-5.0, "SUPPORTED", "-1"), (5.0, "REFUTED", "1")])
def test_flat_figures_of_a_tau(slope: float, verdict: str, tau: str) -> None:
    found = row("single_object", "overlapping", slope).judgements[1]
    flat = flat_figures(found)
    assert list(flat) == ["row", "verdict", "tau", "tau_within", "low", "high", "p", "n"]
    assert (flat["verdict"], flat["tau"], flat["n"]) == (verdict, tau, "10")
    assert float(flat["p"]) == pytest.approx(found.p, rel=1e-3)
    assert figure(found) == f"tau {float(tau):.2f}"


def test_flat_figures_of_a_difference_and_of_nothing() -> None:
    found = row("single_object", "overlapping").judgements[2]
    flat = flat_figures(found)
    assert "tau" not in flat and float(flat["low"]) < float(flat["difference"]) < float(flat["high"])
    assert figure(found) == f"difference +{float(flat['difference']):.2f}"
    level: Level = "dense"
    none = Judgement.incomplete(Claim("tau_negative", level), IncompleteSweep("row", ["case"]))
    assert flat_figures(none) == {"row": "row", "verdict": "INCONCLUSIVE"} and figure(none) == ""
