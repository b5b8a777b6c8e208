"""The league of predictors: which figure of an encoder predicts its performance, and does any beat L_a + L_u?

The unit of analysis is a configuration of the objective, its seeds averaged first. The sign of a predictor is chosen so
that a lower value predicts better performance; a negative tau means that it predicts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cl_bench.spec.records import LEVELS, RANDOM_INIT, Better, Level, Record
from cl_bench.statistics.correlation import association, unrelated
from cl_bench.statistics.curves import families_of
from cl_bench.statistics.kendall import counts, tau_b, within
from cl_bench.statistics.power import FEWEST

_SEED = 20220
Array = NDArray[np.float64]

OF_RECORD: Mapping[str, Better] = {"alignment": "low", "uniformity": "low", "position_share": "low", "loss": "low"}
"""Predictors that every record holds: L_a, L_u, the position share of dense features, and the last training loss."""


def reference(level: Level) -> str:
    """Return the predictor that the others are compared with: the paper's, at the level of the performance."""
    return f"sum_minmax@{level}"


@dataclass(frozen=True)
class Prediction:
    """Kendall's tau-b of one predictor with performance over a row's configurations.

    Attributes:
        predictor: Name and level of the predictor, such as ``rankme@dense``.
        level: Level of the performance: ``instance`` (linear evaluation) or ``dense`` (detection).
        n: Number of configurations for which both are known.
        tau: Tau-b over all pairs in [-1, 1], negative where the predictor predicts; nan where undefined.
        within: Tau-b over pairs within a family, which p tests; nan where undefined.
        p_negative: One-sided p of ``within`` < 0.
        p_positive: One-sided p of ``within`` > 0.
        better: Better values of the predictor, low or high; empty where that is not declared.
    """

    predictor: str
    level: Level
    n: int
    tau: float
    within: float
    p_negative: float
    p_positive: float
    better: Better | Literal[""] = ""

    def __str__(self) -> str:
        if math.isnan(self.tau):
            return "undefined"
        return f"{self.tau:.2f} over all pairs, {self.within:.2f} within families"


@dataclass(frozen=True)
class Standing:
    """One predictor in the league for one performance.

    Attributes:
        predictor: Name and level of the predictor, such as ``rankme@dense``.
        level: Level of the performance.
        taus: ``Prediction.tau`` by row; rows where it is undefined are left out.
        tau: Mean of ``taus``; nan where there is none.
        difference: Mean over rows of its tau within families minus the reference's, over configurations for which both
            are known: negative where it predicts better; nan for the reference itself and where nothing can be paired.
        p: Two-sided p of no difference, by ``league``'s test; nan where the difference is nan.
        p_holm: ``p`` adjusted for all predictors of that performance.
    """

    predictor: str
    level: Level
    taus: Mapping[str, float]
    tau: float
    difference: float
    p: float
    p_holm: float


def league(rows: Mapping[str, Sequence[Record]], better: Mapping[str, Better]) -> list[Standing]:
    """Rank every predictor by its mean tau over rows, the best first, for one level of performance after the other.

    The difference to the reference is tested against performance that knows nothing: in each row both predictors stay
    as they are, and performance is drawn anew 4,999 times as curves over the knobs, as smooth as it is itself
    (``cl_bench.statistics.curves``). p is the share of draws whose mean difference over rows is at least as large. It
    is taken twice, with nearly the same curves in every row and with other ones, and the larger counts, since
    performance in one row is much like that in another. To swap the predictors' ranks configuration by configuration,
    as is done for independent inputs (arXiv:2104.00054), finds differences between unrelated curves in up to two
    thirds of all leagues (docs/statistics.md).

    Args:
        rows: Records by row; randomly initialised and incomplete ones are ignored.
        better: Better values (low or high) of each predictor, by its name without the level, for those that are not in
            ``OF_RECORD``. Predictors in neither are left out.
    """
    tables = {name: _Row.of(records, better) for name, records in rows.items()}
    tables = {name: row for name, row in tables.items() if row.table}
    predictors = sorted({p for row in tables.values() for p in row.table if not p.startswith("performance@")})
    found: list[Standing] = []
    for level in LEVELS:
        standings = [_standing(p, level, tables) for p in predictors]
        adjusted = holm_adjusted([s.p for s in standings])
        standings = [
            Standing(s.predictor, level, s.taus, s.tau, s.difference, s.p, p)
            for s, p in zip(standings, adjusted, strict=True)
            if s.taus
        ]
        found += sorted(standings, key=lambda s: (s.tau, s.predictor))
    return found


