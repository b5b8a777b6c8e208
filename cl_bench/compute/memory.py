"""Memory of a computing process: its allocator's settings, and advice when memory is exhausted."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress

from cl_bench.errors import OutOfMemory
from cl_bench.spec import RunSpec

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""glibc's names for two parameters of ``mallopt``."""


def keep_freed_memory() -> None:
    """Make glibc keep up to 64 MiB of freed memory; this has no effect with another C library.

    By default it returns blocks of 128 KiB and more to the system, so that every batch of views must map new pages.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(TRIM_THRESHOLD, 64 * 2**20)


@contextmanager
def room_for(said: Callable[[Sequence[str]], str]) -> Iterator[None]:
    """Turn lack of memory within the context into an error that says what to try.

    Args:
        said: Function that makes the message, given the notes that the error carries.
    """
    from cl_bench.methods.method import NO_MEMORY

    try:
        yield
    except (RuntimeError, *NO_MEMORY) as error:
        if isinstance(error, NO_MEMORY) or "DefaultCPUAllocator" in str(error):
            raise OutOfMemory(said(getattr(error, "__notes__", []))) from None
        raise


def room_for_stage(stage: str, spec: RunSpec) -> AbstractContextManager[None]:
    """Turn lack of memory in a stage of a run into an error that names the setting to try."""

    def said(notes: Sequence[str]) -> str:
        tried = f"in {notes[0]} with {_fewer(spec)}" if notes else f"with {_smaller(stage, spec)}"
        return f"{stage}: out of memory {tried}"

    return room_for(said)


def _fewer(spec: RunSpec) -> str:
    """Name the batch, which a plugin handles as a whole even with chunks, and the setting that halves it."""
    batch, table = spec.pretrain.optimiser.batch, f"{spec.pretrain.data.kind}.optimiser"
    advice = f"--set {table}.batch={batch // 2} (for the whole row: fewer negatives are another objective)"
    return f"a batch of {batch} images; try {advice if batch > 3 else '--device cpu'}"


def _smaller(stage: str, spec: RunSpec) -> str:
    """Name the images that a stage has in memory at a time, and the setting that halves their number."""
    if stage == "pre-training":
        batch = spec.pretrain.optimiser.batch
        tried = spec.pretrain.optimiser.chunk or batch
        half = max((n for n in range(2, tried // 2 + 1) if batch % n == 0), default=0)
        kept = (
            "the loss and its gradients stay those of the whole batch; batch norm's statistics become those of a chunk"
        )
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
