"""Store of runs, one directory each; files are written atomically, so they are complete or absent.

``<root>/runs/<key>/`` holds ``spec.json``, ``specs/<key>.json`` (what was asked for, evaluations too), ``status.json``,
``history.jsonl``, ``encoder.safetensors``, ``output.txt`` (what the plugin printed), ``evals/<key>.json``, ``lock``
(which says who computes it) and, while training, ``checkpoint.pt``. JSON records and the checkpoint carry the hash of
their payload, and in it which record of which run they are.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import secrets
import stat
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cl_bench.errors import SpecError, first_line_of
from cl_bench.forks import own

LARGEST = 2**24
"""Most bytes of a JSON record, a thousand times what any has; more is damage, and not parsed."""
_IN_THE_WAY = errno.ELOOP, errno.ENOTDIR
_NO_LOCKS = errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL


class StoreWarning(UserWarning):
    """Warning about a file in the store that was damaged and has been set aside."""


class Store:
    """A directory of runs.

    Raises:
        OSError: If the directory cannot be made or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        mine = not self.root.exists() or not any(self.root.iterdir())  # git must not ignore others' files
        (self.root / "runs").mkdir(parents=True, exist_ok=True)
        if mine:
            write_atomically(self.root / ".gitignore", b"*\n")

    def run(self, key: str) -> Run:
        """Return the run of that key, which need not exist in the store yet."""
        return Run(self, key)

    def check_locks(self) -> None:
        """Refuse a store that runs cannot be locked in.

        Raises:
            SpecError: Its file system has no locks.
            OSError: It cannot be written.
        """
        with tempfile.TemporaryFile(dir=self.root) as file:
            _lock(file.fileno(), self.root, wait=False)

    def set_aside(self, path: Path, why: str) -> None:
        """Move a damaged file out of the way, with a warning; its content is then computed again."""
        set_aside(path, self.root / "runs", self.root / "set_aside", why)


