"""Matching strategies against the reference, as outcomes of tests: verdicts, known failures, what is missing."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT, environment, plant, tiny_profile, trained
from jobs import flat, outcomes

from cl_bench.claims.judgement import Verdict
from cl_bench.methods.registry import Registry, spec_of
from cl_bench.spec import RunSpec
from cl_bench.spec.profile import Row
from cl_bench.spec.profile_files import load_profile
from cl_bench.spec.records import Record
from cl_bench.store import Store

OTHER = (50.0, 60.0, 40.0, 55.0)


AHEAD, BEHIND, UNCLEAR = (55.0, 64.0, 45.0, 61.0), (45.0, 54.0, 36.0, 50.0), (60.0, 50.0, 50.0, 45.0)


class Job:
    """The suite on a tiny profile and a store in which nothing was trained."""

    def __init__(self, folder: Path, pytester: pytest.Pytester, **changes: Any) -> None:
        self.pytester, self.root, self.report = pytester, folder / "store", folder / "report"
        self.file = tiny_profile(folder / "tiny.toml", **changes)
        self.profile = load_profile(str(self.file))

    def specs(self, method: str, data: str = "single_object") -> tuple[RunSpec, ...]:
        return self.profile.sweep(Row(spec_of(Registry().resolve(method)), data, "overlapping"))  # type: ignore[arg-type]

    def plant(self, reference: Sequence[float], other: Sequence[float] = OTHER, name: str = "dense_cosine") -> None:
        store = Store(self.root)
        for method, scores, precision in (("dense_index", reference, 0.25), (name, other, 0.75)):
            for n, (spec, score) in enumerate(zip(self.specs(method), scores, strict=True)):
                plant(store, spec, L_a=-0.9 + n / 10, performance=score, matching_precision=precision)
        for spec in self.profile.random_init():
            plant(store, spec, performance=5.0)

    def args(self, *more: str, methods: Sequence[str] = ("dense_index", "dense_cosine")) -> list[str]:
        own = f"--profile={self.file}", f"--store={self.root}", f"--report={self.report}", "--device=cpu"
        suite = str(ROOT / "suites" / "test_matching_strategies.py")
        return ["-p", "no:cacheprovider", f"--rootdir={ROOT}", suite, *own, *(f"--method={m}" for m in methods), *more]

    def run(self, *more: str, **changes: Any) -> pytest.RunResult:
        return self.pytester.runpytest_inprocess(*self.args(*more, **changes))


@pytest.fixture
def job(tmp_path: Path, pytester: pytest.Pytester, no_figures: None, as_in_a_shell: None) -> Job:
    return Job(tmp_path, pytester)


def summary(job: Job) -> str:
    """Read the report's summary.txt as one line."""
    return re.sub(r"\s+", " ", (job.report / "summary.txt").read_text())


SINGLE = ("-k", "SingleObject")


@pytest.mark.parametrize(
    ("reference", "options", "expected", "verdict", "code"),
    [
        (AHEAD, [], {"passed": 2}, Verdict.SUPPORTED, 0),
        (BEHIND, [], {"failed": 2}, Verdict.REFUTED, 1),
        (BEHIND, ["--set=claims.margin=30"], {"passed": 2}, Verdict.SUPPORTED, 0),
        (BEHIND, ["--set=claims.asserted=false"], {"xfailed": 2}, Verdict.REFUTED, 0),
        (UNCLEAR, [], {"xfailed": 2}, Verdict.INCONCLUSIVE, 0),
        (UNCLEAR, ["--strict-claims"], {"failed": 2}, Verdict.INCONCLUSIVE, 1),
    ],
)
def test_verdicts_are_outcomes(
    job: Job, reference: Sequence[float], options: list[str], expected: dict[str, int], verdict: Verdict, code: int
) -> None:
    job.plant(reference)
    before = trained(job.root)
    result = job.run(*SINGLE, *options, "-rA")
    assert outcomes(result) == {**expected, "deselected": 2} and result.ret == code
    assert trained(job.root) == before
    assert "test_linear_evaluation[dense_cosine]" in result.stdout.str()
    claims = json.loads((job.report / "claims.json").read_text())
    assert [(c["verdict"], c["row"]) for c in claims] == [(verdict.value, "single_object-overlapping-dense_cosine")] * 2
    assert [c["comparison"]["level"] for c in claims] == ["instance", "dense"]
    text = summary(job)
    for part in (
        "Matching strategies: single-object data, overlapping views",
        "matching precision: 0.25 of the positives",
        "matching precision: 0.75 of the positives",
        "dense_index: single-object data",
        "dense_cosine: single-object data",
        f"lies above -{claims[0]['comparison']['margin']:g}.",
    ):
        assert part in text
    assert text.index("dense_index: single-object") < text.index("dense_cosine: single-object"), (
        "as --method names them"
    )
    with (job.report / "comparison.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(x["level"], x["method"], x["verdict"]) for x in lines] == [
        (level, method, verdict.value if method == "dense_cosine" else "")
        for level in ("instance", "dense")
        for method in ("dense_index", "dense_cosine")
    ]
    assert float(lines[1]["mean_difference"]) == pytest.approx(np.mean(reference) - np.mean(OTHER))


