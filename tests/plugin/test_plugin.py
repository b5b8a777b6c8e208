"""The job a person runs: verdicts as outcomes, usage errors, interruptions, rivals, garbage, a full disk.

Records are planted wherever nothing has to be trained; then pytest runs inside this process (jobs.py). Where it must be
interrupted or killed it runs in a fork of it, which has torch loaded already.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers import ROOT, plant, trained
from jobs import OUTCOMES, TAU_FALLS, TAU_RISES, TAU_UNCLEAR, Job, flat, outcomes

from cl_bench.claims.judgement import Verdict
from cl_bench.compute.local import ComputationError, LocalEngine
from cl_bench.spec import RunSpec
from cl_bench.spec.records import Record

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.usefixtures("as_in_a_shell")

ESCAPE = "\x1b"


# ---- verdicts


@pytest.mark.parametrize(
    ("performance", "options", "expected", "verdict", "code"),
    [
        (TAU_FALLS, [], {"passed": 6}, Verdict.SUPPORTED, 0),
        (TAU_RISES, [], {"passed": 4, "xfailed": 2}, Verdict.REFUTED, 0),  # each alone, but not both together
        (TAU_RISES, ["--strict-claims"], {"passed": 4, "failed": 2}, Verdict.REFUTED, 1),
        (TAU_UNCLEAR, [], {"passed": 4, "xfailed": 2}, Verdict.INCONCLUSIVE, 0),
        (TAU_UNCLEAR, ["--strict-claims"], {"passed": 4, "failed": 2}, Verdict.INCONCLUSIVE, 1),
        (TAU_FALLS, ["--strict-claims"], {"passed": 6}, Verdict.SUPPORTED, 0),
    ],
)
def test_verdicts_are_outcomes(
    job: Job, performance: tuple[float, ...], options: list[str], expected: OUTCOMES, verdict: Verdict, code: int
) -> None:
    job.plant(performance)
    before = trained(job.root)
    result = job.run(*options, "-rA", "-vv")
    assert outcomes(result) == expected
    assert result.ret == code
    assert trained(job.root) == before
    claims = json.loads((job.report / "claims.json").read_text())
    assert [c["verdict"] for c in claims] == [verdict.value] * 2
    assert [c["claim"]["level"] for c in claims] == ["instance", "dense"]
    tables = "summary.txt, records.csv, environment.json, claims.json, comparison.csv, league.csv, paper.csv"
    report = f"report: {job.report} ({tables}, paper_tables.tex, report.html, 1 figure)"
    result.stdout.fnmatch_lines(["*= cl-bench =*", f"- {verdict.value}: *", f"- {verdict.value}: *", report])
    assert ESCAPE not in result.stdout.str() + result.stderr.str()


KNOWN = {
    "method": "dense_index",
    "data": "single_object",
    "views": "overlapping",
    "claim": "tau_negative",
    "level": "dense",
    "reason": "detection follows resolution here",
}


@pytest.mark.parametrize(
    ("performance", "options", "expected", "code"),
    [
        (TAU_RISES, ["-k", "tau_detection"], {"xfailed": 1}, 0),
        (TAU_UNCLEAR, ["-k", "tau_detection"], {"xfailed": 1}, 0),
        (TAU_UNCLEAR, ["-k", "tau_detection", "--strict-claims"], {"xfailed": 1}, 0),
        (TAU_FALLS, ["-k", "tau_detection"], {"failed": 1}, 1),
        (TAU_RISES, ["-k", "tau_linear"], {"failed": 1}, 1),
        (None, ["-k", "tau_detection"], {"failed": 1}, 1),
    ],
    ids=["refuted", "inconclusive", "strict", "holds after all", "another claim", "broken"],
)
def test_a_known_failure_must_fail(
    tmp_path: Path,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    no_figures: None,
    performance: tuple[float, ...] | None,
    options: list[str],
    expected: OUTCOMES,
    code: int,
) -> None:
    job = Job(tmp_path, pytester, known=[KNOWN])
    job.plant(performance or TAU_RISES)
    if performance is None:  # what is broken is never a known failure
        monkeypatch.setattr("cl_bench.plugin.fixtures.judge", lambda *_: 1 / 0)
    result = job.run(*options, "-rA")
    assert outcomes(result) | {"deselected": 5} == {**expected, "deselected": 5}
    assert result.ret == code
    if "xfailed" in expected:
        assert KNOWN["reason"] in flat(result) or "INCONCLUSIVE" in flat(result)


def test_a_diverged_case_is_left_out_by_name(job: Job) -> None:
    job.plant(TAU_FALLS)
    spec = job.specs()[1]
    shutil.rmtree(job.store.run(spec.pretrain.key).path)
    plant(job.store, spec, diverged="pre-training: loss nan at step 7 of 9")
    result = job.run("-rx")
    assert outcomes(result) == {"passed": 3, "xfailed": 3}, "three points are too few for any verdict"
    text = flat(result)
    assert f"left out: {spec.case} (diverged: pre-training: loss nan at step 7 of 9)" in job.summary
    assert "3 of 4 runs complete, 1 diverged" in text
    assert f"suites/test_single_object.py::test_model[{spec.case}] - diverged: " in text
    with (job.report / "records.csv").open() as file:
        assert [r["case"] for r in csv.DictReader(file) if r["status"] == "diverged"] == [spec.case]


@pytest.mark.parametrize(
    ("planted", "message"),
    [
        ({"decomposition_error": 2e-4}, "alignment + distribution differs from the loss by 2.0e-04"),
        ({"decomposition_error": float("inf")}, "differs from the loss"),
    ],
)
def test_a_case_that_is_not_sound_fails(job: Job, planted: dict[str, float], message: str) -> None:
    job.plant()
    spec = job.specs()[2]
    plant(job.store, spec, **planted)  # type: ignore[arg-type]
    result = job.run("-k", "test_model")
    assert outcomes(result) == {"passed": 3, "failed": 1, "deselected": 2}
    assert message in flat(result)


def test_what_cannot_be_computed_fails_the_claim_and_is_listed(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a sweep is never called a result."""
    job.plant()
    gone = {spec.case: spec for spec in job.specs()[1:3]}
    for spec in gone.values():
        shutil.rmtree(job.store.run(spec.pretrain.key).path)

    has, found = LocalEngine.has, LocalEngine.record

    def record(engine: LocalEngine, spec: RunSpec) -> Record:
        if spec.case in gone:
            raise ComputationError(f"{spec.case}: its worker process ended (killed by signal 9)")
        return found(engine, spec)

    monkeypatch.setattr(LocalEngine, "has", lambda engine, spec: spec.case in gone or has(engine, spec))
    monkeypatch.setattr(LocalEngine, "record", record)
    result = job.run("--jobs=1")
    assert outcomes(result) == {"passed": 2, "failed": 4}
    assert result.ret == 1
    text = flat(result)
    assert f"2 records missing: {', '.join(gone)}" in text
    first, *_ = gone
    assert f"{first} and 1 more: its worker process ended (killed by signal 9)" in text
    for spec in gone.values():
        assert f"{spec.case}: its worker process ended (killed by signal 9)" in text
    assert "Traceback" not in text
    assert "2 of 4 runs complete, 2 missing" in text
    assert [c["verdict"] for c in json.loads((job.report / "claims.json").read_text())] == ["INCONCLUSIVE"] * 2


