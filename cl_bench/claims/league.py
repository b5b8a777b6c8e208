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
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cl_bench.spec.records import LEVELS, RANDOM_INIT, Better, Level, Record
from cl_bench.statistics.correlation import association
from cl_bench.statistics.curves import families_of
from cl_bench.statistics.kendall import tau_b
from cl_bench.statistics.power import FEWEST

SWAPS = 9999
"""Number of random swaps in the permutation test."""
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
        tau: Tau-b in [-1, 1], negative where the predictor predicts; nan where undefined.
        p_negative: One-sided p of tau < 0 over pairs within a family.
        p_positive: One-sided p of tau > 0 over pairs within a family.
        better: Better values of the predictor, low or high; empty where that is not declared.
    """

    predictor: str
    level: Level
    n: int
    tau: float
    p_negative: float
    p_positive: float
    better: Better | Literal[""] = ""

    def __str__(self) -> str:
        return "undefined" if math.isnan(self.tau) else f"{self.tau:.2f}"


@dataclass(frozen=True)
class Standing:
    """One predictor in the league for one performance.

    Attributes:
        predictor: Name and level of the predictor, such as ``rankme@dense``.
        level: Level of the performance.
        taus: ``Prediction.tau`` by row; rows where it is undefined are left out.
        tau: Mean of ``taus``; nan where there is none.
        difference: Mean over rows of its tau minus the reference's, over configurations for which both are known:
            negative where it predicts better; nan for the reference itself and where nothing can be paired.
        p: Two-sided p of no difference, by a permutation test; nan where the difference is nan.
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

    The difference to the reference is tested as Deutsch, Dror & Roth do for evaluation metrics: both predictors'
    ranks in a row are standardised, those of each configuration are swapped with probability one half, and the mean
    over rows of the difference of taus is computed again, 9,999 times. p is the share of differences at least as large.

    Args:
        rows: Records by row; randomly initialised and incomplete ones are ignored.
        better: Better values (low or high) of each predictor, by its name without the level, for those that are not in
            ``OF_RECORD``. Predictors in neither are left out.

    Source: arXiv:2104.00054, PERM-BOTH with configurations for inputs.
    """
    tables = {name: columns(records, better) for name, records in rows.items()}
    tables = {name: table for name, table in tables.items() if table}
    predictors = sorted({p for table in tables.values() for p in table if not p.startswith("performance@")})
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
    kept = _kept(records)
    table = {**columns(records, better), "place": np.arange(len(kept), dtype=np.float64)}
    direction: Better | Literal[""] = {**OF_RECORD, **better}.get(predictor.partition("@")[0], "")
    x, y, places = _paired(table, predictor, f"performance@{level}", "place")
    tau, less, greater = _tau(x, y), 1.0, 1.0
    if not math.isnan(tau):
        first = [kept[int(place)][0] for place in places]
        found = association(x, y, families_of([r.config for r in first], [r.family for r in first]))
        less, greater = found.p_negative, found.p_positive
    return Prediction(predictor, level, len(x), tau, less, greater, direction)


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


def _paired(table: Mapping[str, Array], *names: str) -> list[Array]:
    """Return the named columns over the configurations for which all are known; empty columns if one is missing."""
    if not all(name in table for name in names):
        return [np.zeros(0) for _ in names]
    stacked = np.stack([table[name] for name in names])
    return [*stacked[:, np.isfinite(stacked).all(0)]]


def _tau(x: Array, y: Array) -> float:
    """Compute tau-b; nan where it is undefined or there are fewer than four configurations."""
    return tau_b(x, y) if len(x) >= FEWEST else math.nan


def _standing(predictor: str, level: Level, tables: Mapping[str, Mapping[str, Array]]) -> Standing:
    performance, other = f"performance@{level}", reference(level)
    taus = {row: _tau(*_paired(table, predictor, performance)) for row, table in tables.items()}
    taus = {row: tau for row, tau in taus.items() if not math.isnan(tau)}
    tau = statistics.fmean(taus.values()) if taus else math.nan
    difference = p = math.nan
    if predictor != other:
        triples = [_paired(table, predictor, other, performance) for table in tables.values()]
        triples = [t for t in triples if not (math.isnan(_tau(t[0], t[2])) or math.isnan(_tau(t[1], t[2])))]
        if triples:
            difference = statistics.fmean(_tau(x, z) - _tau(y, z) for x, y, z in triples)
            p = _swapped(tuple(tuple(tuple(v.tolist()) for v in triple) for triple in triples), difference)
    return Standing(predictor, level, taus, tau, difference, p, math.nan)


@lru_cache(maxsize=8192)  # the summary, its file and league.csv need the same values
def _swapped(rows: tuple[tuple[tuple[float, ...], ...], ...], observed: float) -> float:
    """Compute two-sided p of the mean over rows of tau(x, z) - tau(y, z), under swaps of x and y by configuration."""
    draws = np.random.default_rng(_SEED)
    total = np.zeros(SWAPS)
    for x, y, z in (map(np.array, row) for row in rows):
        swaps = draws.integers(2, size=(SWAPS, len(x))).astype(np.float64)
        x, y = _z(_rank(x)), _z(_rank(y))
        total += _tau_of_mixed(x, y, z, swaps) - _tau_of_mixed(x, y, z, 1 - swaps)
    hits = int((np.abs(total / len(rows)) >= abs(observed) - 1e-12).sum())
    return (1 + hits) / (1 + SWAPS)


def _tau_of_mixed(x: Array, y: Array, z: Array, swaps: Array) -> Array:
    """Compute tau-b, (m,), of z with a mix that is y where ``swaps`` (m, n) is 1 and x where it is 0; 0 if undefined.

    The concordance of a pair depends on both of its swaps, so the sum over pairs is a quadratic form in the swaps s.
    Let X hold the signs of pairs that both keep x, Y of pairs that both take y, and M of pairs whose first keeps x and
    whose second takes y (M^T for the reverse). The sum is ``1 X 1 + 2 (1 M - 1 X) s + s (X - 2 M + Y) s``.
    """
    sz = np.sign(z[:, None] - z[None])

    def summed(of: Callable[[Array], Array]) -> Array:
        X, M, Y = (of(np.sign(a[:, None] - b[None])) for a, b in ((x, x), (x, y), (y, y)))
        quadratic = ((swaps @ (X - 2 * M + Y)) * swaps).sum(1)
        return np.asarray(X.sum() + 2 * swaps @ (M - X).sum(0) + quadratic)

    agreement, untied = summed(lambda sign: sign * sz), summed(np.abs)
    scale = np.sqrt(untied * float(np.abs(sz).sum()))
    return np.divide(agreement, scale, out=np.zeros_like(agreement), where=scale > 0)


def holm_adjusted(p: Sequence[float]) -> list[float]:
    """Adjust p for testing all of these by Holm's step-down, in order; nan stays nan and does not count as a test."""
    adjusted = [math.nan] * len(p)
    tested = sorted((i for i, value in enumerate(p) if not math.isnan(value)), key=lambda i: p[i])
    worst = 0.0
    for rank, i in enumerate(tested):
        worst = max(worst, min(1.0, (len(tested) - rank) * p[i]))
        adjusted[i] = worst
    return adjusted
