"""Records computed by worker processes on this machine."""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
import tempfile
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from cl_bench.compute.process import Process, WorkerProcess
from cl_bench.compute.runner import lacking, load_record
from cl_bench.spec import RunSpec
from cl_bench.spec.records import RANDOM_INIT, Record
from cl_bench.store import Store, StoreWarning

if TYPE_CHECKING:
    pass

POLL = 0.5  # seconds between two looks at a run that another process is at work on


class ComputationError(RuntimeError):
    """A record could not be computed; the message is one line."""


class PredictorWarning(UserWarning):
    """A predictor that could not be computed of an encoder, whose record is whole but for it."""


class Watcher(Protocol):
    """Who is told what the workers do. Called from several threads."""

    def started(self, worker: int, spec: RunSpec) -> None:
        """A worker took up a spec."""

    def stepped(self, worker: int, stage: str, done: int, total: int) -> None:
        """It got on."""

    def finished(self, worker: int, spec: RunSpec, outcome: Record | str) -> None:
        """It is through: with a record, or with what went wrong."""


class Desk:
    """Where one worker process sits at a time, and which plugin it has imported, if any."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.errors: IO[str] | None = None
        self.process: Process | None = None
        self.plugin = ""


class LocalEngine:
    """A queue of specs and the worker processes that empty it into the store.

    A process imports one plugin at most, for what is imported may change the numbers of whatever runs beside it. One
    that has imported none computes untrained encoders; it may take up a plugin, and the next plugin takes another one.
    So a predictor that is not built in is computed after the rest, by a process of its own; that it fails is a warning.

    Args:
        store: Where records are kept.
        plugins: What to import for a method, by its name, as ``Registry.plugins``.
        devices: As ``cpu`` or ``cuda:1``; the workers take them in turn.
        jobs: Worker processes at most; they start only when something is missing from the store.
        watcher: Who is told.
        data_root: Where data sets lie.
    """

    def __init__(
        self,
        store: Store,
        plugins: Mapping[str, str],
        devices: Sequence[str],
        jobs: int,
        watcher: Watcher,
        data_root: Path | None = None,
    ) -> None:
        self.store = store
        self.watcher = watcher
        self._settings = {
            "store": str(store.root),
            "path": [str(Path(entry).resolve()) for entry in sys.path],
            "data_root": None if data_root is None else str(data_root),
        }
        self._plugins = plugins
        self._devices = devices
        self.jobs = jobs
        self._queue: deque[tuple[RunSpec, str]] = deque()  # and what to import for it
        self._busy: list[tuple[RunSpec, str]] = []  # those that another process is at work on
        self._given_up: dict[str, set[str]] = {}  # plugins whose predictors failed, by the spec's key
        self._known: set[str] = set()
        self._results: dict[str, Record | ComputationError] = {}
        self._warnings: deque[tuple[str, type[Warning]]] = deque()
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
            found, todo = load_record(spec, self.store), self._todo(spec)
            with self._changed:
                if found is not None and todo is None:
                    self._results[spec.key] = found
                else:
                    self._queue.append((spec, self._plugin_of(spec) if found is None or todo is None else todo))
                    missing += 1
        return missing

    def has(self, spec: RunSpec) -> bool:
        """Whether the outcome of a spec is known without waiting."""
        return spec.key in self._results

    def wait(self, specs: Sequence[RunSpec], meanwhile: Callable[[], None]) -> None:
        """Until the outcome of each spec is known; ``meanwhile`` is called a few times a second."""
        for spec in specs:
            while not self.has(spec):
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
            text, category = self._warnings.popleft()
            warnings.warn(text, category, stacklevel=2)
        result = self._results[spec.key]
        if isinstance(result, ComputationError):
            raise result
        return result

    def close(self) -> None:
        """Stop the workers where they are; what is in the store stays whole."""
        self._closed = True
        for process in self._processes:
            process.stop()
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            process.close()
        self._processes.clear()

    def _start(self) -> None:
        while len(self._threads) < min(self.jobs, len(self._queue) + len(self._threads)) and not self._closed:
            thread = threading.Thread(target=self._work, args=(Desk(len(self._threads)),), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self, desk: Desk) -> None:
        """Feed one worker process at a time, started when there is something to do, until the engine is closed."""
        while not self._closed:
            task = self._next(desk.plugin)
            if task is None:
                continue
            spec, plugin = task
            outcome: Record | ComputationError | None
            further = None
            try:
                outcome = self._one(desk, spec, plugin)
                if outcome is not None:
                    outcome, further = self._after(spec, plugin, outcome)
            except Exception as error:  # a thread that ends in silence would leave the others waiting for ever
                outcome = ComputationError(f"{spec.case}: {type(error).__name__}: {error}")
                if desk.process is not None:
                    desk.process.stop()  # it may still be at work on this spec
            if outcome is None:
                with self._changed:
                    self._busy.append(task)
                continue
            if further is not None:
                with self._changed:
                    self._queue.append((spec, further))
                continue
            if not self._closed:
                self.watcher.finished(desk.number, spec, outcome if isinstance(outcome, Record) else str(outcome))
            with self._changed:
                self._results[spec.key] = outcome
                self._changed.notify_all()
        if desk.errors is not None:
            desk.errors.close()

    def _next(self, plugin: str) -> tuple[RunSpec, str] | None:
        """The next task for a process that has imported a plugin: one of that plugin if there is one, else the first.

        None after a while in which there was nothing to do; then those that another process holds are looked at again.
        """
        with self._changed:
            if not self._queue:
                self._changed.wait(POLL)
                self._queue.extend(self._busy)
                self._busy.clear()
                return None
            chosen = next((i for i, (_, wanted) in enumerate(self._queue) if wanted == plugin), 0)
            task = self._queue[chosen]
            del self._queue[chosen]
            return task

    def _todo(self, spec: RunSpec) -> str | None:
        """What to import for what is computed next of a stored spec: built-in predictors first; None if nothing is."""
        given_up = self._given_up.get(spec.key, set())
        plugins = sorted({predictor.plugin for predictor in lacking(spec, self.store)} - given_up)
        return plugins[0] if plugins else None

    def _after(
        self, spec: RunSpec, plugin: str, outcome: Record | ComputationError
    ) -> tuple[Record | ComputationError, str | None]:
        """What is known of a spec after a task, and what to import for the next one, if any.

        Where the record is whole a task that failed cost predictors alone, which nobody tries again in this session.
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
        """What a process imports for a spec: nothing for an untrained encoder."""
        if spec.pretrain.objective.family == RANDOM_INIT:
            return ""
        return self._plugins.get(spec.pretrain.method.name, "")  # a method that nobody knows is told of by the worker

    def _one(self, desk: Desk, spec: RunSpec, plugin: str) -> Record | ComputationError | None:
        """Have a worker that imports a plugin compute one spec; None when another process holds it."""
        found = load_record(spec, self.store)
        if found is not None and self._todo(spec) is None:
            return found
        with self.store.run(spec.pretrain.key).locked() as free:
            if not free:  # and no process need be started to find that out
                return None
        process = self._seated(desk, plugin)
        self.watcher.started(desk.number, spec)
        tag = f"{spec.key}-{secrets.token_hex(8)}"
        process.send({"spec": spec.model_dump(mode="json"), "plugin": plugin, "tag": tag})
        for line in process.lines():
            event = _event(line, tag)
            if event["event"] == "ready":  # what was said while it started matters only where the start failed
                self._forget_errors(desk)
            elif event["event"] == "step":
                self.watcher.stepped(desk.number, event["stage"], event["done"], event["total"])
            elif event["event"] == "warning":
                self._warnings.append((event["text"], StoreWarning))
            elif event["event"] == "busy":
                return None
            elif event["event"] == "failed":
                return ComputationError(f"{spec.case}: {event['error']}")
            elif event["event"] == "done":
                found = load_record(spec, self.store)
                return found or ComputationError(f"{spec.case}: computed, but the store does not hold it")
        code = process.stop()
        assert desk.errors is not None
        desk.errors.seek(0)
        said = desk.errors.read().strip().splitlines()
        why = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        return ComputationError(f"{spec.case}: its worker process ended ({why}){': ' + said[-1] if said else ''}")

    def _seated(self, desk: Desk, plugin: str) -> Process:
        """The process of a desk, or a new one in its place where it has ended or has imported another plugin."""
        process = desk.process
        if process is None or process.poll() is not None or desk.plugin not in ("", plugin):
            if process is not None:
                process.stop()
                process.close()
            process = self._spawn(desk)
        desk.plugin = plugin
        return process

    def _spawn(self, desk: Desk) -> Process:
        device = self._devices[desk.number % len(self._devices)]
        if desk.errors is None:
            desk.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the thread
        self._forget_errors(desk)
        desk.process = process = self._process(device, desk.errors)
        self._processes.append(process)
        if self._closed:
            process.stop()
        process.send({**self._settings, "device": device})
        return process

    def _process(self, device: str, errors: IO[str]) -> Process:
        """A new one, and where what it says on standard error goes."""
        return WorkerProcess(device, errors)

    @staticmethod
    def _forget_errors(desk: Desk) -> None:
        assert desk.errors is not None
        desk.errors.seek(0)
        desk.errors.truncate()


def _event(line: str, tag: str) -> dict[str, Any]:
    """What a line says of the spec that was asked for with that tag; nothing, where it is about anything else."""
    with contextlib.suppress(ValueError, RecursionError):
        event = json.loads(line)
        if isinstance(event, dict) and event.get("tag") == tag:
            return event
    return {"event": "none"}
