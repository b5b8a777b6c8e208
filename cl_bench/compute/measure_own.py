"""Encoders that somebody brings, measured: each stage is a memoised function of the encoder's content and a spec."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch

from cl_bench.compute.memory import room_for
from cl_bench.compute.numerics import provenance, settled, unchanged
from cl_bench.compute.record import AVERAGE_PRECISIONS, Halves, of_halves, of_measure, of_predictors
from cl_bench.compute.stored import PREDICTORS, evaluation_complaint
from cl_bench.data import DataPaths, load
from cl_bench.encoders import to_channels_last
from cl_bench.encoders.build import build
from cl_bench.encoders.frozen import FrozenEncoder, frozen
from cl_bench.encoders.weights import content_hash
from cl_bench.errors import Diverged, EncoderError
from cl_bench.evaluate.alignment_uniformity import held_out_features, measured
from cl_bench.evaluate.linear import evaluate_linear
from cl_bench.predictors.measure import Found, found_by, seen_in
from cl_bench.predictors.registry import Predictors
from cl_bench.spec import DataKind, Padding
from cl_bench.spec.encoder_names import Named
from cl_bench.spec.own import OwnEncoderSpec, OwnResult, OwnRunSpec
from cl_bench.spec.profile import KINDS
from cl_bench.spec.records import Level, Record
from cl_bench.store import Run, Store, digest, locked
from cl_bench.train.checkpoint import Checkpoint

Stage = Literal["measure", "linear", "detection"]
STAGES: tuple[Stage, ...] = get_args(Stage)
OnStep = Callable[[str, int, int], None]
"""Called with (stage, steps done, steps in all)."""
GRIDLESS = ("knob",)
"""Built-in predictors that read the grid of a sweep, which an encoder that somebody brings has none of."""


@dataclass(frozen=True)
class Settings:
    """Setting that encoders are measured under.

    Attributes:
        spec: What is measured.
        padding: Of cl-bench's own encoders, where a checkpoint does not say.
        seed: Random weights are drawn from.
        enlarged: How many times images are enlarged; None to find out for each encoder.
    """

    spec: OwnRunSpec
    padding: Padding = "zeros"
    seed: int = 0
    enlarged: int | None = None


@dataclass(frozen=True)
class Subject:
    """An encoder that was found, built and tried, but not kept in memory.

    Attributes:
        named: How it was asked for.
        spec: What decides its features.
        run: What is measured on it, with its own normalisation of pixels.
        origin: Where its weights are from, in words.
        shape: As ``OwnResult``.
        uncut: As ``OwnResult``.
        diverged: Why it is left out: its features are not finite; nothing else where they are.
    """

    named: Named
    spec: OwnEncoderSpec
    run: OwnRunSpec
    origin: str
    shape: Mapping[str, Any]
    uncut: str = ""
    diverged: str = ""


def built_in_predictors() -> Predictors:
    """Return the predictors that come with cl-bench."""
    return Predictors((), ())


def examine(named: Named, settings: Settings) -> Subject:
    """Build an encoder, try it on a few pixels and say what it is.

    Raises:
        EncoderError: It cannot be built, its weights do not fit, or it gives no features of the right shape.
    """
    network, encoder, diverged = _built(named, settings)
    shape = {} if encoder is None else asdict(encoder.shape)
    uncut = shape.pop("uncut", "")
    spec = OwnEncoderSpec(
        architecture=network.architecture,
        weights=content_hash(network.module),
        enlarged=shape.get("enlarged", 1),
        side=shape.get("side"),
    )
    run = settings.spec
    if encoder is not None and encoder.mean is not None and encoder.std is not None:
        run = run.normalised_by(encoder.mean, encoder.std)
    return Subject(named, spec, run, network.origin, shape, uncut, diverged)


def _built(named: Named, settings: Settings) -> tuple[Any, FrozenEncoder | None, str]:
    """Build an encoder; return the network, how it is read, and the reason where its features are not finite."""
    view = max(settings.spec.held_out(kind).augment.size for kind in KINDS)
    with unchanged(torch.device("cpu")):  # whatever the code of a file does to torch
        network = build(named, settings.seed, settings.padding)
    with unchanged(torch.device("cpu")):
        try:
            return network, frozen(network.module, named.label, view, settings.enlarged), ""
        except Diverged as error:
            return network, None, str(error)


def without_twins(subjects: Sequence[Subject]) -> tuple[list[Subject], list[str]]:
    """Keep each encoder once, and tell in a line of each that is another one's twin."""
    first: dict[str, Subject] = {}
    twins = []
    for subject in subjects:
        known = first.setdefault(subject.spec.key, subject)
        if known is not subject:
            twins.append(f"{subject.named.label} is the same encoder as {known.named.label}, and counts once")
    return list(first.values()), twins


