"""Worker processes that train one model together, seen by the engine as one process."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from cl_bench.compute.process import LOOK, WorkerProcess, event_of, last_words

BROKEN_OFF = 1.0
"""Seconds in which a process that broke off its connections, and so made the others fail, is seen to have ended."""


class Team:
    """A worker process and those that help it with pre-training, each on a device of its own.

    The first one does all else, and says when it trains. The others then start, or take up the same spec if they are
    there, meet it over torch.distributed, and are idle when the training has ended. If one of them fails or ends, all
    are ended, since the rest would wait for it, and the line says which it was.

    Args:
        devices: Devices to compute on, one for each process.
        errors: File that their standard error goes to.
        threads: Number of threads of each; None leaves it to torch.
    """

    def __init__(self, devices: Sequence[str], errors: IO[str], threads: int | None = None) -> None:
        self._devices, self._errors, self._threads = devices, errors, threads
        self._folder = tempfile.TemporaryDirectory(prefix="cl-bench-")
        self._settings: dict[str, Any] = {}
        self._task: dict[str, Any] = {"tag": ""}
        self._processes = [WorkerProcess(devices[0], errors, threads)]
        self._watching: list[threading.Thread] = []
        self._changing = threading.RLock()
        self._ended = False
        self._fault = ""

    def send(self, message: dict[str, Any]) -> None:
        """Send the settings, first of all, or a task; if the first process has ended, ``lines`` will show it."""
        if self._settings:
            self._task = message
            self._processes[0].send(message)
        else:
            self._settings = message
            self._processes[0].send(self._settings_of(0))

    def lines(self) -> Iterator[str]:
        """Yield the lines that the first process prints, until it has ended; the last one tells of any that failed."""
        for line in self._processes[0].lines():
            event = event_of(line, self._task["tag"])["event"]
            if event == "training":
                self._help()
            elif event == "failed":
                self._fail(line)
                break
            else:
                yield line
        self._fail()
        if self._fault:
            yield self._fault

    def poll(self) -> int | None:
        """Return the exit status of the first process, or None while it runs."""
        return self._processes[0].poll()

    def stop(self) -> int:
        """End all processes and those that they started, at once, and return the exit status of the first."""
        with self._changing:
            self._ended = True
            first, *_ = [process.stop() for process in self._processes]
            return first

    def close(self) -> None:
        """Close the pipes to them, once they have ended."""
        for thread in self._watching:
            thread.join()
        for process in self._processes:
            process.close()
        self._folder.cleanup()

    def _settings_of(self, rank: int) -> dict[str, Any]:
        place = {"rank": rank, "size": len(self._devices), "meeting": str(Path(self._folder.name) / "meeting")}
        return {**self._settings, "device": self._devices[rank], "together": place}

    def _help(self) -> None:
        """Give the task to the other processes, which start with the first training."""
        with self._changing:
            if self._ended:
                return
            for rank in range(len(self._processes), len(self._devices)):
                process = WorkerProcess(self._devices[rank], self._errors, self._threads)
                self._processes.append(process)
                process.send(self._settings_of(rank))
                self._watching.append(threading.Thread(target=self._watch, args=(process,), daemon=True))
                self._watching[-1].start()
            for process in self._processes[1:]:
                process.send(self._task)

    def _watch(self, process: WorkerProcess) -> None:
        for line in process.lines():
            if event_of(line, self._task["tag"])["event"] == "failed":
                self._fail(line)
        self._fail()

    def _fail(self, line: str = "") -> None:
        """End all processes and keep what to say: which one has ended, else the ``line`` of one that failed."""
        until = time.monotonic() + BROKEN_OFF
        with self._changing:
            while not (self._ended or (gone := self._gone())) and time.monotonic() < until:
                time.sleep(LOOK / 4)
            if not self._ended:
                self._fault = gone or line
                self.stop()

    def _gone(self) -> str:
        """Return a line about a process that has ended; empty if all run."""
        for rank, process in enumerate(self._processes):
            code = process.poll()
            if code is not None:
                which = f"process {rank + 1} of {len(self._devices)} on {self._devices[rank]}"
                error = f"{which} {last_words(code, self._errors)}"
                return json.dumps({"event": "failed", "error": error, "tag": self._task["tag"]})
        return ""
