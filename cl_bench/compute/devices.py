"""Devices that encoders are computed on, and the number of workers for them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cl_bench.errors import SpecError, nearest
from cl_bench.spec import RunSpec
from cl_bench.spec.datasets import GIB

if TYPE_CHECKING:
    import torch

WORKER_MEMORY = 3 * 2**29  # bytes that a worker needs: torch and the data, 1.5 GiB
WORKER_GPU_MEMORY = 2**30  # bytes that a worker needs on its GPU besides models and batches: context and kernels


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Return the bytes of memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def sharing(jobs: int, devices: Sequence[str]) -> int:
    """Return the largest number of workers that share a device, as they take the devices in turn."""
    return -(-jobs // len(devices))


def worker_threads(workers: int) -> int | None:
    """Return the number of threads of each of some GPU workers here: its share of the cores; None leaves it to torch.

    The threads prepare views. ``OMP_NUM_THREADS`` bounds their number. Workers of pytest-xdist share the cores too.
    """
    workers *= int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if workers == 1:
        return None
    given = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores() // workers, int(given) if given.isdecimal() else cores()))


def overcommitted(jobs: int, devices: Sequence[str], per_model: int = 1) -> str:
    """Return a line that says where so many workers need more memory than there is, and ``""`` if they do nowhere.

    Args:
        jobs: Number of workers.
        devices: Names of the devices.
        per_model: Number of processes of each worker, each on a device.
    """
    processes = jobs * per_model
    places = {"this machine": (memory(), processes, WORKER_MEMORY, 1)}
    if devices[0].startswith("cuda"):
        import torch

        for name in devices:
            there = torch.cuda.get_device_properties(name).total_memory
            places[name] = there, sharing(processes, devices), WORKER_GPU_MEMORY, len(devices)
    for where, (there, workers, each, of_them) in places.items():
        if workers * each > there:
            need, fit = workers * each / GIB, max(1, there // each * of_them // per_model)
            return (
                f"--jobs {jobs}: {workers} workers on {where} need {need:g} GiB besides models and data, and it has "
                f"{there / GIB:.3g} GiB: they may fail for lack of memory; --jobs {fit} fits"
            )
    return ""


def default_jobs(devices: Sequence[str], per_model: int = 1) -> int:
    """Return the number of workers: one per GPU, or one per core as memory allows; 1 in a pytest-xdist worker.

    Args:
        devices: Names of the devices.
        per_model: Number of GPUs, or of processes on a CPU, that a worker uses.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        return 1
    if devices[0].startswith("cuda"):
        return max(1, len(devices) // per_model)
    return max(1, min(cores(), memory() // WORKER_MEMORY) // per_model)


def check_per_model(size: int, devices: Sequence[str]) -> None:
    """Refuse a number of GPUs per model that there are not; on a CPU it is a number of processes.

    Raises:
        SpecError: The line names the number.
    """
    if size < 1:
        raise SpecError(f"--gpus-per-model must be at least 1, got {size}")
    if devices[0].startswith("cuda") and size > len(devices):
        seen = f"{len(devices)} GPU{'s' * (len(devices) > 1)} ({', '.join(devices)})"
        raise SpecError(f"--gpus-per-model {size}: --device names {seen}; give {len(devices)} at most")


def check_share_views(size: int, per_model: int) -> None:
    """Refuse a number of encoders in lock-step that is none, or of which each is trained by several processes.

    Raises:
        SpecError: The line names the number.
    """
    if size < 1:
        raise SpecError(f"--share-views must be at least 1, got {size}")
    if size > 1 and per_model > 1:
        raise SpecError(
            f"--share-views {size}: with --gpus-per-model {per_model} encoders are trained one by one; leave out one"
        )


def check_division(size: int, specs: Iterable[RunSpec]) -> None:
    """Refuse a number of GPUs per model that cannot have equal parts of a batch, or of the chunks it is passed in.

    Raises:
        SpecError: The line names the number and the nearest that can.
    """
    for plan in dict.fromkeys(spec.pretrain.optimiser for spec in specs):
        what, images = ("chunks", plan.chunk) if plan.chunk else ("the batch", plan.batch)
        if images % size:
            near = min((n for n in range(1, images + 1) if images % n == 0), key=lambda n: abs(n - size))
            raise SpecError(f"--gpus-per-model {size} does not divide {what} of {images} images; {near} does")


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
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name):
        near = nearest("cuda" if name == "gpu" else name, ["auto", "cpu", "cuda"])
        raise SpecError(f"--device takes auto, cpu, cuda or cuda:0, cuda:1, ..., got {name!r}{near}")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise SpecError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device