def result(subject: Subject, store: Store) -> OwnResult:
    """Collect what the store knows of an encoder; stages that it lacks are left out."""
    run = store.run(subject.spec.key)
    records = {kind: _record(subject, run, kind) for kind in KINDS}
    own = subject.named.label, subject.spec.key, subject.spec.architecture, subject.origin
    return OwnResult(*own, subject.shape, subject.uncut, records)


def lacking(subject: Subject, store: Store, stages: Collection[Stage]) -> list[Stage]:
    """List those of some stages that the store lacks of an encoder and that can be computed."""
    run = store.run(subject.spec.key)
    wanted = [] if subject.diverged else [s for s in STAGES if s in stages and not (s == "detection" and subject.uncut)]
    return [stage for stage in wanted if any(_read(subject, run, *part) is None for part in _parts(stage))]


def compute(
    subject: Subject,
    settings: Settings,
    store: Store,
    stages: Collection[Stage],
    device: torch.device,
    places: DataPaths | None = None,
    on_step: OnStep | None = None,
) -> None:
    """Compute those of some stages that the store lacks; each is stored as soon as it is there.

    While another process is at work on the encoder, this waits for it, and takes over what it stored.

    Raises:
        EncoderError: Built again, it is another encoder.
        OSError: The store cannot be written.
        OutOfMemory: A stage needs more than there is.
    """
    run = store.run(subject.spec.key)
    if not lacking(subject, store, stages):
        return
    with locked(run.path, wait=True):
        missing = lacking(subject, store, stages)
        network, encoder, diverged = _built(subject.named, settings)
        if encoder is None or content_hash(network.module) != subject.spec.weights:
            why = diverged or "it has other weights each time it is built: draw them from torch's generator"
            raise EncoderError(f"{subject.named.label}: {why}")
        about = {"label": subject.named.label, "origin": subject.origin, "uncut": subject.uncut}
        run.write("encoder", {**subject.spec.model_dump(mode="json"), "shape": dict(subject.shape), **about})
        to_channels_last(encoder, device).eval()
        if encoder.parts is not None:
            encoder.parts.to(device)
        for stage in missing:
            report = partial(on_step, stage) if on_step else None
            with room_for(partial(_advice, subject, stage)), settled(device):
                _STAGES[stage](subject, run, encoder, device, places, report)


def _advice(subject: Subject, stage: Stage, notes: Sequence[str]) -> str:
    tried = f" --enlarge {subject.spec.enlarged // 2} or" if subject.spec.enlarged > 1 else ""
    return f"{subject.named.label}: {stage}: out of memory; try{tried} --device cpu"


Report = Callable[[int, int], None] | None


def _measure(
    subject: Subject, run: Run, encoder: FrozenEncoder, device: torch.device, places: DataPaths | None, report: Report
) -> None:
    """Measure L_a, L_u, probes and predictors from one pass over held-out images of each kind."""
    known = built_in_predictors()
    asked = {predictor.name: predictor.source for predictor in subject.run.predictors}
    for done, kind in enumerate(KINDS):
        held = subject.run.held_out(kind)
        clock = Checkpoint(run, device)
        images = load(held.measure.data, places)
        try:
            first, second, colours = held_out_features(encoder, images, held.measure, held.augment, held.views, device)
        except Diverged as error:
            _write(subject, run, "measure", kind, {"diverged": str(error)}, clock, device)
            _write(subject, run, PREDICTORS, kind, {"found": {}}, clock, device)
            continue
        figures = dict(measured(first, second, colours, held.measure))
        _write(subject, run, "measure", kind, figures, clock, device)
        clock = Checkpoint(run, device)
        said: dict[str, Found] = found_by([known.named(name) for name in asked], seen_in(first, second, images.labels))
        found = {name: {"source": asked[name], **asdict(what)} for name, what in said.items()}
        _write(subject, run, PREDICTORS, kind, {"found": found}, clock, device)
        if report:
            report(done + 1, len(KINDS))


def _linear(
    subject: Subject, run: Run, encoder: FrozenEncoder, device: torch.device, places: DataPaths | None, report: Report
) -> None:
    task, clock = subject.run.linear, Checkpoint(run, device)
    found: dict[str, Any]
    try:
        train, test = load(task.train, places), load(task.test, places)
        found = dict(evaluate_linear(encoder, train, test, task, *subject.run.colours, device, report))
    except Diverged as error:
        found = {"diverged": str(error)}
    _write(subject, run, "linear", None, found, clock, device)


