"""Checks of tensors' values: made at once, or gathered in a flag each on the device and read together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor


class Gathered:
    """Checks whose outcome is still on the device; ``told_as`` makes the error to raise of the one that failed."""

    def __init__(self, told_as: Callable[[Exception], Exception] = lambda error: error) -> None:
        self._told_as = told_as
        self._hold: dict[tuple[type[Exception], str], Tensor] = {}

    def add(self, ok: Tensor, error: type[Exception], rule: str) -> None:
        """Add a check; one that was added before holds where it held both times."""
        before = self._hold.get((error, rule))
        self._hold[error, rule] = ok if before is None else before & ok

    def read(self, when: str = "") -> None:
        """Read all outcomes at once, the only time that the CPU waits for them, and forget them.

        Raises:
            Exception: That of the check that does not hold, its rule followed by ``when``; of several, the one that was
                added first.
        """
        hold, self._hold = self._hold, {}
        if not hold:
            return
        for (error, rule), held in zip(hold, torch.stack([*hold.values()]).tolist(), strict=True):
            if not held:
                raise self._told_as(error(f"{rule}{when}"))


_gathered: ContextVar[Gathered | None] = ContextVar("_gathered", default=None)


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether every number of some tensors is finite; the CPU waits for a GPU once."""
    return bool(torch.stack([torch.isfinite(x).all() for x in tensors]).all())


def require(ok: Tensor, error: type[Exception], rule: str, found: str | Callable[[], str] = "") -> None:
    """Raise ``error`` unless a check holds; where checks are gathered, add it to them instead.

    Args:
        ok: Scalar bool, whether it holds.
        error: Type of the error.
        rule: Its message.
        found: Rest of the message, or a function that makes it from values; gathered checks leave it out.
    """
    if (gathered := _gathered.get()) is not None:
        gathered.add(ok.detach(), error, rule)
    elif not bool(ok):
        raise error(rule + (found if isinstance(found, str) else found()))


def refuse_second_derivative(function: str) -> None:
    """Raise RuntimeError in the backward pass of a function, by name, if its gradient is to be differentiated too."""
    if torch.is_grad_enabled():  # create_graph=True
        raise RuntimeError(f"{function} has no second derivative: differentiate it without create_graph")


def are_gathered() -> bool:
    """Return whether checks are gathered, so that nothing else should make the CPU wait either."""
    return _gathered.get() is not None


@contextmanager
def gathering(device: torch.device, gathered: Gathered | None = None) -> Iterator[Gathered]:
    """Gather the checks that are made within the context on a GPU, for the caller to read; on a CPU they are made.

    Args:
        device: Device of the tensors.
        gathered: Checks to add to, in place of new ones.

    Raises:
        Exception: That of a check which does not hold, instead of an error that followed before it was read.
    """
    gathered = gathered or Gathered()
    token = _gathered.set(None if device.type == "cpu" else gathered)
    try:
        yield gathered
    except Exception:
        gathered.read("; an error followed")
        raise
    finally:
        _gathered.reset(token)
