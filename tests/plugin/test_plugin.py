"""The job a person runs: verdicts as outcomes, usage errors, interruptions, rivals, garbage, a full disk.

Records are planted wherever nothing has to be trained; then pytest runs inside this process (jobs.py). Where it must be
interrupted or killed it runs in a fork of it, which has torch loaded already.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers import ROOT, alive, children, environment, plant, trained, until
from jobs import OUTCOMES, TAU_FALLS, TAU_RISES, TAU_UNCLEAR, Job, flat, outcomes
from matplotlib.image import imread

from cl_bench.claims.judgement import Verdict
from cl_bench.compute.local import ComputationError, LocalEngine
from cl_bench.compute.runner import compute, load_record
from cl_bench.methods.registry import Registry
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
    assert f"2 record(s) missing: {', '.join(gone)}" in text
    for spec in gone.values():
        assert text.count(f"{spec.case}: its worker process ended (killed by signal 9)") >= 3
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
        (["--device=nonsense"], r"--device nonsense: "),
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
        (["--strict-claim"], r"unrecognized arguments: --strict-claim|ambiguous|--strict-claims"),
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


@pytest.mark.parametrize("place", ["file", "file/report"])
def test_a_report_that_cannot_be_written_is_said_and_changes_no_outcome(job: Job, place: str) -> None:
    job.plant()
    (job.folder / "file").write_text("mine")
    result = job.run(f"--report={job.folder / place}", "-vv")
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


class Whole:
    """All suites on a pseudo-terminal from an empty store, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.job = Job(folder)
        master, slave = pty.openpty()
        options = "--jobs=1", "-rA"
        suites = [str(ROOT / "suites")]
        args = [a for a in self.job.args(*options) if not a.endswith("test_single_object.py")]
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *args, *suites],
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            env=environment(TERM="xterm-256color", COLUMNS="120"),
        )
        os.close(slave)
        self.text = read_all(master)
        self.code = process.wait(60)
        self.made = trained(self.job.root)


def read_all(master: int) -> str:
    """Until the other side of a pseudo-terminal closes."""
    content = b""
    while True:
        try:
            more = os.read(master, 65536)
        except OSError as error:
            assert error.errno == errno.EIO
            more = b""
        if not more:
            os.close(master)
            return content.decode()
        content += more


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(tmp_path_factory.mktemp("whole job"))


ROWS = [("single_object", "overlapping"), ("multi_object", "overlapping")]
ROWS += [("single_object", "disjoint"), ("multi_object", "disjoint")]


