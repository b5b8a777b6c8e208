"""The specs that wait to be computed: which is next for a worker, and which are pre-trained in lock-step with it."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, replace

from cl_bench.compute.record import read_status
from cl_bench.spec import RunSpec
from cl_bench.spec.records import RANDOM_INIT
from cl_bench.store import Store


@dataclass(frozen=True)
class Task:
    """A spec to compute, the plugin to import for it, and specs whose encoders are pre-trained in lock-step with it."""

    spec: RunSpec
    plugin: str
    beside: tuple[RunSpec, ...] = ()


class Tasks:
    """Queue of tasks; whoever uses it from several threads keeps them apart.

    Args:
        store: Store that keeps the records.
        share_views: Largest number of encoders that a worker pre-trains in lock-step, on the same views.
        jobs: Number of workers.
    """

    def __init__(self, store: Store, share_views: int, jobs: int) -> None:
        self._store, self._share_views, self._jobs = store, share_views, jobs
        self._queue: deque[Task] = deque()
        self._busy: list[Task] = []  # those whose spec another process is computing
        self._waiting: dict[str, float] = {}  # since when, by the spec's key; endless once that has been said
        self._alone: set[str] = set()  # specs that failed beside others, by key

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, task: Task) -> None:
        """Queue a task."""
        self._queue.append(task)

    def take(self, plugin: str) -> Task | None:
        """Take the next task for a process that has imported ``plugin``: the first of it, else the first; None without.

        The specs beside it leave the queue too, until it is given back.
        """
        if not self._queue:
            return None
        chosen = next((i for i, task in enumerate(self._queue) if task.plugin == plugin), 0)
        task = self._queue[chosen]
        del self._queue[chosen]
        return self._with_others(task) if self._share_views > 1 else task

    def release(self, task: Task, busy: bool) -> None:
        """Queue the specs beside a task, which are the next; ``busy`` where another process holds the task's own."""
        self._queue.extendleft(Task(spec, task.plugin) for spec in reversed(task.beside))
        if busy:
            self._busy.append(replace(task, beside=()))

    def part(self, task: Task) -> None:
        """Queue all specs of a task that failed, each to be computed alone."""
        self._alone |= {spec.key for spec in (task.spec, *task.beside)}
        self.release(task, busy=False)
        self._queue.appendleft(replace(task, beside=()))

    def retry(self) -> None:
        """Queue again what another process was computing."""
        for task in self._busy:
            self._waiting.setdefault(task.spec.key, time.monotonic())
        self._queue.extend(self._busy)
        self._busy.clear()

    def waits_long(self, spec: RunSpec, seconds: float) -> bool:
        """Return True once, when another process has been computing a spec for so many seconds."""
        long = time.monotonic() - self._waiting.get(spec.key, math.inf) >= seconds
        if long:
            self._waiting[spec.key] = math.inf
        return long

    def _with_others(self, task: Task) -> Task:
        """Take queued specs of the same views and plugin beside a task's, an equal share of them for each worker."""
        if not self._trains_beside(task):
            return task
        stream, plugin = task.spec.pretrain.stream, task.plugin
        alike = [t for t in self._queue if t.plugin == plugin and t.spec.pretrain.stream == stream]
        alike = [t for t in alike if self._trains_beside(t)]
        beside = alike[: min(self._share_views, math.ceil((1 + len(alike)) / self._jobs)) - 1]
        for other in beside:
            self._queue.remove(other)
        return replace(task, beside=tuple(other.spec for other in beside))

    def _trains_beside(self, task: Task) -> bool:
        """Return whether a task's encoder is still to be trained, and may be beside others."""
        if task.spec.pretrain.objective.family == RANDOM_INIT or task.spec.key in self._alone:
            return False
        return read_status(self._store.run(task.spec.pretrain.key)) is None
