"""Memory of the process that computes: what it keeps, and what to try where it is out."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cl_bench.errors import OutOfMemory
from cl_bench.spec import RunSpec

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""glibc's names for two parameters of ``mallopt``."""


def keep_freed_memory() -> None:
    """Have glibc keep up to 64 MiB of what is freed; without effect where the C library is another one.

    It hands blocks of 128 KiB and more back to the system, and each block of views pays for the same pages anew.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(TRIM_THRESHOLD, 64 * 2**20)


@contextmanager
def room_for(stage: str, spec: RunSpec) -> Iterator[None]:
    """Say what to try where memory is out."""
    from cl_bench.methods.method import NO_MEMORY

    try:
        yield
    except (RuntimeError, *NO_MEMORY) as error:
        if isinstance(error, NO_MEMORY) or "DefaultCPUAllocator" in str(error):
            notes = getattr(error, "__notes__", [])
            said = f"in {notes[0]} with {_fewer(spec)}" if notes else f"with {_smaller(stage, spec)}"
            raise OutOfMemory(f"{stage}: out of memory {said}") from None
        raise


def _fewer(spec: RunSpec) -> str:
    """What a plugin has before it at a time: the batch, whether or not it goes through the encoder whole."""
    batch, table = spec.pretrain.optimiser.batch, f"{spec.pretrain.data.kind}.optimiser"
    advice = f"--set {table}.batch={batch // 2} (for the whole row: fewer negatives are another objective)"
    return f"a batch of {batch} images; try {advice if batch > 3 else '--device cpu'}"


def _smaller(stage: str, spec: RunSpec) -> str:
    """What a stage has in memory at a time, and the setting that halves it."""
    if stage == "pre-training":
        batch = spec.pretrain.optimiser.batch
        tried = spec.pretrain.optimiser.chunk or batch
        half = max((n for n in range(2, tried // 2 + 1) if batch % n == 0), default=0)
        kept = "loss and gradients stay the whole batch's, batch norm's statistics become the chunk's"
        table = f"{spec.pretrain.data.kind}.optimiser"
        what, advice = f"{tried} images of a batch of {batch}", half and f"--set {table}.chunk={half} ({kept})"
    elif stage == "linear":
        half = spec.linear.batch // 2
        what, advice = f"a batch of {spec.linear.batch}", half and f"--set linear.batch={half}"
    elif stage == "detection":
        plan, half = spec.detection, spec.detection.batch // 2
        advice = half and (
            f"--set detection.batch={half} --set detection.lr={plan.lr * half / plan.batch:g} --set "
            f"detection.iterations={plan.iterations * plan.batch // half} (for the whole row: it is another recipe)"
        )
        what = f"a batch of {plan.batch}"
    else:
        what, advice = f"the features of {spec.measure.data.count:,} images", ""
    return f"{what}; try {advice or '--device cpu'}"
