"""Performance of a row compared with another row, configuration by configuration, and with untrained encoders."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cl_bench.spec.records import RANDOM_INIT, Level, Record, configurations
from cl_bench.statistics.power import FEWEST

REFERENCE = "dense_index"  # the paper's matching, which others are compared with
RESAMPLES = 9999
_SEED = 20220


@dataclass(frozen=True)
class Comparison:
    """Performance of one row minus that of another, in percentage points, over pairs of configurations.

    Attributes:
        reference: Method of the row that is subtracted from; its data where the rows differ in data.
        other: Method, or data, of the row that is subtracted.
        level: ``instance`` (linear evaluation) or ``dense`` (detection).
        n: Number of pairs: configurations of which both rows have every seed, complete and finite.
        mean: Mean of the n differences, nan without a pair.
        low, high: Two-sided ``1 - 2 alpha`` paired t interval of ``mean``, nan below four pairs.
        best: Best of the n configurations of the reference minus the best of the other row, nan without a pair.
        best_low, best_high: ``1 - 2 alpha`` percentile bootstrap interval of ``best``, nan below four pairs.
        p: One-sided p of "the mean difference is -margin or less"; 1 below four pairs.
        p_against: One-sided p of "the mean difference is -margin or more".
        margin: Percentage points by which the reference may fall behind and still count as no worse.
        left_out: Configurations without a pair, because one side lacks a complete and finite run of them.
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
    p_against: float
    margin: float
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        def bounded(value: float, low: float, high: float) -> str:
            return f"{value:+.2f} points" + ("" if math.isnan(low) else f" [{low:+.2f}, {high:+.2f}]")

        mean, best = bounded(self.mean, self.low, self.high), bounded(self.best, self.best_low, self.best_high)
        side, p = ("<", self.p_against) if self.high < -self.margin else (">", self.p)
        p_value = f"p(difference {side} {0 - self.margin:g}) = {p:.2g}"
        return f"{self.reference} - {self.other} = {mean} ({p_value}, n = {self.n} pairs); of the best {best}"


@dataclass(frozen=True)
class Contrast:
    """Mean performance of configurations and of randomly initialised encoders, in percent.

    Attributes:
        mean: Mean of the ``n`` configurations.
        random_mean: Mean of the ``n_random`` randomly initialised encoders.
        difference: ``mean`` minus ``random_mean``, in percentage points.
        low, high: Two-sided ``1 - 2 alpha`` Welch interval of the difference, nan with fewer than two on a side.
        p_below: One-sided p of "the difference is ``margin`` or more"; 1 with fewer than two on a side.
        p_above: One-sided p of "the difference is ``margin`` or less".
        n: Number of configurations.
        n_random: Number of randomly initialised encoders.
        margin: Percentage points; a difference below it counts as the level of random initialisation.
        by_family: Mean of the configurations of each family.
    """

    mean: float
    random_mean: float
    difference: float
    low: float
    high: float
    p_below: float
    p_above: float
    n: int
    n_random: int
    margin: float
    by_family: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        side, p = (">", self.p_above) if self.p_above < self.p_below else ("<", self.p_below)
        families = ", ".join(f"{family} {mean:.2f}" for family, mean in self.by_family.items())
        return (
            f"{self.mean:.2f} - {self.random_mean:.2f} (random) = {self.difference:+.2f} points "
            f"[{self.low:+.2f}, {self.high:+.2f}] (p(difference {side} {self.margin:g}) = {p:.2g}, n = {self.n} and "
            f"{self.n_random}), margin {self.margin:g}"
            + (f"; by family: {families}" if len(self.by_family) > 1 else "")
        )


