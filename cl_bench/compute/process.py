"""A worker process on this machine, and whatever it starts: one group of processes, which ends as one."""

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

LOOK = 0.2  # seconds between two looks at whether a process that says nothing has ended
GRACE = 5.0  # seconds for a process to end once it can say nothing more


class Process(Protocol):
    """A worker process as the engine sees it: here, or on another machine."""

    def send(self, message: dict[str, Any]) -> None:
        """Pass a message; that it is gone is found out about by its lines."""

    def lines(self) -> Iterator[str]:
        """What it says, until it has ended."""

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""

    def stop(self) -> int:
        """End it and all that it started, where they are; returns its exit status."""

    def close(self) -> None:
        """Close the pipes to it, once nobody reads its lines any more."""


class WorkerProcess:
    """``python -m cl_bench.compute.worker``, the leader of a session and so of a group of processes.

    A plugin may fork. Its child inherits the group, and may hold the pipe and outlive its parent: so the end of the
    process is looked for, not the end of the pipe, and with it ends the group.

    Args:
        device: What it computes on.
        errors: Where what it says on standard error goes.
    """

    def __init__(self, device: str, errors: IO[str]) -> None:
        here = str(Path(__file__).resolve().parents[2])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))}
        if device == "cpu":
            environment.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cl_bench.compute.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the process that asks, which then stops its workers
        )
        self.pid = self._process.pid
        self._ended = False
        self._ending = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Pass a message; that it is gone is found out about by its lines."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def lines(self) -> Iterator[str]:
        """What it says, until it has ended; to be read to the end, or to the answer to a message."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        looking = select.poll()
        looking.register(pipe, select.POLLIN)
        rest = b""
        while True:
            ended = self.poll() is not None  # before the look: what it said until then is in the pipe
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
        """The exit status, or None while it runs; where it has ended, so has its group."""
        with self._ending:
            status = self._process.poll()
            if status is not None:
                self._end_group()
        return status

    def stop(self) -> int:
        """End it and all that it started, where they are; returns its exit status."""
        with self._ending:
            self._end_group()
            return self._process.wait()

    def close(self) -> None:
        """Close the pipes to it, once nobody reads its lines any more."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what it never read
                pipe.close()

    def _end_group(self) -> None:
        """Once only: the number may be another group's after this one has ended."""
        if not self._ended:
            self._ended = True
            with contextlib.suppress(ProcessLookupError, PermissionError):  # of none, or of none but zombies
                os.killpg(self.pid, signal.SIGKILL)
