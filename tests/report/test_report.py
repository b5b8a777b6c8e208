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
from helpers import KINDS, PROBES, asked, line_of
from matplotlib.image import imread
from report_rows import make_row, render

from cl_bench.claims.judge import judge
from cl_bench.claims.judgement import IncompleteSweep, Judgement
from cl_bench.report import RowResult, write_report
from cl_bench.report.figures import alignment_uniformity_figure, row_figure
from cl_bench.spec.claim import Claim
from cl_bench.spec.records import LEVELS, Record


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
    assert "the paper's own tau -0.12, n 100: of independent models it would be SUPPORTED (p = 0.038)" in text
    assert "the paper's own" not in render(replace(row, method="dense_emd"), width=100)


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
        f"7 of 20 encoders collapsed (dense L_u above -0.02): {names} and 2 more",
        "7 of 20 encoders end at the loss of features that know only the place of each cell (within 1%), or above it: "
        f"{names} and 2 more",
    ):
        assert said in flat and flat.index(said) < flat.index("Linear evaluation (accuracy, %)")
    plain = render(row, width=width)
    assert not [word for word in ("collapsed", "know only the place", "mostly know") if word in plain]


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
    assert "2 judged, 2 of them exploratory and left out of these counts; of 0 tested 0 supported" in flat


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
    assert (
        line_of(text, "untrained*")
        and "untrained*: their probes were measured on single_object images under overlapping views." in text
    )


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
