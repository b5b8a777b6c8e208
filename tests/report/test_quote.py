"""Tables in Markdown against the results that they are of."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from helpers import PROBES, ROOT, asked, record

from cl_bench.claims.judge import judge
from cl_bench.report import RowResult, write_report
from cl_bench.report.overview import overview_svg
from cl_bench.report.quote import judged, main, quoted
from cl_bench.report.records_csv import read_records
from cl_bench.spec.claim import Claim
from cl_bench.spec.records import LEVELS, RANDOM_INIT, Record

TEXT = """before
<!-- results/tiny: claims -->
<!-- end -->
between
<!-- results/tiny: learnt -->
old
<!-- end -->
<!-- results/tiny: environment -->
<!-- end -->
after
"""
STAMP = {"device": "cpu", "cpu_capability": "AVX2", "machine": "x86_64", "python": "3.11", "torch": "2.14"}


def encoder(k: int, seed: int, slope: float = -5.0) -> Record:
    """Make a record whose performance falls with the normalised sum, so that every tau is -1, or rises."""
    family = "info_nce" if k < 5 else "align_uniform"
    both = {"alignment": -0.9 + k / 10, "uniformity": -2 + k / 10, "performance": 80.0 + slope * k + seed}
    figures = {name: dict.fromkeys(LEVELS, value) for name, value in both.items()}
    probes = {**dict.fromkeys(PROBES, 0.1), "position_share": 0.25, "colour_share": 0.5}
    provenance = {**STAMP, "torchvision": "0.29", "begun": "2026-01-02T03:04:05"}
    return record(f"{family}-k{k}", family, seed=seed, **figures, probes=probes, provenance=provenance)


@pytest.fixture
def root(tmp_path: Path, no_figures: None) -> Path:
    write(tmp_path / "results" / "tiny", [encoder(k, seed) for k in range(10) for seed in (3, 4)])
    return tmp_path


def write(folder: Path, records: list[Record], *more: Claim) -> None:
    untrained = [
        record(RANDOM_INIT, RANDOM_INIT, RANDOM_INIT, seed, performance=dict.fromkeys(LEVELS, 40.0 + seed))
        for seed in range(3)
    ]
    name = "single_object-overlapping-dense_index"
    kinds = [("tau_negative", "instance"), ("above_random_level", "dense")]
    claims = [*(Claim(kind, level) for kind, level in kinds), *more]  # type: ignore[arg-type]
    judgements = [judge(claim, asked(records, name), untrained, better={"own": "high"}) for claim in claims]
    row = RowResult(
        name=name,
        title=name,
        method="dense_index",
        scheme="dense",
        data="single_object",
        views="overlapping",
        records=tuple(records),
        random_init=tuple(untrained),
        judgements=tuple(judgements),
        expected=20,
        profile="tiny",
        detection_protocol="",
        linear_protocol="",
    )
    write_report([row], folder, "pytest suites/ --seeds 3:5", "abc123")


def test_tables_say_what_the_results_hold_and_nothing_else_changes(root: Path) -> None:
    text = quoted(TEXT, root)
    assert quoted(text, root) == text
    assert text.startswith("before\n<!-- results/tiny: claims -->\n| row |") and text.endswith("<!-- end -->\nafter\n")
    assert "old" not in text and "\nbetween\n" in text
    tau, above = (line for line in text.splitlines() if line.startswith("| single_object") and "**" in line)
    assert (
        "| tau_negative, linear evaluation | tau -1.00 [-1.00, -0.94], n 10 | -1.00 [-1.00, -0.88], worth 8.0 | -1.00 ["
        in tau
    )
    assert "| -1.00 -1.00 | **SUPPORTED** | tau -0.32, n 100 |" in tau
    assert "| above_random_level, detection | +20.0 points [" in above and "**SUPPORTED**" in above
    learnt = next(line for line in text.splitlines() if line.startswith("| single_object") and "**" not in line)
    assert "| 41.0 / 61.0 / 83.5 | 9 of 10 | 41.0 / 61.0 / 83.5 | 9 of 10 | 0.25 | 0.10 | 0.50 |" in learnt
    assert (
        "`pytest suites/ --seeds 3:5`: 23 encoders, seeds 3, 4, profile `tiny`; cpu (AVX2, x86_64), Python 3.11, "
        "torch 2.14, torchvision 0.29; 2026-01-02, commit abc123."
    ) in text


def test_the_table_of_tau_has_the_claims_about_it_alone(root: Path) -> None:
    text = quoted("<!-- results/tiny: tau -->\n<!-- end -->\n", root)
    (line,) = (line for line in text.splitlines() if line.startswith("| single_object"))
    assert line == (
        "| single_object-overlapping-dense_index | linear evaluation | tau -1.00 [-1.00, -0.94], n 10 | "
        "-1.00 [-1.00, -0.88], worth 8.0 | -1.00 -1.00 "
        "| tau < 0: **SUPPORTED** | tau -0.32, n 100 |"
    )


def test_claims_about_one_tau_share_a_line(root: Path) -> None:
    write(root / "results" / "tiny", [encoder(k, 3) for k in range(10)], Claim("no_correlation", "instance"))
    text = quoted("<!-- results/tiny: tau -->\n<!-- end -->\n", root)
    (line,) = (line for line in text.splitlines() if line.startswith("| single_object"))
    assert r"| tau < 0: **SUPPORTED**; \|tau\| < 0.3: **REFUTED** |" in line


def test_the_picture_of_a_folder_is_written_from_its_results(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    (root / "tiny.svg").write_text("")
    assert main(["--check", "tiny.svg"]) == 1 and main(["tiny.svg"]) == 0 and main(["--check", "tiny.svg"]) == 0
    drawing = ElementTree.parse(root / "tiny.svg")
    names = "{http://www.w3.org/2000/svg}"
    assert len(drawing.findall(f".//{names}circle")) == 2 * 5 + 1, "L_a & L_u at both levels, and the legend's"
    texts = [text.text for text in drawing.iter(f"{names}text")]
    assert texts.count("tau \u22121.00 [\u22121.00, \u22120.94]") == 2 and "single-object, overlapping views" in texts
    (root / "none.svg").write_text("")
    with pytest.raises(SystemExit):
        main(["none.svg"])


def test_the_picture_names_methods_where_there_are_several() -> None:
    drawn = overview_svg(ROOT / "results" / "smoke-schemes")
    titles = [f">{data}-object, {method}<" for data in ("single", "multi") for method in ("dense_index", "instance")]
    assert all(title in drawn for title in titles)
    assert ">single-object, disjoint views<" in overview_svg(ROOT / "results" / "smoke")


def test_verdicts_of_all_seeds_of_each_alone_and_of_those_rounded_otherwise(root: Path) -> None:
    write(root / "results" / "tiny-other-kernel", [encoder(k, 3, slope=5.0) for k in range(10)])
    write(root / "results" / "tiny-other-processor", [encoder(k, s, slope=5.0) for k in range(10) for s in (3, 4)])
    text = quoted("<!-- results/tiny: verdicts -->\n<!-- end -->\n", root)
    name = "| single_object-overlapping-dense_index |"
    assert text.splitlines()[1:-1] == [
        "| row | claim | all seeds | seed 3 | seed 4 | seed 3, other kernels | all seeds, other processor |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        f"{name} tau_negative, linear evaluation | SUPPORTED | SUPPORTED | SUPPORTED | REFUTED | REFUTED |",
        f"{name} above_random_level, detection | SUPPORTED | SUPPORTED | SUPPORTED | SUPPORTED | SUPPORTED |",
        "| as with all seeds | of 2 | 2 | 2 | 2 | 1 | 1 |",
    ]


def test_a_claim_about_a_predictor_is_told_and_judged_again(root: Path) -> None:
    """Performance falls with k; of a predictor whose high values are better, one that rises goes against it."""
    records = [
        replace(encoder(k, seed), predictors={"own@dense": k * (1 if seed == 3 else 3) - (k == 9) * (seed == 4) * 60})
        for k in range(10)
        for seed in (3, 4)
    ]
    claims = [Claim("predictor_against", "dense", True, predictor=f"{name}@dense") for name in ("own", "other")]
    write(root / "results" / "tiny", records, *claims)
    text = quoted("<!-- results/tiny: claims -->\n<!-- end -->\n<!-- results/tiny: verdicts -->\n<!-- end -->\n", root)
    told = [line for line in text.splitlines() if "predictor_against" in line]
    own = "predictor_against own@dense, detection (exploratory)"
    assert f"{own} | tau 0.60 over all pairs, 0.60 within families, n 10" in told[0]
    assert "predictor_against other@dense, detection (exploratory) | tau undefined, n 0" in told[1]
    assert told[2].endswith("predictor_against own@dense, detection | SUPPORTED | SUPPORTED | SUPPORTED |")
    assert told[3].endswith("other@dense, detection | INCONCLUSIVE | INCONCLUSIVE | INCONCLUSIVE |")


def test_a_claim_that_compares_schemes_is_judged_again_against_the_other_one() -> None:
    folder = ROOT / "results" / "smoke-schemes"
    records = read_records(folder / "records.csv")
    told = [c for c in json.loads((folder / "claims.json").read_text()) if c["claim"]["kind"] == "keeps_up"]
    assert [c["row"].split("-")[-1] for c in told] == ["dense_index", "instance"]
    for claim in told:
        found = judged(claim, records)
        assert found.comparison is not None and str(found.verdict) == claim["verdict"]
        assert found.comparison.mean == pytest.approx(claim["comparison"]["mean"])


def test_the_league_is_computed_again_and_told_best_first(root: Path) -> None:
    """Performance falls with k: high values of the knob go against it, and high values of LiDAR half with it."""
    lidar = [float(k + 1 - 2 * (k % 2)) for k in range(10)]  # neighbours are swapped, one pair of them between families
    records = [replace(encoder(k, 3), predictors={"knob": float(k), "lidar@dense": -lidar[k]}) for k in range(10)]
    write(root / "results" / "tiny", records)
    lines = quoted("<!-- results/tiny: predictors -->\n<!-- end -->\n", root).splitlines()[1:-1]
    assert lines[0] == "| predictor | linear evaluation | detection |"
    told = {name: cells for _, name, *cells, _ in ([cell.strip() for cell in line.split("|")] for line in lines)}
    assert told["sum_minmax@instance"][0] == told["sum_minmax@dense"][1] == "-1.00"
    pairs = [(a, b) for a in range(10) for b in range(a) if a // 5 == b // 5]
    inside = sum(1 if lidar[a] > lidar[b] else -1 for a, b in pairs) / len(pairs)
    assert told["lidar@dense"][1].startswith(f"-0.78 ({1 - inside:+.2f}, p ")
    assert told["knob"][1].startswith("+1.00 (+2.00, p ")
    order = [float(dense.split()[0]) for _, dense in [*told.values()][2:]]
    assert order == sorted(order)


def test_a_predictor_that_is_known_in_some_rows_says_in_how_many() -> None:
    text = quoted("<!-- results/smoke: predictors -->\n<!-- end -->\n", ROOT)
    assert "| knn@instance (2 of 4 rows) | " in text and "| rankme@dense | " in text


def test_a_table_that_differs_fails_the_check_until_it_is_written(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    (root / "page.md").write_text(TEXT)
    assert main(["--check", "page.md"]) == 1 and (root / "page.md").read_text() == TEXT
    assert "not as the results are: page.md; python -m cl_bench.report.quote page.md" in capsys.readouterr().out
    assert main(["page.md"]) == 0
    assert main(["--check", "page.md"]) == 0
    (root / "page.md").write_text((root / "page.md").read_text().replace("9 of 10", "8 of 10"))
    assert main(["--check", "page.md"]) == 1


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (
            "<!-- results/tiny: verdict -->\n<!-- end -->\n",
            "no table 'verdict' of results/tiny: tables: claims, tau, controls, verdicts, learnt",
        ),
        ("<!-- results/none: claims -->\n<!-- end -->\n", "page.md: .*No such file"),
    ],
)
def test_what_cannot_be_quoted_is_said_with_the_file(
    root: Path, block: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    (root / "page.md").write_text(block)
    with pytest.raises(SystemExit):
        main(["page.md"])
    error = capsys.readouterr().err
    assert re.search(said, error)


@pytest.mark.slow
def test_readme_and_docs_say_what_the_results_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    files = [Path("README.md"), *Path("docs").glob("*.md"), *Path("docs/pictures/results").glob("*.svg")]
    assert main(["--check", *map(str, sorted(files))]) == 0


def test_results_name_no_machine_s_paths() -> None:
    for stamp in (ROOT / "results").glob("*/environment.json"):
        command = json.loads(stamp.read_text())["command"]
        assert command.startswith("pytest suites/") and " /" not in command and "=/" not in command
