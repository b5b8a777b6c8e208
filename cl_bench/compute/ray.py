"""Records computed on a Ray cluster: the worker processes of the local engine, each where a core or a GPU is free.

The store, the data and the plugins must be on a file system that every node sees under the same path, and cl-bench must
be installed on every node. Results are in the store at once, so losing a node costs the time of one encoder.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import socket
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cl_bench.compute.local import LocalEngine
from cl_bench.compute.process import WorkerProcess, last_line
from cl_bench.errors import SpecError
from cl_bench.store import Store

WAIT = 0.5  # seconds that a node waits for a line before it replies that there is none


class NodeWorker:
    """A Ray actor that runs a worker process on its node and passes lines to and from it, two calls at a time."""

    def __init__(self, token: str, device: str) -> None:
        if not Path(token).exists():
            raise FileNotFoundError(f"node {socket.gethostname()} does not see the store {Path(token).parent}")
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the actor is
        self._process = WorkerProcess(device, self._errors)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.lines():
            self._lines.put(line)
        self._lines.put(None)

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
        actor: Handle of the actor.
        errors: File that its standard error is written to, once it has ended.
    """

    def __init__(self, actor: Any, errors: IO[str]) -> None:
        self._actor = actor
        self._errors = errors
        self._code: int | None = None

    def send(self, message: dict[str, Any]) -> None:
        """Send a message and wait until the process has it, because Ray may change the order of pending calls."""
        with contextlib.suppress(_ray().exceptions.RayError):  # reading its lines shows the reason
            _ray().get(self._actor.send.remote(message))

    def lines(self) -> Iterator[str]:
        """Yield the lines that the process prints, until it has ended."""
        ray = _ray()
        while self._code is None:
            try:
                line, code, said = ray.get(self._actor.line.remote())
            except ray.exceptions.RayError as error:  # its node is lost, or refused it
                text = str(getattr(error, "cause", None) or error).strip().splitlines()
                line, code, said = None, 1, text[-1] if text else type(error).__name__
            if line is not None:
                yield line
            elif code is not None:
                self._errors.write(said)
                self._code = code

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

    def _process(self, device: str, errors: IO[str]) -> RemoteProcess:
        needs: dict[str, Any] = {"num_cpus": 1} if device == "cpu" else {"num_gpus": 1}
        self._token.touch()
        actor = _ray().remote(NodeWorker).options(max_concurrency=2, **needs).remote(str(self._token), device)
        return RemoteProcess(actor, errors)

    def close(self) -> None:
        """Stop the workers at once, then leave the cluster."""
        super().close()
        self._token.unlink(missing_ok=True)
        _ray().shutdown()


def _ray() -> Any:
    """Import Ray when it is needed, because most users do not have it."""
    import ray

    return ray


def joined(device: str) -> tuple[list[str], int]:
    """Join the cluster that Ray finds (``RAY_ADDRESS``, or one on this machine), or start one here.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        The device of every worker, as a list of one, and the number of such devices in the cluster.

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
        raise SpecError(f"--device {device}: the Ray cluster has none")
    return [found], count
