"""Specs of the measurements on an encoder: alignment and uniformity, predictors, downstream tasks."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cl_bench.errors import listed
from cl_bench.spec.datasets import DataSpec, FilesSpec
from cl_bench.spec.frozen import Count, Frozen, NonNegative, Positive, Precision, Scope, Side
from cl_bench.spec.records import Better


class MeasureSpec(Frozen):
    """L_a and L_u of backbone features on held-out images, under the pre-training's own views."""

    data: DataSpec
    t: Positive = 1.0
    scope: Scope = "same_index"
    seed: int = 0


class Evaluation(Frozen):
    """A downstream task, with the images to train and to test on.

    ``mean`` and ``std`` normalise its pixels; those of the pre-training are used where they are left out.
    """

    train: DataSpec
    test: DataSpec
    mean: tuple[float, float, float] | None = None
    std: tuple[Positive, Positive, Positive] | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _one_data_set(self) -> Self:
        if self.train.name != self.test.name:
            raise ValueError(f"train and test must be of the same data set, got {self.train.name} and {self.test.name}")
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"mean and std go together, got {self.mean} and {self.std}")
        return self

    def complaint(self) -> str:
        """Say in one line why this task cannot be learnt on the data that were found; empty if it can.

        A class that only the test images have cannot be learnt, and one that only training images have is no fault.
        """
        found = [part.found if isinstance(part, FilesSpec) else None for part in (self.train, self.test)]
        train, test = (None if part is None else part.classes for part in found)
        if train is not None and test is not None and (alone := sorted(set(test) - set(train))):
            return f"{self.test} has classes that {self.train} has no image of: {listed(map(repr, alone), 3)}"
        return ""


class LinearSpec(Evaluation):
    """Linear evaluation of the pooled feature of a frozen encoder.

    ``augmented`` (inherited: Wang & Isola, ICML 2020): in each epoch each image is a new random crop of ``scale``,
    resized to ``size`` pixels and flipped with probability one half. ``cached``: features are computed once, without
    augmentation. Both test on the centre ``size`` pixels of the image resized to a short side of ``resize``; without
    ``size`` images are not resized. ``standardise``: features are scaled by the training set's mean and standard
    deviation, so that the result of a short schedule does not depend on their scale.
    """

    protocol: Literal["cached", "augmented"] = "cached"
    size: Side | None = None
    resize: Side | None = None
    scale: tuple[Positive, Positive] = (0.08, 1.0)
    standardise: bool
    epochs: Count = 100
    batch: Count = 128
    lr: Positive = 1e-3
    betas: tuple[float, float] = (0.5, 0.999)
    milestones: tuple[int, ...] = (60, 80)
    gamma: Positive = 0.2

    @model_validator(mode="after")
    def _fits(self) -> LinearSpec:
        for data in (self.train, self.test):
            if data.kind != "single_object" or (data.name == "stl10" and "unlabeled" in data.split):
                known = "single_object scenes, folders or Hugging Face data sets, stl10 train or test"
                raise ValueError(f"takes labelled images ({known}), got {data.kind} {data.name} {data.split}")
        if self.protocol == "augmented" and (self.size is None or self.standardise):
            raise ValueError("protocol 'augmented' takes a size, and features as they are (standardise = false)")
        if (self.size is None) != (self.resize is None) or (self.size or 0) > (self.resize or 0):
            raise ValueError(f"size and resize go together, size <= resize, got {self.size} and {self.resize}")
        return self

    def complaint(self) -> str:
        """Complain as any task does, and of images without labels or of one class."""
        for data in (self.train, self.test):
            classes = data.found.classes if isinstance(data, FilesSpec) and data.found else None
            if classes == ():
                why = ": its images lie in no folders by class" if data.name == "folder" else ""
                return f"takes labelled images, and {data} has no labels{why}"
            if classes is not None and len(classes) == 1 and data is self.train:
                return f"takes two classes or more, and {data} has one: {classes[0]!r}"
        return super().complaint()

    @property
    def sentence(self) -> str:
        """Protocol in a sentence, for the table."""
        scaled = " standardised" if self.standardise else ""
        what = "images augmented anew each epoch" if self.protocol == "augmented" else f"cached{scaled} features"
        sizes = f"{self.train} to train, {self.test} to test"
        return f"frozen encoder, {what}, {self.epochs} epochs, {sizes}"


