"""An encoder that somebody brings, and all that is measured on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cl_bench.spec.datasets import DataSpec
from cl_bench.spec.evaluation import DetectionSpec, LinearSpec, MeasureSpec, PredictorSpec
from cl_bench.spec.frozen import DataKind, Frozen
from cl_bench.spec.pretraining import RECIPE, AugmentSpec, ViewPolicy
from cl_bench.spec.profile import KINDS, Profile
from cl_bench.spec.records import Record

Channels = tuple[float, float, float]


class OwnEncoderSpec(Frozen):
    """All that decides the features of an encoder.

    ``architecture``: what computes it, with the sha256 of the source where it is a file. ``weights``: the sha256 of all
    its tensors. ``enlarged``: how many times images are enlarged before it sees them. ``side``: the one size, in
    pixels, that they are resized to instead, or nothing.
    """

    architecture: str
    weights: str
    enlarged: int = 1
    side: int | None = None
    recipe: int = RECIPE


class HeldOut(Frozen):
    """L_a, L_u, probes, similarities and predictors on held-out images, of two views of each."""

    measure: MeasureSpec
    augment: AugmentSpec
    views: ViewPolicy = "overlapping"


class OwnRunSpec(Frozen):
    """Measurements on an encoder: held-out images of each kind, and the two downstream tasks."""

    single_object: HeldOut
    multi_object: HeldOut
    linear: LinearSpec
    detection: DetectionSpec
    predictors: tuple[PredictorSpec, ...] = ()

    @classmethod
    def of(cls, profile: Profile, predictors: tuple[PredictorSpec, ...] = ()) -> OwnRunSpec:
        """Measure and evaluate as a profile does with the encoders that it trains."""
        held_out: dict[str, Any] = {}
        for kind in KINDS:
            sources = profile.sources(kind)
            measure = MeasureSpec(data=sources.heldout, t=profile.measure_t, scope=profile.measure_scope)
            held_out[kind] = HeldOut(measure=measure, augment=sources.augment)
        detection = profile.detection.model_copy(update={"detector": "torchvision"})  # which takes any network
        return cls(**held_out, linear=profile.linear, detection=detection, predictors=predictors)

    def held_out(self, kind: DataKind) -> HeldOut:
        """Return what is measured on held-out images of that kind."""
        found: HeldOut = getattr(self, kind)
        return found

    def normalised_by(self, mean: Channels, std: Channels) -> OwnRunSpec:
        """Return the same for an encoder whose pixels are normalised otherwise than the profile's."""
        colours = {"mean": mean, "std": std}
        changed: dict[str, Any] = {
            stage: getattr(self, stage).model_copy(update=colours) for stage in ("linear", "detection")
        }
        for kind in KINDS:
            held = self.held_out(kind)
            changed[kind] = held.model_copy(update={"augment": held.augment.model_copy(update=colours)})
        return self.model_copy(update=changed)

    @property
    def colours(self) -> tuple[Channels, Channels]:
        """Mean and standard deviation of pixels, where a downstream task names none: those of single objects."""
        return self.single_object.augment.mean, self.single_object.augment.std

    def images_of(self, stage: str) -> set[DataSpec]:
        """Return all the images that a stage takes: ``measure``, ``linear`` or ``detection``."""
        if stage == "measure":
            return {self.held_out(kind).measure.data for kind in KINDS}
        task = self.linear if stage == "linear" else self.detection
        return {task.train, task.test}


@dataclass(frozen=True)
class OwnResult:
    """Record of an encoder that somebody brought. Plain values.

    Attributes:
        label: What it is called.
        key: Store key.
        architecture: As ``OwnEncoderSpec``.
        origin: Where its weights are from, in words.
        shape: Channels of its map (``dense``) and pooled feature (``pooled``), cells of a view's map (``grid``), how
            many times images were enlarged (``enlarged``) or the size that they were resized to (``side``).
        uncut: Why there is no detection on it; nothing where it can be cut.
        records: By kind of held-out images. Its performance, the same in both, is in each of them.
    """

    label: str
    key: str
    architecture: str
    origin: str
    shape: Mapping[str, Any]
    uncut: str
    records: Mapping[DataKind, Record]
