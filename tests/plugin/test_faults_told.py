"""Faults that a person meets at the terminal: each is one plain line there, before anything trains."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import re
import shutil
from pathlib import Path

import pytest
from helpers import in_full, trained
from jobs import Job, flat, outcomes

from cl_bench.compute.local import ComputationError, LocalEngine
from cl_bench.compute.record import load_record
from cl_bench.spec import RunSpec
from cl_bench.spec.records import Record
from cl_bench.store import Run

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.usefixtures("as_in_a_shell")

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")
EVIL = "\x1b[2J\x1b]0;title\x07red\x9b31m \u202eback"
PLAIN = r"\x1b[2J\x1b]0;title\x07red\x9b31m \u202eback"


def refused(job: Job, *options: str) -> str:
    """Return what pytest says of a usage error, which is one line."""
    result = job.run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = result.stderr.str() + result.stdout.str()
    assert "Traceback" not in text and "INTERNALERROR" not in text
    return text


def line_with(said: str, text: str) -> str:
    (line,) = [line for line in text.splitlines() if said in line]
    return line


# ---- options


@pytest.mark.parametrize("value", ["soon", "0s", "-1h", "3600", ""])
def test_a_timeout_that_is_no_time(job: Job, value: str) -> None:
    text = refused(job, f"--timeout-per-encoder={value}")
    assert line_with("--timeout-per-encoder takes hours, minutes and seconds, as 90s", text).endswith(f"got '{value}'")
    assert not job.root.exists()


@pytest.mark.parametrize(
    ("options", "seconds"),
    [([], math.inf), (["--timeout-per-encoder=1h30m"], 5400), (["--cl-timeout-per-encoder", "90s"], 90)],
)
def test_a_timeout_reaches_the_engine(
    job: Job, monkeypatch: pytest.MonkeyPatch, options: list[str], seconds: float
) -> None:
    job.plant()
    spec = job.specs()[0]
    shutil.rmtree(job.store.run(spec.pretrain.key).path)
    seen = []

    def one(engine: LocalEngine, *_: object) -> ComputationError:
        seen.append(engine.timeout)
        return ComputationError(f"{spec.case}: not done")

    monkeypatch.setattr(LocalEngine, "_one", one)
    assert job.run("--jobs=1", *options).ret == 1
    assert seen == [seconds]


@pytest.mark.parametrize("value", [f"{10**22}", "0:10000000000"])
def test_a_number_of_seeds_beyond_all_bounds_is_refused_at_once(job: Job, value: str) -> None:
    assert line_with("--seeds takes at most 1,000 seeds", refused(job, f"--seeds={value}")).endswith(f"got '{value}'")
    assert "random_inits: Input should be less than" in refused(job, f"--set=random_inits={10**22}")


# ---- control characters


def evil_method(job: Job, text: str) -> str:
    (job.folder / "evil.py").write_text(f"from cl_bench import Match, matching\n{text}\n")
    return f"--method={job.folder / 'evil.py'}"


@pytest.mark.parametrize(
    "body",
    [
        f"raise RuntimeError({EVIL!r})",
        f"@matching({EVIL!r})\ndef f(views): return Match.identity(views)",
        f"@matching('fine')\ndef f(views, *, option={EVIL!r} + chr(0xd800), other=()): return Match.identity(views)",
    ],
)
def test_a_plugin_that_does_not_load_does_not_steer_the_terminal(job: Job, body: str) -> None:
    text = refused(job, evil_method(job, body))
    assert "evil.py" in text
    assert not CONTROL.search(text)


def test_nor_does_its_description(job: Job) -> None:
    method = f"@matching('fine')\ndef f(views, *, option={EVIL!r}):\n    {EVIL!r}\n    return Match.identity(views)"
    file = evil_method(job, method)
    (job.folder / "evil.py").write_text(f"{EVIL!r}\n" + (job.folder / "evil.py").read_text())
    result = job.run(file, "--list-methods")
    assert result.ret == 0 and "fine" in result.stdout.str()
    assert not CONTROL.search(result.stdout.str())


def test_nor_does_what_it_raises(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the line of progress, the test's failure, the claim's, and the short summary."""
    job.plant()
    gone = job.specs()[0]
    shutil.rmtree(job.store.run(gone.pretrain.key).path)
    monkeypatch.setattr(LocalEngine, "_one", lambda *_: ComputationError(f"{gone.case}: RuntimeError: {EVIL}"))
    result = job.run("--jobs=1", "-rA", "-vv")
    assert outcomes(result) == {"passed": 3, "failed": 3}
    assert flat(result).count(PLAIN) >= 4
    assert not CONTROL.search(result.stdout.str() + result.stderr.str())


