"""Measurements of the benchmarks: medians over interleaved rounds in one process, memory in a process of its own."""

from __future__ import annotations

import gc
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import torch


def medians(
    candidates: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Return the median seconds of each candidate; they take turns, so that a slow period affects all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, run in candidates.items():
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            start = clock()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:  # the first is a warm-up
                seconds[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def finish(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class StepClock:
    """Seconds a step of a training that calls it after each one.

    The first two steps are left out, and the last, which is logged. A GPU is waited for twice in all, so that what
    feeds it is not held up.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._at: dict[int, float] = {}

    def __call__(self, done: int, total: int) -> None:
        if done in (2, total - 1):
            finish(self._device)
            self._at[done] = time.perf_counter()

    @property
    def step(self) -> float:
        """Mean seconds a step; takes a training of four steps at least."""
        (first, begun), (last, ended) = self._at.items()
        return (ended - begun) / (last - first)


def extra_memory(warm_up: Callable[[], object], run: Callable[[], object]) -> int:
    """Return the bytes that ``run`` needs at its peak beyond those in use before: on a GPU if any, else resident.

    Call it in a new process, because memory that an earlier candidate returned to the allocator would be used again
    without being counted. Resident memory is available on Linux alone.
    """
    warm_up()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - held
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def in_own_process(script: Path, *arguments: object) -> int:
    """Run a script in a process of its own and return the number that it prints last."""
    command = [sys.executable, str(script), *map(str, arguments)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def machine(*packages: str) -> str:
    """Describe the machine and the versions that the figures are from."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    versions = ", ".join(f"{p} {version(p)}" for p in ("torch", *packages))
    return f"{cpu}, {torch.get_num_threads()} threads{gpu}; Python {platform.python_version()}, {versions}"
