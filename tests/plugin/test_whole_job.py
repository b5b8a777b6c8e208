"""The whole job, trained: table, report, progress, second runs; interrupted, killed, side by side, on a full disk."""

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
from helpers import ROOT, alive, environment, trained, until
from jobs import Job, flat, outcomes
from matplotlib.image import imread

from cl_bench.claims.judgement import Verdict
from cl_bench.compute.process import descendants
from cl_bench.compute.record import load_record
from cl_bench.compute.runner import compute
from cl_bench.methods.registry import Registry

ESCAPE = "\x1b"

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.usefixtures("as_in_a_shell")

ESCAPE = "\x1b"


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


@pytest.mark.slow
def test_interrupted_then_killed_beside_another_the_job_completes(tmp_path: Path) -> None:
    job = Job(tmp_path, optimiser__epochs=12)

    def count() -> int:
        return len(list((job.root / "runs").glob("*/evals/detection-*.json")))

    interrupted = job.fork("--jobs=1")
    try:
        until(count, 60, "the first encoder is there")
        workers = descendants(interrupted.pid)
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
        workers = descendants(killed.pid)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        until(lambda: not any(map(alive, workers)), 5, "its workers end")
        assert survivor.wait(90) in (0, 1)
    finally:
        killed.stop()
        survivor.stop()
    assert "4 of 4 runs complete" in job.summary
    assert (job.report / "claims.json").exists()
    # An encoder counts from its status on, which is written last: it may have been stopped between the two.
    complete = {path.parent for path in map(Path, done) if path.name == "status.json"}
    kept = {k: v for k, v in done.items() if "spec" not in k and complete & set(Path(k).parents)}
    after = trained(job.root)
    assert len(kept) > 2
    assert {k: v for k, v in after.items() if k in kept} == kept
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