def predicted(records: Sequence[Record], level: Level, predictor: str, better: Mapping[str, Better]) -> Prediction:
    """Compute tau of one predictor in one row; it is nan where the predictor was not measured.

    p is computed as for the paper's own claim: of tau over pairs within a family, allowing for neighbours on a knob
    being alike (``cl_bench.statistics.correlation.association``).
    """
    direction: Better | Literal[""] = {**OF_RECORD, **better}.get(predictor.partition("@")[0], "")
    (x, y), names, families = _Row.of(records, better).over(predictor, f"performance@{level}")
    tau, inside, less, greater = _tau(x, y), math.nan, 1.0, 1.0
    if not math.isnan(tau):
        inside = tau_b(x, y, within(families))
        found = association(x, y, families_of(names, families))
        less, greater = found.p_negative, found.p_positive
    return Prediction(predictor, level, len(x), tau, inside, less, greater, direction)


def columns(records: Sequence[Record], better: Mapping[str, Better]) -> dict[str, Array]:
    """Return a row as columns (n,) over its configurations, in order of name.

    The columns are the predictors, with lower values better, and ``performance@level``. A configuration has a value if
    each of its records has one, else nan. Besides the measured figures there are, at each level, three sums of L_a and
    L_u (``sum_minmax``, the paper's; ``sum_rank``; ``sum_z``), and ``dse@dense``, the sum of its parts weighted by the
    inverse of their standard deviations over the row.
    """
    known = {**OF_RECORD, **better}
    values = [[_values(record) for record in group] for group in _kept(records)]
    names = sorted({name for group in values for one in group for name in one})
    table: dict[str, Array] = {}
    for name in names:
        sign = 1.0
        if not name.startswith("performance@"):
            direction = known.get(name.partition("@")[0])
            if direction is None:
                continue
            sign = 1.0 if direction == "low" else -1.0
        column = [statistics.fmean(one.get(name, math.nan) for one in group) for group in values]
        table[name] = sign * np.array(column, dtype=np.float64)
    return table | _sums(table)


def _kept(records: Sequence[Record]) -> list[list[Record]]:
    """Return the records of each configuration whose records are all complete, in order of name."""
    usable = sorted((r for r in records if r.family != RANDOM_INIT), key=lambda r: (r.config, r.seed))
    configurations = [[*group] for _, group in groupby(usable, key=lambda r: r.config)]
    return [group for group in configurations if all(r.status == "complete" for r in group)]


def _values(record: Record) -> dict[str, float]:
    """Return the figures of a record by their names in the league."""
    out = {f"performance@{level}": value for level, value in record.performance.items()}
    out |= {f"alignment@{level}": value for level, value in record.alignment.items()}
    out |= {f"uniformity@{level}": value for level, value in record.uniformity.items()}
    if "position_share" in record.probes:
        out["position_share@dense"] = record.probes["position_share"]
    if record.losses:
        out["loss"] = record.losses[-1][1]
    return out | dict(record.predictors)


def _sums(table: Mapping[str, Array]) -> dict[str, Array]:
    """Compute the predictors that combine others over a row."""
    out: dict[str, Array] = {}
    for level in LEVELS:
        parts = [table.get(f"{name}@{level}") for name in ("alignment", "uniformity")]
        for scale, scaled in _SCALES.items():
            if parts[0] is not None and parts[1] is not None:
                out[f"sum_{scale}@{level}"] = _over_known(scaled, parts[0], parts[1])
    separation, dimension = (table.get(f"dse_{part}@dense") for part in ("separation", "dimension"))
    if separation is not None and dimension is not None:
        out["dse@dense"] = _over_known(_by_spread, separation, dimension)
    return out


def _over_known(scaled: Callable[[Array], Array], one: Array, other: Array) -> Array:
    """Add two columns, each scaled over the configurations for which both are known; nan elsewhere."""
    both = np.isfinite(one) & np.isfinite(other)
    out = np.full(len(one), math.nan)
    if both.any():
        out[both] = scaled(one[both]) + scaled(other[both])
    return out


def _minmax(x: Array) -> Array:
    span = float(np.ptp(x))
    return np.asarray((x - x.min()) / (span if span > 0 else 1.0))


def _by_spread(x: Array) -> Array:
    spread = float(x.std())
    return np.asarray(x / (spread if spread > 0 else 1.0))


def _z(x: Array) -> Array:
    return _by_spread(x - x.mean())


def _rank(x: Array) -> Array:
    return np.asarray(stats.rankdata(x), dtype=np.float64)


_SCALES: Mapping[str, Callable[[Array], Array]] = {"minmax": _minmax, "rank": _rank, "z": _z}


class _Row(NamedTuple):
    """A row's columns by name, and the name and the family of each of its configurations."""

    table: Mapping[str, Array]
    names: tuple[str, ...]
    families: tuple[str, ...]

    @classmethod
    def of(cls, records: Sequence[Record], better: Mapping[str, Better]) -> _Row:
        first = [group[0] for group in _kept(records)]
        return cls(columns(records, better), tuple(r.config for r in first), tuple(r.family for r in first))

    def over(self, *wanted: str) -> tuple[Array, tuple[str, ...], tuple[str, ...]]:
        """Return (columns, m) values, names and families of the configurations for which all of the columns are known.

        There is no such configuration if a column is missing.
        """
        if not all(name in self.table for name in wanted):
            return np.zeros((len(wanted), 0)), (), ()
        stacked = np.stack([self.table[name] for name in wanted])
        known = np.flatnonzero(np.isfinite(stacked).all(0))
        return stacked[:, known], tuple(self.names[i] for i in known), tuple(self.families[i] for i in known)


