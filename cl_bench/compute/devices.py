"""Devices that encoders are computed on, and the number of workers for them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cl_bench.errors import SpecError

if TYPE_CHECKING:
    import torch

WORKER_MEMORY = 3 * 2**29  # bytes that a worker needs: torch and the data, 1.5 GiB


def default_jobs(devices: Sequence[str]) -> int:
    """Return the number of workers: one per GPU, or one per core as memory allows; 1 in a pytest-xdist worker."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return 1
    if devices[0].startswith("cuda"):
        return len(devices)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(cores, memory // WORKER_MEMORY))


def usable_devices(name: str) -> list[str]:
    """Return the devices that ``auto``, ``cpu``, ``cuda`` (all GPUs) or ``cuda:i`` names.

    Each pytest-xdist worker gets the GPUs in an order that starts with another one.

    Raises:
        SpecError: If there is no such device, or it does not work.
    """
    import torch

    device = torch_device(name)
    if device.type != "cuda" or device.index is not None:
        return [str(device)]
    count = torch.cuda.device_count()
    first = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return [f"cuda:{(first + i) % count}" for i in range(count)]


def torch_device(name: str) -> torch.device:
    """Return the device of that name, after checking that it works.

    Raises:
        SpecError: If there is no such device, or it does not work.
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
