"""One encoder of a tiny profile: computed by the runner, in a store of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from helpers import dense_row, tiny

from cl_bench.compute.runner import compute
from cl_bench.methods.registry import Registry, spec_of
from cl_bench.spec import RunSpec
from cl_bench.spec.profile import Profile
from cl_bench.spec.records import Record
from cl_bench.store import Store

CPU = torch.device("cpu")


def specs(folder: Path, **changes: object) -> tuple[Profile, RunSpec]:
    profile = tiny(folder, **changes)
    source = spec_of(Registry().resolve("dense_index")).source
    return profile, profile.sweep(dense_row(source=source))[0]


def work(spec: RunSpec, store: Store, on_step: Callable[[str, int, int], None] | None = None) -> bool:
    return compute(spec, store, Registry(), CPU, on_step)


def figures(record: Record | None) -> tuple[object, ...]:
    assert record is not None
    return record.alignment, record.uniformity, record.performance, record.extra, record.decomposition_error