def _tau(x: Array, y: Array) -> float:
    """Compute tau-b; nan where it is undefined or there are fewer than four configurations."""
    return tau_b(x, y) if len(x) >= FEWEST else math.nan


def _standing(predictor: str, level: Level, rows: Mapping[str, _Row]) -> Standing:
    performance, other = f"performance@{level}", reference(level)
    taus = {name: _tau(*row.over(predictor, performance)[0]) for name, row in rows.items()}
    taus = {name: tau for name, tau in taus.items() if not math.isnan(tau)}
    tau = statistics.fmean(taus.values()) if taus else math.nan
    difference = p = math.nan
    if predictor != other:
        difference, p = paired_difference(tuple(_paired(row, predictor, other, performance) for row in rows.values()))
    return Standing(predictor, level, taus, tau, difference, p, math.nan)


class Paired(NamedTuple):
    """Two predictors x and y and a performance z of the same configurations of a row, hashable for a cache."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    z: tuple[float, ...]
    names: tuple[str, ...]
    families: tuple[str, ...]


def _paired(row: _Row, x: str, y: str, z: str) -> Paired:
    (xs, ys, zs), names, families = row.over(x, y, z)
    return Paired(tuple(xs.tolist()), tuple(ys.tolist()), tuple(zs.tolist()), names, families)


@lru_cache(maxsize=8192)  # the summary, its file and league.csv need the same values
def paired_difference(rows: tuple[Paired, ...]) -> tuple[float, float]:
    """Compute the mean over rows of tau(x, z) - tau(y, z) within families, and its two-sided p; nan without a row."""
    order = np.random.default_rng(_SEED)
    observed, alike, other = [], [], []
    for row in rows:
        if len(row.names) < FEWEST:
            continue
        x, y, z = (np.array(column) for column in (row.x, row.y, row.z))
        pairs = within(row.families)
        seen = tau_b(x, z, pairs) - tau_b(y, z, pairs)
        if math.isnan(seen):
            continue
        differences = np.subtract(*(_by_chance(one, row.z, row.names, row.families) for one in (row.x, row.y)))
        observed.append(seen)
        alike.append(differences)
        other.append(order.permutation(differences))
    if not observed:
        return math.nan, math.nan
    hits = [int((np.abs(np.sum(draws, 0)) >= abs(sum(observed)) - 1e-9).sum()) for draws in (alike, other)]
    return statistics.fmean(observed), (1 + max(hits)) / (1 + len(alike[0]))


@lru_cache(maxsize=256)  # every predictor is compared with the same reference
def _by_chance(x: tuple[float, ...], z: tuple[float, ...], names: tuple[str, ...], families: tuple[str, ...]) -> Array:
    """Compute tau within families, (draws,), of a predictor with curves that are unrelated to it and as smooth as z."""
    return counts(np.array(x)[None], _unrelated(z, names, families), within(families)).tau


@lru_cache(maxsize=64)
def _unrelated(z: tuple[float, ...], names: tuple[str, ...], families: tuple[str, ...]) -> Array:
    return unrelated(np.array(z), families_of(names, families))


class Ranked(NamedTuple):
    """A predictor's standings by performance, and the number of rows in which it is known."""

    predictor: str
    rows: int
    standings: Mapping[Level, Standing]


def ranked(found: Sequence[Standing]) -> list[Ranked]:
    """Group standings by predictor, the best mean over performances first, and by name where means are equal."""
    by_name: dict[str, dict[Level, Standing]] = {}
    for one in found:
        by_name.setdefault(one.predictor, {})[one.level] = one
    means = {name: statistics.fmean(one.tau for one in by_name[name].values()) for name in by_name}
    return [
        Ranked(name, max(len(one.taus) for one in by_name[name].values()), by_name[name])
        for name in sorted(by_name, key=lambda name: (means[name], name))
    ]


def holm_adjusted(p: Sequence[float]) -> list[float]:
    """Adjust p for testing all of these by Holm's step-down, in order; nan stays nan and does not count as a test."""
    adjusted = [math.nan] * len(p)
    tested = sorted((i for i, value in enumerate(p) if not math.isnan(value)), key=lambda i: p[i])
    worst = 0.0
    for rank, i in enumerate(tested):
        worst = max(worst, min(1.0, (len(tested) - rank) * p[i]))
        adjusted[i] = worst
    return adjusted