class Run:
    """The files of one run."""

    def __init__(self, store: Store, key: str) -> None:
        self.store = store
        self.key = key
        self.path = store.root / "runs" / key[:32]

    def read(self, name: str, complaint: Callable[[dict[str, Any]], str] = lambda _: "") -> dict[str, Any] | None:
        """Return the payload of a JSON record, or None if there is none.

        A record that is damaged, belongs to another run, or has a ``complaint`` is set aside and counts as absent.
        """
        content = self.content(f"{name}.json", LARGEST)
        if content is None:
            return None
        payload = unsealed(content)
        if payload is None:
            wrong = "not a whole record"
        elif payload.pop("record", None) != self.identity(name):
            wrong = "not the record of this run"
        else:
            wrong = complaint(payload)
        if wrong:
            self.store.set_aside(self.path / f"{name}.json", wrong)
            return None
        return payload

    def content(self, name: str, most: float = math.inf) -> bytes | None:
        """Return the bytes of a file; None if there is none, or if it is set aside.

        That happens to anything but a file of at most ``most`` bytes, and to what stands in the way of one, such as a
        link that leads to itself.
        """
        path = self.path / name
        try:
            found = path.stat()
            if stat.S_ISREG(found.st_mode) and found.st_size <= most:
                return path.read_bytes()
            wrong = f"{found.st_size:,} bytes are not a record" if stat.S_ISREG(found.st_mode) else "not a file"
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in _IN_THE_WAY:
                raise
            wrong = os.strerror(error.errno).lower()
        self.store.set_aside(path, wrong)
        return None

    def write(self, name: str, payload: dict[str, Any]) -> None:
        """Write a JSON record atomically: all of it or, on an error, nothing."""
        write_atomically(self.path / f"{name}.json", sealed({**payload, "record": self.identity(name)}))

    def identity(self, name: str) -> str:
        """Return the identity of a record, its run and name, which is sealed with the payload."""
        return f"{self.key}/{name}"

    def write_bytes(self, name: str, content: bytes) -> str:
        """Write a file atomically and return its sha256."""
        write_atomically(self.path / name, content)
        return hashlib.sha256(content).hexdigest()

    def read_bytes(self, name: str, sha256: str) -> bytes | None:
        """Read a file with a known hash; None if it does not exist or its hash differs (then it is set aside)."""
        content = self.content(name)
        if content is not None and hashlib.sha256(content).hexdigest() != sha256:
            self.store.set_aside(self.path / name, "hash is off")
            return None
        return content

    def set_aside(self) -> bool:
        """Move all files of this run into ``set_aside``; return False if another process holds the run."""
        with self.locked() as mine:
            if not mine:
                return False
            kept = self.store.root / "set_aside" / f"{self.path.name}-{_moment()}"
            kept.mkdir(parents=True)
            # The status first: without it the run counts as untrained, even if this is interrupted.
            for path in sorted(self.path.iterdir(), key=lambda path: path.name != "status.json"):
                if path.name != "lock":
                    path.rename(kept / path.name)
        return True

    @property
    def holder(self) -> str:
        """Process that holds this run, if one does, with its machine and since when; empty if that is not known."""
        try:
            with (self.path / "lock").open(errors="replace") as file:
                return first_line_of(file.readline(200))
        except OSError:
            return ""

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Lock this run; yield False at once if another process holds it. The lock ends with the process.

        Whoever holds it removes what a killed process had not written to the end.
        """
        with locked(self.path) as mine:
            for path in self.path.rglob(f".*-{'?' * 8}") if mine else ():
                path.unlink(missing_ok=True)
            yield mine


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Lock a directory; if another process holds it, yield False at once, or wait. The lock ends with the process.

    The file says who holds it, or held it last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("ab") as file:
        if not _lock(file.fileno(), folder, wait):
            yield False
            return
        since = datetime.now(UTC).isoformat(" ", "seconds")
        with suppress(OSError):  # a full disk is no reason not to hold it
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {os.uname().nodename} since {since}\n".encode())
        with own(file.fileno()):
            yield True


def _lock(file: int, folder: Path, wait: bool) -> bool:
    """Lock an open file of a folder; False if another process holds it.

    The lock must end with its process, however that ends. Of all locks only the kernel's do; a library falls back to
    files that mark a lock, and stay after a kill.

    Raises:
        SpecError: The file system has no such locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise SpecError(
            f"{folder}: its file system has no locks (flock: {os.strerror(error.errno)}), without which two processes "
            "would train the same encoder; put the store on a local disk, or mount this file system with locks"
        ) from None
    return True


def set_aside(path: Path, within: Path, folder: Path, why: str) -> None:
    """Move a file into ``folder``, under a name made from its path ``within`` a directory, and warn about it.

    Where a directory on the way to it is none, that is moved.
    """
    kept = folder / f"{path.relative_to(within)}-{_moment()}".replace(os.sep, "-")
    kept.parent.mkdir(exist_ok=True)
    try:
        path.rename(kept)
    except FileNotFoundError:  # another process was faster
        return
    except OSError as error:
        if error.errno not in _IN_THE_WAY or path.parent == within:
            raise
        set_aside(path.parent, within, folder, why)
        return
    warnings.warn(f"{path}: {why}; set aside as {kept}, to be computed again", StoreWarning, stacklevel=4)


def _moment() -> str:
    """Return the time, and what tells it from any other call, though the clock be set back."""
    return f"{time.time_ns()}-{secrets.token_hex(4)}"


def sealed(payload: dict[str, Any]) -> bytes:
    """Return a JSON record with the hash of its payload."""
    return json.dumps({"payload": payload, "sha256": digest(payload)}, indent=1, sort_keys=True).encode()


def unsealed(content: bytes, fields: Iterable[str] = ()) -> dict[str, Any] | None:
    """Return the payload of a JSON record, or None if it is damaged, too large or lacks a field."""
    if len(content) > LARGEST:
        return None
    try:
        outer = json.loads(content)
        payload: dict[str, Any] = outer["payload"]
        intact = outer["sha256"] == digest(payload) and isinstance(payload, dict) and set(fields) <= set(payload)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return payload if intact else None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file by a temporary name, fsync and rename, so that it is always the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        os.fchmod(handle, 0o666 & ~_umask())
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def digest(payload: Any) -> str:
    """Return the sha256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()
