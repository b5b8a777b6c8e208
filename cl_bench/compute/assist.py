"""The part of a model's training that a process does which is not the first of those that train it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from cl_bench.compute.memory import room_for_stage
from cl_bench.compute.output import output_to
from cl_bench.compute.pretraining import method_of
from cl_bench.errors import Diverged
from cl_bench.spec import RunSpec
from cl_bench.store import Store

if TYPE_CHECKING:
    import torch

    from cl_bench.data import DataPaths
    from cl_bench.losses.distributed import Alone
    from cl_bench.methods.registry import Registry


def assist(
    spec: RunSpec, store: Store, registry: Registry, device: torch.device, places: DataPaths | None, over: Alone
) -> None:
    """Train with the processes ``over``, the first of which holds the run, computes all else and stores it.

    Raises:
        MethodError: If the plugin fails.
        OutOfMemory: If the training needs more memory than there is.
    """
    from cl_bench.compute.numerics import settled
    from cl_bench.data import load
    from cl_bench.train.checkpoint import Checkpoint
    from cl_bench.train.pretrain import pretrain

    run = store.run(spec.pretrain.key)
    # That it diverged is found by all at the same step, and stored by the first.
    with output_to(run), room_for_stage("pre-training", spec), settled(device), suppress(Diverged):
        method, data = method_of(spec, registry), load(spec.pretrain.data, places)
        pretrain(spec.pretrain, method, data, device, checkpoint=Checkpoint(run, device), over=over)