@pytest.mark.slow
def test_the_whole_job_ends_with_a_table_and_a_report(whole: Whole) -> None:
    assert whole.code in (0, 1), whole.text
    job = whole.job
    for row in ROWS:
        records = [load_record(spec, job.store) for spec in job.specs(*row)]
        assert [r.status for r in records if r] == ["complete"] * 6
    assert (job.report / "summary.txt").read_text().count("4 of 4 runs complete") == 4
    assert whole.text.count("test_model[") >= 16
    with (job.report / "records.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4 * 6
    claims = json.loads((job.report / "claims.json").read_text())
    assert len(claims) == 17
    against = [c for c in claims if c["claim"]["predictor"]]
    assert len(against) == 6 and all(c["prediction"]["n"] == 4 for c in against)
    with (job.report / "league.csv").open() as file:
        standing = {(line["performance"], line["predictor"]) for line in csv.DictReader(file)}
    assert {("detection", "dse@dense"), ("linear evaluation", "rankme@instance")} <= standing
    assert {c["verdict"] for c in claims} <= {v.value for v in Verdict}
    refuted = [c for c in claims if c["verdict"] == "REFUTED" and not c["claim"]["exploratory"]]
    assert (whole.code == 1) == bool(refuted)
    pictures = sorted(p.name for p in job.report.glob("*.png"))
    kinds = ("", "-similarities", "-training")
    assert pictures == sorted(f"{data}-{views}-dense_index{kind}.png" for data, views in ROWS for kind in kinds)
    for picture in pictures:
        assert imread(job.report / picture).std() > 0


@pytest.mark.slow
def test_a_terminal_sees_progress(whole: Whole) -> None:
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", whole.text)
    assert ESCAPE in whole.text
    assert "encoders" in plain
    # Each finished encoder once, in order. They are queued by row, the untrained ones with the first.
    numbers = [int(n) for n in re.findall(r"\[ *(\d+)/18\] ", plain)]
    assert numbers == list(range(1, 19))
    assert re.search(r"encoders .* \d+/18 .*about \d+:\d\d left", plain)


@pytest.mark.slow
def test_the_second_run_trains_nothing(whole: Whole, pytester: pytest.Pytester, no_figures: None) -> None:
    job = whole.job
    job.pytester = pytester
    result = job.run(suites="")
    assert result.ret == whole.code
    assert trained(job.root) == whole.made
    assert "[  1/" not in result.stdout.str()
    again = job.run("--plan", suites="")
    assert "nothing would be trained" in flat(again)


@pytest.mark.slow
def test_a_value_of_an_evaluation_changed_takes_the_same_encoders(whole: Whole, pytester: pytest.Pytester) -> None:
    """And going back to the old value finds the old records."""
    job = whole.job
    job.pytester = pytester
    changed = "--set=detection.iterations=3", "--plan", "-k", "tau_linear"
    assert "6 encoders to compute" in flat(job.run(*changed))
    assert "nothing would be trained" in flat(job.run("--plan"))
    assert "6 encoders to compute" in flat(job.run("--set", "measure_t=2.0", "--plan"))
    assert "nothing would be trained" in flat(job.run("--set", 'about="another"', "--plan"))
    assert "nothing would be trained" in flat(job.run("--set", "claims.alpha=0.01", "--plan"))
    assert "8 encoders to compute" not in flat(job.run("--seeds=2", "--plan"))
    assert "4 encoders to compute" in flat(job.run("--seeds=2", "--plan"))


# ---- interrupted, killed, side by side


@pytest.mark.slow
def test_interrupted_then_killed_beside_another_the_job_completes(tmp_path: Path) -> None:
    job = Job(tmp_path, optimiser__epochs=12)

    def count() -> int:
        return len(list((job.root / "runs").glob("*/evals/detection-*.json")))

    interrupted = job.fork("--jobs=1")
    try:
        until(count, 60, "the first encoder is there")
        workers = children(interrupted.pid)
        os.kill(interrupted.pid, signal.SIGINT)
        assert interrupted.wait(20) == pytest.ExitCode.INTERRUPTED
    finally:
        interrupted.stop()
    assert "KeyboardInterrupt" in interrupted.text
    assert ESCAPE not in interrupted.text
    assert "INTERNALERROR" not in interrupted.text and "Exception in thread" not in interrupted.text
    assert workers
    until(lambda: not any(map(alive, workers)), 5, "its workers end")
    done = trained(job.root)
    assert 1 <= count() < 6, "interrupted too late: the test shows nothing"

    killed, survivor = job.fork("--jobs=1"), job.fork("--jobs=1")
    try:
        begun = count()
        until(lambda: count() > begun, 60, "another encoder is there")
        workers = children(killed.pid)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        until(lambda: not any(map(alive, workers)), 5, "its workers end")
        assert survivor.wait(90) in (0, 1)
    finally:
        killed.stop()
        survivor.stop()
    assert "4 of 4 runs complete" in job.summary
    assert (job.report / "claims.json").exists()
    after = trained(job.root)
    assert {k: v for k, v in after.items() if k in done and "spec" not in k} == {
        k: v for k, v in done.items() if "spec" not in k
    }
    assert all(load_record(spec, job.store) for spec in job.specs())
    assert not list((job.root / "set_aside").glob("*")) if (job.root / "set_aside").exists() else True


@pytest.mark.slow
def test_pytest_xdist(whole: Whole, tmp_path: Path) -> None:
    """One record is missing: it is computed by whichever worker is first, and the summary is of all."""
    job = Job(tmp_path)
    shutil.copytree(whole.job.root, job.root)
    gone = job.specs()[0]
    shutil.rmtree(job.store.run(gone.pretrain.key).path)
    before = trained(job.root)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", *job.args("-rA")],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode in (0, 1), done.stdout[-3000:] + done.stderr[-3000:]
    assert "4 of 4 runs complete" in job.summary
    assert "INTERNALERROR" not in done.stdout
    after = trained(job.root)
    assert {k: after[k] for k in before} == before
    assert load_record(gone, job.store) is not None
    claims = json.loads((job.report / "claims.json").read_text())
    assert [c["claim"]["level"] for c in claims] == ["instance", "dense"]
    with (job.report / "records.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6
    assert done.stdout.count("test_model[") == 4


# ---- a disk that is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """Mount a file system of 400 kB, and return it with a function that enlarges it."""
    place = tmp_path / "small"
    place.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    try:
        yield place, lambda size: subprocess.run([mount, "-o", f"remount,size={size}", str(place)], check=True) and None
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_loses_nothing(
    tmp_path: Path, pytester: pytest.Pytester, small_disk: tuple[Path, Callable[[str], None]]
) -> None:
    job = Job(tmp_path, pytester)
    place, enlarge = small_disk
    job.root = place / "store"
    spec = job.specs()[0]
    job.plant()
    shutil.rmtree(job.store.run(spec.pretrain.key).path)
    before = trained(job.root)
    result = job.run("-k", spec.case, "--jobs=1", f"--report={place / 'report'}")
    assert result.ret == 1
    assert f"{spec.case}: OSError: [Errno 28] No space left on device" in flat(result)
    assert "INTERNALERROR" not in flat(result)
    assert {k: v for k, v in trained(job.root).items() if k in before} == before
    assert not [p for p in job.root.rglob(".*") if p.is_file() and p.name != ".gitignore"]
    enlarge("64m")
    assert compute(spec, job.store, Registry(), torch.device("cpu"))
    result = job.run("-k", spec.case, f"--report={place / 'report'}")
    assert result.ret == 0
    assert outcomes(result) == {"passed": 1, "deselected": 5}
