"""A report belongs to what the store holds: a run of a part, or one that is interrupted, never makes it less."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, until
from jobs import TAU_FALLS, TAU_RISES, Job, flat, outcomes

from cl_bench.plugin.kept import FILE, read_kept, write_kept
from cl_bench.store import sealed

pytest_plugins = ["pytester"]

MULTI = str(ROOT / "suites" / "test_multi_object.py")
ROWS = {f"{data}-overlapping-dense_index" for data in ("single_object", "multi_object")}


def claims_of(report: Path) -> set[tuple[str, str, str]]:
    found: list[dict[str, Any]] = json.loads((report / "claims.json").read_text())
    return {(c["row"], c["claim"]["level"], c["verdict"]) for c in found}


def rows_of(report: Path) -> set[str]:
    with (report / "records.csv").open(newline="") as file:
        return {line["row"] for line in csv.DictReader(file)}


@pytest.fixture
def full(job: Job) -> Job:
    """Two rows, tested and reported."""
    job.plant()
    job.plant(data="multi_object")
    result = job.run(MULTI)
    assert result.ret == 0 and rows_of(job.report) == ROWS and len(claims_of(job.report)) == 4
    return job


def test_a_part_leaves_the_rest_as_it_is(full: Job) -> None:
    before = {path.name: path.read_bytes() for path in full.report.iterdir()}
    result = full.run("-k", "tau_linear")
    assert outcomes(result) == {"passed": 1, "deselected": 5}
    assert "multi_object" not in flat(result), "the terminal tells of what was tested"
    after = {path.name: path.read_bytes() for path in full.report.iterdir()}
    told = ("environment.json", "report.html")  # the command and the time
    assert before.keys() == after.keys() and {n for n in after if after[n] != before[n]} == set(told)
    assert "multi-object data" in (full.report / "report.html").read_text()


def test_a_part_adds_to_what_is_there(job: Job) -> None:
    job.plant()
    job.plant(data="multi_object")
    for options, claims in ((("-k", "tau_linear"), 1), (("-k", "tau_detection"), 2), ((MULTI,), 4)):
        job.run(*options)
        assert len(claims_of(job.report)) == claims
    assert rows_of(job.report) == ROWS


def test_what_was_judged_of_other_records_is_not_kept(full: Job) -> None:
    full.plant(TAU_RISES)
    full.run("-k", "tau_linear")
    single = {(level, verdict) for row, level, verdict in claims_of(full.report) if row.startswith("single")}
    assert single == {("instance", "REFUTED")}
    assert len([row for row, *_ in claims_of(full.report) if row.startswith("multi")]) == 2
    full.plant(TAU_FALLS)
    full.run("-k", "tau_detection")
    single = {(level, verdict) for row, level, verdict in claims_of(full.report) if row.startswith("single")}
    assert single == {("dense", "SUPPORTED")}


def test_a_row_that_lost_some_records_stays_with_its_verdicts_and_one_that_lost_all_goes(full: Job) -> None:
    before = claims_of(full.report)
    multi = [full.root / "runs" / s.pretrain.key[:32] for s in full.profile.sweep(full.row("multi_object"))]
    shutil.rmtree(multi[0])
    full.run("-k", "tau_linear")
    assert rows_of(full.report) == ROWS and claims_of(full.report) == before
    assert "3 of 4 runs complete, 1 missing" in (full.report / "summary.txt").read_text()
    for run in multi[1:]:
        shutil.rmtree(run)
    full.run("-k", "tau_linear")
    assert rows_of(full.report) == {"single_object-overlapping-dense_index"}


@pytest.mark.parametrize("content", [b"", b"no report", sealed({"rows": 3}), sealed({"rows": [{"row": "{}"}]})])
def test_a_report_that_cannot_be_read_is_written_anew(full: Job, content: bytes) -> None:
    (full.report / FILE).write_bytes(content)
    assert read_kept(full.report) == {}
    assert full.run().ret == 0 and rows_of(full.report) == {"single_object-overlapping-dense_index"}


def test_what_is_kept_comes_back(full: Job, tmp_path: Path) -> None:
    kept = read_kept(full.report)
    assert kept.keys() == ROWS and {len(row.claims) for row in kept.values()} == {2}
    assert {row.seeds for row in kept.values()} == {1}
    write_kept(tmp_path / "again", kept.values())
    assert (tmp_path / "again" / FILE).read_bytes() == (full.report / FILE).read_bytes()


def test_each_profile_and_setting_has_a_folder_of_its_own(job: Job) -> None:
    job.plant()
    own = [a for a in job.args() if not a.startswith("--report")]
    assert job.pytester is not None
    assert job.pytester.runpytest_inprocess(*own).ret == 0
    assert job.pytester.runpytest_inprocess(*own, "--set=claims.alpha=0.29").ret == 0
    folders = sorted(path.name for path in (job.root / "report").iterdir())
    assert folders == ["tiny", "tiny-claims.alpha=0.29"] and not job.report.exists()
    long = [f"--set=claims.margin={k}.{'0' * 30}" for k in range(1, 5)]
    assert job.pytester.runpytest_inprocess(*own, *long).ret == 0
    assert max(len(path.name) for path in (job.root / "report").iterdir()) < 100


@pytest.mark.slow
def test_interrupted_it_says_what_is_kept_and_leaves_the_report(
    tmp_path: Path, pytester: pytest.Pytester, as_in_a_shell: None, no_figures: None
) -> None:
    job = Job(tmp_path, pytester, optimiser__epochs=12)
    job.plant()
    assert job.run().ret == 0
    before = claims_of(job.report)
    shutil.rmtree(job.root / "runs")
    interrupted = job.fork("--jobs=1")
    try:
        until(lambda: list((job.root / "runs").glob("*/evals/detection-*.json")), 60, "the first encoder is there")
        os.kill(interrupted.pid, signal.SIGINT)
        assert interrupted.wait(20) == pytest.ExitCode.INTERRUPTED
    finally:
        interrupted.stop()
    assert re.search(
        r"^[1-5] of 6 encoders kept; run the same command again to continue$", interrupted.text, re.MULTILINE
    )
    assert claims_of(job.report) == before and len(before) == 2
