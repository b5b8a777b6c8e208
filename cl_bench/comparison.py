"""Performance of a row against another's, configuration by configuration, and against untrained encoders'. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cl_bench.power import FEWEST
from cl_bench.records import RANDOM_INIT, Level, Record, configurations

REFERENCE = "dense_index"  # the paper's matching, that others are measured against
RESAMPLES = 9999
_SEED = 20220


@dataclass(frozen=True)
class Comparison:
    """Performance of one row minus that of another, in percentage points, over pairs of configurations.

    Attributes:
        reference: The method that is subtracted from; where the rows differ in data, those.
        other: The method that is subtracted, or the data.
        level: ``instance`` (linear evaluation) or ``dense`` (detection).
        n: Pairs: configurations of which both rows have every seed, complete and finite.
        mean: Mean of the n differences, nan without a pair.
        low, high: Its two-sided ``1 - 2 alpha`` paired t interval, nan below four pairs.
        best: The reference's best of the n configurations minus the other's best of them, nan without a pair.
        best_low, best_high: Its ``1 - 2 alpha`` percentile bootstrap interval, nan below four pairs.
        p: One-sided p of "the mean difference is -margin or less"; 1 below four pairs.
        margin: By how many points the reference may fall behind and still count as no worse.
        left_out: Configurations without a pair: one side's runs are not all there, complete and finite.
    """

    reference: str
    other: str
    level: Level
    n: int
    mean: float
    low: float
    high: float
    best: float
    best_low: float
    best_high: float
    p: float
    margin: float
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        def bounded(value: float, low: float, high: float) -> str:
            return f"{value:+.2f} points" + ("" if math.isnan(low) else f" [{low:+.2f}, {high:+.2f}]")

        mean, best = bounded(self.mean, self.low, self.high), bounded(self.best, self.best_low, self.best_high)
        side, p = ("<", 1 - self.p) if self.high < -self.margin else (">", self.p)
        p_value = f"p(difference {side} {0 - self.margin:g}) = {p:.2g}"
        return f"{self.reference} - {self.other} = {mean} ({p_value}, n = {self.n} pairs); of the best {best}"


@dataclass(frozen=True)
class Contrast:
    """Mean performance of ``n`` configurations and of ``n_random`` randomly initialised encoders, in percent.

    ``low`` and ``high`` bound their difference (percentage points) in the two-sided ``1 - 2 alpha`` Welch interval, nan
    where undefined; a difference below ``margin`` counts as the level of random initialisation.
    """

    mean: float
    random_mean: float
    difference: float
    low: float
    high: float
    n: int
    n_random: int
    margin: float

    def __str__(self) -> str:
        return (
            f"{self.mean:.2f} - {self.random_mean:.2f} (random) = {self.difference:+.2f} points "
            f"[{self.low:+.2f}, {self.high:+.2f}], margin {self.margin:g}, n = {self.n} and {self.n_random}"
        )


def compare(
    reference: Sequence[Record], other: Sequence[Record], level: Level, alpha: float = 0.05, margin: float = 1.0
) -> Comparison:
    """The difference of two rows' performance, paired by configuration of the objective.

    A configuration's seeds are averaged first, for each row, so that a pair is one difference whatever the number of
    seeds; a pair shares objective, seeds and views, and differs in the method alone, or in the data alone. A weighting
    without alignment trains the same encoder under every method: it is a pair, of difference 0. The t interval takes
    the n differences as a sample from the configurations that such a grid could have had; differences without any
    variance give the mean itself as both ends. The bootstrap resamples pairs (9,999 times, from a fixed seed) and takes
    each row's best anew. That interval is rough, for the bootstrap of a maximum is not consistent: no resample has a
    better best than the sample has, and about two in three hold that very best. No verdict rests on it.

    Args:
        reference: Records of one row; those of untrained encoders are passed over.
        other: Records of another row, of the same views.
        level: Which performance.
        alpha: One-sided level.
        margin: In percentage points (ours).

    Raises:
        ValueError: If the records of a side are of more than one row, or the sides differ in views, or in both method
            and data.
    """
    sides = [[r for r in side if r.family != RANDOM_INIT] for side in (reference, other)]
    rows = sorted({(r.method, r.data, r.views) for side in sides for r in side})
    methods, data, views = (set(names) for names in zip(*rows, strict=True)) if rows else (set(), set(), set())
    if len(views) > 1 or (len(methods) > 1 and len(data) > 1):
        raise ValueError(f"rows can only be compared that differ in the method or in the data alone, got {rows}")
    ours, theirs = ({c.name: c for c in configurations(side, level)[0]} for side in sides)
    names = [name for name in ours if name in theirs and ours[name].seeds == theirs[name].seeds]
    pairs = np.array([(ours[n].performance, theirs[n].performance) for n in names], dtype=np.float64).reshape(-1, 2)
    mean, low, high, p = _mean_difference((pairs[:, 0] - pairs[:, 1]).tolist(), alpha, margin)
    best, best_low, best_high = _difference_of_best(pairs, alpha)
    method, rival = (next((r.data if len(data) > 1 else r.method for r in side), "") for side in sides)
    left_out = tuple(sorted({r.config for side in sides for r in side} - set(names)))
    return Comparison(method, rival, level, len(names), mean, low, high, best, best_low, best_high, p, margin, left_out)


def _mean_difference(differences: Sequence[float], alpha: float, margin: float) -> tuple[float, float, float, float]:
    """Mean, its interval and the p of -margin or less."""
    n = len(differences)
    mean = statistics.fmean(differences) if n else math.nan
    if n < FEWEST:
        return mean, math.nan, math.nan, 1.0
    error = statistics.stdev(differences) / math.sqrt(n)
    half = float(stats.t.isf(alpha, n - 1)) * error
    p = float(stats.t.sf((mean + margin) / error, n - 1)) if error else float(mean <= -margin)
    return mean, mean - half, mean + half, p


def _difference_of_best(pairs: NDArray[np.float64], alpha: float) -> tuple[float, float, float]:
    """Of pairs (n, 2): best of the first column minus best of the second, and its interval."""
    n = len(pairs)
    best = float(np.subtract(*pairs.max(0))) if n else math.nan
    if n < FEWEST:
        return best, math.nan, math.nan
    bests = pairs[np.random.default_rng(_SEED).integers(n, size=(RESAMPLES, n))].max(1)
    low, high = np.percentile(bests[:, 0] - bests[:, 1], [100 * alpha, 100 - 100 * alpha])
    return best, float(low), float(high)


def contrast(performance: Sequence[float], random: Sequence[float], alpha: float, margin: float) -> Contrast:
    """Welch's interval of mean performance minus that of random initialisation: two one-sided tests at ``alpha``.

    A group of one is taken as known (a one-sample t interval of the other); two groups without variance give the
    difference itself. Where neither group has two values, or one is empty, the interval is nan.
    """
    mean, random_mean = (statistics.fmean(g) if g else math.nan for g in (performance, random))
    spreads = [(statistics.variance(g) / len(g), len(g) - 1) for g in (performance, random) if len(g) > 1]
    variance, difference = sum(v for v, _ in spreads), mean - random_mean
    half = 0.0 if spreads else math.nan
    if variance > 0:
        degrees = variance**2 / sum(v**2 / df for v, df in spreads)
        half = float(stats.t.isf(alpha, degrees)) * math.sqrt(variance)
    low, high = difference - half, difference + half
    return Contrast(mean, random_mean, difference, low, high, len(performance), len(random), margin)
