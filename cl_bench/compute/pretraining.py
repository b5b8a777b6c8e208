"""The stage that pre-trains a run's encoder: from the store, or trained now, alone or in lock-step with others."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from cl_bench.compute.record import read_status
from cl_bench.errors import Diverged, MethodError
from cl_bench.spec import PretrainSpec, RunSpec
from cl_bench.spec.records import RANDOM_INIT
from cl_bench.store import Run, Store

if TYPE_CHECKING:
    import torch

    from cl_bench.data import DataPaths
    from cl_bench.encoders import Encoder
    from cl_bench.losses.distributed import Alone
    from cl_bench.methods.method import Method
    from cl_bench.methods.registry import Registry
    from cl_bench.train.checkpoint import Checkpoint
    from cl_bench.train.training import Pretrained

OnStep = Callable[[str, int, int], None]
"""Function that is called with (stage, steps done, steps in all)."""


def method_of(spec: RunSpec, registry: Registry) -> Method | None:
    """Return the method of a spec; None for an untrained encoder.

    Raises:
        MethodError: If there is none, or its source is another than the spec's.
    """
    from cl_bench.methods.registry import spec_of

    if spec.pretrain.objective.family == RANDOM_INIT:
        return None
    options = ",".join(f"{k}={v}" for k, v in spec.pretrain.method.options)
    method = registry.resolve(f"{spec.pretrain.method.name}:{options}")
    if spec_of(method) != spec.pretrain.method:
        raise MethodError(f"method {method.name!r} ({method.origin}) was edited since this run began; run it again")
    return method


def pretrained(
    spec: RunSpec,
    store: Store,
    registry: Registry,
    device: torch.device,
    on_step: OnStep | None,
    places: DataPaths | None,
    join: Callable[[], Alone] | None,
    beside: Sequence[RunSpec],
) -> tuple[Encoder | None, str]:
    """Return the pre-trained encoder and its file's sha256; None if it diverged. Arguments are those of ``compute``."""
    from cl_bench.encoders import to_channels_last
    from cl_bench.losses.distributed import ALONE

    run = store.run(spec.pretrain.key)
    status = read_status(run)
    if status is not None:
        if status["status"] == "diverged":
            return None, ""
        encoder = kept_encoder(spec.pretrain, run, status["encoder_sha256"])
        if encoder is not None:
            return to_channels_last(encoder, device), status["encoder_sha256"]
        # Without its encoder the run must be trained again; evaluations of the same weights stay valid.
    method = method_of(spec, registry)
    over = ALONE if method is None or join is None else join()
    with _untrained(beside, store) as others:
        runs = [(spec, run), *others]
        return _train(runs, [method, *(method_of(one, registry) for one, _ in others)], device, on_step, places, over)


@contextmanager
def _untrained(specs: Sequence[RunSpec], store: Store) -> Iterator[list[tuple[RunSpec, Run]]]:
    """Hold the runs of those specs that have no encoder, and that no other process holds, within the context."""
    with ExitStack() as held:
        runs = [(spec, store.run(spec.pretrain.key)) for spec in specs]
        yield [(spec, run) for spec, run in runs if held.enter_context(run.locked()) and read_status(run) is None]


def _train(
    runs: Sequence[tuple[RunSpec, Run]],
    methods: Sequence[Method | None],
    device: torch.device,
    on_step: OnStep | None,
    places: DataPaths | None,
    over: Alone,
) -> tuple[Encoder | None, str]:
    """Train the encoders of some runs and store each; returns that of the first, as ``pretrained``.

    Raises:
        MethodError: If the plugin fails for the first; for another, this is left to who trains it alone.
    """
    from cl_bench.compute.numerics import provenance
    from cl_bench.data import load
    from cl_bench.losses.fused import in_halves
    from cl_bench.train.checkpoint import Checkpoint
    from cl_bench.train.pretrain import in_lock_step, pretrain
    from cl_bench.train.training import Training

    first, method = runs[0][0].pretrain, methods[0]
    begun = datetime.now(UTC).isoformat(timespec="seconds")
    together = {"processes": over.size, **({"in_lock_step": len(runs)} if len(runs) > 1 else {})}
    for spec, run in runs:
        # With the places of files, which a reader of the store builds network and data from.
        run.write("spec", spec.pretrain.model_dump(mode="json"))
    checkpoints = [Checkpoint(run, device, share=1 / len(runs)) for _, run in runs]
    data = load(first.data, places)
    report = partial(on_step, "pre-training") if on_step else None
    outcomes: list[Pretrained | Diverged | MethodError]
    if len(runs) == 1:
        try:
            outcomes = [pretrain(first, method, data, device, report, checkpoints[0], over)]
        except Diverged as error:
            outcomes = [error]
    else:
        each = zip(runs, methods, checkpoints, strict=True)
        trainings = [Training(spec.pretrain, m, data, device, kept) for (spec, _), m, kept in each if m is not None]
        outcomes = in_lock_step(trainings, data, device, report)
    with in_halves(first.optimiser.precision):  # the switches as a plugin left them
        how = {"begun": begun, **together, **provenance(device)}
    stored = [
        ("" if isinstance(outcome, MethodError) else _store(run, outcome, checkpoint, how))
        for (_, run), outcome, checkpoint in zip(runs, outcomes, checkpoints, strict=True)
    ]
    if isinstance(outcomes[0], MethodError):
        raise outcomes[0]
    return None if isinstance(outcomes[0], Diverged) else outcomes[0].encoder, stored[0]


def _store(run: Run, outcome: Pretrained | Diverged, checkpoint: Checkpoint, how: dict[str, Any]) -> str:
    """Store the outcome of a training, and return the sha256 of the encoder's file; empty if it diverged."""
    import safetensors.torch

    told = {"seconds": checkpoint.seconds, "provenance": how}
    if isinstance(outcome, Diverged):
        detail = f"pre-training: {outcome}"
        run.write("status", {"status": "diverged", "detail": detail, "decomposition_error": 0.0, **told})
        checkpoint.clear()
        return ""
    weights = {k: v.detach().cpu().contiguous() for k, v in outcome.encoder.state_dict().items()}
    digest = run.write_bytes("encoder.safetensors", safetensors.torch.save(weights))
    history = "".join(json.dumps(entry) + "\n" for entry in outcome.history).encode()
    history_digest = run.write_bytes("history.jsonl", history)
    run.write(
        "status",
        {
            "status": "complete",
            "detail": "",
            "decomposition_error": outcome.decomposition_error,
            "matching_precision": _defined(outcome.matching_precision),
            "position_only_loss": _defined(outcome.position_only_loss),
            "encoder_sha256": digest,
            "history_sha256": history_digest,
            **told,
        },
    )
    checkpoint.clear()
    return digest


def kept_encoder(spec: PretrainSpec, run: Run, sha256: str) -> Encoder | None:
    """Return the encoder that a run keeps, on the CPU and in evaluation mode; None where it is not kept.

    Args:
        spec: How it was pre-trained.
        run: Where it lies.
        sha256: Of its file; one of another hash is set aside.
    """
    import safetensors.torch

    from cl_bench.train.training import untrained

    content = run.read_bytes("encoder.safetensors", sha256)
    if content is None:
        return None
    encoder = untrained(spec)
    encoder.load_state_dict(safetensors.torch.load(content))
    return encoder.eval()


def _defined(value: float) -> float | None:
    """Return the value, or None for nan, which JSON cannot hold."""
    return None if math.isnan(value) else value
