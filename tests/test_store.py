"""The store under disk errors, garbage, rivals and kill -9."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from helpers import environment
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cl_bench.store import Run, Store, StoreWarning, sealed, write_atomically

KEY = "a" * 64
OLD, NEW = {"value": "old"}, {"value": "new" * 1000}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "a store")


@pytest.fixture
def run(store: Store) -> Run:
    return store.run(KEY)


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_what_was_written_is_read(run: Run, store: Store) -> None:
    payload = {"pi": 3.141592653589793, "tiny": 5e-324, "text": "é\n\0\ud800", "deep": [{"x": None}], "no": 1e999}
    run.write("evals/linear", payload)
    assert Store(store.root).run(KEY).read("evals/linear") == payload
    assert files(run.path) == ["evals/linear.json"]


def test_nothing_is_read_where_nothing_was_written(run: Run) -> None:
    assert run.read("status") is None
    assert run.read_bytes("encoder.safetensors", "0" * 64) is None
    assert not run.path.exists()


def test_a_relative_root_does_not_follow_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(Path("here"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.run(KEY).write("status", OLD)
    assert Store(tmp_path / "here").run(KEY).read("status") == OLD


@pytest.mark.parametrize("call", ["fsync", "replace", "fdopen"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    run: Run, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    run.write("status", OLD)

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(*((Path, "replace") if call == "replace" else (os, call)), fail)
        with pytest.raises(type(error)):
            run.write("status", NEW)
        with pytest.raises(type(error)):
            run.write_bytes("encoder.safetensors", b"weights")
    assert run.read("status") == OLD
    assert files(run.path) == ["status.json"]


def test_no_descriptor_is_lost_when_writing_fails(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write("status", OLD)
    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    for _ in range(20):
        with pytest.raises(OSError, match="broken"):
            run.write("status", NEW)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_cannot_be_encoded_leaves_the_old_file(run: Run) -> None:
    run.write("status", OLD)
    with pytest.raises(TypeError):
        run.write("status", {"value": object()})
    assert run.read("status") == OLD
    assert files(run.path) == ["status.json"]


def test_files_can_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    kept = os.umask(0o022)
    try:
        write_atomically(tmp_path / "file", b"x")
    finally:
        os.umask(kept)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def _whole(payload: object) -> bytes:
    own = {**payload, "record": f"{KEY}/status"} if isinstance(payload, dict) else payload
    return sealed(own)  # type: ignore[arg-type]


GARBAGE = {
    "empty": b"",
    "truncated": _whole(OLD)[:-10],
    "half": _whole(OLD)[: len(_whole(OLD)) // 2],
    "wrong hash": _whole(OLD).replace(b"old", b"odd"),
    "no hash": b'{"payload": {}}',
    "no payload": b'{"sha256": "x"}',
    "list": b"[1, 2]",
    "number": b"3",
    "null": b"null",
    "payload is a list": _whole([1, 2]),
    "payload is null": _whole(None),
    "binary": bytes(range(256)) * 20,
    "zeros": bytes(4096),
    "utf-16": "{}".encode("utf-16"),
    "lone surrogate": b'{"payload": {"x": "\\ud800"}, "sha256": "x"}',
    "long number": b'{"payload": {"x": ' + b"9" * 5000 + b'}, "sha256": "x"}',
    "deeply nested": b"[" * 200_000,
    "deeply nested payload": b'{"sha256": "x", "payload": ' + b'{"x":' * 20_000 + b"1" + b"}" * 20_001,
    "appended twice": _whole(OLD) * 2,
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_a_garbled_record_is_set_aside_with_a_warning(run: Run, store: Store, garbage: bytes) -> None:
    run.write("status", OLD)
    (run.path / "status.json").write_bytes(garbage)
    with pytest.warns(StoreWarning, match=r"status\.json.*set aside"):
        assert run.read("status") is None
    assert not (run.path / "status.json").exists()
    (kept,) = (store.root / "set_aside").iterdir()
    assert kept.read_bytes() == garbage
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run.read("status") is None
    run.write("status", NEW)
    assert run.read("status") == NEW


def test_two_garbled_ones_of_one_name_are_both_kept(run: Run, store: Store) -> None:
    for garbage in (b"1", b"2"):
        run.write("evals/linear", OLD)
        (run.path / "evals/linear.json").write_bytes(garbage)
        with pytest.warns(StoreWarning):
            run.read("evals/linear")
    assert sorted(p.read_bytes() for p in (store.root / "set_aside").iterdir()) == [b"1", b"2"]


def test_bytes_whose_hash_is_off_are_set_aside(run: Run, store: Store) -> None:
    digest = run.write_bytes("encoder.safetensors", b"weights")
    assert run.read_bytes("encoder.safetensors", digest) == b"weights"
    (run.path / "encoder.safetensors").write_bytes(b"weightz")
    with pytest.warns(StoreWarning, match="hash is off"):
        assert run.read_bytes("encoder.safetensors", digest) is None
    assert [p.read_bytes() for p in (store.root / "set_aside").iterdir()] == [b"weightz"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300) | JSON.map(lambda v: json.dumps(v).encode()) | JSON.map(_whole))
def test_no_bytes_in_a_record_can_crash_reading(run: Run, content: bytes) -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    (run.path / "status.json").write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = run.read("status")
    assert found is None or isinstance(found, dict)
    assert (found is None) == (len(caught) == 1) == (not (run.path / "status.json").exists())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=st.dictionaries(st.text(), JSON), place=st.integers(0), flip=st.integers(1, 255))
def test_one_changed_byte_never_changes_what_is_read(run: Run, payload: dict, place: int, flip: int) -> None:
    run.write("status", payload)
    path = run.path / "status.json"
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= flip
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = run.read("status")
    # NaN is not equal to itself; white space between tokens may change.
    assert found is None or json.dumps(found, sort_keys=True) == json.dumps(payload, sort_keys=True)


HOLD = """
import signal
import sys
from pathlib import Path
from cl_bench.store import Store
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit it ignored
with Store(Path(sys.argv[1])).run(sys.argv[2]).locked() as mine:
    print(mine, flush=True)
    sys.stdin.readline()