# ---- what is asked for


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method=dense_indx"], r"no method 'dense_indx'; did you mean 'dense_index'\?"),
        (["--method=dense_index:epsilon=1"], r"method 'dense_index' has no option 'epsilon'"),
        (["--method=dense_emd:epsilon=0"], r"method 'dense_emd' \(.*:\d+\): .*epsilon must be positive.* got 0\.0"),
        (["--method="], r"no method ''"),
        (["--profile=smok"], r"no profile 'smok'; did you mean 'smoke'\?"),
        (["--profile=nowhere/at-all.toml"], r"no profile 'nowhere/at-all\.toml'"),
        (["--set=optimiser.bach=3"], r"unknown key 'optimiser\.bach'; did you mean 'batch'\?"),
        (["--set=optimiser.batch=many"], r"optimiser\.batch: .*got 'many'"),
        (["--set=nonsense"], r"--set takes key\.path=value, got 'nonsense'"),
        (["--set==3"], r"--set takes key\.path=value"),
        (["--set=optimiser=3"], r"optimiser: .*got 3"),
        (["--set=optimiser.batch.x=3"], r"'batch' is a value, not a table"),
        (["--set=single_object.data.images=31"], r"batch of 32.*31|images.*31.*batch"),
        (["--device=gpu"], r"--device takes auto, cpu, cuda or cuda:0, cuda:1, ..., got 'gpu'; did you mean 'cuda'\?"),
        (["--device=cuda:99"], r"--device cuda:99: "),
        *(
            ([f"--seeds={s}"], rf"--seeds takes a number N .*got '{s}'")
            for s in ("0", "-1", "two", "3:3", "3:", "-1:2")
        ),
        (["--jobs=0"], r"--jobs must be at least 1, got 0"),
        (["--jobs=-2"], r"--jobs must be at least 1, got -2"),
        (["--gpus-per-model=0"], r"--gpus-per-model must be at least 1, got 0"),
        (["--gpus-per-model=3"], r"--gpus-per-model 3 does not divide the batch of 32 images; 2 does"),
        (["--cl-gpus-per-model=two"], r"invalid int value: 'two'"),
        (["--share-views=0"], r"--share-views must be at least 1, got 0"),
        (
            ["--share-views=2", "--gpus-per-model=2"],
            r"--share-views 2: with --gpus-per-model 2 encoders are",
        ),
        (["--engine=ray", "--gpus-per-model=2"], r"--gpus-per-model 2: with --engine ray a model has one GPU"),
        (["--data-root={file}"], r"--data-root .*file: not a folder"),
        (["--data-root={file}-not"], r"--data-root .*file-not: no such folder"),
        (["--store={file}"], r"--store .*file: File exists|--store .*file.*Not a directory"),
        (["--store={file}/store"], r"--store .*file/store: Not a directory"),
        (["--predictor=rankm"], r"no predictor 'rankm'; did you mean 'rankme'\?"),
        (["--predictor={file}.py"], r"no file .*/file\.py"),
        (["--encoder=tim:resnet18"], r"no encoder 'tim:resnet18'; did you mean 'timm'\?"),
        (["--encoder={file}.py"], r"no file .*/file\.py"),
        (["--encoder=torchvision:resnet81"], r"no model 'resnet81' in torchvision .*did you mean 'resnet"),
        (
            ["--encoder=timm:test_vit"],
            r"timm:test_vit cannot be cut in two for detection, .* cl-bench measure takes any",
        ),
        (["--strict-claim"], r"did you mean: --strict-claims for --strict-claim"),
        (["--metod=dense_index"], r"did you mean: --method for --metod"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_value_that_makes_no_sense_is_a_usage_error(job: Job, options: list[str], said: str) -> None:
    (job.folder / "file").write_text("")
    result = job.run(*(o.format(file=job.folder / "file") for o in options))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    everything = result.stderr.str() + result.stdout.str()
    lines = [line for line in everything.splitlines() if re.search(said, line)]
    assert len(lines) == 1, everything
    assert "Traceback" not in everything and "INTERNALERROR" not in everything
    assert not job.root.exists() or trained(job.root) == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there(job: Job) -> None:
    result = job.run("--device=cuda")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert re.search(r"^ERROR: --device cuda: ", result.stderr.str(), re.MULTILINE)


def test_a_plan_trains_nothing(job: Job) -> None:
    job.plant()
    gone = job.specs()[1]
    shutil.rmtree(job.store.run(gone.pretrain.key).path)
    before = trained(job.root)
    result = job.run("--plan", "--jobs=1", "--gpus-per-model=2")
    assert result.ret == 0
    assert "Times are those of one device a model: 2 pre-train it in less." in flat(result)
    shared = job.run("--plan", "--jobs=1", "--share-views=4")
    assert "Times are those of encoders one by one: 4 in lock-step take less." in flat(shared)
    assert f"would compute single_object-overlapping-dense_index: {gone.case}" in flat(result)
    assert "1 encoders to compute, 1 at a time" in flat(result)
    assert trained(job.root) == before
    assert not job.report.exists()


def test_an_instance_method_skips_what_is_about_dense_ones(job: Job) -> None:
    result = job.run("--method=instance", "-rs", suites="test_confusing_positives.py")
    assert result.ret == 0
    assert set(outcomes(result)) == {"skipped"}
    assert re.search(r"SKIPPED.*(instance|dense|scheme|parameter set)", result.stdout.str())
    assert trained(job.root) == {} if job.root.exists() else True


def test_only_the_claims(job: Job) -> None:
    job.plant()
    result = job.run("-k", "tau")
    assert outcomes(result) == {"passed": 2, "deselected": 4}
    assert "4 of 4 runs complete" in job.summary and "runs complete" not in flat(result)


def test_a_path_is_relative_to_where_pytest_was_called(job: Job, pytester: pytest.Pytester) -> None:
    job.plant()
    shutil.copytree(job.root, pytester.path / "records")
    args = [a for a in job.args("--store=records", "--report=out") if not a.endswith((str(job.root), str(job.report)))]
    result = pytester.runpytest_inprocess(*args, "--plan")
    stray = [p for p in (ROOT / "records", ROOT / "out") if p.exists()]
    for path in stray:
        shutil.rmtree(path)
    assert stray == []
    assert "nothing would be trained" in flat(result)


def test_a_report_in_place_of_a_file_is_refused_at_once(job: Job) -> None:
    (job.folder / "file").write_text("mine")
    for report, said in (("file", "is a file"), ("file/report", "*/file is a file")):
        result = job.run(f"--report={job.folder / report}")
        assert result.ret == pytest.ExitCode.USAGE_ERROR and trained(job.root) == {}
        result.stderr.fnmatch_lines([f"ERROR: --report */{report}: {said}; it takes a folder"])


def test_a_report_that_cannot_be_written_is_said_and_changes_no_outcome(job: Job) -> None:
    job.plant()
    (job.folder / "report" / "claims.json").mkdir(parents=True)
    result = job.run(f"--report={job.folder / 'report'}", "-vv")
    assert result.ret == 0
    assert outcomes(result) == {"passed": 6}
    assert re.search(r"^report: .*the records in .* are whole", result.stdout.str(), re.MULTILINE)
    assert "4 of 4 runs complete" in flat(result)


@pytest.mark.parametrize("name", ["status", "evals/linear-*"])
def test_garbage_in_the_store_is_computed_again(job: Job, name: str) -> None:
    job.plant()
    spec = job.specs()[0]
    (path,) = job.store.run(spec.pretrain.key).path.glob(f"{name}.json")
    path.write_bytes(b'{"payload": {"status": "comp')
    result = job.run("--plan")
    assert result.ret == 0
    assert f"would compute single_object-overlapping-dense_index: {spec.case}" in flat(result)
    assert "1 encoders to compute" in flat(result)
    assert "StoreWarning" in flat(result)
    assert "set aside" in flat(result)


@pytest.mark.parametrize(
    "options", [["-s"], ["-q"], ["-v"], ["--capture=sys"], ["-p", "no:terminal"], ["-x", "--tb=short"]], ids=" ".join
)
def test_other_options_of_pytest(job: Job, options: list[str]) -> None:
    job.plant()
    result = job.run(*options)
    assert result.ret == 0
    assert (job.report / "summary.txt").exists() != ("no:terminal" in options)


def test_a_summary_where_only_ascii_can_be_written(job: Job) -> None:
    job.plant()
    fork = job.fork("-k", "tau", "-vv", encoding="ascii")
    assert fork.wait() == 0, fork.text[-2000:]
    assert "4 of 4 runs complete" in fork.text


# ---- the whole job, trained


# ---- interrupted, killed, side by side


# ---- a disk that is full
