"""Workers that loop for ever, print without end or speak in control characters; others' locks."""

from __future__ import annotations

import errno
import math
import os
import re
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from bench import Bench, within
from helpers import alive, plant, until, workers

from cl_bench.compute import local, output
from cl_bench.compute.local import ComputationError
from cl_bench.compute.output import HEAD, TAIL, output_to, trim
from cl_bench.compute.process import WorkerProcess, descendants, last_line
from cl_bench.compute.record import load_record
from cl_bench.compute.worker import _one_line
from cl_bench.errors import Diverged, MethodError, SpecError, first_line
from cl_bench.spec import RunSpec
from cl_bench.spec.records import Record
from cl_bench.store import Run, Store

LINE = len(output._line(0))
EVIL = "\x1b[2Jboom\x07 \x9b31m\u202e\ud800"
PLAIN = r"\x1b[2Jboom\x07 \x9b31m\u202e\ud800"
PLUGINS = """
import os, time
from pathlib import Path
from cl_bench import Match, matching

HERE = Path(__file__).parent

@matching("fault_loops")
def loops(views):
    # Deaf to every signal that can be ignored, as is its child.
    import signal
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    child = os.fork()
    (HERE / f"child-{os.getpid()}").touch()
    (HERE / "loops").touch()
    while True:
        pass

@matching("fault_curses")
def curses(views):
    os.write(1, b"first words\\n" + b"a line of forty characters, newline too\\n" * 200_000)
    raise RuntimeError("\\x1b[2Jboom\\x07 \\x9b31m\\u202e\\ud800")
"""


# ---- one that never ends


