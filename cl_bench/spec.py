"""What to run: frozen, validated, hashable."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from cl_bench.records import RANDOM_INIT, Better, Level

RECIPE = 3
"""Version of the numerical recipe. Raise it when a change of code changes results, and nothing older is mixed in."""

DataKind = Literal["single_object", "multi_object"]
Views = Literal["overlapping", "disjoint"]
EncoderName = Literal["small_cnn", "resnet18"]
Scope = Literal["same_index", "other_images", "all_pairs"]
Negatives = Literal["both_views", "cross_view", "ntxent"]
Precision = Literal["float32", "bfloat16"]
Padding = Literal["zeros", "reflect"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Frozen(BaseModel):
    """A value that cannot change, knows all its fields and has a key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def key(self) -> str:
        """sha256 of the canonical JSON form."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


class ScenesSpec(Frozen):
    """Embedded scenes: ``images`` of them, ``size`` pixels square, drawn from ``seed``.

    ``background``: the brightness, in [0, 1], that its corners stay below. ``tint``: each channel of a digit's colour
    lies between these. ``height``: of a digit, as a share of the scene; the kind's own where left out. ``digits`` and
    ``tints``: what the digits of one scene have in common: drawn apart (``any``), all of one class or one colour
    (``same``), or all of different classes (``different``).
    """

    name: Literal["scenes"] = "scenes"
    kind: DataKind
    split: Literal["train", "test"]
    images: Count
    size: Annotated[int, Field(ge=16)]
    seed: Annotated[int, Field(ge=0)] = 0
    background: Annotated[float, Field(ge=0, le=1)] = 0.15
    tint: tuple[Share, Share] = (0.55, 1.0)
    height: tuple[Share, Share] | None = None
    digits: Literal["any", "same", "different"] = "any"
    tints: Literal["any", "same"] = "any"

    @model_validator(mode="after")
    def _ordered(self) -> ScenesSpec:
        for name, pair in (("tint", self.tint), ("height", self.height)):
            if pair and pair[0] > pair[1]:
                raise ValueError(f"{name} must be low, high, got {pair}")
        if self.kind == "multi_object" and self.height and self.height[1] > 0.5:
            raise ValueError(
                f"height of multi_object scenes is at most 0.5, or four digits have no room, got {self.height}"
            )
        return self

    @property
    def count(self) -> int:
        """How many images."""
        return self.images

    @property
    def label(self) -> str:
        """The kind, and what the digits of a scene share where that is set, as ``multi_object, same digits``."""
        shared = {"digits": self.digits, "tints": self.tints}
        return ", ".join([self.kind, *(f"{how} {what}" for what, how in shared.items() if how != "any")])

    def __str__(self) -> str:
        return f"{self.images:,} images"


class FilesSpec(Frozen):
    """Images of a data set under ``--data-root``.

    ``short_side``: larger images are scaled down to it when they are decoded; None keeps every pixel. ``limit``: the
    first so many; None takes all. ``broken``: what to do about an image that cannot be decoded. ``source``: a digest of
    what lies under the data root, but for image files, which is settled when it is found there.
    """

    name: str
    kind: DataKind
    split: str
    short_side: Annotated[int, Field(ge=16)] | None = None
    limit: Count | None = None
    broken: Literal["refuse", "leave_out"] = "refuse"
    source: str = ""

    @property
    def label(self) -> str:
        """The kind."""
        return self.kind

    @property
    def published(self) -> int:
        """How many images the published split has."""
        raise NotImplementedError

    @property
    def count(self) -> int:
        """How many images, of the published data set."""
        return min(self.published, self.limit or self.published)

    def __str__(self) -> str:
        first = "" if self.limit is None else f"the first {self.limit:,} of "
        return f"{first}{self.name} {self.split}"


class STL10Spec(FilesSpec):
    """STL-10 (Coates, Ng, Lee, AISTATS 2011): 96 x 96 pixels; ``train`` and ``test`` are labelled."""

    name: Literal["stl10"]
    split: Literal["train", "test", "unlabeled", "train+unlabeled"]
    kind: Literal["single_object"] = "single_object"

    @property
    def published(self) -> int:
        """How many images the published split has."""
        return {"train": 5_000, "test": 8_000, "unlabeled": 100_000, "train+unlabeled": 105_000}[self.split]


class COCOSpec(FilesSpec):
    """COCO 2017 (Lin et al., ECCV 2014), with the boxes of its objects."""

    name: Literal["coco"]
    split: Literal["train2017", "val2017"]
    kind: Literal["multi_object"] = "multi_object"

    @property
    def published(self) -> int:
        """How many images the published split has."""
        return {"train2017": 118_287, "val2017": 5_000}[self.split]


class VOCSpec(FilesSpec):
    """PASCAL VOC (Everingham et al., IJCV 2010), with the boxes of its objects and which of them are difficult."""

    name: Literal["voc"]
    split: Literal["trainval2007", "trainval2012", "trainval2007+2012", "test2007"]
    kind: Literal["multi_object"] = "multi_object"

    @property
    def published(self) -> int:
        """How many images the published split has."""
        sizes = {"trainval2007": 5_011, "trainval2012": 11_540, "trainval2007+2012": 16_551, "test2007": 4_952}
        return sizes[self.split]


DATASETS: dict[str, type[ScenesSpec | STL10Spec | COCOSpec | VOCSpec]] = {
    "scenes": ScenesSpec,
    "stl10": STL10Spec,
    "coco": COCOSpec,
    "voc": VOCSpec,
}


def _dataset(value: Any) -> str:
    """The data set that a table or a spec names; one that names none is of scenes."""
    return str(value.get("name", "scenes") if isinstance(value, dict) else getattr(value, "name", ""))


DataSpec = Annotated[
    Annotated[ScenesSpec, Tag("scenes")]
    | Annotated[STL10Spec, Tag("stl10")]
    | Annotated[COCOSpec, Tag("coco")]
    | Annotated[VOCSpec, Tag("voc")],
    Discriminator(_dataset),
]


class AugmentSpec(Frozen):
    """How a view is drawn; probabilities and strengths as in torchvision. ``blur_sigma`` is in pixels of the view."""

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
    blur: Annotated[float, Field(ge=0, le=1)] = 0.0
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _ordered(self) -> AugmentSpec:
        if self.scale[0] > self.scale[1] or self.scale[1] > 1:
            raise ValueError(f"scale must be low, high with high <= 1, got {self.scale}")
        if self.ratio[0] > self.ratio[1]:
            raise ValueError(f"ratio must be low, high, got {self.ratio}")
        if self.blur_sigma[0] > self.blur_sigma[1]:
            raise ValueError(f"blur_sigma must be low, high, got {self.blur_sigma}")
        return self


class EncoderSpec(Frozen):
    """Backbone and projection head; ``padding`` as ``encoders.build_encoder`` takes it."""

    name: EncoderName
    padding: Padding = "zeros"
    hidden: Count = 512
    projection: Count = 128


class OptimiserSpec(Frozen):
    """SGD, or Adam, over ``epochs`` passes; the rate follows ``schedule`` after ``warmup`` steps.

    ``name``: ``adam`` takes ``momentum`` as its first beta and .999 as its second, and decays weights apart from the
    gradient (AdamW; Loshchilov & Hutter, ICLR 2019). ``per_temperature``: InfoNCE's rate is ``lr * temperature``, since
    its gradient grows with the inverse (as the factor of MoCo v3's loss; Chen, Xie & He, ICCV 2021).
    ``precision``: of the encoder's and the head's arithmetic (autocast); losses are in float32 always. ``compile``:
    the encoder through ``torch.compile``. ``chunk``: how many images go through the encoder at a time, for a card
    that cannot hold the batch: loss and gradients are those of the whole batch (GradCache, Gao et al., RepL4NLP
    2021), batch norm's statistics those of the chunk.
    """

    name: Literal["sgd", "adam"] = "sgd"
    batch: Annotated[int, Field(ge=2)]
    epochs: Count
    lr: Positive
    per_temperature: bool = False
    momentum: NonNegative = 0.9
    weight_decay: NonNegative = 1e-4
    schedule: Literal["cosine", "steps"] = "cosine"
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    warmup: Annotated[int, Field(ge=0)] = 0
    log_every: Count = 10
    precision: Precision = "float32"
    compile: bool = False
    chunk: Annotated[int, Field(ge=2)] | None = None

    @model_validator(mode="after")
    def _whole_chunks(self) -> OptimiserSpec:
        if self.chunk is not None and self.batch % self.chunk:
            raise ValueError(f"chunk must divide the batch of {self.batch}, got {self.chunk}")
        return self


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
    t: Positive = 1.0
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


class Evaluation(Frozen):
    """A downstream task: the images that it is learnt and tested on.

    ``mean``, ``std``: of its pixels, which they are normalised by; the pre-training's where left out.
    """

    train: DataSpec
    test: DataSpec
    mean: tuple[float, float, float] | None = None
    std: tuple[Positive, Positive, Positive] | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _one_data_set(self) -> Self:
        if self.train.name != self.test.name:
            raise ValueError(f"train and test are of one data set, got {self.train.name} and {self.test.name}")
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"mean and std go together, got {self.mean} and {self.std}")
        return self


class LinearSpec(Evaluation):
    """Linear evaluation of the pooled feature of a frozen encoder.

    ``augmented`` (inherited: Wang & Isola, ICML 2020): each epoch sees each image anew, a random crop of ``scale``
    resized to ``size`` pixels and flipped with probability a half. ``cached``: features computed once, without
    augmentation. Both test on the centre ``size`` pixels of the image resized to a short side of ``resize``; without
    ``size`` images are taken as they are. ``standardise``: features scaled by the training set's mean and standard
    deviation, so that a short schedule does not measure their scale.
    """

    protocol: Literal["cached", "augmented"] = "cached"
    size: Annotated[int, Field(ge=8)] | None = None
    resize: Annotated[int, Field(ge=8)] | None = None
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
            if data.kind != "single_object" or "unlabeled" in data.split:
                known = "single_object scenes, stl10 train or test"
                raise ValueError(f"takes labelled images ({known}), got {data.kind} {data.name} {data.split}")
        if self.protocol == "augmented" and (self.size is None or self.standardise):
            raise ValueError("protocol 'augmented' takes a size, and features as they are (standardise = false)")
        if (self.size is None) != (self.resize is None) or (self.size or 0) > (self.resize or 0):
            raise ValueError(f"size and resize go together, size <= resize, got {self.size} and {self.resize}")
        return self

    @property
    def sentence(self) -> str:
        """The protocol, for the table."""
        scaled = " standardised" if self.standardise else ""
        what = "images augmented anew each epoch" if self.protocol == "augmented" else f"cached{scaled} features"
        sizes = f"{self.train} to train, {self.test} to test"
        return f"frozen encoder, {what}, {self.epochs} epochs, {sizes}"


class DetectionSpec(Evaluation):
    """Faster R-CNN C4. ``frozen``: the encoder's weights and statistics stay; ``finetune``: all are trained.

    ``metric`` is the performance that claims are about; all of them are recorded. ``anchors`` are in pixels (root of
    the area), ``aspect_ratios`` height over width; ``milestones`` are shares of ``iterations``; samples and proposals
    are counted an image. ``short_sides``: a training image is resized to one of them, drawn at random, a test image to
    ``test_short_side``, neither to more than ``long_side``; left out, images are taken as they are. ``flip``: the
    probability that a training image is mirrored. ``weight_decay_norm``: of batch norm's weights; as the others' where
    left out. ``warmup_start``: share of ``lr`` at step 0; 1 / (``warmup`` + 1) where left out. ``precise_norm``: after
    the last step batch norm's statistics are taken anew over so many training batches, all of them pooled; 0 keeps the
    running ones. ``roi_aligned``, ``roi_sampling``: RoIAlign's half-pixel shift and its samples a bin and axis (0: as
    many as it has cells).
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
    short_sides: tuple[Annotated[int, Field(ge=16)], ...] = ()
    test_short_side: Annotated[int, Field(ge=16)] | None = None
    long_side: Annotated[int, Field(ge=16)] = 1333
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
            if data.kind != "multi_object":
                known = "multi_object scenes, coco, voc"
                raise ValueError(f"takes images with boxes ({known}), got {data.kind} {data.name} {data.split}")
        if self.detector == "detectron2" and (self.protocol, self.precision) != ("finetune", "float32"):
            got = f"{self.protocol!r} in {self.precision!r}"
            raise ValueError(f"detector 'detectron2' takes protocol 'finetune' in precision 'float32' only, got {got}")
        if self.precise_norm and self.protocol != "finetune":
            raise ValueError(f"precise_norm goes with protocol 'finetune', got {self.precise_norm} with 'frozen'")
        return self

    @property
    def sentence(self) -> str:
        """The protocol, for the table."""
        sizes = f"{self.train} to train, {self.test} to test"
        by = "" if self.detector == "torchvision" else f" ({self.detector})"
        kept = "frozen" if self.protocol == "frozen" else "fine-tuned"
        return f"Faster R-CNN C4{by}, {kept} encoder, {self.iterations} iterations of {self.batch}, {sizes}"


class PredictorSpec(Frozen):
    """A predictor: the hash of the source that implements it, which values are better, and what it is imported with.

    ``plugin``: a file, or a package with its entry points; nothing for a built-in one.
    """

    name: str
    source: str
    better: Better
    plugin: str = ""


class RunSpec(Frozen):
    """One encoder of a sweep and all that is measured on it."""

    pretrain: PretrainSpec
    measure: MeasureSpec
    linear: LinearSpec
    detection: DetectionSpec
    predictors: tuple[PredictorSpec, ...] = ()

    @property
    def data_sets(self) -> set[DataSpec]:
        """All the images it takes."""
        trained = () if self.pretrain.objective.family == RANDOM_INIT else (self.pretrain.data,)
        downstream = (getattr(stage, part) for stage in (self.linear, self.detection) for part in ("train", "test"))
        return {*trained, self.measure.data, *downstream}

    @property
    def case(self) -> str:
        """The id a person types, as ``dense_index-info_nce-t0.1-s0``."""
        seed = f"s{self.pretrain.seed}"
        if self.pretrain.objective.family == RANDOM_INIT:
            return f"{RANDOM_INIT}-{seed}"
        return f"{self.pretrain.method}-{self.pretrain.objective.config}-{seed}"
