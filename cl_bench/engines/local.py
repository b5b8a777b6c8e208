"""Records computed by worker processes on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from cl_bench.errors import SpecError
from cl_bench.records import Record
from cl_bench.runner import load_record
from cl_bench.spec import RunSpec
from cl_bench.store import Store, StoreWarning

if TYPE_CHECKING:
    import torch

WORKER_MEMORY = 3 * 2**29  # bytes to reckon with for a worker: torch and the data, 1.5 GiB
POLL = 0.5  # seconds between two looks at a run that another process is at work on


class ComputationError(RuntimeError):
    """A record could not be computed; the message is one line."""


class Watcher(Protocol):
    """Who is told what the workers do. Called from several threads."""

    def started(self, worker: int, spec: RunSpec) -> None:
        """A worker took up a spec."""

    def stepped(self, worker: int, stage: str, done: int, total: int) -> None:
        """It got on."""

    def finished(self, worker: int, spec: RunSpec, outcome: Record | str) -> None:
        """It is through: with a record, or with what went wrong."""


class Process(Protocol):
    """A worker process as the engine sees it: ``subprocess.Popen``, here or on another machine."""

    stdin: Any
    stdout: Any

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""

    def wait(self) -> int:
        """The exit status, once it has ended."""

    def kill(self) -> None:
        """Stop it where it is."""

    def communicate(self) -> Any:
        """Reap it and close its pipes."""


class LocalEngine:
    """A queue of specs and the worker processes that empty it into the store.

    Args:
        store: Where records are kept.
        places: Where plugins are found: folders, and single files.
        devices: As ``cpu`` or ``cuda:1``; the workers take them in turn.
        jobs: Worker processes at most; they start only when something is missing from the store.
        watcher: Who is told.
        data_root: Where data sets lie.
    """

    def __init__(
        self,
        store: Store,
        places: Sequence[Path],
        devices: Sequence[str],
        jobs: int,
        watcher: Watcher,
        data_root: Path | None = None,
    ) -> None:
        self.store = store
        self.watcher = watcher
        self._settings = {
            "store": str(store.root),
            "places": [str(place) for place in places],
            "path": [str(Path(entry).resolve()) for entry in sys.path],
            "data_root": None if data_root is None else str(data_root),
        }
        self._devices = devices
        self.jobs = jobs
        self._queue: deque[RunSpec] = deque()
        self._known: set[str] = set()
        self._results: dict[str, Record | ComputationError] = {}
        self._warnings: deque[str] = deque()
        self._changed = threading.Condition()
        self._processes: list[Process] = []
        self._threads: list[threading.Thread] = []
        self._closed = False

    def submit(self, specs: Iterable[RunSpec]) -> int:
        """Queue what the store lacks, in order; returns how many that is."""
        missing = 0
        for spec in specs:
            if spec.key in self._known:
                continue
            self._known.add(spec.key)
            found = load_record(spec, self.store)
            with self._changed:
                if found is not None:
                    self._results[spec.key] = found
                else:
                    self._queue.append(spec)
                    missing += 1
        return missing

    def has(self, spec: RunSpec) -> bool:
        """Whether the outcome of a spec is known without waiting."""
        return spec.key in self._results

    def wait(self, specs: Sequence[RunSpec], meanwhile: Callable[[], None]) -> None:
        """Until the outcome of each spec is known; ``meanwhile`` is called a few times a second."""
        while not all(self.has(spec) for spec in specs):
            self._start()
            with self._changed:
                self._changed.wait(0.1)
            meanwhile()

    def record(self, spec: RunSpec) -> Record:
        """The record of a spec, computed if it must be.

        Raises:
            ComputationError: It could not be computed; asked again in this process, the answer is the same.
        """
        self.submit([spec])
        self.wait([spec], lambda: None)
        while self._warnings:
            warnings.warn(self._warnings.popleft(), StoreWarning, stacklevel=2)
        result = self._results[spec.key]
        if isinstance(result, ComputationError):
            raise result
        return result

    def close(self) -> None:
        """Stop the workers where they are; what is in the store stays whole."""
        self._closed = True
        for process in self._processes:
            process.kill()
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            process.communicate()  # reaps it and closes its pipes
        self._processes.clear()

    def _start(self) -> None:
        while len(self._threads) < min(self.jobs, len(self._queue) + len(self._threads)) and not self._closed:
            thread = threading.Thread(target=self._work, args=(len(self._threads),), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self, worker: int) -> None:
        """Feed one worker process, started when there is something to do, until the engine is closed."""
        process: Process | None = None
        errors: Any = None
        refused = 0
        while not self._closed:
            with self._changed:
                if not self._queue:
                    self._changed.wait(POLL)
                    continue
                spec = self._queue.popleft()
            outcome: Record | ComputationError | None
            try:
                errors = errors or tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed below, with the thread
                if process is None or process.poll() is not None:
                    process = self._spawn(worker, errors)
                outcome = self._one(worker, process, spec, errors)
            except Exception as error:  # a thread that ends in silence would leave the others waiting for ever
                outcome = ComputationError(f"{spec.case}: {type(error).__name__}: {error}")
                if process is not None:
                    process.kill()  # it may still be at work on this spec
                    process.wait()
            if outcome is None:  # another process is at work on it: look again when there is nothing else to do
                with self._changed:
                    self._queue.append(spec)
                    refused += 1
                    if refused >= len(self._queue):
                        refused = 0
                        self._changed.wait(POLL)
                continue
            refused = 0
            if not self._closed:
                self.watcher.finished(worker, spec, outcome if isinstance(outcome, Record) else str(outcome))
            with self._changed:
                self._results[spec.key] = outcome
                self._changed.notify_all()
        if errors is not None:
            errors.close()

    def _spawn(self, worker: int, errors: IO[str]) -> Process:
        device = self._devices[worker % len(self._devices)]
        errors.seek(0)
        errors.truncate()
        process = self._process(device, errors)
        self._processes.append(process)
        if self._closed:
            process.kill()
        self._send(process, {**self._settings, "device": device})
        return process

    def _process(self, device: str, errors: IO[str]) -> Process:
        """A new one, and where what it says on standard error goes."""
        return worker_process(device, errors)

    @staticmethod
    def _send(process: Process, message: Any) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
        except OSError:  # it died; reading its events will find out
            pass

    def _one(self, worker: int, process: Process, spec: RunSpec, errors: IO[str]) -> Record | ComputationError | None:
        """Have a worker compute one spec; None when another process holds it."""
        found = load_record(spec, self.store)
        if found is not None:
            return found
        self.watcher.started(worker, spec)
        self._send(process, spec.model_dump(mode="json"))
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "ready":  # what was said while it started matters only where the start failed
                errors.seek(0)
                errors.truncate()
            elif event["event"] == "step":
                self.watcher.stepped(worker, event["stage"], event["done"], event["total"])
            elif event["event"] == "warning":
                self._warnings.append(event["text"])
            elif event["event"] == "busy":
                return None
            elif event["event"] == "failed":
                return ComputationError(f"{spec.case}: {event['error']}")
            else:
                found = load_record(spec, self.store)
                return found or ComputationError(f"{spec.case}: computed, but the store does not hold it")
        errors.seek(0)
        said = errors.read().strip().splitlines()
        code = process.wait()
        why = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        return ComputationError(f"{spec.case}: its worker process ended ({why}){': ' + said[-1] if said else ''}")


def worker_process(device: str, errors: IO[str]) -> subprocess.Popen[str]:
    """Start a worker process on this machine; what it says on standard error goes to a file."""
    here = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))}
    if device == "cpu":
        environment.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "cl_bench.engines.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        bufsize=1,
        env=environment,
        start_new_session=True,  # Ctrl-C reaches the process that asks, which then stops its workers
    )


def default_jobs(devices: Sequence[str]) -> int:
    """Workers to start: one a GPU, or one a core as memory allows; one alone inside a pytest-xdist worker."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return 1
    if devices[0].startswith("cuda"):
        return len(devices)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(cores, memory // WORKER_MEMORY))


def usable_devices(name: str) -> list[str]:
    """The devices that ``auto``, ``cpu``, ``cuda`` (all of them) or ``cuda:i`` names; pytest-xdist workers take turns.

    Raises:
        SpecError: As ``torch_device``.
    """
    import torch

    device = torch_device(name)
    if device.type != "cuda" or device.index is not None:
        return [str(device)]
    count = torch.cuda.device_count()
    first = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return [f"cuda:{(first + i) % count}" for i in range(count)]


def torch_device(name: str) -> torch.device:
    """The device of that name, proved to work by using it.

    Raises:
        SpecError: No such device, or it does not work.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise SpecError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device