def compare(
    reference: Sequence[Record], other: Sequence[Record], level: Level, alpha: float = 0.05, margin: float = 1.0
) -> Comparison:
    """Compare the performance of two rows, paired by configuration of the objective.

    A configuration's seeds are averaged first, for each row, so that a pair is one difference whatever the number of
    seeds. A pair shares objective, seeds and views, and differs in the method alone, or in the data alone. A weighting
    without alignment trains the same encoder under every method: it is a pair with difference 0. The t interval treats
    the n differences as a sample from the configurations that such a grid could have had; differences without any
    variance give the mean itself as both ends. The bootstrap resamples pairs (9,999 times, from a fixed seed) and finds
    each row's best again. That interval is rough, because the bootstrap of a maximum is not consistent: no resample has
    a better best than the sample, and about two in three have that same best. No verdict rests on it.

    Args:
        reference: Records of one row; those of untrained encoders are ignored.
        other: Records of another row, of the same views.
        level: Level of the performance.
        alpha: One-sided level.
        margin: Percentage points (our choice).

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
    found = _mean_difference(pairs[:, 0] - pairs[:, 1], alpha, margin)
    best, best_low, best_high = _difference_of_best(pairs, alpha)
    method, rival = (next((r.data if len(data) > 1 else r.method for r in side), "") for side in sides)
    return Comparison(
        reference=method,
        other=rival,
        level=level,
        n=len(names),
        mean=found.mean,
        low=found.low,
        high=found.high,
        best=best,
        best_low=best_low,
        best_high=best_high,
        p=found.p_above,
        p_against=found.p_below,
        margin=margin,
        left_out=tuple(sorted({r.config for side in sides for r in side} - set(names))),
    )


class _Mean(NamedTuple):
    """A mean, or a difference of means, with its interval and the one-sided p for being below and above a bound."""

    mean: float
    low: float
    high: float
    p_below: float
    p_above: float


def _mean_difference(differences: NDArray[np.float64], alpha: float, margin: float) -> _Mean:
    """Compute the mean of paired differences (n,), and test whether it is below or above -margin."""
    mean = float(differences.mean()) if len(differences) else math.nan
    if len(differences) < FEWEST:
        return _Mean(mean, math.nan, math.nan, 1.0, 1.0)
    if np.ptp(differences) == 0:
        return _certain(mean, -margin)
    tests = [stats.ttest_1samp(differences, -margin, alternative=side) for side in ("less", "greater")]
    interval = stats.ttest_1samp(differences, 0.0).confidence_interval(1 - 2 * alpha)
    return _Mean(mean, float(interval.low), float(interval.high), *(float(test.pvalue) for test in tests))


def _certain(value: float, bound: float) -> _Mean:
    """Return the result for figures without any variance, which is certain."""
    return _Mean(value, value, value, float(value >= bound), float(value <= bound))


def _difference_of_best(pairs: NDArray[np.float64], alpha: float) -> tuple[float, float, float]:
    """Compute the best of the first column of pairs (n, 2) minus the best of the second, and its interval."""
    n = len(pairs)
    best = float(np.subtract(*pairs.max(0))) if n else math.nan
    if n < FEWEST:
        return best, math.nan, math.nan
    bests = pairs[np.random.default_rng(_SEED).integers(n, size=(RESAMPLES, n))].max(1)
    low, high = np.percentile(bests[:, 0] - bests[:, 1], [100 * alpha, 100 - 100 * alpha])
    return best, float(low), float(high)


def contrast(
    performance: Mapping[str, Sequence[float]], random: Sequence[float], alpha: float, margin: float
) -> Contrast:
    """Compare mean performance with that of random initialisation by Welch's t: two one-sided tests at ``alpha``.

    Two groups without variance give the difference itself. With fewer than two on a side there is no interval.

    Args:
        performance: Performance of the configurations by family, in percent.
        random: Performance of the randomly initialised encoders, in percent.
        alpha: One-sided level.
        margin: Bound that the difference is compared with, in percentage points.
    """
    scores = [score for of_family in performance.values() for score in of_family]
    mean, random_mean = (statistics.fmean(g) if g else math.nan for g in (scores, random))
    found = _Mean(mean - random_mean, math.nan, math.nan, 1.0, 1.0)
    if min(len(scores), len(random)) > 1:
        if len(set(scores)) == len(set(random)) == 1:
            found = _certain(mean - random_mean, margin)
        else:
            at_margin = [score - margin for score in scores]
            p_below, p_above = (
                float(stats.ttest_ind(at_margin, random, equal_var=False, alternative=side).pvalue)
                for side in ("less", "greater")
            )
            interval = stats.ttest_ind(scores, random, equal_var=False).confidence_interval(1 - 2 * alpha)
            found = _Mean(found.mean, float(interval.low), float(interval.high), p_below, p_above)
    return Contrast(
        mean=mean,
        random_mean=random_mean,
        difference=found.mean,
        low=found.low,
        high=found.high,
        p_below=found.p_below,
        p_above=found.p_above,
        n=len(scores),
        n_random=len(random),
        margin=margin,
        by_family={family: statistics.fmean(of_family) for family, of_family in performance.items() if of_family},
    )
