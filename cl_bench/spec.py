"""What to run: frozen, validated, hashable."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cl_bench.records import RANDOM_INIT, Level

RECIPE = 2
"""Version of the numerical recipe. Raise it when a change of code changes results, and nothing older is mixed in."""

DataKind = Literal["single_object", "multi_object"]
Views = Literal["overlapping", "disjoint"]
EncoderName = Literal["small_cnn", "resnet18"]
Scope = Literal["same_index", "other_images", "all_pairs"]
Negatives = Literal["both_views", "cross_view", "ntxent"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Frozen(BaseModel):
    """A value that cannot change, knows all its fields and has a key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def key(self) -> str:
        """sha256 of the canonical JSON form."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


class DataSpec(Frozen):
    """A set of images: ``images`` of them, ``size`` pixels square, drawn from ``seed``."""

    name: Literal["scenes"] = "scenes"
    kind: DataKind
    split: Literal["train", "test"]
    images: Count
    size: Annotated[int, Field(ge=16)]
    seed: Annotated[int, Field(ge=0)] = 0


class AugmentSpec(Frozen):
    """How a view is drawn; probabilities and strengths as in torchvision."""

    size: Annotated[int, Field(ge=8)]
    scale: tuple[Positive, Positive] = (0.2, 1.0)
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    flip: Annotated[float, Field(ge=0, le=1)] = 0.0
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.8
    brightness: NonNegative = 0.4
    contrast: NonNegative = 0.4
    saturation: NonNegative = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    grayscale: Annotated[float, Field(ge=0, le=1)] = 0.2
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _ordered(self) -> AugmentSpec:
        if self.scale[0] > self.scale[1] or self.scale[1] > 1:
            raise ValueError(f"scale must be low, high with high <= 1, got {self.scale}")
        if self.ratio[0] > self.ratio[1]:
            raise ValueError(f"ratio must be low, high, got {self.ratio}")
        return self


class EncoderSpec(Frozen):
    """Backbone and projection head."""

    name: EncoderName
    hidden: Count = 512
    projection: Count = 128


class OptimiserSpec(Frozen):
    """SGD over ``epochs`` passes; the rate follows ``schedule`` after ``warmup`` steps."""

    batch: Annotated[int, Field(ge=2)]
    epochs: Count
    lr: Positive
    momentum: NonNegative = 0.9
    weight_decay: NonNegative = 1e-4
    schedule: Literal["cosine", "steps"] = "cosine"
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    warmup: Annotated[int, Field(ge=0)] = 0
    log_every: Count = 10


class InfoNCE(Frozen):
    """The objective family InfoNCE at one temperature."""

    family: Literal["info_nce"] = "info_nce"
    temperature: Positive
    negatives: Negatives = "both_views"
    positive_in_denominator: bool = True

    @property
    def config(self) -> str:
        """The knobs, as a person types them."""
        return f"info_nce-t{self.temperature:g}"


class AlignUniform(Frozen):
    """The objective family ``w_a L_a + w_u L_u``."""

    family: Literal["align_uniform"] = "align_uniform"
    w_a: NonNegative
    w_u: NonNegative
    t: Positive = 2.0
    scope: Scope = "same_index"

    @property
    def config(self) -> str:
        """The knobs, as a person types them."""
        return f"align_uniform-a{self.w_a:g}-u{self.w_u:g}"


class RandomInit(Frozen):
    """No objective: the encoder stays as initialised."""

    family: Literal["random_init"] = "random_init"

    @property
    def config(self) -> str:
        """The name of the reference row."""
        return RANDOM_INIT


Objective = Annotated[InfoNCE | AlignUniform | RandomInit, Field(discriminator="family")]


class MethodSpec(Frozen):
    """A method with its options and the hash of the source that implements it."""

    name: str
    options: tuple[tuple[str, bool | int | float | str], ...] = ()
    level: Level = "dense"
    source: str = ""

    def __str__(self) -> str:
        options = ",".join(f"{k}={v}" for k, v in self.options)
        return f"{self.name}:{options}" if options else self.name


class PretrainSpec(Frozen):
    """Everything that decides the weights of one encoder."""

    method: MethodSpec
    objective: Objective
    data: DataSpec
    views: Views
    augment: AugmentSpec
    encoder: EncoderSpec
    optimiser: OptimiserSpec
    seed: int
    recipe: int = RECIPE


class MeasureSpec(Frozen):
    """L_a and L_u of backbone features on held-out images, under the pre-training's own views."""

    data: DataSpec
    t: Positive = 1.0
    scope: Scope = "same_index"
    seed: int = 0


class LinearSpec(Frozen):
    """Linear evaluation of the pooled feature of a frozen encoder.

    ``cached``: features computed once, without augmentation. ``standardise``: scaled by the training set's mean and
    standard deviation, so that a short schedule does not measure the scale of the features.
    """

    train: DataSpec
    test: DataSpec
    protocol: Literal["cached"] = "cached"
    standardise: bool
    epochs: Count = 100
    batch: Count = 128
    lr: Positive = 1e-3
    betas: tuple[float, float] = (0.5, 0.999)
    milestones: tuple[int, ...] = (60, 80)
    gamma: Positive = 0.2
    seed: int = 0

    @property
    def sentence(self) -> str:
        """The protocol, for the table."""
        scaled = " standardised" if self.standardise else ""
        sizes = f"{self.train.images:,} images to train, {self.test.images:,} to test"
        return f"frozen encoder, {self.protocol}{scaled} features, {self.epochs} epochs, {sizes}"


class DetectionSpec(Frozen):
    """Faster R-CNN C4. ``frozen``: the encoder's weights and statistics stay; ``finetune``: all are trained.

    ``anchors`` are in pixels (root of the area), ``aspect_ratios`` height over width; ``milestones`` are shares of
    ``iterations``; samples and proposals are counted an image.
    """

    train: DataSpec
    test: DataSpec
    protocol: Literal["frozen", "finetune"]
    iterations: Count
    batch: Count
    lr: Positive
    momentum: NonNegative = 0.9
    weight_decay: NonNegative = 1e-4
    warmup: Annotated[int, Field(ge=0)] = 20
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.75, 0.92)
    anchors: tuple[Positive, ...]
    aspect_ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    roi_size: Count
    rpn_samples: Count
    roi_samples: Count
    proposals_train: Count
    proposals_test: Count
    seed: int = 0

    @property
    def sentence(self) -> str:
        """The protocol, for the table."""
        sizes = f"{self.train.images:,} images to train, {self.test.images:,} to test"
        return f"Faster R-CNN C4, {self.protocol} encoder, {self.iterations} iterations of {self.batch}, {sizes}"


class RunSpec(Frozen):
    """One encoder of a sweep and all that is measured on it."""

    pretrain: PretrainSpec
    measure: MeasureSpec
    linear: LinearSpec
    detection: DetectionSpec

    @property
    def case(self) -> str:
        """The id a person types, as ``dense_index-info_nce-t0.1-s0``."""
        seed = f"s{self.pretrain.seed}"
        if self.pretrain.objective.family == RANDOM_INIT:
            return f"{RANDOM_INIT}-{seed}"
        return f"{self.pretrain.method}-{self.pretrain.objective.config}-{seed}"
