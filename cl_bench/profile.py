"""Profiles: the setting of a sweep, as a TOML file, which expands to the specs of its encoders."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from cl_bench.claims import Claim
from cl_bench.errors import SpecError, nearest
from cl_bench.records import RANDOM_INIT, Level
from cl_bench.spec import (
    AlignUniform,
    AugmentSpec,
    Count,
    DataKind,
    DataSpec,
    DetectionSpec,
    EncoderSpec,
    Frozen,
    InfoNCE,
    LinearSpec,
    MeasureSpec,
    MethodSpec,
    Negatives,
    NonNegative,
    OptimiserSpec,
    Positive,
    PretrainSpec,
    RandomInit,
    RunSpec,
    Scope,
    Views,
)

PROFILES = Path(__file__).parent / "profiles"


class Row(NamedTuple):
    """A row of the table: one method on one kind of data under one policy of views."""

    method: MethodSpec
    data: DataKind
    views: Views

    @property
    def name(self) -> str:
        """As ``single_object-disjoint-dense_index``."""
        return f"{self.data}-{self.views}-{self.method}"

    @property
    def order(self) -> tuple[bool, bool]:
        """The order of the paper's tables: overlapping views first, and among them single-object data."""
        return self.views != "overlapping", self.data != "single_object"


class Grid(Frozen):
    """The points of a sweep."""

    temperatures: Annotated[tuple[Positive, ...], Field(min_length=1)]
    weightings: Annotated[tuple[tuple[NonNegative, NonNegative], ...], Field(min_length=1)]
    negatives: Negatives = "both_views"
    positive_in_denominator: bool = True
    t: Positive = 2.0
    scope: Scope = "same_index"

    @model_validator(mode="after")
    def _distinct(self) -> Grid:
        names = [o.config for o in self.objectives()]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"more than one configuration is named {', '.join(twice)}")
        if (0.0, 0.0) in self.weightings:
            raise ValueError("a weighting of (0, 0) trains nothing")
        return self

    def objectives(self) -> tuple[InfoNCE | AlignUniform, ...]:
        """Every point, InfoNCE first."""
        return (
            *(
                InfoNCE(temperature=t, negatives=self.negatives, positive_in_denominator=self.positive_in_denominator)
                for t in self.temperatures
            ),
            *(AlignUniform(w_a=a, w_u=u, t=self.t, scope=self.scope) for a, u in self.weightings),
        )


class ClaimsSpec(Frozen):
    """How a claim is judged: one-sided level, and the margin in points for 'at the level of random' and 'no worse'.

    A profile too small to say anything reports its verdicts without asserting them: no verdict fails.
    """

    asserted: bool = True
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    margin: Positive = 1.0


class Known(Frozen):
    """A claim this profile is known not to reproduce."""

    method: str
    data: DataKind
    views: Views
    claim: Literal["tau_negative", "tau_not_negative", "at_random_level", "no_worse_than"]
    level: Level
    reason: Annotated[str, Field(min_length=10)]


class _Sources(Frozen):
    """Data, augmentation and held-out images of one kind of pre-training data."""

    data: DataSpec
    heldout: DataSpec
    augment: AugmentSpec


class Profile(Frozen):
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
    measure_scope: Scope = "same_index"
    linear: LinearSpec
    detection: DetectionSpec
    claims: ClaimsSpec = ClaimsSpec()
    known: tuple[Known, ...] = ()

    @model_validator(mode="after")
    def _enough_images(self) -> Profile:
        for kind in ("single_object", "multi_object"):
            images = getattr(self, kind).data.images
            if images < self.optimiser.batch:
                raise ValueError(f"{kind}.data.images is {images}, less than a batch of {self.optimiser.batch}")
        return self

    def sweep(self, row: Row) -> tuple[RunSpec, ...]:
        """Every encoder of a row: the grid's objectives, seed after seed, for those of one seed share their views."""
        return tuple(self._run(row, o, seed) for seed in range(self.seeds) for o in self.grid.objectives())

    def random_init(self) -> tuple[RunSpec, ...]:
        """The untrained encoders of the reference row; shared by all rows."""
        row = Row(MethodSpec(name=RANDOM_INIT), "single_object", "overlapping")
        return tuple(self._run(row, RandomInit(), seed) for seed in range(self.random_inits))

    def known_failures(self, row: Row) -> dict[Claim, str]:
        """The claims about a row that this profile is known not to reproduce, and why."""
        about = (str(row.method), row.data, row.views)
        return {Claim(k.claim, k.level): k.reason for k in self.known if (k.method, k.data, k.views) == about}

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
    # A misspelt key is also a missing one: say which was meant.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in first["loc"]) or "profile"
    rest = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        fields = _fields_at(Profile, first["loc"][:-1])
        return f"unknown key {where!r}{nearest(str(first['loc'][-1]), fields)}{rest}"
    if first["type"] == "missing":
        return f"{where} is missing{rest}"
    if first["type"] == "value_error":  # of a whole table, and has said what it got
        return f"{where}: {first['msg'].removeprefix('Value error, ')}{rest}"
    return f"{where}: {first['msg']}, got {first['input']!r}{rest}"


def _fields_at(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    for part in path:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        for inner in (annotation, *get_args(annotation)):  # a table, or a list of tables
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                model = inner
    return list(model.model_fields)
