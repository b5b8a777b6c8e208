"""Plugins that fork: nothing hangs, no child answers for its parent, no process is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bench import Bench, start, within
from helpers import alive, until, workers

from cl_bench.compute.process import WorkerProcess, descendants
from cl_bench.compute.record import load_record
from cl_bench.forks import own
from cl_bench.spec import RunSpec
from cl_bench.spec.records import Record
from cl_bench.store import Store

PLUGINS = """
import ctypes, os, signal, sys, time
from pathlib import Path
from cl_bench import Match, matching

HERE = Path(__file__).parent

def note(name):
    (HERE / f"{name}-{os.getpid()}").touch()

def once():
    first = not (HERE / "once").exists()
    (HERE / "once").touch()
    return first

def fork(how=os.fork):
    # The parent goes on once its child has left its note: what ends the parent may end the child.
    child = how()
    if child == 0:
        note("child")
    else:
        end = time.monotonic() + 60
        while not (HERE / f"child-{child}").exists() and time.monotonic() < end:
            time.sleep(0.01)
    return child

@matching("fork_sleeps")
def sleeps(views):
    # A child that outlives the work, as a pool of processes that nobody closes.
    if once() and fork() == 0:
        time.sleep(600)
        os._exit(0)
    return Match.identity(views)

@matching("fork_slow")
def slow(views):
    if once() and fork() == 0:
        time.sleep(600)
        os._exit(0)
    time.sleep(0.1)
    return Match.identity(views)

@matching("fork_holds_the_pipe")
def holds(views):
    # A library's own fork, of which Python is not told: the child keeps every descriptor.
    if fork(ctypes.CDLL(None).fork) == 0:
        time.sleep(600)
    note("parent")
    os._exit(3)

@matching("fork_returns")
def returns(views):
    # Both go on: the child comes back into the program that forked it.
    if once():
        fork()
    return Match.identity(views)

@matching("fork_raises")
def raises(views):
    if once() and fork() == 0:
        raise RuntimeError("in the child alone")
    return Match.identity(views)

@matching("fork_exits")
def exits(views):
    if once() and fork() == 0:
        sys.exit(0)
    time.sleep(0.3)
    return Match.identity(views)

@matching("fork_lies")
def lies(views):
    # Written wherever there is something to write to, whole and in part.
    for fd in range(3, 64):
        for said in (b'{"event": "done"}\\n', b'{"event": "failed", "error": "a lie", "tag": ""}\\n', b'{"event": "bu'):
            try:
                os.write(fd, said)
            except OSError:
                pass
    return Match.identity(views)
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path, plugins=PLUGINS)
    yield found
    for pid in noted(found, "child"):
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def noted(bench: Bench, who: str) -> list[int]:
    return [int(file.name.partition("-")[2]) for file in bench.methods.glob(f"{who}-*")]


def asked(bench: Bench, name: str) -> tuple[object, float]:
    """Return the outcome of a spec, and the seconds that closing the engine took."""
    spec = bench.specs(name)[0]
    engine = bench.engine(jobs=1)
    try:
        found = within(240, lambda: engine.record(spec))
    finally:
        begun = time.monotonic()
        assert within(30, engine.close) is None
    return found, time.monotonic() - begun


# ---- with an engine


@pytest.mark.parametrize("name", ["fork_sleeps", "fork_returns", "fork_raises", "fork_exits", "fork_lies"])
@pytest.mark.slow
def test_a_plugin_that_forks_gets_its_record_and_leaves_nobody(bench: Bench, name: str) -> None:
    found, seconds = asked(bench, name)
    assert isinstance(found, Record), found
    assert found.status == "complete" and seconds < 10
    assert len(noted(bench, "child")) == (name != "fork_lies")
    until(lambda: not any(map(alive, noted(bench, "child"))), 10, "the child ends")
    assert not workers(descendants(os.getpid()))
    assert bench.notes.begun.total() == 1


def test_a_worker_whose_child_holds_its_pipe_is_found_dead_at_once(bench: Bench) -> None:
    """The process is checked, since the pipe stays open as long as the child runs."""
    spec = bench.specs("fork_holds_the_pipe")[0]
    engine = bench.engine(jobs=1)
    try:
        said = str(within(240, lambda: engine.record(spec)))
        (file,) = bench.methods.glob("parent-*")
        assert time.time() - file.stat().st_mtime < 20
        assert said.startswith(f"{spec.case}: its worker process ended (exit status 3)")
        until(lambda: not any(map(alive, noted(bench, "child"))), 10, "the child ends, the engine still being open")
    finally:
        engine.close()
    assert len(noted(bench, "child")) == 1


def test_the_child_ends_though_the_process_that_asks_is_killed(bench: Bench) -> None:
    specs = bench.specs("fork_slow", optimiser__epochs=200)
    process = start(bench, specs, jobs=1)
    try:
        until(lambda: noted(bench, "child"), 240, "it forks")
        process.kill()
        process.wait(10)
        until(lambda: not any(map(alive, noted(bench, "child"))), 20, "the child ends")
    finally:
        process.kill()
        process.communicate()
    until(lambda: free(bench, specs[0]), 20, "its worker ends, and with it the lock")
    assert load_record(specs[0], bench.store) is None


