"""Records computed by worker processes on this machine."""

from __future__ import annotations

import contextlib
import math
import secrets
import sys
import tempfile
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

from cl_bench.compute.devices import sharing, worker_threads
from cl_bench.compute.process import Process, WorkerProcess, event_of, last_words
from cl_bench.compute.record import lacking, load_record
from cl_bench.compute.tasks import Task, Tasks
from cl_bench.compute.team import Team
from cl_bench.errors import PlainError, first_line, plain
from cl_bench.spec import RunSpec
from cl_bench.spec.records import RANDOM_INIT, Record
from cl_bench.store import Store, StoreWarning

POLL = 0.5  # seconds between two checks of a run that another process is computing
LONG = 60.0
"""Seconds of waiting for a run that another process is computing, with nothing else to do, after which that is said."""


class ComputationError(PlainError, RuntimeError):
    """Failure to compute a record; the message is one line."""


class LockStepWarning(UserWarning):
    """Warning that encoders could not be pre-trained in lock-step; each is tried alone."""


class PredictorWarning(UserWarning):
    """Warning that a predictor could not be computed for an encoder; the rest of the record is complete."""


class Watcher(Protocol):
    """Observer of the workers' progress; its methods are called from several threads."""

    def started(self, worker: int, spec: RunSpec) -> None:
        """Note that a worker started a spec."""

    def stepped(self, worker: int, stage: str, done: int, total: int) -> None:
        """Note that a worker has done so many steps of a stage."""

    def finished(self, worker: int, spec: RunSpec, outcome: Record | str) -> None:
        """Note that a worker finished a spec, with a record or with what went wrong."""

    def waiting_for(self, spec: RunSpec, holder: str) -> None:
        """Note that a spec has long been waited for, and which process is computing it."""


