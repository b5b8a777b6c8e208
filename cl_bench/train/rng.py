"""State of torch's global random generators, and their temporary use with a given seed or by one of several users."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor


def random_state(device: torch.device) -> list[Tensor]:
    """Return the state of the CPU's generator and, on a GPU, also of the device's."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_random_state(state: list[Tensor], device: torch.device) -> None:
    """Restore a state that ``random_state`` returned."""
    torch.set_rng_state(state[0].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1].cpu(), device)


def restored(device: torch.device) -> AbstractContextManager[None]:
    """Restore the global generators, the device's too, after a context."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators, which modules draw from, within the context, and restore them after it."""
    with restored(device):
        torch.manual_seed(seed)
        yield


class Numbers:
    """The random numbers of one user of the global generators, which others use in between.

    Args:
        seed: Seed of the generators.
        device: Device whose generator is used beside the CPU's.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        with seeded(seed, device):
            self._state = random_state(device)

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Continue these numbers within the context, and restore the generators after it."""
        with restored(self._device):
            set_random_state(self._state, self._device)
            try:
                yield
            finally:
                self._state = random_state(self._device)