@pytest.mark.slow
def test_one_that_loops_for_ever_is_ended_with_its_children_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is over once the plugin loops, so that the test depends on no clock."""
    bench, limits = Bench(tmp_path, plugins=PLUGINS), []

    class Timer(threading.Timer):
        def run(self) -> None:
            limits.append(self.interval)
            while not self.finished.wait(0.05):
                if (bench.methods / "loops").exists() and len(list(bench.methods.glob("child-*"))) == 2:
                    (bench.methods / "loops").unlink()
                    self.function()
                    return

    monkeypatch.setattr(threading, "Timer", Timer)
    first, last = bench.specs("dense_index")[:2]
    stuck = bench.specs("fault_loops")[0]
    engine = bench.engine(jobs=1, timeout=7200)
    try:
        engine.submit([first, stuck, last])
        found = [within(120, lambda: engine.record(spec)) for spec in (first, stuck, last)]  # noqa: B023
        pids = [int(path.name.partition("-")[2]) for path in bench.methods.glob("child-*")]
        until(lambda: not any(map(alive, pids)), 10, "it ends, and its child")
    finally:
        engine.close()
    assert [type(outcome) for outcome in found] == [Record, ComputationError, Record], found
    said = f"{stuck.case}: not done within 7,200 s (--timeout-per-encoder); its worker process was ended"
    assert str(found[1]) == bench.notes.ended[stuck.case] == said
    assert limits == [7200.0] * 3
    assert len(pids) == 2
    assert not workers(descendants(os.getpid()))


def sleeper(monkeypatch: pytest.MonkeyPatch) -> WorkerProcess:
    """Start a worker process that only sleeps."""
    real = subprocess.Popen
    code = "import time; print('asleep', flush=True); time.sleep(600)"
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", lambda _, **more: real([sys.executable, "-c", code], **more))
        return WorkerProcess("cpu", tempfile.TemporaryFile("w+"))  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [0.3, 1e9, math.inf])
def test_a_process_is_ended_after_the_time_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    engine = Bench(tmp_path).engine(jobs=1)
    process = sleeper(monkeypatch)
    try:
        with engine._limited(process, seconds) as late:
            lines = process.lines()
            assert within(60, lambda: next(lines)) == "asleep"
            if seconds < 1:
                assert within(60, lambda: list(lines)) == []
        assert late.is_set() == (seconds < 1)
        assert (process.poll() is None) == (seconds > 1)
    finally:
        process.stop()
        process.close()


# ---- one that prints without end


def cut(content: bytes) -> tuple[bytes, int, bytes]:
    """Return head, number of bytes that are left out, and tail."""
    found = re.fullmatch(rb"(.*)\n\[ *([\d,]+) bytes are left out here\]\n(.*)", content, re.DOTALL)
    assert found, content[HEAD - 50 : HEAD + 100]
    return found[1], int(found[2].replace(b",", b"")), found[3]


@pytest.mark.parametrize("pieces", [[5_000_000], [900_000, 900_000], [1_100_000] + [700_000] * 9, [3_000_000] * 4])
def test_head_and_tail_are_kept_and_what_is_between_is_counted(tmp_path: Path, pieces: list[int]) -> None:
    everything = b"".join(b"%09d\n" % n for n in range(sum(pieces) // 10))
    done = 0
    for piece in pieces:
        with (tmp_path / "file").open("ab") as file:
            file.write(everything[done : done + piece])
        done += piece
        with (tmp_path / "file").open("r+b") as file:
            trim(file.fileno())
            trim(file.fileno())
    content = (tmp_path / "file").read_bytes()
    head, left_out, tail = cut(content)
    assert len(content) == HEAD + LINE + TAIL
    assert (head, tail) == (everything[:HEAD], everything[-TAIL:])
    assert left_out == len(everything) - HEAD - TAIL


def test_what_fits_stays_as_it_is(tmp_path: Path) -> None:
    content = os.urandom(HEAD + TAIL)
    (tmp_path / "file").write_bytes(content)
    with (tmp_path / "file").open("r+b") as file:
        trim(file.fileno())
    assert (tmp_path / "file").read_bytes() == content


def test_what_is_appended_while_it_is_cut_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real, said = tmp_path / "file", os.pread, [b"one more\n", b"another\n"]
    path.write_bytes(b"x" * 3 * (HEAD + TAIL))

    def slow(*asked: int) -> bytes:
        found = real(*asked)
        with path.open("ab") as others:
            others.write(said.pop(0) if said else b"")
        return found

    monkeypatch.setattr(os, "pread", slow)
    with path.open("r+b") as file:
        trim(file.fileno())
    _, left_out, tail = cut(path.read_bytes())
    assert tail == b"x" * TAIL + b"one more\nanother\n"
    assert left_out == 3 * (HEAD + TAIL) - HEAD - TAIL


@pytest.mark.parametrize("call", ["pread", "pwrite", "ftruncate"])
def test_a_kill_while_it_is_cut_leaves_head_and_tail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"head\n" + b"x" * 3 * (HEAD + TAIL) + b"tail\n")
    real, calls = getattr(os, call), []

    def killed(*given: object) -> object:
        calls.append(given)
        if len(calls) > (call != "ftruncate"):
            raise SystemExit
        return real(*given)

    monkeypatch.setattr(os, call, killed)
    with path.open("r+b") as file, pytest.raises(SystemExit):
        trim(file.fileno())
    content = path.read_bytes()
    assert content.startswith(b"head\nx") and content.endswith(b"xtail\n")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Store(tmp_path / "store").run("a" * 64)
    run.path.mkdir()
    return run


def test_a_flood_is_cut_while_it_runs_and_nothing_waits_for_a_reader(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    path = run.path / "output.txt"
    with capfd.disabled(), output_to(run):
        kinds = [stat.S_ISREG(os.fstat(fd).st_mode) for fd in (1, 2)]  # a pipe would be full one day
        for _ in range(20):
            os.write(1, b"first to last\n" * 100_000)
        until(lambda: path.stat().st_size <= HEAD + LINE + TAIL, 30, "it is cut while the context lasts")
        os.system("echo from a child")
        os.write(2, b"last words\n")
    assert kinds == [True, True]
    head, left_out, tail = cut(path.read_bytes())
    assert len(head) == HEAD and len(tail) <= TAIL + 100
    assert 0 < left_out <= 20 * 1_400_000
    assert tail.endswith(b"first to last\nfrom a child\nlast words\n")
    before = left_out
    with capfd.disabled(), output_to(run):  # the next process goes on, and counts on
        os.write(1, b"x" * TAIL + b"\nthe end\n")
    head, left_out, tail = cut(path.read_bytes())
    assert (len(head), len(tail)) == (HEAD, TAIL)
    assert tail.endswith(b"x\nthe end\n") and before < left_out < before + 2 * TAIL
    assert not [t for t in threading.enumerate() if "_trim" in t.name]


@pytest.mark.parametrize("call", ["ftruncate", "pread"])
def test_a_disk_that_fails_while_it_is_cut_disturbs_nobody(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], call: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    with capfd.disabled(), output_to(run):
        monkeypatch.setattr(os, call, fail)
        os.write(1, b"x" * 2 * (HEAD + TAIL))
        time.sleep(2 * output.EVERY)
        monkeypatch.undo()
    assert cut((run.path / "output.txt").read_bytes())[2] == b"x" * TAIL


# ---- one that steers the terminal


@pytest.mark.parametrize("kind", [ComputationError, MethodError, SpecError, Diverged])
def test_control_characters_are_written_out(kind: type[Exception]) -> None:
    assert str(kind(f"one\n{EVIL}")) == f"one\n{PLAIN}"
    assert str(kind("näïve 中文 – fine")) == "näïve 中文 – fine"


def test_an_error_s_first_line_is_plain_and_ends() -> None:
    assert first_line(RuntimeError(f"\n{EVIL}\nmore")) == f"RuntimeError: {PLAIN}"
    assert len(first_line(RuntimeError("x" * 10**7))) < 2100
    assert first_line(RuntimeError()) == "RuntimeError"


def test_so_is_what_a_worker_says_of_an_error(tmp_path: Path) -> None:
    log = tmp_path / "output.txt"
    assert _one_line(RuntimeError(EVIL), log) == f"RuntimeError: {PLAIN} (traceback in {log})"
    assert r"RuntimeError: " in log.read_text() and r"\ud800" in log.read_text()
    assert _one_line(MethodError(EVIL), log) == PLAIN
    assert _one_line(SpecError("one line"), log) == "one line"
    assert len(_one_line(RuntimeError("x" * 10**7), log)) < 2300
    assert log.stat().st_size == HEAD + LINE + TAIL


def test_so_are_the_last_words_of_a_process_however_long() -> None:
    with tempfile.TemporaryFile("w+") as errors:
        assert last_line(errors) == ""
        errors.write("first\n" * 500_000 + "\x1b[31mlast\n\n")
        assert last_line(errors) == r"\x1b[31mlast"


@pytest.mark.slow
def test_a_worker_that_prints_and_curses(tmp_path: Path) -> None:
    bench = Bench(tmp_path, plugins=PLUGINS)
    spec = bench.specs("fault_curses")[0]
    engine = bench.engine(jobs=1)
    try:
        said = str(within(60, lambda: engine.record(spec)))
    finally:
        engine.close()
    assert said.endswith(f"RuntimeError: {PLAIN}") and "\n" not in said
    content = (bench.store.run(spec.pretrain.key).path / "output.txt").read_bytes()
    assert HEAD < len(content) <= HEAD + LINE + TAIL
    head, left_out, _ = cut(content)
    assert head.startswith(b"first words\n") and left_out > 6_000_000


# ---- a message that breaks off


def test_a_worker_whose_asker_ends_within_a_message_ends(tmp_path: Path) -> None:
    with tempfile.TemporaryFile("w+") as errors:
        process = WorkerProcess("cpu", errors)
        process.send({"store": str(tmp_path / "store"), "path": [], "data_root": None, "device": "cpu"})
        pipe = process._process.stdin
        assert pipe is not None
        pipe.write(b'{"spec": {')
        pipe.close()
        try:
            until(lambda: process.poll() is not None, 60, "it ends")
        finally:
            process.stop()


# ---- others' locks


def test_a_lock_of_another_user_fails_that_encoder_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    spec = bench.specs("dense_index")[0]
    path = bench.store.run(spec.pretrain.key).path / "lock"
    real = Path.open

    def forbidden(self: Path, *more: object, **others: object) -> object:
        if self == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(self, *more, **others)  # type: ignore[arg-type,call-overload]

    monkeypatch.setattr(Path, "open", forbidden)
    engine = bench.engine(jobs=1)
    try:
        outcome = within(30, lambda: engine.record(spec))
    finally:
        engine.close()
    assert isinstance(outcome, ComputationError)
    assert str(outcome) == f"{spec.case}: PermissionError: [Errno 13] Permission denied: '{path}'"
    assert bench.notes.begun.total() == 0, "no worker is started for it"


def test_who_holds_a_run_that_is_long_waited_for_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    spec, looks = bench.specs("dense_index")[0], []

    def look(spec: RunSpec, store: Store) -> Record | None:
        looks.append(spec)
        return load_record(spec, store)

    monkeypatch.setattr(local, "POLL", 0.01)
    monkeypatch.setattr(local, "load_record", look)
    engine, run = bench.engine(jobs=1), bench.store.run(spec.pretrain.key)
    waiting = threading.Thread(target=lambda: engine.record(spec), daemon=True)
    with run.locked():
        waiting.start()
        until(lambda: len(looks) > 5)
        assert bench.notes.waited == [], "two processes that share the work often wait for a moment"
        monkeypatch.setattr(local, "LONG", 0.0)
        until(lambda: bench.notes.waited)
        before = len(looks)
        until(lambda: len(looks) > before + 5)
        assert bench.notes.waited == [(spec.case, run.holder)]
        plant(bench.store, spec)
    waiting.join(30)
    engine.close()
    assert engine.has(spec) and not bench.notes.begun
