"""Profiles: settings of a sweep in a TOML file, which expand to the specs of its encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import Field, model_validator

from cl_bench.errors import SpecError
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
    OptimiserSpec,
    Positive,
    PredictorSpec,
    PretrainSpec,
    RandomInit,
    RunSpec,
    ScenesSpec,
    Scope,
    ViewPolicy,
)
from cl_bench.spec.claim import Claim, Kind
from cl_bench.spec.datasets import unbound
from cl_bench.spec.grid import Grid
from cl_bench.spec.records import RANDOM_INIT, Better, Level

UNTRAINED = OptimiserSpec(batch=2, epochs=1, lr=1.0)
"""Placeholder for the optimiser of an untrained encoder, so that the profile's optimiser does not affect its key."""


class Row(NamedTuple):
    """A row of the table: one method on one kind of data under one view policy.

    ``scenes`` names one of the profile's ``scenes``, which changes how the data are drawn; empty for no change.
    """

    method: MethodSpec
    data: DataKind
    views: ViewPolicy
    scenes: str = ""

    @property
    def name(self) -> str:
        """Name, such as ``single_object-disjoint-dense_index``."""
        return "-".join(filter(None, (self.data, self.scenes, self.views, str(self.method))))

    @property
    def order(self) -> tuple[bool, bool, bool]:
        """Sort key for the order of the paper's tables: overlapping views first, then single-object data first."""
        return self.views != "overlapping", self.data != "single_object", bool(self.scenes)


class Shared(Frozen):
    """Properties that the digits of a scene share, as in ``ScenesSpec``."""

    digits: Literal["any", "same", "different"] = "any"
    tints: Literal["any", "same"] = "any"


class ClaimsSpec(Frozen):
    """Thresholds of claims: one-sided level, and margin in points for 'at the level of random' and 'no worse'.

    With ``--baseline`` a run fails if it is significantly worse by more than ``max_tau_drop``, or by more points of
    mean performance than ``max_performance_drop`` (both our choice). A profile that is too small for conclusions
    reports its verdicts without asserting them: no verdict fails.
    """

    asserted: bool = True
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    margin: Positive = 1.0
    max_tau_drop: Annotated[float, Field(ge=0, lt=2)] = 0.1
    max_performance_drop: Annotated[float, Field(ge=0, lt=100)] = 1.0


class Known(Frozen):
    """A claim that this profile is known not to reproduce."""

    method: str
    data: DataKind
    views: ViewPolicy
    claim: Kind
    level: Level
    reason: Annotated[str, Field(min_length=10)]


class Sources(Frozen):
    """One kind of pre-training data: the images to train on and the images to measure on.

    ``optimiser`` and ``grid`` are the profile's where left out. In a file they need only contain the differences from
    the profile's, and ``disjoint`` (the grid for disjoint views) the differences from ``grid``.
    """

    data: DataSpec
    heldout: DataSpec
    augment: AugmentSpec
    optimiser: OptimiserSpec | None = None
    grid: Grid | None = None
    disjoint: Grid | None = None


KINDS = get_args(DataKind)
TASKS = ("linear", "detection")

MOST_SEEDS = 1_000
"""Largest number of seeds a configuration; many more would take minutes to list alone."""
LAST_SEED = 2**31
"""Seeds are less than this, which every generator of random numbers takes."""
Seeds = Annotated[Count, Field(le=MOST_SEEDS)]


