"""Kendall's tau-b of a row with its interval and p. Pure: neither torch nor pytest, nothing read, nothing written.

The unit of analysis is a *configuration* of the objective: its seeds are averaged first, because seeds of one
configuration are not independent points of a correlation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cl_bench.power import FEWEST, needed_for
from cl_bench.records import Family, Level, Record, configurations

PERMUTATIONS, RESAMPLES = 9999, 2000
_SEED, _CHUNK = 20220, 2_000_000  # of resampling; pairwise signs held at once
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Correlation:
    """Kendall's tau-b between ``normalised_sum(L_a, L_u)`` and performance over a row's configurations.

    Attributes:
        level: Where all three were measured.
        family: Objective family, or ``total`` for all of them.
        n: Number of configurations.
        tau: In [-1, 1]; negative where better aligned and more uniform goes with better; nan where undefined.
        low, high: 95 % percentile bootstrap interval, nan below four configurations.
        p_negative, p_positive: One-sided p of tau < 0, of tau > 0.
        method: How p was had: ``exact``, ``permutation`` (there are ties), ``none`` (tau is undefined).
        needed: Configurations that would show such a tau with power .8, or None where tau is 0 or undefined.
        left_out: Case ids of the configurations left out, because a record of theirs is not complete and finite.
    """

    level: Level
    family: Family
    n: int
    tau: float
    low: float
    high: float
    p_negative: float
    p_positive: float
    method: Literal["exact", "permutation", "none"]
    needed: int | None
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        if math.isnan(self.tau):
            return "undefined"
        return f"{self.tau:.2f} [{self.low:.2f}, {self.high:.2f}]" if self.n >= FEWEST else f"{self.tau:.2f}"


def normalised_sum(L_a: Array, L_u: Array) -> Array:
    """``minmax(L_a) + minmax(L_u)``, each (..., n) over the last axis, in [0, 2]; a constant column counts as zeros."""

    def minmax(values: Array) -> Array:
        span = np.ptp(values, axis=-1, keepdims=True)
        return np.asarray((values - np.min(values, -1, keepdims=True)) / np.where(span > 0, span, 1.0))

    return minmax(L_a) + minmax(L_u)


def _pair_signs(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Concordant minus discordant pairs, pairs untied in x, and in y: (m,) each, of y (m, n) and x (m, n) or (1, n)."""
    i, j = np.triu_indices(y.shape[1], 1)
    x = np.broadcast_to(x, y.shape)
    parts = []
    step = max(1, _CHUNK // max(1, len(i)))
    for at in range(0, len(y), step):
        a, b = x[at : at + step], y[at : at + step]
        sx, sy = np.sign(a[:, i] - a[:, j]), np.sign(b[:, i] - b[:, j])
        parts.append(np.stack([(sx * sy).sum(-1), (sx * sx).sum(-1), (sy * sy).sum(-1)]))
    s, untied_x, untied_y = np.concatenate(parts, axis=1)
    return s, untied_x, untied_y


def _bootstrap(points: Array) -> tuple[float, float]:
    """95 % percentile interval of tau over resampled configurations; points (3, n): L_a, L_u, performance."""
    n = points.shape[1]
    L_a, L_u, performance = points[:, np.random.default_rng(_SEED).integers(n, size=(RESAMPLES, n))]
    s, untied_x, untied_y = _pair_signs(normalised_sum(L_a, L_u), performance)
    defined = untied_x * untied_y > 0
    low, high = np.percentile(s[defined] / np.sqrt(untied_x * untied_y)[defined], [2.5, 97.5])
    return float(low), float(high)


def one_sided(x: Array, y: Array) -> tuple[float, float, Literal["exact", "permutation"]]:
    """P(tau as low), P(tau as high) under no association; a random permutation test where there are ties."""
    if len(np.unique(x)) == len(x) and len(np.unique(y)) == len(y):
        less, greater = (stats.kendalltau(x, y, method="exact", alternative=a).pvalue for a in ("less", "greater"))
        return float(less), float(greater), "exact"
    # Under permutation the denominator of tau-b stays: the pair count decides, in whole numbers.
    shuffled = np.random.default_rng(_SEED).permuted(np.tile(y, (PERMUTATIONS, 1)), axis=1)
    observed, s = _pair_signs(x[None], y[None])[0], _pair_signs(x[None], shuffled)[0]
    less, greater = ((1 + int(hits.sum())) / (1 + PERMUTATIONS) for hits in (s <= observed, s >= observed))
    return less, greater, "permutation"


def correlate(records: Sequence[Record], level: Level, family: Family = "total", alpha: float = 0.05) -> Correlation:
    """Kendall's tau-b of a row (the paper's statistic), with what is needed to believe it.

    p is exact without ties and a seeded permutation test (9,999) with them. The interval is a seeded percentile
    bootstrap (2,000) over configurations that recomputes the min-max in every resample and drops the resamples in
    which tau is undefined. The min-max is over the configurations that take part; the order of records is of no effect.

    Raises:
        ValueError: If the records are of more than one row.
    """
    kept, left_out = configurations(records, level, family)
    n = len(kept)
    points = np.array([(c.alignment, c.uniformity, c.performance) for c in kept], dtype=np.float64).reshape(n, 3).T
    x = normalised_sum(points[0], points[1]) if n else points[0]
    if n < 2 or np.ptp(x) == 0 or np.ptp(points[2]) == 0:
        return Correlation(level, family, n, math.nan, math.nan, math.nan, 1.0, 1.0, "none", None, left_out)
    tau = float(stats.kendalltau(x, points[2], variant="b").statistic)
    less, greater, method = one_sided(x, points[2])
    low, high = _bootstrap(points) if n >= FEWEST else (math.nan, math.nan)
    return Correlation(level, family, n, tau, low, high, less, greater, method, needed_for(tau, alpha), left_out)
