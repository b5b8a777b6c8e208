"""Work done by several processes of torch.distributed over gloo, begun once for many cases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing import start_processes

from cl_bench.losses.distributed import Together

Work = Callable[[Together], Any]


def together(size: int, work: Work, folder: Path) -> list[Any]:
    """Return what each of several processes returns; ``work`` is a function of a module."""
    start_processes(_one, (size, work, folder), nprocs=size, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def _one(rank: int, size: int, work: Work, folder: Path) -> None:
    from cl_bench.train.distributed import join

    torch.set_num_threads(1)
    over = join(rank, size, folder / "meeting", torch.device("cpu"))
    torch.save(work(over), folder / f"{rank}.pt")
