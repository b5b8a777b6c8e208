"""Records computed on a Ray cluster: the worker processes of the local engine, each where a core or a GPU is free.

The store, the data and the plugins must be on a file system that every node sees under the same path, and cl-bench must
be installed on every node. Results are in the store at once, and an encoder whose node is lost is computed again, from
its last checkpoint, on another: losing a node costs minutes of the encoders that it computed.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import tempfile
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cl_bench.compute.devices import sharing, worker_threads
from cl_bench.compute.local import ComputationError, Desk, LocalEngine
from cl_bench.compute.process import WorkerProcess, last_line
from cl_bench.compute.tasks import Task
from cl_bench.errors import SpecError
from cl_bench.spec.records import Record
from cl_bench.store import Store

WAIT = 0.5  # seconds that a node waits for a line before it replies that there is none
PATIENCE = 30.0  # seconds that an encoder waits for a new process, once it has been taken off the queue
LOSSES = 3  # nodes that an encoder may be lost with before it is taken for the reason


class NodeWorker:
    """A Ray actor that runs a worker process on its node and passes lines to and from it, two calls at a time.

    Args:
        token: File in the store, which its node must see.
        device: Device to compute on.
        workers: Largest number of workers that share such a device.
    """

    def __init__(self, token: str, device: str, workers: int) -> None:
        if not Path(token).exists():
            raise FileNotFoundError(f"node {socket.gethostname()} does not see the store {Path(token).parent}")
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the actor is
        # Ray gives an actor one thread unless it reserves cores, and a GPU's views are prepared by threads.
        os.environ.pop("OMP_NUM_THREADS", None)
        self._process = WorkerProcess(device, self._errors, worker_threads(workers * self._devices()))
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.lines():
            self._lines.put(line)
        self._lines.put(None)

    def node(self) -> str:
        """Return the id of the node that it was placed on."""
        return str(_ray().get_runtime_context().get_node_id())

    def _devices(self) -> int:
        """Return the number of GPUs of its node, at least 1."""
        mine = self.node()
        return max(1, *(int(node["Resources"].get("GPU", 0)) for node in _ray().nodes() if node["NodeID"] == mine))

    def send(self, message: dict[str, Any]) -> None:
        """Send a message to the process; if the process has ended, ``line`` will show it."""
        self._process.send(message)

    def line(self) -> tuple[str | None, int | None, str]:
        """Return the next line or None, and after the last line the exit status and what it said last of errors."""
        try:
            line = self._lines.get(timeout=WAIT)
        except queue.Empty:
            return None, None, ""
        if line is not None:
            return line, None, ""
        code = self._process.stop()
        return None, code, last_line(self._errors)


class RemoteProcess:
    """A ``NodeWorker`` with the interface of a local process.

    Args:
        actor: Handle of the actor, which Ray may still be looking for a place for.
        errors: File that its standard error is written to, once it has ended.
    """

    def __init__(self, actor: Any, errors: IO[str]) -> None:
        self._actor = actor
        self._errors = errors
        self._code: int | None = None
        self._node = actor.node.remote()
        self._placed = False
        self._unsent: list[dict[str, Any]] = []
        self.lost = False
        """True once it has ended because its node did, or the way to it."""

    def placed(self, seconds: float) -> bool:
        """Return True once it has a place, or was refused one, which its lines then show; wait so long for it."""
        if not self._placed:
            self._placed = bool(_ray().wait([self._node], timeout=seconds)[0])
            while self._placed and self._unsent:
                self.send(self._unsent.pop(0))
        return self._placed

    def send(self, message: dict[str, Any]) -> None:
        """Send a message and wait until the process has it, because Ray may change the order of pending calls.

        A message to a process without a place is sent once it has one.
        """
        if not self._placed:
            self._unsent.append(message)
            return
        with contextlib.suppress(_ray().exceptions.RayError):  # reading its lines shows the reason
            _ray().get(self._actor.send.remote(message))

    def lines(self) -> Iterator[str]:
        """Yield the lines that the process prints, until it has ended."""
        ray = _ray()
        while self._code is None:
            try:
                line, code, said = ray.get(self._actor.line.remote())
            except ray.exceptions.RayError as error:  # its node is lost, or refused it
                self.lost = self._is_lost(error)
                text = str(getattr(error, "cause", None) or error).strip().splitlines()
                line, code, said = None, 1, text[-1] if text else type(error).__name__
            if line is not None:
                yield line
            elif code is not None:
                self._errors.write(said)
                self._code = code

    def _is_lost(self, error: Exception) -> bool:
        ray = _ray()
        if isinstance(error, ray.exceptions.ActorUnavailableError):  # it may still run, but lines of it may be lost
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(self._actor)
            return True
        try:
            node = ray.get(self._node)
        except ray.exceptions.RayError:  # it never had one
            return False
        return not any(known["NodeID"] == node and known["Alive"] for known in ray.nodes())

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        return self._code

    def stop(self) -> int:
        """Stop the actor, and with it the process, whose input ends, and every process that it started."""
        if self._code is None:
            self._code = -signal.SIGKILL
            with contextlib.suppress(_ray().exceptions.RayError):
                _ray().kill(self._actor)
        return self._code

    def close(self) -> None:
        """Do nothing, since no pipe is held on this side."""


class RayEngine(LocalEngine):
    """The local engine with its workers on the nodes of a Ray cluster; it takes the arguments of ``LocalEngine``."""

    def __init__(self, store: Store, *more: Any) -> None:
        super().__init__(store, *more)
        self._token = store.root / f".ray-{uuid.uuid4().hex[:16]}"  # a file that a node must see
        self._losses: Counter[str] = Counter()

    def _next(self, desk: Desk) -> Task | None:
        """Return the next task for a desk whose process has a place; a desk without one leaves the queue to others."""
        with contextlib.suppress(_ray().exceptions.RayError, ConnectionError):  # computing the next task shows why
            if len(self._tasks) and (desk.process is None or desk.process.poll() is not None):
                self._spawn(desk)
                desk.plugin = ""
            if isinstance(desk.process, RemoteProcess) and not desk.process.placed(WAIT):
                return None
        return super()._next(desk)

    def _one(self, desk: Desk, task: Task) -> Record | ComputationError | None:
        """Compute a task's spec; None when another process holds it, there is no place for it, or its node is lost."""
        process = self._seated(desk, task.plugin)
        assert isinstance(process, RemoteProcess)
        if not process.placed(PATIENCE):
            return None
        outcome = super()._one(desk, task)
        if isinstance(outcome, ComputationError) and process.lost:
            key = task.spec.key
            self._losses[key] += 1
            return None if self._losses[key] < LOSSES else outcome
        return outcome

    def _process(self, device: str, errors: IO[str]) -> RemoteProcess:
        workers = sharing(self.jobs, self._devices)
        part = share(workers)
        # Beside a GPU Ray would reserve a core too, and place no more workers than there are cores.
        needs = {"num_cpus": part} if device == "cpu" else {"num_cpus": 0, "num_gpus": part}
        self._token.touch()
        actor = _ray().remote(NodeWorker).options(max_concurrency=2, **needs).remote(str(self._token), device, workers)
        return RemoteProcess(actor, errors)

    def close(self) -> None:
        """Stop the workers at once, then leave the cluster."""
        super().close()
        self._token.unlink(missing_ok=True)
        _ray().shutdown()