def _detection(
    subject: Subject, run: Run, encoder: FrozenEncoder, device: torch.device, places: DataPaths | None, report: Report
) -> None:
    from cl_bench.evaluate.detection import evaluate_detection  # slow to load

    task = subject.run.detection
    clock = Checkpoint(run, device, _name(subject, "detection", None), subject.spec.weights)
    assert encoder.parts is not None
    found: dict[str, Any]
    try:
        train, test = load(task.train, places), load(task.test, places)
        colours = subject.run.colours
        found = dict(evaluate_detection(encoder.parts, train, test, task, *colours, device, report, clock))
    except Diverged as error:
        found = {"diverged": str(error)}
    _write(subject, run, "detection", None, found, clock, device)
    clock.clear()


_STAGES: Mapping[Stage, Callable[..., None]] = {"measure": _measure, "linear": _linear, "detection": _detection}


def _parts(stage: Stage) -> list[tuple[str, DataKind | None]]:
    """List the records that a stage writes: a name, and the kind of held-out images where each has one."""
    if stage != "measure":
        return [(stage, None)]
    return [(name, kind) for kind in KINDS for name in ("measure", PREDICTORS)]


def _name(subject: Subject, name: str, kind: DataKind | None) -> str:
    if kind is None:
        task = subject.run.linear if name == "linear" else subject.run.detection
        mean, std = subject.run.colours
        key = digest({"task": task.key, "mean": task.mean or mean, "std": task.std or std})
        return f"evals/{name}-{key[:16]}"
    held = subject.run.held_out(kind)
    sources = [p.model_dump(mode="json") for p in subject.run.predictors] if name == PREDICTORS else []
    return f"evals/{name}-{kind}-{digest([held.key, sources])[:16]}"


def _write(
    subject: Subject,
    run: Run,
    name: str,
    kind: DataKind | None,
    found: Mapping[str, Any],
    clock: Checkpoint,
    device: torch.device,
) -> None:
    told = {
        "encoder_sha256": subject.spec.weights,
        "seconds": clock.seconds,
        "provenance": _provenance(subject, device),
    }
    run.write(_name(subject, name, kind), {**found, **told})


def _provenance(subject: Subject, device: torch.device) -> dict[str, Any]:
    if not subject.spec.architecture.startswith("timm:"):
        return provenance(device)
    import timm

    return {**provenance(device), "timm": timm.__version__}


def _read(subject: Subject, run: Run, name: str, kind: DataKind | None) -> dict[str, Any] | None:
    complaint = partial(evaluation_complaint, name, subject.spec.weights)
    return run.read(_name(subject, name, kind), complaint)


def _record(subject: Subject, run: Run, kind: DataKind) -> Record:
    """Collect what is known of an encoder, with its figures on one kind of held-out images."""
    figures = _read(subject, run, "measure", kind) or {}
    tasks = {stage: _read(subject, run, stage, None) or {} for stage in ("linear", "detection")}
    predicted = (_read(subject, run, PREDICTORS, kind) or {}).get("found", {})
    all_of = {"measure": figures, **tasks}
    troubles = [subject.diverged, *(f"{stage}: {e['diverged']}" for stage, e in all_of.items() if "diverged" in e)]
    performance: dict[Level, float] = {}
    halves: dict[Level, Halves] = {}
    metric = subject.run.detection.metric
    if "accuracy" in tasks["linear"]:
        performance["instance"] = tasks["linear"]["accuracy"]
        halves |= of_halves("instance", tasks["linear"]["halves"])
    if metric in tasks["detection"]:
        performance["dense"] = tasks["detection"][metric]
        halves |= of_halves("dense", tasks["detection"]["halves"][metric])
    detail = "; ".join(t for t in troubles if t)
    extra = {name: tasks["detection"][name] for name in AVERAGE_PRECISIONS if name in tasks["detection"]}
    if "similarity_overlap" in figures:
        extra["similarity_overlap"] = figures["similarity_overlap"]
    return Record(
        key=subject.spec.key,
        case=subject.named.label,
        method="own",
        data=kind,
        views=subject.run.held_out(kind).views,
        family="own",
        config=subject.named.label,
        seed=0,
        status="diverged" if detail else "complete",
        detail=detail,
        performance=performance,
        halves=halves,
        extra=extra,
        **of_measure(figures),
        **of_predictors(predicted),
        seconds={stage: e["seconds"] for stage, e in all_of.items() if e},
        provenance=next((e["provenance"] for e in all_of.values() if e), {}),
    )
