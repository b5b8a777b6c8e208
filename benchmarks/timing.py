"""How every benchmark here measures: medians over interleaved rounds of one process, memory in a process of its own."""

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
    """Median seconds of each candidate; they take turns, so that a slow minute of the machine falls on all of them."""
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


def extra_memory(warm_up: Callable[[], object], run: Callable[[], object]) -> int:
    """Bytes that ``run`` needs at its peak beyond what is held before it: on the GPU where there is one, else resident.

    Call it in a fresh process: what an earlier candidate gave back to the allocator would be used again unseen. Linux
    alone tells of resident memory.
    """
    warm_up()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - held
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def in_own_process(script: Path, *arguments: object) -> int:
    """The number that a script prints last."""
    command = [sys.executable, str(script), *map(str, arguments)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def machine(*packages: str) -> str:
    """What the figures were taken on."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    versions = ", ".join(f"{p} {version(p)}" for p in ("torch", *packages))
    return f"{cpu}, {torch.get_num_threads()} threads{gpu}; Python {platform.python_version()}, {versions}"