def test_nor_does_a_name_that_is_typed(job: Job) -> None:
    for option in ("--method", "--profile", "--predictor", "--device", "--seeds", "--set"):
        assert not CONTROL.search(refused(job, f"{option}={EVIL}")), option


# ---- the store


def test_a_run_that_is_a_link_to_itself_is_set_aside_and_computed_again(job: Job) -> None:
    job.plant()
    spec = job.specs()[0]
    path = job.store.run(spec.pretrain.key).path
    shutil.rmtree(path)
    path.symlink_to(path.name)
    result = job.run("--plan")
    assert result.ret == 0
    assert "1 encoders to compute" in flat(result)
    assert "too many levels of symbolic links; set aside" in flat(result)
    assert not path.is_symlink()


def test_a_store_that_is_a_link_to_itself_is_refused(job: Job) -> None:
    job.root.symlink_to(job.root.name)
    assert re.search(r"--store .*: (Too many levels of symbolic links|File exists)", refused(job))


@pytest.mark.parametrize("option", ["--plan", "--rerun=all", "--rerun=missing"])
def test_a_record_that_may_not_be_read_is_named(job: Job, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    job.plant()
    before = trained(job.root)

    def forbidden(run: Run, name: str, *_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(run.path / name))

    monkeypatch.setattr(Run, "content", forbidden)
    assert line_with("status.json: Permission denied", refused(job, option))
    assert trained(job.root) == before


def test_a_file_system_without_locks_is_said_before_anything_trains(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that are there already are judged."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    job.plant()
    assert outcomes(job.run()) == {"passed": 6}
    shutil.rmtree(job.store.run(job.specs()[0].pretrain.key).path)
    said = line_with("its file system has no locks (flock: Function not implemented)", refused(job, "--jobs=1"))
    assert str(job.root) in said and "local disk" in said


def test_a_clock_that_jumps_changes_nothing(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the future, or of 1970, are what their content says; two set aside at one moment are both kept."""
    job.plant()
    for n, file in enumerate(sorted((job.root / "runs").rglob("*.json"))):
        os.utime(file, (n % 2 * 4e9, n % 2 * 4e9))
    first: list[Record | None] = [load_record(spec, job.store) for spec in job.specs()]
    assert None not in first
    for n in (3, 1):
        monkeypatch.setattr("cl_bench.store.time.time_ns", lambda n=n: n * 10**18)
        assert outcomes(job.run()) == {"passed": 6}
        damaged = spoil(job, job.specs()[n])
        assert f"{damaged.name}: not a whole record; set aside" in flat(job.run("--plan"))
        damaged.write_bytes(b"garbage")
        assert f"{damaged.name}: not a whole record; set aside" in flat(job.run("--plan"))
        job.plant()
    assert len(list((job.root / "set_aside").iterdir())) == 4
    assert in_full([load_record(spec, job.store) for spec in job.specs()]) == in_full(first)


def spoil(job: Job, spec: RunSpec) -> Path:
    path = job.store.run(spec.pretrain.key).path / "status.json"
    path.write_bytes(b"garbage")
    return path