def free(bench: Bench, spec: RunSpec) -> bool:
    with bench.store.run(spec.pretrain.key).locked() as mine:
        return mine


# ---- a worker process by itself


def worker(monkeypatch: pytest.MonkeyPatch, code: str) -> WorkerProcess:
    """Start a worker process that runs other code."""
    real = subprocess.Popen

    def popen(command: list[str], **more: object) -> subprocess.Popen[bytes]:
        return real([sys.executable, "-c", code], **more)  # type: ignore[call-overload,no-any-return]

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", popen)
        return WorkerProcess("cpu", tempfile.TemporaryFile("w+"))  # type: ignore[arg-type]


def test_lines_come_whole_and_end_with_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import os, time\n"
        "for part in (b'on', b'e\\ntwo\\nthr', b'ee\\n', b'x' * 200_000 + b'\\n', b'half'):\n"
        "    os.write(1, part); time.sleep(.05)\n"
    )
    process = worker(monkeypatch, code)
    assert list(process.lines()) == ["one", "two", "three", "x" * 200_000]
    assert process.stop() == 0
    process.close()


def test_what_was_said_before_the_end_is_read_though_a_child_holds_the_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, time\nif os.fork() == 0: time.sleep(600)\nos.write(1, b'last words\\n')\nos._exit(7)"
    process = worker(monkeypatch, code)
    assert within(60, lambda: list(process.lines())) == ["last words"]
    assert process.stop() == 7
    with pytest.raises(ProcessLookupError):  # a zombie is reaped by whoever took it over
        until(lambda: os.killpg(process.pid, 0), 20)
    process.close()


def test_one_that_closes_its_pipe_and_lives_on_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cl_bench.compute.process.GRACE", 0.2)
    process = worker(monkeypatch, "import os, time\nos.close(1)\ntime.sleep(600)")
    assert within(60, lambda: list(process.lines())) == []
    assert within(10, process.stop) == -signal.SIGKILL
    process.close()


@pytest.mark.parametrize("end", ["by stop", "by itself"])
def test_a_child_that_leaves_the_group_is_ended_too(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    code = (
        "import os, time\nfrom cl_bench.compute.worker import _leave\n"
        "def say(): os.write(1, b'%d\\n' % os.getpid())\n"
        "if os.fork() == 0:\n    os.setsid(); say()\n    if os.fork() == 0: os.setsid(); say()\n    time.sleep(600)\n"
        f"time.sleep(600) if {end == 'by stop'} else input(), _leave()\n"
    )
    process = worker(monkeypatch, code)
    pids = [int(line) for _, line in zip(range(2), process.lines(), strict=False)]
    try:
        if end == "by stop":
            process.stop()
        else:
            process.send({})
        until(lambda: not any(map(alive, (process.pid, *pids))), 20, "all end")
    finally:
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)
        process.stop()
        process.close()


def test_a_group_is_ended_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later its number may belong to another group."""
    process = worker(monkeypatch, "")
    until(lambda: process.poll() is not None, 60, "it ends")
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("killed again"))
    assert (process.poll(), process.stop(), process.stop()) == (0, 0, 0)
    process.send({"to": "nobody"})
    process.close()
    process.close()


# ---- descriptors


@contextmanager
def forked(code: Callable[[], object]) -> Iterator[int]:
    """Fork a child that runs ``code`` and then waits to be killed."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            code()
            os.write(told, b"x")
            time.sleep(600)
        finally:
            os._exit(1)
    os.close(told)
    try:
        assert os.read(ready, 1) == b"x"
        os.close(ready)
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_pipe_ends_with_the_process_that_owns_it() -> None:
    end, said = os.pipe()
    with own(said), forked(lambda: os.write(said, b"into nowhere")):
        os.write(said, b"mine")
        os.close(said)
        assert (os.read(end, 100), os.read(end, 100)) == (b"mine", b"")
    os.close(end)


def test_other_descriptors_are_a_childs_as_ever(tmp_path: Path) -> None:
    end, said = os.pipe()
    with own(os.open(tmp_path, os.O_RDONLY)):
        pass
    with forked(lambda: os.write(said, b"heard")):
        assert os.read(end, 100) == b"heard"


def test_a_lock_is_its_processs_alone(tmp_path: Path) -> None:
    """It is free once the process leaves, whether a child lives on, and held though a child leaves."""
    run = Store(tmp_path).run("0" * 64)
    entered = run.locked()
    assert entered.__enter__()
    try:
        with forked(lambda: entered.__exit__(None, None, None)):
            with run.locked() as second:
                assert not second, "the child gave it back"
            entered.__exit__(None, None, None)
            with run.locked() as second:
                assert second, "the child holds it"
    finally:
        entered.__exit__(None, None, None)
