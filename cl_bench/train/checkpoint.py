"""Where a training stands, kept in its run, so that an interrupted one goes on and ends in the same bits."""

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
"""Seconds of training between two checkpoints, which is what a kill costs at most."""
State = dict[str, Any]


class Checkpoint:
    """The checkpoint of one training of a run.

    Args:
        run: Whose directory it lies in.
        device: Where the training is.
        name: Of the file.
        encoder: sha256 of the encoder that a detector is trained on; nothing where the encoder itself is trained.
    """

    def __init__(self, run: Run, device: torch.device, name: str = "checkpoint", encoder: str = "") -> None:
        self._run, self._device, self._name = run, device, f"{name}.pt"
        self._of = {"record": run.identity(name), "encoder": encoder}
        self._begun = self._saved = time.monotonic()
        self._before = 0.0

    @property
    def seconds(self) -> float:
        """Time spent on this training, earlier processes included."""
        return self._before + time.monotonic() - self._begun

    def load(self) -> State | None:
        """The state to go on from; None where there is none.

        One that is not what was written, or is of another run or another encoder, is set aside.
        """
        path = self._run.path / self._name
        try:
            content = path.read_bytes()
        except FileNotFoundError:
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
        self._before = kept["seconds"]
        state: State = kept["state"]
        return state

    @property
    def due(self) -> bool:
        """Whether the last one is old enough."""
        return time.monotonic() - self._saved >= SECONDS_BETWEEN

    def save(self, state: State) -> None:
        """Keep a state in the place of the last one; a full disk costs the checkpoint, not the training."""
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
        """The training has ended."""
        (self._run.path / self._name).unlink(missing_ok=True)