class DetectionSpec(Evaluation):
    """Faster R-CNN C4. ``frozen``: the encoder's weights and statistics stay; ``finetune``: all are trained.

    ``metric`` is the performance that claims are about; all of them are recorded. ``anchors`` are in pixels (root of
    the area), ``aspect_ratios`` height over width; ``milestones`` are shares of ``iterations``; samples and proposals
    are counted per image. ``short_sides``: a training image is resized to one of them, drawn at random, and a test
    image to ``test_short_side``, neither to more than ``long_side``; without it images are not resized. ``flip``: the
    probability that a training image is mirrored. ``weight_decay_norm``: weight decay of batch norm's weights; that of
    the other weights where left out. ``warmup_start``: share of ``lr`` at step 0; 1 / (``warmup`` + 1) where left out.
    ``precise_norm``: number of training batches over which batch norm's statistics are computed again after the last
    step, all of them pooled; 0 keeps the running statistics. ``roi_aligned``, ``roi_sampling``: RoIAlign's half-pixel
    shift and its samples per bin and axis (0: as many as the bin has cells).
    """

    detector: Literal["torchvision", "detectron2"] = "torchvision"
    metric: Literal["coco_ap", "voc07_ap"] = "coco_ap"
    protocol: Literal["frozen", "finetune"]
    iterations: Count
    batch: Count
    lr: Positive
    momentum: NonNegative = 0.9
    weight_decay: NonNegative = 1e-4
    weight_decay_norm: NonNegative | None = None
    warmup: Annotated[int, Field(ge=0)] = 20
    warmup_start: Annotated[float, Field(ge=0, le=1)] | None = None
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.75, 0.92)
    precise_norm: Annotated[int, Field(ge=0)] = 0
    precision: Precision = "float32"
    short_sides: tuple[Annotated[Side, Field(ge=16)], ...] = ()
    test_short_side: Annotated[Side, Field(ge=16)] | None = None
    long_side: Annotated[Side, Field(ge=16)] = 1333
    flip: Annotated[float, Field(ge=0, le=1)] = 0.0
    anchors: tuple[Positive, ...]
    aspect_ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    roi_size: Count
    roi_aligned: bool = False
    roi_sampling: Annotated[int, Field(ge=0)] = 2
    rpn_samples: Count
    roi_samples: Count
    proposals_train: Count
    proposals_test: Count

    @model_validator(mode="after")
    def _fits(self) -> DetectionSpec:
        for data in (self.train, self.test):
            if data.kind != "multi_object" or data.name == "folder":
                known = "multi_object scenes or Hugging Face data sets, coco, voc"
                raise ValueError(f"takes images with boxes ({known}), got {data.kind} {data.name} {data.split}")
        if self.detector == "detectron2" and (self.protocol, self.precision) != ("finetune", "float32"):
            got = f"{self.protocol!r} in {self.precision!r}"
            raise ValueError(f"detector 'detectron2' takes protocol 'finetune' in precision 'float32' only, got {got}")
        if self.precise_norm and self.protocol != "finetune":
            raise ValueError(f"precise_norm goes with protocol 'finetune', got {self.precise_norm} with 'frozen'")
        return self

    def complaint(self) -> str:
        """Complain as any task does, and of images without an object."""
        for data in (self.train, self.test):
            if isinstance(data, FilesSpec) and data.found and data.found.objects == 0:
                return f"takes images with objects, and {data} has none in {data.found.images:,} images"
        return super().complaint()

    @property
    def sentence(self) -> str:
        """Protocol in a sentence, for the table."""
        sizes = f"{self.train} to train, {self.test} to test"
        by = "" if self.detector == "torchvision" else f" ({self.detector})"
        kept = "frozen" if self.protocol == "frozen" else "fine-tuned"
        return f"Faster R-CNN C4{by}, {kept} encoder, {self.iterations} iterations of {self.batch}, {sizes}"


class PredictorSpec(Frozen):
    """A predictor: the hash of its source, its better values (low or high), and the plugin that defines it.

    ``plugin`` is a file, or a package with its entry points; empty for a built-in predictor.
    """

    name: str
    source: str
    better: Better
    plugin: str = ""