def test_one_case_can_be_typed(job: Job) -> None:
    job.plant(AHEAD)
    assert outcomes(job.run("-k", "SingleObject and test_linear_evaluation[dense_cosine]")) == {
        "passed": 1,
        "deselected": 3,
    }


@pytest.mark.parametrize("methods", [(), ("dense_index",), ("dense_cosine", "dense_emd"), ("dense_index", "instance")])
def test_without_a_pair_nothing_is_judged_or_trained(job: Job, methods: Sequence[str]) -> None:
    result = job.run("-rs", methods=methods)
    assert outcomes(result) == {"skipped": 4} and result.ret == 0
    assert "--method names no pair of dense_index and another dense method." in flat(result)
    assert trained(job.root) == {} if job.root.exists() else True


def test_each_other_method_has_a_test_of_its_own(job: Job) -> None:
    job.plant(AHEAD)
    job.plant(AHEAD, BEHIND, "dense_emd")
    result = job.run(*SINGLE, "-rA", methods=("dense_emd", "instance", "dense_index", "dense_cosine"))
    assert outcomes(result) == {"passed": 4, "deselected": 4}
    table = (job.report / "summary.txt").read_text().partition("Matching strategies")[2]
    names = re.findall(r"^(dense_\w+|instance) ", table, re.MULTILINE)
    assert names == ["dense_index", "dense_emd", "dense_cosine"] * 2


KNOWN = {
    "method": "dense_cosine",
    "data": "single_object",
    "views": "overlapping",
    "claim": "no_worse_than",
    "level": "dense",
    "reason": "at this size the cells are too few",
}


@pytest.mark.usefixtures("no_figures", "as_in_a_shell")
@pytest.mark.parametrize(
    ("reference", "expected"),
    [(BEHIND, {"xfailed": 1, "failed": 1}), (AHEAD, {"failed": 1, "passed": 1})],
    ids=["refuted as known", "holds after all"],
)
def test_a_known_failure_must_fail(
    tmp_path: Path, pytester: pytest.Pytester, reference: Sequence[float], expected: dict[str, int]
) -> None:
    job = Job(tmp_path, pytester, known=[KNOWN])
    job.plant(reference)
    result = job.run(*SINGLE, "-rA")
    assert outcomes(result) == {**expected, "deselected": 2} and result.ret == 1
    assert KNOWN["reason"] in flat(result)


@pytest.mark.usefixtures("no_figures", "as_in_a_shell")
def test_a_pair_that_diverged_is_left_out_by_name(tmp_path: Path, pytester: pytest.Pytester) -> None:
    job = Job(tmp_path, pytester, grid__temperatures=[0.1, 0.2, 1.0])
    job.plant((*AHEAD, 70.0), (*OTHER, 60.0))
    plant(Store(job.root), job.specs("dense_index")[1], diverged="pre-training: loss nan")
    result = job.run(*SINGLE)
    assert outcomes(result) == {"passed": 2, "deselected": 2}
    assert "dense_cosine: 4 pairs, left out: info_nce-t0.2" in summary(job)


def test_a_sweep_of_the_reference_that_cannot_be_computed_fails_the_claim(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.plant(AHEAD)
    gone = job.specs("dense_index")[2]

    from cl_bench.compute import local as engines

    found = engines.LocalEngine.record

    def record(engine: Any, spec: RunSpec) -> Record:
        if spec.case == gone.case and spec.pretrain.method == gone.pretrain.method:
            raise engines.ComputationError(f"{spec.case}: its worker process ended")
        return found(engine, spec)

    monkeypatch.setattr(engines.LocalEngine, "record", record)
    result = job.run(*SINGLE)
    assert outcomes(result) == {"failed": 2, "deselected": 2} and result.ret == 1
    assert f"1 record missing: {gone.case}" in flat(result)
    assert [c["verdict"] for c in json.loads((job.report / "claims.json").read_text())] == ["INCONCLUSIVE"] * 2


def test_the_plan_is_of_both_sweeps(job: Job) -> None:
    job.plant(AHEAD)
    text = flat(job.run("--plan", "-k", "detection"))
    for data, stored in (("single_object", 4), ("multi_object", 0)):
        for method in ("dense_index", "dense_cosine"):
            assert f"{data}-overlapping-{method} 4 {stored} {4 - stored} 4" in text
    assert "8 encoders to compute" in text


@pytest.mark.slow
def test_pytest_xdist(job: Job, tmp_path: Path) -> None:
    job.plant(AHEAD)
    job.plant(AHEAD, BEHIND, "dense_emd")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", *job.args(*SINGLE, "--method=dense_emd")],
        env=environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", PYTEST_PLUGINS="xdist.plugin"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "4 passed" in done.stdout
    with (job.report / "comparison.csv").open() as file:
        assert [x["method"] for x in csv.DictReader(file)] == ["dense_index", "dense_cosine", "dense_emd"] * 2
