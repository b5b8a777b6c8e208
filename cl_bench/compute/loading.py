"""Reading of everything that a store holds, without knowing the profile that it was computed with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from cl_bench.compute.record import load_record
from cl_bench.errors import SpecError, nearest
from cl_bench.spec import AlignUniform, DataKind, FilesSpec, InfoNCE, MethodSpec, PretrainSpec, RunSpec, ViewPolicy
from cl_bench.spec.frozen import Frozen
from cl_bench.spec.profile import Profile, Row
from cl_bench.spec.records import RANDOM_INIT, Record
from cl_bench.store import Store, unsealed

F = TypeVar("F", bound=Frozen)


def existing_store(path: str | Path) -> Store:
    """Return the store in a folder that is there.

    Raises:
        SpecError: There is no such folder, or it holds no store.
    """
    root = Path(path)
    if not root.is_dir():
        there = [f.name for f in root.parent.iterdir() if f.is_dir()] if root.parent.is_dir() else []
        raise SpecError(f"no store {str(path)!r}{nearest(root.name, there)}")
    if not (root / "runs").is_dir():
        raise SpecError(f"store {str(path)!r}: holds no runs; a store is what --store names, by default .cl_bench")
    return Store(root)


def stored_pretrainings(store: Store) -> list[PretrainSpec]:
    """Return how each encoder of a store was pre-trained, ordered as in the paper's tables, untrained ones last.

    What another version of cl-bench wrote and this one does not understand is passed over.
    """
    found = (_read(folder / "spec.json", PretrainSpec, lambda spec: spec) for folder in _folders(store))
    return sorted((spec for spec in found if spec is not None), key=_order)


def stored_specs(spec: PretrainSpec, store: Store) -> list[RunSpec]:
    """Return all that was asked for of an encoder, the last first; the same evaluations are told once.

    One that was asked for with several sets of predictors has all of them, each by its last source.
    """
    files = sorted((store.run(spec.key).path / "specs").glob("*.json"), key=lambda file: -file.stat().st_mtime_ns)
    found = [noted for file in files if (noted := _read(file, RunSpec, lambda run: run.pretrain)) is not None]
    return _merged(found)


def stored_records(
    store: Store, profile: Profile | None, others: Callable[[], Sequence[Profile]]
) -> tuple[list[tuple[RunSpec, Record]], list[RunSpec]]:
    """Return the records of a store, and what else their grids ask for.

    Args:
        store: Where to look.
        profile: The one whose records are wanted; None for all that there are.
        others: Gives profiles to try on encoders of which the store does not tell what was asked for, as a store of
            an earlier version does not.

    Returns:
        Each record with its spec; and what the grid of ``profile`` asks for of the same rows and seeds without there
        being a record of it.
    """
    found: list[tuple[RunSpec, Record]] = []
    asked: dict[PretrainSpec, RunSpec] = {}
    grid = None if profile is None else _Grid(profile)
    other_grids: list[_Grid] = []
    for pretrain in stored_pretrainings(store):
        specs = stored_specs(pretrain, store)
        if grid is not None:
            row, own = grid.around(pretrain)
            specs = [spec for spec in specs if own and _same(spec, own)] or ([own] if own else [])
            asked |= {_without_source(spec.pretrain): spec for spec in row}
        elif not specs:
            other_grids = other_grids or [_Grid(other) for other in others()]
            known = [other.around(pretrain)[1] for other in other_grids]
            specs = _merged([spec for spec in known if spec is not None])
        for spec in specs:
            record = load_record(spec, store)
            if record is not None:
                found.append((spec, record))
    there = {_without_source(spec.pretrain) for spec, _ in found}
    return found, [spec for pretrain, spec in asked.items() if pretrain not in there]


def _folders(store: Store) -> Iterator[Path]:
    return (folder for folder in sorted((store.root / "runs").iterdir()) if folder.is_dir())


def _read(file: Path, kind: type[F], pretrain: Callable[[F], PretrainSpec]) -> F | None:
    """Read a spec that ``Run.write`` wrote; None if it is missing, damaged or in the wrong place."""
    try:
        payload = unsealed(file.read_bytes(), ["record"])
        if payload is None:
            return None
        record = payload.pop("record")
        spec = kind.model_validate(payload)
    except (OSError, ValidationError):
        return None
    return spec if str(record).startswith(f"{pretrain(spec).key}/") else None


def _order(spec: PretrainSpec) -> tuple[object, ...]:
    row = Row(spec.method, spec.data.kind, spec.views)
    objective, knob = spec.objective, 0.0
    if isinstance(objective, InfoNCE):
        knob = objective.temperature
    elif isinstance(objective, AlignUniform):
        knob = objective.w_u / (objective.w_a + objective.w_u)
    place = *row.order[:2], spec.data.label, str(spec.method), spec.seed
    return objective.family == RANDOM_INIT, *place, objective.family != "info_nce", knob, objective.config


def _merged(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """Merge specs that differ only in their predictors into one spec with all of these."""
    merged: dict[RunSpec, RunSpec] = {}
    for spec in specs:
        bare = spec.model_copy(update={"predictors": ()})
        known = {p.name: p for p in (*spec.predictors, *(merged[bare].predictors if bare in merged else ()))}
        merged[bare] = spec.model_copy(update={"predictors": tuple(known[name] for name in sorted(known))})
    return list(merged.values())


class _Grid:
    """Rows of a profile, one seed at a time, to find an encoder of a store in."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._rows: dict[tuple[MethodSpec, DataKind, ViewPolicy, int, str], tuple[RunSpec, ...]] = {}

    def around(self, pretrain: PretrainSpec) -> tuple[tuple[RunSpec, ...], RunSpec | None]:
        """Return the row, empty for an untrained encoder, and the encoder's own spec, None if the profile has none."""
        wanted = _without_source(pretrain)
        for scenes in ("", *self.profile.scenes):
            row = self._row(pretrain.method, pretrain.data.kind, pretrain.views, pretrain.seed, scenes)
            own = next((spec for spec in row if _without_source(spec.pretrain) == wanted), None)
            if own is not None:
                trained = pretrain.objective.family != RANDOM_INIT
                return (row if trained else ()), own.model_copy(update={"pretrain": pretrain})
        return (), None

    def _row(
        self, method: MethodSpec, data: DataKind, views: ViewPolicy, seed: int, scenes: str
    ) -> tuple[RunSpec, ...]:
        where = method, data, views, seed, scenes
        if where not in self._rows:
            one = self.profile.model_copy(update={"first_seed": seed, "seeds": 1, "random_inits": 1})
            untrained = method.name == RANDOM_INIT
            self._rows[where] = one.random_init() if untrained else one.sweep(Row(method, data, views, scenes))
        return self._rows[where]


def _same(one: RunSpec, other: RunSpec) -> bool:
    """Return True if two specs differ at most in their predictors and in the files that data sets were read from."""
    return all(
        _without_source(getattr(one, part)) == _without_source(getattr(other, part))
        for part in ("pretrain", "measure", "linear", "detection")
    )


def _without_source(spec: F) -> F:
    """Return the spec as it was before data sets were looked for."""
    data = {name: value for name in type(spec).model_fields if isinstance(value := getattr(spec, name), FilesSpec)}
    plain = {"source": "", "root": None, "found": None}
    return spec.model_copy(update={name: value.model_copy(update=plain) for name, value in data.items()})
