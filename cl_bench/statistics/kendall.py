"""Kendall's tau-b over all pairs of configurations, or over some of them, for many draws at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Labels = Sequence[str] | NDArray[np.intp]
"""Family of each configuration, as a text or a number."""
_CHUNK = 4_000_000  # pairwise signs held at once


class Pairs(NamedTuple):
    """Indices of the configurations that are compared: the first of each pair, and the second; (m,) each."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]


class Counts(NamedTuple):
    """Counts of pairs, (draws,) each: concordant minus discordant (``s``), untied in x, and untied in y."""

    s: Array
    untied_x: Array
    untied_y: Array

    @property
    def tau(self) -> Array:
        """Tau-b of each draw, (draws,); nan where every pair is tied in x or in y."""
        product = self.untied_x * self.untied_y
        return np.where(product > 0, self.s / np.sqrt(np.where(product > 0, product, 1)), np.nan)


def all_pairs(n: int) -> Pairs:
    """Return every pair of n configurations."""
    return Pairs(*np.triu_indices(n, 1))


def within(families: Labels) -> Pairs:
    """Return the pairs whose two configurations are of the same family."""
    pairs, names = all_pairs(len(families)), np.asarray(families)
    return _where(pairs, names[pairs.first] == names[pairs.second])


def between(families: Labels) -> Pairs:
    """Return the pairs whose two configurations are of different families."""
    pairs, names = all_pairs(len(families)), np.asarray(families)
    return _where(pairs, names[pairs.first] != names[pairs.second])


def along(families: Labels, places: Array, axis: int) -> Pairs:
    """Return the pairs within a family that differ in one knob alone.

    Args:
        families: Families of the n configurations.
        places: (n, knobs) positions, nan for a knob that a family does not have.
        axis: Index of the knob.

    Source: Jiang et al., Fantastic generalization measures, ICLR 2020 (arXiv:1912.02178), section 2.2.
    """
    pairs = within(families)
    same = (places[pairs.first] == places[pairs.second]) | np.isnan(places[pairs.first])
    differs = ~same[:, axis]
    others = np.delete(same, axis, axis=1).all(-1)
    return _where(pairs, differs & others)


def counts(x: Array, y: Array, pairs: Pairs) -> Counts:
    """Count the pairs of each draw of x (draws, n) with that of y (draws, n); either may have one draw for all.

    Raises:
        ValueError: If x and y have different numbers of draws and neither has one.
    """
    draws = max(len(x), len(y))
    if {len(x), len(y)} - {1, draws}:
        raise ValueError(f"draws of x and y must be as many, or one for all, got {len(x)} and {len(y)}")
    found = np.empty((3, draws))
    step = max(1, _CHUNK // max(1, len(pairs.first)))
    for at in range(0, draws, step):
        part = slice(at, at + step)
        a, b = (_signs(v if len(v) == 1 else v[part], pairs) for v in (x, y))
        found[0, part], found[1, part], found[2, part] = (a * b).sum(-1), (a * a).sum(-1), (b * b).sum(-1)
    return Counts(*found)


def tau_b(x: Array, y: Array, pairs: Pairs | None = None) -> float:
    """Compute tau-b of x (n,) with y (n,) over ``pairs``, or over all; nan where every pair is tied in x or in y."""
    tau = float(counts(x[None], y[None], all_pairs(len(x)) if pairs is None else pairs).tau[0])
    return math.nan if math.isnan(tau) else tau


def null_distribution(sizes: Sequence[int]) -> tuple[NDArray[np.intp], Array]:
    """Return the values of ``s`` within families of those sizes and their probabilities, all orders equally likely.

    Exact, for figures without ties: the inversions of a random order of m are a sum of independent terms, the i-th of
    them uniform on 0 to i.

    Source: Kendall, A new measure of rank correlation, Biometrika 1938.
    """
    chance = np.ones(1)
    for size in sizes:
        for places in range(2, size + 1):
            chance = np.convolve(chance, np.full(places, 1 / places))
    pairs = len(chance) - 1
    return pairs - 2 * np.arange(pairs + 1), chance


def fieller_interval(tau: float, n: float, z: float) -> tuple[float, float]:
    """Compute the interval of tau over n exchangeable configurations: ``tanh(atanh(tau) +- z sqrt(.437 / (n - 4)))``.

    With four or fewer it is all of [-1, 1]. A perfect order counts as if half a pair were in the wrong order.

    Source: Fieller, Hartley & Pearson, Tests for rank correlation coefficients, Biometrika 1957.
    """
    if math.isnan(tau) or n <= 4:
        return (math.nan, math.nan) if math.isnan(tau) else (-1.0, 1.0)
    most = 1 - 2 / (n * (n - 1))
    centre, half = math.atanh(max(-most, min(most, tau))), z * math.sqrt(0.437 / (n - 4))
    return min(tau, math.tanh(centre - half)), max(tau, math.tanh(centre + half))


def equivalence(tau: float, n: float, bound: float) -> tuple[float, float]:
    """Compute one-sided p of ``|tau| >= bound`` and two-sided p of ``|tau| <= bound``, for exchangeable configurations.

    A small first p shows that there is no relevant correlation (two one-sided tests), a small second p that there is
    one. Both are 1 with four configurations or fewer, and where tau is nan. They use the approximation of
    ``fieller_interval``.
    """
    if math.isnan(tau) or n <= 4:
        return 1.0, 1.0
    spread, most = math.sqrt(0.437 / (n - 4)), 1 - 2 / (n * (n - 1))
    z, edge = math.atanh(max(-most, min(most, tau))), math.atanh(bound)
    below, above = (float(stats.norm.cdf((side * z - edge) / spread)) for side in (1, -1))
    beyond = float(stats.norm.sf((abs(z) - edge) / spread))
    return max(below, above), min(1.0, 2 * beyond)


def _where(pairs: Pairs, keep: NDArray[np.bool_]) -> Pairs:
    return Pairs(pairs.first[keep], pairs.second[keep])


def _signs(values: Array, pairs: Pairs) -> NDArray[np.float32]:
    return np.sign(values[:, pairs.first] - values[:, pairs.second]).astype(np.float32)