class Profile(Frozen):
    """Settings of a sweep; the paper's setting and the embedded default differ in their profiles alone, not in code."""

    name: str
    about: str
    seeds: Seeds = 1
    first_seed: Annotated[int, Field(ge=0, le=LAST_SEED - MOST_SEEDS)] = 0
    max_seeds: Seeds = 16  # limit of --until-conclusive, which doubles the seeds
    random_inits: Seeds = 3
    encoder: EncoderSpec
    optimiser: OptimiserSpec
    grid: Grid
    single_object: Sources
    multi_object: Sources
    measure_t: Positive = 1.0
    measure_scope: Scope = "same_index"
    linear: LinearSpec
    detection: DetectionSpec
    claims: ClaimsSpec = ClaimsSpec()
    known: tuple[Known, ...] = ()
    scenes: Mapping[str, Shared] = Field(default_factory=dict)
    _predictors: tuple[PredictorSpec, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, raw: Any) -> Any:
        """Complete the optimiser and the grids of each kind of data with the profile's values."""
        if not isinstance(raw, dict):
            return raw
        out = dict(raw)
        for kind in KINDS:
            if isinstance(own := raw.get(kind), dict):
                optimiser = _over(raw.get("optimiser"), own.get("optimiser"))
                grid = _over(raw.get("grid"), own.get("grid"))
                disjoint = _over(grid or raw.get("grid"), own.get("disjoint"))
                out[kind] = {**own, "optimiser": optimiser, "grid": grid, "disjoint": disjoint}
        return out

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        if self.detection.detector == "detectron2" and self.encoder.padding != "zeros":
            padding = self.encoder.padding
            raise ValueError(f"detector 'detectron2' takes encoder.padding = 'zeros' only, got {padding!r}")
        for kind in KINDS:
            if few := self._too_few(kind):
                raise ValueError(few)
            sources = self.sources(kind)
            for part in (sources.data, sources.heldout):
                if self.scenes and not isinstance(part, ScenesSpec):
                    raise ValueError(f"scenes: {', '.join(self.scenes)} takes the embedded scenes, got {part.name}")
                if part.kind != kind:
                    raise ValueError(f"{kind} takes {kind} data, got {part.name} {part.split}, which is {part.kind}")
        return self

    def _too_few(self, kind: DataKind) -> str:
        """Complain of fewer images than a batch has; empty if there are enough, or their number is not known."""
        data, batch = self.sources(kind).data, self.optimiser_of(kind).batch
        if isinstance(data, ScenesSpec):
            short = f".images is {data.count}" if data.count < batch else ""
        elif data.known_count is None or data.known_count >= batch:
            short = ""
        elif data.limit == data.known_count:
            short = f".limit is {data.limit}"
        else:
            short = f" has {data.known_count} images"
        return f"{kind}.data{short}, fewer than a batch of {batch}" if short else ""

    def with_found(self, find: Callable[[DataSpec], DataSpec]) -> Profile:
        """Return the profile with each data set as ``find`` finds it.

        Raises:
            SpecError: If there are too few images for a batch, or a task cannot be learnt on them.
        """
        found = self.with_data(find)
        lines = [found._too_few(kind) for kind in KINDS]
        lines += [f"{task}: {said}" for task in TASKS if (said := getattr(found, task).complaint())]
        if faults := [line for line in lines if line]:
            raise SpecError(f"profile {self.name}: {faults[0]}")
        return found

    def with_data(self, change: Callable[[DataSpec], DataSpec]) -> Profile:
        """Return the profile with ``change`` applied to each data set."""
        parts = dict.fromkeys(KINDS, ("data", "heldout")) | dict.fromkeys(TASKS, ("train", "test"))
        changed = {
            table: (held := getattr(self, table)).model_copy(update={p: change(getattr(held, p)) for p in names})
            for table, names in parts.items()
        }
        return self.model_copy(update=changed)

    def with_seeds(self, count: int) -> Profile:
        """Return the profile with ``count`` seeds for each configuration."""
        return self.model_copy(update={"seeds": count})

    def with_predictors(self, predictors: Sequence[PredictorSpec]) -> Profile:
        """Return the profile with these predictors, which are measured on every trained encoder."""
        changed = self.model_copy()
        changed._predictors = tuple(predictors)
        return changed

    @property
    def better(self) -> dict[str, Better]:
        """Better values (low or high) of each predictor, by its name."""
        return {predictor.name: predictor.better for predictor in self._predictors}

    def data_of(self, row: Row) -> tuple[DataSpec, DataSpec]:
        """Return the data that a row's encoders are trained on, and those that they are measured on."""
        sources = self.sources(row.data)
        shared = self.scenes[row.scenes].model_dump() if row.scenes else {}
        data, heldout = (part.model_copy(update=shared) for part in (sources.data, sources.heldout))
        return data, heldout

    def lacks(self, scenes: str) -> str:
        """Return the reason why there is no row of these scenes; empty where there is one."""
        if not scenes or scenes in self.scenes:
            return ""
        return f"profile {self.name} has no scenes called {scenes!r}; --profile dial has"

    def sources(self, kind: DataKind) -> Sources:
        """Return the settings of one kind of pre-training data."""
        found: Sources = getattr(self, kind)
        return found

    def follows(self, other: Profile, kind: DataKind) -> bool:
        """Return True if encoders of that data have the recipes of another profile, whatever the backend."""
        return self._recipes(kind) == other._recipes(kind)

    def _recipes(self, kind: DataKind) -> tuple[Frozen, ...]:
        plain = self.with_data(unbound)
        sources, optimiser = plain.sources(kind), plain.optimiser_of(kind).model_copy(update={"chunk": None})
        detection = plain.detection.model_copy(update={"detector": "torchvision"})
        return self.encoder, optimiser, sources.data, sources.heldout, sources.augment, plain.linear, detection

    def optimiser_of(self, kind: DataKind) -> OptimiserSpec:
        """Return the optimiser for that data."""
        return self.sources(kind).optimiser or self.optimiser

    def grid_of(self, kind: DataKind, views: ViewPolicy) -> Grid:
        """Return the grid of a sweep on that data."""
        sources = self.sources(kind)
        return (sources.disjoint if views == "disjoint" else None) or sources.grid or self.grid

    def sweep(self, row: Row) -> tuple[RunSpec, ...]:
        """Return every encoder of a row, one seed after the other, because encoders of one seed share their views."""
        objectives = self.grid_of(row.data, row.views).objectives()
        return tuple(self._run(row, o, seed) for seed in self._seeds(self.seeds) for o in objectives)

    def random_init(self) -> tuple[RunSpec, ...]:
        """Return the untrained encoders of the reference row, which all rows share."""
        row = Row(MethodSpec(name=RANDOM_INIT), "single_object", "overlapping")
        return tuple(self._run(row, RandomInit(), seed) for seed in self._seeds(self.random_inits))

    def _seeds(self, count: int) -> range:
        return range(self.first_seed, self.first_seed + count)

    def known_failures(self, row: Row) -> dict[Claim, str]:
        """Return the claims about a row that this profile is known not to reproduce, each with the reason."""
        about = (str(row.method), row.data, row.views, row.scenes)
        return {Claim(k.claim, k.level): k.reason for k in self.known if (k.method, k.data, k.views, "") == about}

    def _run(self, row: Row, objective: InfoNCE | AlignUniform | RandomInit, seed: int) -> RunSpec:
        sources, (data, heldout) = self.sources(row.data), self.data_of(row)
        trained = not isinstance(objective, RandomInit)
        return RunSpec(
            pretrain=PretrainSpec(
                method=row.method,
                objective=objective,
                data=data,
                views=row.views,
                augment=sources.augment,
                encoder=self.encoder,
                optimiser=self.optimiser_of(row.data) if trained else UNTRAINED,
                seed=seed,
            ),
            measure=MeasureSpec(data=heldout, t=self.measure_t, scope=self.measure_scope),
            linear=self.linear,
            detection=self.detection,
            predictors=self._predictors if trained else (),
        )


def _over(base: Any, change: Any) -> Any:
    """Update a table with another one; a value that is no table is replaced."""
    return {**base, **change} if isinstance(base, dict) and isinstance(change, dict) else change
