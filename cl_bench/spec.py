"""What to run: frozen, validated, hashable. A profile expands to the specs of a sweep."""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cl_bench.records import RANDOM_INIT, Level

RECIPE = 1
"""Version of the numerical recipe. Raise it when a change of code changes results: no stored record is mixed with it."""

PROFILES = Path(__file__).parent / "profiles"

DataKind = Literal["single_object", "multi_object"]
Views = Literal["overlapping", "disjoint"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class SpecError(ValueError):
    """A profile, option or setting that makes no sense; its message is one line for the user."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def key(self) -> str:
        """sha256 of the canonical JSON form."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


class DataSpec(_Frozen):
    """A set of images: ``images`` of them, ``size`` pixels square, drawn from ``seed``."""

    name: Literal["scenes"] = "scenes"
    kind: DataKind
    split: Literal["train", "test"]
    images: Count
    size: Annotated[int, Field(ge=16)]
    seed: int = 0


class AugmentSpec(_Frozen):
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


class EncoderSpec(_Frozen):
    """Backbone and projection head."""

    name: Literal["small_cnn", "resnet18"]
    hidden: Count = 512
    projection: Count = 128


class OptimiserSpec(_Frozen):
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


class InfoNCE(_Frozen):
    """The objective family InfoNCE at one temperature."""

    family: Literal["info_nce"] = "info_nce"
    temperature: Positive
    negatives: Literal["both_views", "cross_view", "ntxent"] = "both_views"
    positive_in_denominator: bool = True

    @property
    def config(self) -> str:
        """The knobs, as a person types them."""
        return f"info_nce-t{self.temperature:g}"


class AlignUniform(_Frozen):
    """The objective family ``w_a L_a + w_u L_u``."""

    family: Literal["align_uniform"] = "align_uniform"
    w_a: NonNegative
    w_u: NonNegative
    t: Positive = 2.0
    scope: Literal["same_index", "other_images", "all_pairs"] = "same_index"

    @property
    def config(self) -> str:
        """The knobs, as a person types them."""
        return f"align_uniform-a{self.w_a:g}-u{self.w_u:g}"


class RandomInit(_Frozen):
    """No objective: the encoder stays as initialised."""

    family: Literal["random_init"] = "random_init"

    @property
    def config(self) -> str:
        """The name of the reference row."""
        return RANDOM_INIT


Objective = Annotated[InfoNCE | AlignUniform | RandomInit, Field(discriminator="family")]


class MethodSpec(_Frozen):
    """A method with its options and the hash of the source that implements it."""

    name: str
    options: tuple[tuple[str, bool | int | float | str], ...] = ()
    level: Level = "dense"
    source: str = ""

    def __str__(self) -> str:
        options = ",".join(f"{k}={v}" for k, v in self.options)
        return f"{self.name}:{options}" if options else self.name


class PretrainSpec(_Frozen):
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


class MeasureSpec(_Frozen):
    """L_a and L_u of backbone features on held-out images, under the pre-training's own views."""

    data: DataSpec
    t: Positive = 1.0
    scope: Literal["same_index", "other_images", "all_pairs"] = "same_index"
    seed: int = 0


class LinearSpec(_Frozen):
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


class DetectionSpec(_Frozen):
    """Faster R-CNN C4. ``frozen``: the encoder's weights and batch-norm statistics stay; ``finetune``: all are trained.

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


class RunSpec(_Frozen):
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


class Row(NamedTuple):
    """A row of the table: one method on one kind of data under one policy of views."""

    method: MethodSpec
    data: DataKind
    views: Views

    @property
    def name(self) -> str:
        """As ``single_object-disjoint-dense_index``."""
        return f"{self.data}-{self.views}-{self.method}"


class Grid(_Frozen):
    """The points of a sweep."""

    temperatures: Annotated[tuple[Positive, ...], Field(min_length=1)]
    weightings: Annotated[tuple[tuple[NonNegative, NonNegative], ...], Field(min_length=1)]
    negatives: Literal["both_views", "cross_view", "ntxent"] = "both_views"
    positive_in_denominator: bool = True
    t: Positive = 2.0
    scope: Literal["same_index", "other_images", "all_pairs"] = "same_index"

    def objectives(self) -> tuple[InfoNCE | AlignUniform, ...]:
        """Every point, InfoNCE first."""
        return (
            *(
                InfoNCE(temperature=t, negatives=self.negatives, positive_in_denominator=self.positive_in_denominator)
                for t in self.temperatures
            ),
            *(AlignUniform(w_a=a, w_u=u, t=self.t, scope=self.scope) for a, u in self.weightings),
        )


class ClaimsSpec(_Frozen):
    """How a claim is judged: one-sided level, and the margin in points for 'falls to the level of random'.

    A profile too small to say anything reports its verdicts without asserting them: no verdict fails.
    """

    asserted: bool = True
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    margin: Positive = 1.0


class Known(_Frozen):
    """A claim this profile is known not to reproduce."""

    method: str
    data: DataKind
    views: Views
    claim: Literal["tau_negative", "tau_not_negative", "at_random_level"]
    level: Level
    reason: Annotated[str, Field(min_length=10)]


class _Sources(_Frozen):
    """Data, augmentation and held-out images of one kind of pre-training data."""

    data: DataSpec
    heldout: DataSpec
    augment: AugmentSpec


class Profile(_Frozen):
    """The setting of a sweep. One code path: the paper's differs from the embedded default by its profile alone."""

    name: str
    about: str
    seeds: Count = 1
    random_inits: Count = 3
    encoder: EncoderSpec
    optimiser: OptimiserSpec
    single_object: _Sources
    multi_object: _Sources
    grid: Grid
    measure_t: Positive = 1.0
    measure_scope: Literal["same_index", "other_images", "all_pairs"] = "same_index"
    linear: LinearSpec
    detection: DetectionSpec
    claims: ClaimsSpec = ClaimsSpec()
    known: tuple[Known, ...] = ()

    def sweep(self, row: Row) -> tuple[RunSpec, ...]:
        """Every encoder of a row: the grid's objectives, each with every seed."""
        return tuple(self._run(row, o, seed) for o in self.grid.objectives() for seed in range(self.seeds))

    def random_init(self) -> tuple[RunSpec, ...]:
        """The untrained encoders of the reference row; shared by all rows."""
        row = Row(MethodSpec(name=RANDOM_INIT), "single_object", "overlapping")
        return tuple(self._run(row, RandomInit(), seed) for seed in range(self.random_inits))

    def known_failure(self, row: Row, claim: str, level: Level) -> str | None:
        """Why this profile is known not to reproduce a claim; None when it is not declared."""
        for k in self.known:
            if (k.method, k.data, k.views, k.claim, k.level) == (str(row.method), row.data, row.views, claim, level):
                return k.reason
        return None

    def _run(self, row: Row, objective: InfoNCE | AlignUniform | RandomInit, seed: int) -> RunSpec:
        sources: _Sources = getattr(self, row.data)
        return RunSpec(
            pretrain=PretrainSpec(
                method=row.method,
                objective=objective,
                data=sources.data,
                views=row.views,
                augment=sources.augment,
                encoder=self.encoder,
                optimiser=self.optimiser,
                seed=seed,
            ),
            measure=MeasureSpec(data=sources.heldout, t=self.measure_t, scope=self.measure_scope),
            linear=self.linear,
            detection=self.detection,
        )


def load_profile(name: str, settings: Sequence[str] = ()) -> Profile:
    """The profile of that name or TOML file, with ``key.path=value`` settings applied.

    Raises:
        SpecError: No such profile, a file that is not TOML, an unknown key or a value that makes no sense; the message
            names the key and the nearest right one.
    """
    path = Path(name) if name.endswith(".toml") else PROFILES / f"{name}.toml"
    if not path.is_file():
        known = sorted(p.stem for p in PROFILES.glob("*.toml"))
        raise SpecError(
            f"no profile {name!r}{nearest(name, known)}; profiles: {', '.join(known)}, or a TOML file's path"
        )
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"profile {path}: not valid TOML: {error}") from None
    for setting in settings:
        _apply(raw, setting)
    try:
        return Profile.model_validate({"name": path.stem, **raw})
    except ValidationError as error:
        raise SpecError(f"profile {path.name}: {_one_line(error)}") from None


def nearest(name: str, known: Sequence[str]) -> str:
    """``"; did you mean 'x'?"`` when something is near, else nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _apply(raw: dict[str, Any], setting: str) -> None:
    path, equals, text = setting.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise SpecError(f"--set takes key.path=value, got {setting!r}")
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        value = text
    table = raw
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise SpecError(f"--set {setting}: {key!r} is a value, not a table")
    table[keys[-1]] = value


def _one_line(error: ValidationError) -> str:
    """The first complaint of pydantic, as a person would put it."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "profile"
    rest = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        fields = _fields_at(Profile, first["loc"][:-1])
        return f"unknown key {where!r}{nearest(str(first['loc'][-1]), fields)}{rest}"
    if first["type"] == "missing":
        return f"{where} is missing{rest}"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r}{rest}"


def _fields_at(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    for part in path:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            continue
        model = annotation
    return list(model.model_fields)