def share(workers: int) -> float:
    """Return the share of a device that each of some workers reserves, in Ray's ten-thousandths, rounded down."""
    return 10_000 // workers / 10_000


def _ray() -> Any:
    """Import Ray when it is needed, because most users do not have it."""
    import ray

    return ray


def joined(device: str) -> list[str]:
    """Join the cluster that Ray finds (``RAY_ADDRESS``, or one on this machine), or start one here.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        A name for each such device of the cluster; they are alike, since Ray says which one a worker gets.

    Raises:
        SpecError: If Ray is not installed, does not answer, or has no such device.
    """
    try:
        ray = _ray()
    except ImportError:
        raise SpecError("--engine ray needs ray: pip install 'cl-bench[ray]'") from None
    if device not in ("auto", "cpu", "cuda"):
        raise SpecError(f"--device {device}: with --engine ray it is auto, cpu or cuda; Ray says which GPU")
    try:
        ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SpecError(f"--engine ray: {str(error).strip().splitlines()[0]}") from None
    there = ray.cluster_resources()
    found = "cuda" if device == "cuda" or (device == "auto" and there.get("GPU", 0) >= 1) else "cpu"
    count = int(there.get("GPU" if found == "cuda" else "CPU", 0))
    if count < 1:
        raise SpecError(f"--device {device}: the Ray cluster has no such device")
    return [found] * count
