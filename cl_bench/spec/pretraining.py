"""Specs of everything that determines the weights of an encoder."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import (
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from cl_bench.errors import nearest
from cl_bench.spec.datasets import DataSpec
from cl_bench.spec.frozen import CANONICAL, Count, Frozen, NonNegative, Positive, Precision, Scope, Side
from cl_bench.spec.records import RANDOM_INIT, Level

RECIPE = 3
"""Version of the numerical recipe. Raise it when a change of code changes results, and nothing older is mixed in."""
BFLOAT16_RECIPE = 4
"""Version of that of training in bfloat16. Raise it with the other, and alone when only such training changes."""

ViewPolicy = Literal["overlapping", "disjoint"]
EncoderName = Literal["small_cnn", "resnet18"]
LIBRARIES = ("timm", "torchvision")
"""Whose networks are named LIBRARY:NAME."""
Negatives = Literal["both_views", "cross_view", "ntxent"]
Padding = Literal["zeros", "reflect"]
Width = Annotated[Count, Field(le=10**5)]


class AugmentSpec(Frozen):
    """Augmentation of a view; probabilities and strengths as in torchvision, ``blur_sigma`` in pixels of the view."""

    size: Side
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
    """Backbone and projection head; ``padding`` is that of ``encoders.build_encoder``.

    ``name``: a built-in encoder, ``timm:NAME``, ``torchvision:NAME``, or ``FILE.py:FUNCTION`` with the sha256 of its
    ``source`` and the place of the ``file``, which is no part of the key.
    """

    name: str
    padding: Padding = "zeros"
    hidden: Width = 512
    projection: Width = 128
    source: str = ""
    file: str = ""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        known, (first, _, second) = get_args(EncoderName), name.partition(":")
        if name not in known and not (second and (first in LIBRARIES or first.endswith(".py"))):
            others = "timm:NAME, torchvision:NAME, or a file by --encoder FILE.py:FUNCTION"
            raise ValueError(f"no encoder {name!r}{nearest(name, known)}; encoders: {', '.join(known)}, {others}")
        return name

    @model_validator(mode="after")
    def _of_a_file(self) -> EncoderSpec:
        if (".py:" in self.name) != bool(self.source):
            raise ValueError(f"an encoder from a file takes --encoder FILE.py:FUNCTION, got only name {self.name!r}")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Leave out what a built-in encoder does not have, so that its key is what it was."""
        told: dict[str, Any] = handler(self)
        left_out = {"file"} if info.context == CANONICAL else set()
        return {n: value for n, value in told.items() if n not in left_out and (value or n not in ("source", "file"))}


class OptimiserSpec(Frozen):
    """SGD, or Adam, over ``epochs`` passes; the rate follows ``schedule`` after ``warmup`` steps.

    ``name``: ``adam`` takes ``momentum`` as its first beta and .999 as its second, and decays weights apart from the
    gradient (AdamW; Loshchilov & Hutter, ICLR 2019). ``per_temperature``: InfoNCE's rate is ``lr * temperature``, since
    its gradient grows with the inverse (as the factor of MoCo v3's loss; Chen, Xie & He, ICCV 2021).
    ``precision``: precision of the encoder's and the head's arithmetic (autocast); losses are always in float32.
    ``compile``: use ``torch.compile`` on the encoder. ``chunk``: number of images that go through the encoder at a
    time, for a GPU that cannot hold the batch. Loss and gradients are those of the whole batch (GradCache, Gao et al.,
    RepL4NLP 2021), batch norm's statistics those of the chunk.
    """

    name: Literal["sgd", "adam"] = "sgd"
    batch: Annotated[Count, Field(ge=2, le=10**6)]
    epochs: Annotated[Count, Field(le=10**6)]
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
    """An objective of the family InfoNCE, at one temperature."""

    family: Literal["info_nce"] = "info_nce"
    temperature: Positive
    negatives: Negatives = "both_views"
    positive_in_denominator: bool = True

    @property
    def config(self) -> str:
        """Knobs of the objective, as they stand in a case id."""
        return f"info_nce-t{self.temperature:g}"


class AlignUniform(Frozen):
    """An objective of the family ``w_a L_a + w_u L_u``."""

    family: Literal["align_uniform"] = "align_uniform"
    w_a: NonNegative
    w_u: NonNegative
    t: Positive = 1.0
    scope: Scope = "same_index"

    @property
    def config(self) -> str:
        """Knobs of the objective, as they stand in a case id."""
        return f"align_uniform-a{self.w_a:g}-u{self.w_u:g}"


class RandomInit(Frozen):
    """No objective: the encoder stays as initialised."""

    family: Literal["random_init"] = "random_init"

    @property
    def config(self) -> str:
        """Name of the reference row."""
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
    """Specification of everything that determines the weights of one encoder."""

    method: MethodSpec
    objective: Objective
    data: DataSpec
    views: ViewPolicy
    augment: AugmentSpec
    encoder: EncoderSpec
    optimiser: OptimiserSpec
    seed: int
    recipe: int = RECIPE

    @model_validator(mode="before")
    @classmethod
    def _recipe_of_the_precision(cls, told: Any) -> Any:
        plan = told.get("optimiser") if isinstance(told, dict) else None
        precision = plan.get("precision") if isinstance(plan, dict) else getattr(plan, "precision", None)
        return {"recipe": BFLOAT16_RECIPE, **told} if precision == "bfloat16" else told

    @property
    def stream(self) -> tuple[object, ...]:
        """Values that the views of every batch depend on: encoders of one stream can share them."""
        plan = self.optimiser
        return self.data, self.augment, self.views, plan.batch, plan.epochs, self.seed

    @property
    def case(self) -> str:
        """Id on the command line, such as ``dense_index-info_nce-t0.1-s0``."""
        seed = f"s{self.seed}"
        if self.objective.family == RANDOM_INIT:
            return f"{RANDOM_INIT}-{seed}"
        return f"{self.method}-{self.objective.config}-{seed}"
