"""Computation of a spec's stages, each a memoised function of its spec whose result is kept in the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from cl_bench.compute.memory import room_for_stage
from cl_bench.compute.output import output_to
from cl_bench.compute.pretraining import OnStep, pretrained
from cl_bench.compute.record import STAGES, evaluation_name, read_evaluation, read_losses, read_predictions, read_status
from cl_bench.compute.stored import PREDICTORS
from cl_bench.errors import Diverged
from cl_bench.spec import RunSpec
from cl_bench.store import Run, Store

if TYPE_CHECKING:
    import torch

    from cl_bench.data import DataPaths
    from cl_bench.encoders import Encoder
    from cl_bench.losses.distributed import Alone
    from cl_bench.methods.registry import Registry
    from cl_bench.predictors.registry import Predictors


def compute(
    spec: RunSpec,
    store: Store,
    registry: Registry,
    device: torch.device,
    on_step: OnStep | None = None,
    places: DataPaths | None = None,
    predictors: Predictors | None = None,
    join: Callable[[], Alone] | None = None,
    beside: Sequence[RunSpec] = (),
) -> bool:
    """Compute what the store lacks of a run; ``places`` gives the paths of data sets other than the embedded one.

    Of the spec's predictors it computes those that ``predictors`` holds with the same source: built-in ones if None.
    ``join`` meets the processes that pre-train the encoder with this one, if any; it is called when that begins. The
    encoders ``beside`` it, of the same method and the same views, are pre-trained in lock-step with it, and kept; but
    not those that the store has, or that another process is computing.

    Returns:
        False, without doing anything, when another process is computing this run.

    Raises:
        MethodError: If the plugin fails; nothing is stored, so that the next run tries again.
        OSError: If the store cannot be written; its earlier content stays intact.
        OutOfMemory: If a stage needs more memory than there is; nothing of this stage is stored.
    """
    from cl_bench.compute.numerics import settled

    run = store.run(spec.pretrain.key)
    with run.locked() as mine:
        if not mine:
            return False
        with output_to(run):
            with room_for_stage("pre-training", spec), settled(device):
                encoder, sha256 = pretrained(spec, store, registry, device, on_step, places, join, beside)
            if encoder is not None:
                for stage in STAGES:
                    if read_evaluation(spec, run, stage, sha256) is None:
                        with room_for_stage(stage, spec), settled(device):  # not as a plugin left them
                            _evaluate(stage, spec, run, encoder, sha256, device, on_step, places)
                with room_for_stage(PREDICTORS, spec), settled(device):
                    _predict(spec, run, encoder, sha256, device, places, predictors)
        note(spec, run)
        return True


def note(spec: RunSpec, run: Run) -> None:
    """Keep what was asked for, so that the record can be read by who does not know the profile."""
    name = f"specs/{spec.key[:16]}"
    if not (run.path / f"{name}.json").exists():
        run.write(name, spec.model_dump(mode="json"))


def _evaluate(
    stage: str,
    spec: RunSpec,
    run: Run,
    encoder: Encoder,
    sha256: str,
    device: torch.device,
    on_step: OnStep | None,
    places: DataPaths | None,
) -> None:
    """Run one evaluation of the encoder with that sha256 and store it, also if it diverges."""
    from cl_bench.compute.numerics import provenance
    from cl_bench.data import load
    from cl_bench.evaluate.alignment_uniformity import measure
    from cl_bench.evaluate.detection import evaluate_detection
    from cl_bench.evaluate.linear import evaluate_linear
    from cl_bench.train.checkpoint import Checkpoint

    augment = spec.pretrain.augment
    report = partial(on_step, stage) if on_step else None
    checkpoint = Checkpoint(run, device, evaluation_name(spec, stage), sha256)
    result: dict[str, Any]
    try:
        if stage == "measure":
            held_out = load(spec.measure.data, places)
            result = dict(measure(encoder, held_out, spec.measure, augment, spec.pretrain.views, device))
        elif stage == "linear":
            train, test = load(spec.linear.train, places), load(spec.linear.test, places)
            colours = augment.mean, augment.std
            result = dict(evaluate_linear(encoder, train, test, spec.linear, *colours, device, report))
        else:
            train, test = load(spec.detection.train, places), load(spec.detection.test, places)
            plan, colours = spec.detection, (augment.mean, augment.std)
            result = dict(evaluate_detection(encoder, train, test, plan, *colours, device, report, checkpoint))
    except Diverged as error:
        result = {"diverged": str(error)}
    found = {"encoder_sha256": sha256, "seconds": checkpoint.seconds, "provenance": provenance(device)}
    run.write(evaluation_name(spec, stage), {**result, **found})
    checkpoint.clear()


def _predict(
    spec: RunSpec,
    run: Run,
    encoder: Encoder,
    sha256: str,
    device: torch.device,
    places: DataPaths | None,
    known: Predictors | None,
) -> None:
    """Compute the missing predictors of the encoder with that sha256, and store them with the existing ones."""
    from cl_bench.compute.numerics import provenance
    from cl_bench.data import load
    from cl_bench.predictors.measure import Found, found_by, knob_of, seen_of
    from cl_bench.predictors.registry import Predictors
    from cl_bench.train.checkpoint import Checkpoint

    there, _ = read_predictions(spec, run, sha256)
    missing = [predictor for predictor in spec.predictors if predictor.name not in there]
    if not missing:
        return
    known = known or Predictors((), ())
    mine = [known.named(p.name) for p in missing if p.name in known.names and known.spec_of(known.named(p.name)) == p]
    if not mine:
        return
    clock = Checkpoint(run, device)
    status = read_status(run)
    losses = [loss for _, loss in read_losses(run, status)] if status else []
    try:
        held_out, trained = load(spec.measure.data, places), spec.pretrain
        knob = knob_of(trained.objective)
        levels = seen_of(encoder, held_out, spec.measure, trained.augment, trained.views, device, knob, losses)
        said = found_by(mine, levels)
    except Diverged as error:
        said = {predictor.name: Found(failed=str(error)) for predictor in mine}
    sources = {predictor.name: predictor.source for predictor in spec.predictors}
    found = {name: {"source": sources[name], **asdict(what)} for name, what in said.items()}
    before = read_evaluation(spec, run, PREDICTORS, sha256)
    kept, seconds = (before["found"], before["seconds"]) if before else ({}, 0.0)
    told = {"encoder_sha256": sha256, "seconds": seconds + clock.seconds, "provenance": provenance(device)}
    run.write(evaluation_name(spec, PREDICTORS), {"found": {**kept, **found}, **told})