class Desk:
    """Slot for one worker process at a time, with the plugin that the process has imported, if any."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.errors: IO[str] | None = None
        self.process: Process | None = None
        self.plugin = ""


class LocalEngine:
    """A queue of specs and the worker processes that compute their records into the store.

    A process imports one plugin at most, because importing one may change the numbers of everything else in the
    process. A process without a plugin computes untrained encoders; it may import one plugin later, and every other
    plugin needs a new process. A predictor that is not built in is therefore computed after the rest, by a process of
    its own; its failure is only a warning.

    Args:
        store: Store that keeps the records.
        plugins: Plugin to import for each method, by the method's name (``Registry.plugins``).
        devices: Names of devices, such as ``cpu`` or ``cuda:1``; the workers take them in turn.
        jobs: Largest number of worker processes; they start only when something is missing from the store.
        watcher: Observer of the progress.
        data_root: Folder of the data sets.
        per_model: Number of devices, and of processes, that train one encoder together.
        timeout: Seconds that a worker may take for a spec, its own start included, before it is ended.
        share_views: Largest number of encoders that a worker pre-trains in lock-step on the same views.
    """

    def __init__(
        self,
        store: Store,
        plugins: Mapping[str, str],
        devices: Sequence[str],
        jobs: int,
        watcher: Watcher,
        data_root: Path | None = None,
        per_model: int = 1,
        timeout: float = math.inf,
        share_views: int = 1,
    ) -> None:
        self.store = store
        self.timeout = timeout
        self.watcher = watcher
        self._settings = {
            "store": str(store.root),
            "path": [str(Path(entry).resolve()) for entry in sys.path],
            "data_root": None if data_root is None else str(data_root),
        }
        self._plugins = plugins
        self._devices = devices
        self._per_model = per_model
        self.jobs = jobs
        self._tasks = Tasks(store, share_views, jobs)
        self._given_up: dict[str, set[str]] = {}  # plugins whose predictors failed, by the spec's key
        self._known: set[str] = set()
        self._results: dict[str, Record | ComputationError] = {}
        self._warnings: deque[tuple[str, type[Warning]]] = deque()
        self._changed = threading.Condition()
        self._processes: list[Process] = []
        self._threads: list[threading.Thread] = []
        self._closed = False

    def submit(self, specs: Iterable[RunSpec]) -> int:
        """Queue the specs that the store lacks, in order, and return their number."""
        missing = 0
        for spec in specs:
            if spec.key in self._known:
                continue
            self._known.add(spec.key)
            found, todo = load_record(spec, self.store), self._todo(spec)
            with self._changed:
                if found is not None and todo is None:
                    self._results[spec.key] = found
                else:
                    self._tasks.add(Task(spec, self._plugin_of(spec) if found is None or todo is None else todo))
                    missing += 1
        return missing

    def has(self, spec: RunSpec) -> bool:
        """Return True if the outcome of a spec is known without waiting."""
        return spec.key in self._results

    def wait(self, specs: Sequence[RunSpec], meanwhile: Callable[[], None]) -> None:
        """Wait until the outcome of each spec is known, calling ``meanwhile`` a few times a second."""
        for spec in specs:
            while not self.has(spec):
                self._start()
                with self._changed:
                    self._changed.wait(0.1)
                meanwhile()

    def record(self, spec: RunSpec) -> Record:
        """Return the record of a spec, computing it if it is not in the store.

        Raises:
            ComputationError: If it could not be computed; another call in this process raises the same error.
        """
        self.submit([spec])
        self.wait([spec], lambda: None)
        while self._warnings:
            text, category = self._warnings.popleft()
            warnings.warn(text, category, stacklevel=2)
        result = self._results[spec.key]
        if isinstance(result, ComputationError):
            raise result
        return result

    def close(self) -> None:
        """Stop the workers at once; everything in the store stays intact."""
        self._closed = True
        for process in self._processes:
            process.stop()
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            process.close()
        self._processes.clear()

    def _start(self) -> None:
        while len(self._threads) < min(self.jobs, len(self._tasks) + len(self._threads)) and not self._closed:
            thread = threading.Thread(target=self._work, args=(Desk(len(self._threads)),), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self, desk: Desk) -> None:
        """Run one worker process at a time, started when there is work, until the engine is closed."""
        while not self._closed:
            task = self._next(desk)
            if task is None:
                continue
            spec, plugin = task.spec, task.plugin
            outcome: Record | ComputationError | None
            further = None
            try:
                outcome = self._one(desk, task)
                if outcome is not None:
                    outcome, further = self._after(spec, plugin, outcome)
            except Exception as error:  # if the thread ended silently, others would wait for ever
                outcome = ComputationError(f"{spec.case}: {first_line(error)}")
                if desk.process is not None:
                    desk.process.stop()  # it may still be computing this spec
            if task.beside and isinstance(outcome, ComputationError):  # any of them may be the reason
                many = 1 + len(task.beside)
                text = f"{many} encoders are trained one by one, since in lock-step they failed: {outcome}"
                self._warnings.append((text, LockStepWarning))
                with self._changed:
                    self._tasks.part(task)
                continue
            with self._changed:
                self._tasks.release(task, busy=outcome is None)
            if outcome is None:
                self._say_if_long(spec)
                continue
            if further is not None:
                with self._changed:
                    self._tasks.add(Task(spec, further))
                continue
            if not self._closed:
                self.watcher.finished(desk.number, spec, outcome if isinstance(outcome, Record) else str(outcome))
            with self._changed:
                self._results[spec.key] = outcome
                self._changed.notify_all()
        if desk.errors is not None:
            desk.errors.close()

    def _next(self, desk: Desk) -> Task | None:
        """Return the next task for a desk; with none it waits a little and returns None."""
        with self._changed:
            if task := self._tasks.take(desk.plugin):
                return task
            self._changed.wait(POLL)
            self._tasks.retry()
            return None

    def _say_if_long(self, spec: RunSpec) -> None:
        """Say once who is computing a spec that has been waited for longer than ``LONG``."""
        with self._changed:
            long = self._tasks.waits_long(spec, LONG)
        if long:
            self.watcher.waiting_for(spec, self.store.run(spec.pretrain.key).holder)

    def _todo(self, spec: RunSpec) -> str | None:
        """Return the plugin for the next missing predictors of a stored spec, built-in ones first; None if complete."""
        given_up = self._given_up.get(spec.key, set())
        plugins = sorted({predictor.plugin for predictor in lacking(spec, self.store)} - given_up)
        return plugins[0] if plugins else None

    def _after(
        self, spec: RunSpec, plugin: str, outcome: Record | ComputationError
    ) -> tuple[Record | ComputationError, str | None]:
        """Return the outcome of a spec after a task, and the plugin for its next task, or None if there is none.

        If the record is complete, a failed task affects predictors alone, which are not tried again in this session.
        """
        found = load_record(spec, self.store) if isinstance(outcome, ComputationError) else outcome
        if found is None:
            return outcome, None
        left = {predictor.plugin for predictor in lacking(spec, self.store)}
        if plugin in left or (plugin not in {p.plugin for p in spec.predictors} and "" in left):
            failed = "" if plugin not in left else plugin
            self._given_up.setdefault(spec.key, set()).add(failed)
            names = ", ".join(p.name for p in spec.predictors if p.plugin == failed)
            why = str(outcome) if isinstance(outcome, ComputationError) else f"{spec.case}: edited since this run began"
            self._warnings.append((f"without predictors {names}: {why}", PredictorWarning))
        return found, self._todo(spec)

    def _plugin_of(self, spec: RunSpec) -> str:
        """Return the plugin that a process imports for a spec; empty for an untrained encoder."""
        if spec.pretrain.objective.family == RANDOM_INIT:
            return ""
        return self._plugins.get(spec.pretrain.method.name, "")  # the worker reports an unknown method

    def _one(self, desk: Desk, task: Task) -> Record | ComputationError | None:
        """Compute a task's spec in a worker that imports its plugin; None when another process holds the spec."""
        spec = task.spec
        found = load_record(spec, self.store)
        if found is not None and self._todo(spec) is None:
            return found
        with self.store.run(spec.pretrain.key).locked() as free:
            if not free:  # known without starting a process
                return None
        process = self._seated(desk, task.plugin)
        with self._limited(process, self.timeout * (1 + len(task.beside))) as late:
            answer = self._answer(desk, process, task)
        if late.is_set() and isinstance(answer, ComputationError):
            limit = f"{self.timeout:,.0f} s (--timeout-per-encoder)"
            return ComputationError(f"{spec.case}: not done within {limit}; its worker process was ended")
        return answer

    @contextlib.contextmanager
    def _limited(self, process: Process, seconds: float) -> Iterator[threading.Event]:
        """End a process that is still at work after some seconds; yields an event that says so."""
        late = threading.Event()

        def end() -> None:
            late.set()
            process.stop()

        timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), end)
        timer.daemon = True
        timer.start()
        try:
            yield late
        finally:
            timer.cancel()
            timer.join()  # or it would end the process within its next spec

    def _answer(self, desk: Desk, process: Process, task: Task) -> Record | ComputationError | None:
        """Return the answer of a process to a task, as ``_one``."""
        spec = task.spec
        self.watcher.started(desk.number, spec)
        tag = f"{spec.key}-{secrets.token_hex(8)}"
        beside = [other.model_dump(mode="json") for other in task.beside]
        process.send({"spec": spec.model_dump(mode="json"), "plugin": task.plugin, "tag": tag, "beside": beside})
        for line in process.lines():
            event = event_of(line, tag)
            if event["event"] == "ready":  # errors from its start matter only if the start failed
                self._forget_errors(desk)
            elif event["event"] == "step":
                self.watcher.stepped(desk.number, event["stage"], event["done"], event["total"])
            elif event["event"] == "warning":
                self._warnings.append((plain(event["text"]), StoreWarning))
            elif event["event"] == "busy":
                return None
            elif event["event"] == "failed":
                return ComputationError(f"{spec.case}: {event['error']}{self._shared() if event.get('full') else ''}")
            elif event["event"] == "done":
                found = load_record(spec, self.store)
                return found or ComputationError(f"{spec.case}: computed, but the store does not hold it")
        code = process.stop()
        assert desk.errors is not None
        return ComputationError(f"{spec.case}: its worker process {last_words(code, desk.errors)}")

    def _seated(self, desk: Desk, plugin: str) -> Process:
        """Return the process of a desk, or a new one if it has ended or has imported another plugin."""
        process = desk.process
        if process is None or process.poll() is not None or desk.plugin not in ("", plugin):
            if process is not None:
                process.stop()
                process.close()
            process = self._spawn(desk)
        desk.plugin = plugin
        return process

    def _spawn(self, desk: Desk) -> Process:
        first, size = desk.number * self._per_model, self._per_model
        devices = [self._devices[i % len(self._devices)] for i in range(first, first + size)]
        if desk.errors is None:
            desk.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the thread
        self._forget_errors(desk)
        if size > 1:
            process: Process = Team(devices, desk.errors, worker_threads(self.jobs * size))
        else:
            process = self._process(devices[0], desk.errors)
        desk.process = process
        self._processes.append(process)
        if self._closed:
            process.stop()
        process.send({**self._settings, "device": devices[0]})
        return process

    def _process(self, device: str, errors: IO[str]) -> Process:
        """Start a new process that writes its standard error to ``errors``."""
        return WorkerProcess(device, errors, worker_threads(self.jobs))

    def _shared(self) -> str:
        """Name what else frees memory, and changes no result, where several workers share a GPU."""
        workers = sharing(self.jobs * self._per_model, self._devices)
        on_gpus = self._devices[0].startswith("cuda") and workers > 1
        return f"; or fewer --jobs, of which {workers} share a GPU" if on_gpus else ""

    @staticmethod
    def _forget_errors(desk: Desk) -> None:
        assert desk.errors is not None
        desk.errors.seek(0)
        desk.errors.truncate()
