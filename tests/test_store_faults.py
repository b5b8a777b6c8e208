"""The store where the file system is not as it should be: links, files of other kinds, no locks, others' files."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cl_bench import store as store_module
from cl_bench.errors import SpecError
from cl_bench.store import LARGEST, Run, Store, StoreWarning, sealed

KEY = "a" * 64
NOBODY = 65534


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Store(tmp_path / "store").run(KEY)
    run.write("status", {"value": "old"})
    run.write("evals/linear", {"value": "old"})
    run.write_bytes("encoder.safetensors", b"weights")
    return run


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def two_links(path: Path) -> None:
    path.symlink_to(f"{path.name}-back")
    path.with_name(f"{path.name}-back").symlink_to(path.name)


@pytest.mark.parametrize("make", [loop, two_links, Path.mkdir, os.mkfifo])
@pytest.mark.parametrize("name", ["status.json", "evals/linear.json", "encoder.safetensors"])
def test_what_is_no_file_is_set_aside_and_written_again(run: Run, name: str, make: Callable[[Path], object]) -> None:
    """A pipe would be waited for without end."""
    (run.path / name).unlink()
    make(run.path / name)

    def read() -> object:
        stem, _, suffix = name.partition(".")
        return run.read(stem) if suffix == "json" else run.read_bytes(name, "0" * 64)

    with pytest.warns(StoreWarning, match=f"{name}: (not a file|too many levels of symbolic links); set aside as"):
        assert read() is None
    assert read() is None
    assert len(list((run.store.root / "set_aside").iterdir())) == 1
    run.write(name.partition(".")[0], {"value": "new"})
    assert run.read(name.partition(".")[0]) == {"value": "new"}


@pytest.mark.parametrize("make", [loop, two_links, Path.touch])
@pytest.mark.parametrize("of_evals", [False, True])
def test_a_folder_that_is_none_is_set_aside(run: Run, of_evals: bool, make: Callable[[Path], object]) -> None:
    folder = run.path / "evals" if of_evals else run.path
    folder.rename(run.store.root / "moved")
    make(folder)
    with pytest.warns(StoreWarning, match=rf"{folder.name}: (too many levels of symbolic links|not a directory); set"):
        assert run.read("evals/linear") is None
    run.write("evals/linear", {"value": "new"})
    assert run.read("evals/linear") == {"value": "new"}
    assert run.read("status") == ({"value": "old"} if of_evals else None)


def test_a_store_whose_runs_are_a_link_to_themselves_is_refused(run: Run) -> None:
    (run.store.root / "runs").rename(run.store.root / "moved")
    loop(run.store.root / "runs")
    for call in (lambda: run.read("status"), lambda: run.write("status", {}), lambda: Store(run.store.root)):
        with pytest.raises(OSError, match=r"symbolic links|File exists"):
            call()
    assert not (run.store.root / "set_aside").exists() or not list((run.store.root / "set_aside").iterdir())


# ---- large ones


def test_a_record_that_is_far_too_large_is_refused_by_its_size(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run.path / "status.json"
    os.truncate(path, 300_000_000)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("read"))
    with pytest.warns(StoreWarning, match=r"status\.json: 300,000,000 bytes are not a record; set aside"):
        assert run.read("status") is None


def test_so_is_one_that_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sealed({"x": "y" * LARGEST})
    assert len(whole) > LARGEST
    monkeypatch.setattr(json, "loads", lambda _: pytest.fail("parsed"))
    assert store_module.unsealed(whole) is None


def test_the_largest_is_read(run: Run) -> None:
    payload = {"x": "y" * (LARGEST - 300)}
    run.write("status", payload)
    assert LARGEST - 200 < (run.path / "status.json").stat().st_size <= LARGEST
    assert run.read("status") == payload


# ---- locks


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_in_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    run.store.check_locks()
    before = sorted(run.store.root.rglob("*"))
    monkeypatch.setattr(fcntl, "flock", no_locks)
    said = r"^{}: its file system has no locks \(flock: [^\n]+\), without [^\n]+; put the store on a local disk[^\n]+$"
    with pytest.raises(SpecError, match=said.format(run.store.root)):
        run.store.check_locks()
    assert sorted(run.store.root.rglob("*")) == before
    with pytest.raises(SpecError, match=said.format(run.path)), run.locked():
        pass


def test_what_a_killed_process_did_not_write_to_the_end_goes_with_the_next_lock(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise SystemExit  # before anything is put right, as by a signal

    before = sorted(run.path.rglob("*"))
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        patch.setattr(Path, "replace", killed)
        run.write("evals/linear", {"value": "new"})
    (left,) = run.path.glob("evals/.linear.json-*")
    with run.locked() as mine:
        assert mine and not left.exists()
        left.touch()
        with run.locked() as second:
            assert not second and left.exists(), "it is the holder's, who may be writing it"
    with run.locked():
        pass
    (run.path / "lock").unlink()
    assert sorted(run.path.rglob("*")) == before


@contextmanager
def as_nobody() -> Iterator[None]:
    """Have the rights of a user who owns nothing; who is not root already has no right to root's files."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_lock_of_another_user_is_an_error_that_names_it() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Store(Path(folder) / "store").run(KEY)
        run.write("status", {"value": "old"})
        lock = run.path / "lock"
        lock.touch()
        for place in (Path(folder), run.store.root, run.path.parent, run.path):
            place.chmod(0o777)
        lock.chmod(0o000)
        with as_nobody(), pytest.raises(PermissionError) as caught, run.locked():
            pass
        assert caught.value.filename == str(lock)
        assert run.read("status") == {"value": "old"}
        lock.chmod(0o644)
        with run.locked() as mine:
            assert mine
