"""The devices that encoders are computed on, and how many workers they take."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cl_bench.errors import SpecError

if TYPE_CHECKING:
    import torch

WORKER_MEMORY = 3 * 2**29  # bytes to reckon with for a worker: torch and the data, 1.5 GiB


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
