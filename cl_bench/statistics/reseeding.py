"""Bootstrap over seeds: the figures that a sweep could have given with other seeds on the same grid.

A configuration's figures are means over its seeds. With two to five seeds these means are themselves uncertain, and so
is everything computed from them. The draws here resample seeds with replacement and leave the grid as it is. They show
what a re-seeded run of the same code could give, and nothing about other configurations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cl_bench.spec.records import Level, Record, configurations, figures
from cl_bench.statistics.correlation import normalised_sum
from cl_bench.statistics.kendall import counts, within

DRAWS = 9999
_SEED = 20220
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Seeded:
    """Figures of a row at one level, seed by seed.

    Attributes:
        names: Names of the C configurations, in order.
        families: Family of each configuration, such as ``info_nce``.
        seeds: Seeds that every configuration has, S of them, in order.
        values: (3, S, C) L_a, L_u and performance (percent), all finite.
    """

    names: tuple[str, ...]
    families: tuple[str, ...]
    seeds: tuple[int, ...]
    values: Array

    @classmethod
    def of(cls, records: Sequence[Record], level: Level) -> Seeded:
        """Collect the figures from the records of one row; untrained encoders are ignored.

        A configuration is left out if one of its records is not complete and finite, or if it lacks a seed.

        Raises:
            ValueError: If the records are of more than one row.
        """
        kept, _ = configurations(records, level)
        seeds = max((c.seeds for c in kept), key=len, default=())
        whole = [c for c in kept if c.seeds == seeds]
        runs = {(r.config, r.seed): figures(r, level) for r in records}
        values = np.array([[runs[c.name, seed] for c in whole] for seed in seeds], dtype=np.float64)
        return cls(
            tuple(c.name for c in whole),
            tuple(c.family for c in whole),
            seeds,
            values.reshape(len(seeds), len(whole), 3).transpose(2, 0, 1),
        )

    def same_as(self, other: Seeded) -> bool:
        """Return True if every figure of both is the same, seed by seed."""
        alike = (self.names, self.seeds) == (other.names, other.seeds)
        return alike and bool(np.array_equal(self.values, other.values))

    @property
    def means(self) -> Array:
        """Means over seeds, (3, C)."""
        return np.asarray(self.values.mean(1))

    def only(self, names: Sequence[str]) -> Seeded:
        """Return the figures of these configurations alone, in the order given."""
        at = [self.names.index(name) for name in names]
        families = tuple(self.families[i] for i in at)
        return Seeded(tuple(names), families, self.seeds, self.values[:, :, at])

    def first(self, seeds: int) -> Seeded:
        """Return the figures of that many of the seeds, the first ones."""
        return Seeded(self.names, self.families, self.seeds[:seeds], self.values[:, :seeds])

    @property
    def deviations(self) -> Array:
        """Deviations from the means over seeds, (3, S, C), times ``sqrt(S / (S - 1))`` to have the variance of a seed.

        Raises:
            ValueError: If there are fewer than two seeds.
        """
        S = len(self.seeds)
        if S < 2:
            raise ValueError(f"{S} seed shows no spread: it takes two")
        return np.asarray((self.values - self.means[:, None]) * math.sqrt(S / (S - 1)))


def reseeded(seeded: Seeded, draws: int = DRAWS, *, spread: Seeded | None = None, stream: int = 0) -> Array:
    """Draw (draws, 3, C) figures, averaged over seeds, that re-seeding a row could have given.

    Every call gives the same draws. A draw takes S of the seeds with replacement, keeping an encoder's three figures
    together, and averages their deviations from the observed means. The plain bootstrap of S seeds has ``(S - 1) / S``
    of the variance of a mean over seeds (half of it with two seeds), so the deviations are scaled by
    ``sqrt(S / (S - 1))``.

    Args:
        seeded: The row.
        draws: Number of draws.
        spread: Row with the same configurations whose seeds show the spread; the row itself by default.
        stream: Number of the random stream; rows that must be drawn independently of each other take different ones.

    Raises:
        ValueError: If the row that shows the spread has one seed, or other configurations.
    """
    source = spread or seeded
    if source.names != seeded.names:
        raise ValueError(f"spread of other configurations: {source.names}, not {seeded.names}")
    deviations, (S, C) = source.deviations, source.values.shape[1:]
    taken = np.random.default_rng([_SEED, stream]).integers(S, size=(draws, len(seeded.seeds), C))
    drawn = deviations[:, taken, np.arange(C)].mean(2)  # (3, draws, C)
    return np.asarray(seeded.means + drawn.transpose(1, 0, 2))


def taus(points: Array, families: Sequence[str]) -> Array:
    """Compute tau-b, (m,), between ``normalised_sum(L_a, L_u)`` and performance over pairs within a family.

    ``points`` is (m, 3, C): L_a, L_u and performance. Tau is nan where every pair is tied in x or in y.
    """
    return counts(normalised_sum(points[:, 0], points[:, 1]), points[:, 2], within(families)).tau