"""


def hold(store: Store) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(store.root), KEY]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment())
    return process


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, None])
def test_a_lock_excludes_others_and_dies_with_its_process(store: Store, run: Run, end: signal.Signals | None) -> None:
    with hold(store) as holder:
        assert answer(holder) == "True"
        with run.locked() as mine:
            assert not mine
        with store.run("b" * 64).locked() as other:
            assert other
        if end:
            holder.send_signal(end)
            holder.wait(10)
        else:
            holder.communicate("\n", timeout=10)
    with run.locked() as mine, hold(store) as second:
        assert mine
        assert answer(second) == "False"
        second.communicate("\n", timeout=10)


def test_a_lock_says_who_holds_it(store: Store, run: Run) -> None:
    assert run.holder == ""
    with run.locked():
        pass
    with hold(store) as holder:
        assert answer(holder) == "True"
        with run.locked() as mine:
            assert not mine
        whom, since = run.holder.split(" since ")
        assert whom == f"process {holder.pid} on {os.uname().nodename}"
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00:00", since)
        assert len((run.path / "lock").read_text().splitlines()) == 1
        holder.communicate("\n", timeout=10)


def test_a_lock_excludes_threads_and_is_given_back_after_an_error(run: Run) -> None:
    seen = []

    def other() -> None:
        with run.locked() as mine:
            seen.append(mine)

    with pytest.raises(ZeroDivisionError), run.locked() as mine:
        assert mine
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        raise ZeroDivisionError
    other()
    assert seen == [False, True]


WRITE = """
import sys
from pathlib import Path
from cl_bench.store import Store
run = Store(Path(sys.argv[1])).run(sys.argv[2])
sys.stdin.readline()
for i in range(150):
    run.write("status", {"who": sys.argv[3], "i": i, "padding": sys.argv[3] * 5000})
"""


def test_writers_at_once_never_leave_a_broken_record(store: Store, run: Run) -> None:
    command = [sys.executable, "-c", WRITE, str(store.root), KEY]
    writers = [subprocess.Popen([*command, who], stdin=subprocess.PIPE, env=environment()) for who in "xyz"]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.close()
    seen = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while any(w.poll() is None for w in writers):
            found = run.read("status")
            if found:
                assert found["padding"] == found["who"] * 5000
                seen.add(found["who"])
    assert [w.wait() for w in writers] == [0, 0, 0]
    assert len(seen) > 1, "they did not overlap: the test shows nothing"
    assert run.read("status")["i"] == 149  # type: ignore[index]
    assert files(run.path) == ["status.json"]


@pytest.mark.parametrize("missing", ["runs", "set_aside", "."])
def test_a_store_deleted_under_way_is_made_again(store: Store, run: Run, missing: str) -> None:
    run.write("status", OLD)
    shutil.rmtree(store.root / missing, ignore_errors=True)
    run.write("status", NEW)
    (run.path / "status.json").write_bytes(b"garbage")
    with pytest.warns(StoreWarning):
        assert run.read("status") is None


@pytest.mark.parametrize("name", ["x" * 200, "évalué", "a b", "..hidden"])
def test_odd_names(run: Run, name: str) -> None:
    run.write(name, OLD)
    assert run.read(name) == OLD


def test_a_store_where_a_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for root in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(OSError):
            Store(root)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_store_that_cannot_be_written(store: Store, run: Run) -> None:
    run.path.parent.rmdir()
    run.path.parent.write_text("in the way")  # root may write anywhere but through a file
    with pytest.raises(OSError):
        run.write("status", NEW)
    with pytest.raises(OSError), run.locked():
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_store_is_read_and_not_written(store: Store, run: Run) -> None:
    run.write("status", OLD)
    run.path.chmod(0o555)
    try:
        assert run.read("status") == OLD
        with pytest.raises(PermissionError):
            run.write("status", NEW)
    finally:
        run.path.chmod(0o755)
    assert run.read("status") == OLD


def test_git_ignores_a_store_but_not_what_was_there(tmp_path: Path) -> None:
    assert (Store(tmp_path / "new").root / ".gitignore").read_text() == "*\n"
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").write_text("")
    Store(tmp_path / "used")
    assert not (tmp_path / "used" / ".gitignore").exists(), "git would now ignore the user's own files"


@pytest.mark.parametrize("module", ["cl_bench.store", "cl_bench.spec", "cl_bench.spec.records", "cl_bench.report.plan"])
def test_the_store_needs_neither_torch_nor_pytest(module: str) -> None:
    code = f"import sys, {module}; sys.exit(', '.join({{'torch', 'pytest', '_pytest'}} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
