"""The report as a person meets it: rendered, written, opened again."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import KINDS, PROBES, asked, line_of, record, shown, untrained
from matplotlib.image import imread

from cl_bench.claims.comparison import compare
from cl_bench.claims.judge import judge
from cl_bench.claims.judgement import (
    IncompleteSweep,
    Judgement,
)
from cl_bench.report import RowResult, summary_table, write_report
from cl_bench.report.figures import alignment_uniformity_figure, row_figure
from cl_bench.spec.claim import Claim
from cl_bench.spec.records import LEVELS, Record


def encoder(
    config: str, family: str, seed: int, place: np.ndarray, performance: float, method: str = "dense_index"
) -> Record:
    return record(
        config,
        family,
        method,
        seed,
        alignment={level: float(-0.95 + 0.4 * place[0]) for level in LEVELS},
        uniformity={level: float(-3 + 2 * place[1]) for level in LEVELS},
        performance={"instance": performance, "dense": performance / 4},
        extra={"coco_ap50": performance / 2},
        seconds={"pretrain": 9.5},
    )


def make_row(name: str = "single_object-dense_index", models: tuple[int, int] = (8, 12)) -> RowResult:
    rng = np.random.default_rng(3)
    names = [("info_nce", f"t{k / 10:g}") for k in range(1, models[0] + 1)]
    names += [("align_uniform", f"a{k % 4}-u{k // 4}") for k in range(models[1])]
    records = []
    for family, knobs in names:
        place = rng.uniform(size=2)
        records.append(encoder(f"{family}-{knobs}", family, 0, place, float(60 - 15 * place.sum() + rng.normal(0, 3))))
    random = [encoder("random_init", "random_init", s, np.array([0, 1.4]), 28.0 + s, "random_init") for s in range(3)]
    judgements = [
        judge(Claim(kind, level), asked(records, name), random)
        for kind in ("tau_negative", "at_random_level")
        for level in LEVELS
    ]
    return RowResult(
        name=name,
        title="Single object: dense_index",
        method="dense_index",
        scheme="dense",
        data="single_object",
        views="overlapping",
        records=tuple(records),
        random_init=tuple(random),
        judgements=tuple(judgements),
        expected=len(records),
        profile="smoke",
        detection_protocol="Faster R-CNN R18-C4, 300 iterations, COCO's 101 points",
        linear_protocol="frozen encoder, Adam, last epoch",
    )


@pytest.fixture(scope="module")
def row() -> RowResult:
    return make_row()


@pytest.fixture(scope="module")
def probed(row: RowResult) -> RowResult:
    """Return the same row with probes and losses of its encoders."""
    rng = np.random.default_rng(4)

    def probe(record: Record) -> Record:
        *shares, overlap = rng.uniform(size=5).tolist()
        return replace(
            record,
            extra={**record.extra, "similarity_overlap": overlap},
            probes={**dict(zip(PROBES, shares, strict=False)), "position_chance": 1 / 9},
            similarities=dict.fromkeys(KINDS, (0.0, 0.25, 0.5, 0.25)),
        )

    curves = {"losses": ((0, 6.0), (20, 5.5), (40, 5.25)), "position_only_loss": 5.0}
    records = tuple(replace(probe(r), **curves) for r in row.records)  # type: ignore[arg-type]
    return replace(row, records=records, random_init=tuple(map(probe, row.random_init)))


def render(*rows: RowResult, width: int) -> str:
    return shown(summary_table(rows), width)


@pytest.mark.parametrize("width", [80, 120])
def test_no_number_is_cut(row: RowResult, width: int) -> None:
    text = render(row, width=width)
    assert all(len(line) <= width for line in text.splitlines()) and "…" not in text
    for nth, level in enumerate(LEVELS):
        correlation = row.correlations[level, "total"]
        total = line_of(text, "total", nth)
        values = sorted((r.performance[level] for r in row.records), reverse=True)
        for number in (values[0], np.mean(values), np.mean(values[:10])):
            assert f" {number:.2f} " in total
        inside = f"{correlation.within:.2f} [{correlation.within_low:.2f}, {correlation.within_high:.2f}]"
        assert total.rstrip().endswith(f" {correlation}")
        assert f" {inside} " in (told := line_of(text, "within families", nth)) and told.rstrip().endswith("SUPPORTED")
        assert row.judgements[2 + nth].verdict.value in line_of(text, "untrained", nth)
        assert line_of(text, "InfoNCE", nth).split()[1] == "8" and "(8)" in line_of(text, "InfoNCE", nth)
        assert line_of(text, "L_a & L_u", nth).split()[3] == "12"
    for nth, printed in enumerate(("100 75.45 63.47 75.13 -0.32", "100 43.71 39.20 43.31 -0.12")):
        assert line_of(text, "paper, total", nth).split()[2:7] == printed.split()
    assert "sd 1.00 over 3 seeds" in text


def test_what_a_profile_is_known_not_to_reproduce_is_said(row: RowResult) -> None:
    claim = row.judgements[0].claim
    assert "known not to hold: too small" in " ".join(
        render(replace(row, known=((claim, "too small"),)), width=100).split()
    )
    assert "known not to hold" not in render(row, width=100)


def test_beneath_a_claim_stands_what_the_papers_own_numbers_give_it(row: RowResult) -> None:
    text = " ".join(render(row, width=100).split())
    for own in map(row.papers_own, (j.claim for j in row.judgements)):
        assert own is not None and str(own) in text
    assert "the paper's own tau -0.12, n 100: our rule says SUPPORTED (p = 0.038)" in text
    assert "our rule" not in render(replace(row, method="dense_emd"), width=100)


@pytest.mark.parametrize("width", [80, 120])
def test_what_was_learnt_in_the_place_of_content_is_said_above_the_verdicts(row: RowResult, width: int) -> None:
    broken = {
        "uniformity": {"instance": -1.0, "dense": -0.001},
        "losses": ((0, 9.0), (10, 5.04)),
        "position_only_loss": 5.03,
        "probes": {**dict.fromkeys(PROBES, 0.1), "position_share": 0.9},
    }
    records = [replace(r, **broken) if k < 7 else r for k, r in enumerate(row.records)]  # type: ignore[arg-type]
    text = render(replace(row, records=tuple(records)), width=width)
    assert all(len(line) <= width for line in text.splitlines())
    flat, names = " ".join(text.split()), ", ".join(r.case for r in records[:5])
    for said in (
        "encoders of this row mostly know the place: the median's position share is 0.90",
        f"collapsed (dense L_u above -0.02): 7 of 20 encoders: {names} and 2 more",
        f"ends within 1% of the loss of knowing the place alone, or above: 7 of 20 encoders: {names} and 2 more",
    ):
        assert said in flat and flat.index(said) < flat.index("Linear evaluation (accuracy, %)")
    plain = render(row, width=width)
    assert not [word for word in ("collapsed", "knowing the place", "mostly know") if word in plain]


@pytest.mark.parametrize("width", [80, 120])
def test_an_exploratory_claim_is_marked(row: RowResult, width: int) -> None:
    cases = asked(row.records, row.name)
    claims = [Claim("tau_negative", level, exploratory=True) for level in LEVELS]
    marked = replace(row, judgements=tuple(judge(claim, cases, row.random_init) for claim in claims))
    text = render(marked, width=width)
    assert all(len(line) <= width for line in text.splitlines()) and "…" not in text
    lines = text.splitlines()
    for at in (k for k, line in enumerate(lines) if line.startswith("within families ") and line.endswith("SUPPORTED")):
        assert lines[at + 1].strip() == "exploratory"
    flat = " ".join(text.split())
    assert "SUPPORTED (exploratory): better aligned" in flat
    assert "2 judged, 2 of them exploratory and not counted on; of 0 tested 0 supported" in flat


def test_every_claim_and_protocol_is_said(row: RowResult) -> None:
    text = " ".join(render(row, width=100).split())
    for judgement in row.judgements:
        assert judgement.sentence.removeprefix(f"{row.name}: ") in text
    for part in (row.detection_protocol, row.linear_protocol, "of another setting", "IoU .50 to .95"):
        assert part in text
    assert "4 judged; of 4 tested 2 supported by their own test, 2 after Holm's correction (single_object-" in text
    assert "20 of 20 runs complete" in text


def test_long_numbers_and_undefined_taus_fit(row: RowResult) -> None:
    full = tuple(replace(r, performance={"instance": 100.0, "dense": 0.0}) for r in row.records)
    text = render(replace(row, records=full, judgements=()), width=80)
    assert "…" not in text and "100.0 100.0" in line_of(text, "total") and "undefined" in line_of(text, "total")


def test_what_was_left_out_or_is_missing_is_named(row: RowResult) -> None:
    broken = replace(row.records[0], status="diverged", detail="loss is nan [at step 40]", performance={})
    sibling = replace(row.records[0], case="sibling-s1", seed=1)
    error = IncompleteSweep(row.name, ["case-a", "case-b"])
    shown = Judgement.incomplete(Claim("tau_negative", "dense"), error)
    changed = replace(row, records=(broken, sibling, *row.records[1:]), judgements=(shown,), expected=23)
    text = " ".join(render(changed, width=120).split())
    assert f"left out: {broken.case} (diverged: loss is nan [at step 40])" in text
    assert "left out: sibling-s1 (its configuration is not complete)" in text
    assert "20 of 23 runs complete, 1 diverged, 2 missing" in text
    assert "INCONCLUSIVE: better aligned" in text and "missing: case-a, case-b" in text


def test_a_level_that_was_not_measured_is_said_so(row: RowResult) -> None:
    linear = tuple(replace(r, performance={"instance": r.performance["instance"]}) for r in row.records)
    text = render(replace(row, records=linear, judgements=()), width=80)
    assert "Detection (not measured)" in text and "left out" not in text


def test_a_run_without_rows_or_records_has_a_summary(row: RowResult) -> None:
    assert "0 judged" in render(width=80)
    empty = replace(row, records=(), random_init=(), judgements=())
    assert "0 of 20 runs complete, 20 missing" in " ".join(render(empty, width=80).split())


# ---- methods against each other


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
    assert "dense_emd (detection against dense_index)" in said


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


# ---- what the features know


@pytest.mark.parametrize("width", [80, 120])
def test_the_probes_of_each_family_are_beside_the_untrained_ones(probed: RowResult, width: int) -> None:
    text = render(probed, width=width)
    assert all(len(line) <= width for line in text.splitlines()) and "…" not in text
    table = text.partition("What dense features know")[2].partition("Linear evaluation")[0]
    assert "place read: chance .11" in table
    assert table.splitlines()[1].split() == ["position", "image", "colour", "place", "read", "overlap"]
    for name, family in {"L_a & L_u": "align_uniform", "InfoNCE": "info_nce", "untrained": "random_init"}.items():
        known = [{**r.extra, **r.probes} for r in (*probed.records, *probed.random_init) if r.family == family]
        spreads = []
        for key in (*PROBES[:4], "similarity_overlap"):
            values = [k[key] for k in known]
            low, middle, high = (f"{f(values):.2f}".removeprefix("0") for f in (min, np.median, max))
            spreads.append(f"{middle} ({low}-{high})")
        assert line_of(table, name).removeprefix(name).split() == " ".join(spreads).split()
    said = " ".join(text.split())
    assert "between places, or between images" in said and "untrained*" not in said


def test_shares_of_one_fit(probed: RowResult) -> None:
    full = tuple(replace(r, probes=dict.fromkeys(PROBES, 1.0), extra={}) for r in probed.records)
    table = render(replace(probed, records=full), width=80).partition("What dense features know")[2]
    assert line_of(table, "InfoNCE").split() == ["InfoNCE", *["1.0", "(1.0-1.0)"] * 4, "-"]


def test_untrained_encoders_that_were_probed_elsewhere_are_marked(probed: RowResult) -> None:
    text = render(replace(probed, data="multi_object"), width=100)
    assert line_of(text, "untrained*") and "untrained*: probed on single_object images under overlapping views." in text


def test_without_probes_nothing_is_said_of_them(row: RowResult) -> None:
    text = render(row, width=100)
    assert "What dense features know" not in text and "between places" not in text


# ---- files and figures


@pytest.mark.parametrize("models", [(0, 0), (1, 0), (0, 5), (30, 40)])
def test_figures_open_again(models: tuple[int, int], tmp_path: Path) -> None:
    figure = make_row(models=models)
    row_figure(figure, tmp_path / "row.png")
    alignment_uniformity_figure(figure, "dense", tmp_path / "one.png")
    both, one = imread(tmp_path / "row.png"), imread(tmp_path / "one.png")
    assert both.shape[:2] == (810, 1860) and one.shape[:2] == (810, 930)
    assert both.std() > 0.05 and one.std() > 0.05


def test_the_report_is_written_and_read_back(row: RowResult, probed: RowResult, tmp_path: Path) -> None:
    other = replace(probed, name="a/b c", judgements=())
    files = write_report([row, other], tmp_path / "new" / "report")
    names = [
        "summary.txt",
        "records.csv",
        "environment.json",
        "claims.json",
        "comparison.csv",
        "league.csv",
        "paper.csv",
        "paper_tables.tex",
        "single_object-dense_index.png",
        "a_b_c.png",
        "a_b_c-similarities.png",
        "a_b_c-training.png",
        "report.html",
    ]
    assert [f.name for f in files] == names == sorted((f.name for f in files[0].parent.iterdir()), key=names.index)
    assert files[0].read_text() == "".join(f"{line.rstrip()}\n" for line in render(row, other, width=120).splitlines())
    with files[1].open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * (20 + 3)
    assert float(lines[0]["performance_dense"]) == row.records[0].performance["dense"]
    assert float(lines[0]["extra.coco_ap50"]) == row.records[0].extra["coco_ap50"]
    assert not any(lines[0][name] for name in ("extra.similarity_overlap", "probes.image_share", "final_loss"))
    line, record = lines[23], probed.records[0]
    assert float(line["extra.similarity_overlap"]) == record.extra["similarity_overlap"]
    assert {name: float(line[f"probes.{name}"]) for name in PROBES} == record.probes
    assert (line["final_loss"], line["position_only_loss"]) == ("5.25", "5.0")
    assert (lines[-1]["final_loss"], lines[-1]["position_only_loss"]) == ("", "")
    claims = json.loads(files[3].read_text())
    assert [c["verdict"] for c in claims] == [j.verdict.value for j in row.judgements]
    assert claims[0]["p_holm"] >= claims[0]["correlation"]["p_negative"] and claims[2]["p_holm"] == 1
    assert claims[2]["p_against_holm"] >= claims[2]["contrast"]["p_above"]
    assert [(c["paper"]["verdict"], c["paper"]["numbers"]) for c in claims[:3]] == [
        ("SUPPORTED", "tau -0.32, n 100"),
        ("SUPPORTED", "tau -0.12, n 100"),
        (None, "averages 63.47 - 28.04 = +35.43 points"),
    ]
    assert claims[0]["validity"]["of"] == 20 and claims[2]["paper"]["p"] is None
    assert all(re.match(rb"\x89PNG", file.read_bytes()) for file in files[8:12])
    assert write_report([row, other], files[0].parent) == files


def test_rows_that_would_share_a_figure_are_refused(row: RowResult, tmp_path: Path) -> None:
    for name in (row.name, f"{row.name}-Training"):
        with pytest.raises(ValueError, match="share a figure"):
            write_report([row, replace(row, name=name)], tmp_path)


def test_a_full_disk_is_passed_on_and_leaves_the_old_file(
    row: RowResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "summary.txt").write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_report([row], tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["summary.txt"] and (tmp_path / "summary.txt").read_text() == "old"


def test_a_directory_that_cannot_be_made_is_passed_on(row: RowResult, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        write_report([row], tmp_path / "file" / "report")


def test_figures_of_rows_that_are_gone_are_removed_and_others_pictures_stay(row: RowResult, tmp_path: Path) -> None:
    write_report([replace(row, name="gone"), replace(row, name="stays")], tmp_path)
    (tmp_path / "mine.png").write_bytes(b"\x89PNG and more")
    write_report([replace(row, name="stays")], tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["mine.png", "stays.png"]
