"""A worker process on this machine and its children, which are ended as a whole."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from cl_bench.errors import first_line_of

LOOK = 0.2  # seconds between two checks of whether a silent process has ended
LAST_WORDS = 2**16  # bytes of a process's errors that their last line is looked for in
GRACE = 5.0  # seconds for a process to end once its output is closed


def event_of(line: str, tag: str) -> dict[str, Any]:
    """Parse a line as an event of the request with that tag; an event ``none`` if it is anything else."""
    with contextlib.suppress(ValueError, RecursionError):
        event = json.loads(line)
        if isinstance(event, dict) and event.get("tag") == tag:
            return event
    return {"event": "none"}


def last_words(code: int, errors: IO[str]) -> str:
    """Say how a process ended, with the last line of its standard error if it wrote there."""
    said = last_line(errors)
    why = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
    return f"ended ({why}){f': {said}' if said else ''}"


def last_line(errors: IO[str]) -> str:
    """Return the last line that a process wrote to its standard error, which may be long."""
    errors.flush()
    size = os.fstat(errors.fileno()).st_size
    end = os.pread(errors.fileno(), LAST_WORDS, max(0, size - LAST_WORDS)).decode(errors="replace")
    lines = end.strip().splitlines()
    return first_line_of(lines[-1]) if lines else ""


def descendants(pid: int) -> list[int]:
    """List the processes that a process started, and those that they started; empty where there is no /proc."""
    tasks: list[Path] = []
    own: list[int] = []
    with contextlib.suppress(OSError):  # it has just ended
        tasks = [*Path(f"/proc/{pid}/task").iterdir()]
    for task in tasks:
        with contextlib.suppress(OSError):  # one of its threads has
            own += map(int, (task / "children").read_text().split())
    return own + [far for near in own for far in descendants(near)]


def end_group(leader: int) -> None:
    """End a group of processes at once, and those that its leader started and that have left it.

    A process that has become a child of another, as a daemon does, is not found.
    """
    for end, those in (os.kill, descendants(leader)), (os.killpg, [leader]):
        for one in those:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # no process is left, or only zombies
                end(one, signal.SIGKILL)


class Process(Protocol):
    """A worker process as the engine uses it, on this machine or on another."""

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; if the process has ended, ``lines`` will show it."""

    def lines(self) -> Iterator[str]:
        """Yield the lines that it prints, until it has ended."""

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""

    def stop(self) -> int:
        """End it and every process that it started, at once, and return its exit status."""

    def close(self) -> None:
        """Close the pipes to it, once its lines are no longer read."""


class WorkerProcess:
    """``python -m cl_bench.compute.worker``, the leader of a session and so of a group of processes.

    A plugin may fork. Its child inherits the group, and may keep the pipe open and outlive its parent. The end is
    therefore detected from the process, not from the pipe, and the whole group is ended with it.

    Args:
        device: Device to compute on.
        errors: File that its standard error goes to.
        threads: Number of threads on a GPU's side of the work; on a CPU it is 1. None leaves it to torch.
    """

    def __init__(self, device: str, errors: IO[str], threads: int | None = None) -> None:
        here = str(Path(__file__).resolve().parents[2])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))}
        if device == "cpu":
            threads = 1
        if threads is not None:
            environment.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cl_bench.compute.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then stops its workers
        )
        self.pid = self._process.pid
        self._ended = False
        self._ending = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; if the process has ended, ``lines`` will show it."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def lines(self) -> Iterator[str]:
        """Yield the lines that it prints, until it has ended; read them to the end, or to the answer to a message."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        looking = select.poll()
        looking.register(pipe, select.POLLIN)
        rest = b""
        while True:
            ended = self.poll() is not None  # before reading: its output until then is in the pipe
            if looking.poll(0 if ended else 1000 * LOOK):
                said = os.read(pipe, 2**16)
                if not said:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self._process.wait(GRACE)
                    return
                *whole, rest = (rest + said).split(b"\n")
                yield from (line.decode(errors="replace") for line in whole)
            elif ended:
                return

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs; once it has ended, its group is ended too."""
        with self._ending:
            status = self._process.poll()
            if status is not None:
                self._end_group()
        return status

    def stop(self) -> int:
        """End it and every process that it started, at once, and return its exit status."""
        with self._ending:
            self._end_group()
            return self._process.wait()

    def close(self) -> None:
        """Close the pipes to it, once its lines are no longer read."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # messages that it never read
                pipe.close()

    def _end_group(self) -> None:
        """End the group, once only, since its number may later belong to another group."""
        if not self._ended:
            self._ended = True
            end_group(self.pid)
