"""Checkpoints of a training, kept in its run, from which an interrupted training continues to the same bits."""

from __future__ import annotations

import hashlib
import io
import pickle
import time
import warnings
from typing import Any

import torch

from cl_bench.store import Run, StoreWarning

SECONDS_BETWEEN = 300.0
"""Seconds of training between two checkpoints, the most that is lost when the process is killed."""
State = dict[str, Any]


class Checkpoint:
    """The checkpoint of one training of a run.

    Args:
        run: Run in whose directory it is kept.
        device: Device of the training.
        name: Name of the file.
        encoder: sha256 of the encoder that a detector is trained on; empty where the encoder itself is trained.
        share: Share of this process's time that the training takes, where others are trained in lock-step.
    """

    def __init__(
        self, run: Run, device: torch.device, name: str = "checkpoint", encoder: str = "", share: float = 1.0
    ) -> None:
        self._run, self._device, self._name = run, device, f"{name}.pt"
        self._of = {"record": run.identity(name), "encoder": encoder}
        self._begun = self._saved = time.monotonic()
        self._before = 0.0
        self._share = share

    @property
    def seconds(self) -> float:
        """Seconds spent on this training, including those of earlier processes."""
        return self._before + self._share * (time.monotonic() - self._begun)

    def load(self, fresh: State) -> State | None:
        """Return the state to continue from, or None where there is none.

        A file that is damaged, belongs to another run or another encoder, or lacks a part, is moved aside and ignored.

        Args:
            fresh: State of the training at its beginning, whose parts and tensors' shapes it must have.
        """
        path = self._run.path / self._name
        content = self._run.content(self._name)
        if content is None:
            return None
        digest, payload = content[:32], content[32:]
        if hashlib.sha256(payload).digest() != digest:
            self._run.store.set_aside(path, "hash is off")
            return None
        try:
            kept: Any = torch.load(io.BytesIO(payload), map_location=self._device, weights_only=True)
        except (RuntimeError, pickle.UnpicklingError) as error:  # whole, but of another torch
            self._run.store.set_aside(path, f"cannot be loaded ({type(error).__name__})")
            return None
        if not isinstance(kept, dict) or {name: kept.get(name) for name in self._of} != self._of:
            self._run.store.set_aside(path, "of another training")
            return None
        odd = _unlike({**self._of, "seconds": 0.0, "state": fresh}, kept)
        if odd:
            self._run.store.set_aside(path, f"{odd} is not this training's")
            return None
        self._before = kept["seconds"]
        state: State = kept["state"]
        return state

    @property
    def due(self) -> bool:
        """True where the last checkpoint is at least ``SECONDS_BETWEEN`` old."""
        return time.monotonic() - self._saved >= SECONDS_BETWEEN

    def save(self, state: State) -> None:
        """Replace the last state by this one; on a full disk the checkpoint is lost, and the training goes on."""
        buffer = io.BytesIO()
        torch.save({**self._of, "seconds": self.seconds, "state": state}, buffer)
        payload = buffer.getvalue()
        try:
            self._run.write_bytes(self._name, hashlib.sha256(payload).digest() + payload)
        except OSError as error:
            why = f"{self._run.path / self._name}: not written ({error.strerror}); training goes on without"
            warnings.warn(why, StoreWarning, stacklevel=2)
        self._saved = time.monotonic()

    def clear(self) -> None:
        """Remove the checkpoint, once the training has ended."""
        (self._run.path / self._name).unlink(missing_ok=True)


def _unlike(fresh: Any, kept: Any, where: str = "") -> str:
    """Return the dotted key of the first part that differs in form from a fresh state; empty if there is none."""
    if isinstance(fresh, torch.Tensor):
        alike = isinstance(kept, torch.Tensor) and (
            torch.nn.parameter.is_lazy(fresh) or (kept.shape, kept.dtype) == (fresh.shape, fresh.dtype)
        )
        return "" if alike else where
    if not isinstance(fresh, dict):
        return "" if isinstance(kept, type(fresh)) else where
    if not isinstance(kept, dict):
        return where
    odd = fresh.keys() ^ kept.keys() if fresh else ()  # an optimiser's state begins empty
    found = [f"{where}.{key}" for key in odd] or [
        _unlike(part, kept[key], f"{where}.{key}") for key, part in fresh.items()
    ]
    return next(filter(None, found), "").removeprefix(".")
