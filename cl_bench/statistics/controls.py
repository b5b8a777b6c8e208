"""Controls of a row's correlation, computed from the same records without reading or writing anything.

Performance on one half of the test images must predict performance on the other half. Otherwise the test data cannot
rank these configurations, and no statement about their order means anything. The other controls are for the reader: how
well a predictor does that knows only the grid, and how tau changes with another scaling, with one configuration left
out, or with other seeds. Every tau here is over pairs within a family, the tau that claims rest on.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cl_bench.spec.records import RANDOM_INIT, Configuration, Level, Record, configurations
from cl_bench.statistics.correlation import association, figures_of, normalised_sum
from cl_bench.statistics.curves import apart, families_of, knobs_of
from cl_bench.statistics.kendall import tau_b, within
from cl_bench.statistics.power import FEWEST
from cl_bench.statistics.reseeding import Seeded, reseeded, taus

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Controls:
    """Controls for a tau of ``normalised_sum(L_a, L_u)`` with performance; each figure is nan where undefined.

    Attributes:
        halves: Positive control: tau of performance on one half of the test images with that on the other half.
        halves_p: One-sided p of ``halves`` > 0 (``cl_bench.statistics.correlation.association``).
        knob: Tau of the knob alone (how strongly the objective pushes features apart) with performance.
        rank, z: Tau with performance of the sum of ranks, or of standard scores, in place of the min-max sum.
        losses: Pearson's correlation of L_a with L_u over the configurations.
        without_low, without_high: Least and greatest tau with one configuration left out.
        seeds_low, seeds_high: Ends of the middle 95 % of taus when the seeds of this grid are drawn anew; nan with one
            seed. This is a range, not a confidence interval.
        negative: Share of the re-seeded sweeps in which tau is below 0.
    """

    halves: float
    halves_p: float
    knob: float
    rank: float
    z: float
    losses: float
    without_low: float
    without_high: float
    seeds_low: float
    seeds_high: float
    negative: float

    def __str__(self) -> str:
        def spanned(low: float, high: float) -> str:
            return f"{low:.2f} to {high:.2f}"

        told = [
            ("halves of the test data {}", self.halves, f"{self.halves:.2f} (p = {self.halves_p:.2g})"),
            ("knob alone {}", self.knob, f"{self.knob:.2f}"),
            ("rank sum {}", self.rank, f"{self.rank:.2f}"),
            ("z sum {}", self.z, f"{self.z:.2f}"),
            ("without one configuration {}", self.without_low, spanned(self.without_low, self.without_high)),
            (
                "re-seeded {}",
                self.seeds_low,
                f"[{self.seeds_low:.2f}, {self.seeds_high:.2f}], below 0 in {self.negative:.0%}",
            ),
            ("L_a with L_u r = {}", self.losses, f"{self.losses:.2f}"),
        ]
        return "; ".join(text.format(shown) for text, value, shown in told if not math.isnan(value))

    @property
    def unmeasured(self) -> bool:
        """True where performance on the two halves is not known of every configuration, so that there is no control."""
        return math.isnan(self.halves_p)

    def failed(self, alpha: float) -> str:
        """Return the reason why these configurations cannot be ranked, or "" where the positive control holds.

        It holds if ``halves_p`` is below ``alpha``. If the halves were not measured there is no control to fail; the
        sentence of a claim says so.
        """
        if self.unmeasured or self.halves_p < alpha:
            return ""
        tau = "undefined" if math.isnan(self.halves) else f"{self.halves:.2f}"
        return (
            "performance on one half of the test data does not tell performance on the other "
            f"(tau {tau}, p = {self.halves_p:.2g})"
        )


def controls(records: Sequence[Record], level: Level) -> Controls:
    """Compute the controls of a row at a level; a configuration's seeds are averaged first, as for tau itself.

    Raises:
        ValueError: If the records are of more than one row.
    """
    kept, _ = configurations(records, level)
    families = [c.family for c in kept]
    pairs, n = within(families), len(kept)
    L_a, L_u, y = figures_of(kept)

    def tau(x: Array) -> float:
        return tau_b(x, y, pairs)

    ranks = [stats.rankdata(column) for column in (L_a, L_u)]
    varied = [float(np.ptp(column)) > 0 for column in (L_a, L_u)] if n > 1 else [False, False]
    shortened = [_without(i, families, L_a, L_u, y) for i in range(n)] if n > FEWEST else []
    known = [one for one in shortened if not math.isnan(one)]
    halves, halves_p = _halves(records, kept, level)
    return Controls(
        halves=halves,
        halves_p=halves_p,
        knob=tau(np.array([apart(knobs_of(c.name)) for c in kept])),
        rank=tau(np.asarray(ranks[0] + ranks[1], dtype=np.float64)),
        z=tau(_standard(L_a) + _standard(L_u)),
        losses=float(np.corrcoef(L_a, L_u)[0, 1]) if all(varied) else math.nan,
        without_low=min(known, default=math.nan),
        without_high=max(known, default=math.nan),
        **_reseeded(records, level),
    )


def _standard(column: Array) -> Array:
    """Divide a column by its standard deviation; the mean is not subtracted, since it does not affect the order."""
    spread = float(column.std()) if len(column) else 0.0
    return column / (spread if spread > 0 else 1.0)


def _without(i: int, families: Sequence[str], L_a: Array, L_u: Array, y: Array) -> float:
    """Compute tau without configuration i."""
    left = np.delete(np.arange(len(y)), i)
    return tau_b(normalised_sum(L_a[left], L_u[left]), y[left], within([families[int(k)] for k in left]))


def _halves(records: Sequence[Record], kept: Sequence[Configuration], level: Level) -> tuple[float, float]:
    """Compute tau between performance on the two halves, and its p; nan if a configuration lacks a half."""
    runs: dict[str, list[tuple[float, float]]] = {c.name: [] for c in kept}
    for r in records:
        if r.family != RANDOM_INIT and r.config in runs:
            runs[r.config].append(r.halves.get(level, (math.nan, math.nan)))
    first, second = (np.array([statistics.fmean(run[k] for run in runs[c.name]) for c in kept]) for k in (0, 1))
    if len(kept) < FEWEST or not np.isfinite([first, second]).all():
        return math.nan, math.nan
    families = [c.family for c in kept]
    found = association(first, second, families_of([c.name for c in kept], families))
    return tau_b(first, second, within(families)), found.p_positive


def _reseeded(records: Sequence[Record], level: Level) -> dict[str, float]:
    """Compute the middle 95 % of taus, and their share below 0, when the seeds of this grid are drawn anew."""
    seeded = Seeded.of(records, level)
    drawn = taus(reseeded(seeded), seeded.families) if len(seeded.seeds) > 1 else np.empty(0)
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return dict.fromkeys(("seeds_low", "seeds_high", "negative"), math.nan)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"seeds_low": float(low), "seeds_high": float(high), "negative": float((drawn < 0).mean())}
