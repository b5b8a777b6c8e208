"""Kendall's tau-b of a row with its interval and p, computed without reading or writing anything.

The unit of analysis is a *configuration* of the objective: its seeds are averaged first, because seeds of one
configuration are not independent points of a correlation. Configurations are not independent either: neighbours on a
knob are alike, and families differ in level. The test is therefore of tau over pairs within a family, and its p takes
the grid of knobs into account.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cl_bench.spec.records import Configuration, Family, Level, Record, configurations
from cl_bench.statistics.curves import SYMBOLS, Group, families_of, knobs_of, redrawn
from cl_bench.statistics.kendall import (
    all_pairs,
    along,
    between,
    counts,
    fieller_interval,
    null_distribution,
    tau_b,
    within,
)
from cl_bench.statistics.power import FEWEST, effective, needed_for

DRAWS = 4999
_SEED = 20220
_SIGNIFICANT = float(stats.norm.isf(0.025))  # of 95 % intervals
Array = NDArray[np.float64]
Method = Literal["exact", "permutation", "curves", "none"]


@dataclass(frozen=True)
class Correlation:
    """Kendall's tau-b between ``normalised_sum(L_a, L_u)`` and performance over a row's configurations.

    Attributes:
        level: Level at which L_a, L_u and performance were measured.
        family: Objective family, or ``total`` for all of them.
        n: Number of configurations.
        tau: Tau over all pairs, in [-1, 1], the paper's statistic; negative where features that are better aligned and
            more uniform perform better; nan where undefined.
        low, high: 95 % interval of ``tau``, for as many exchangeable configurations as have its spread among unrelated
            curves; nan below four configurations.
        within: Tau over pairs within a family, the one that p tests; nan where undefined.
        within_low, within_high: 95 % interval of ``within``.
        between: Tau over pairs of two different families; nan where there is one family.
        by_knob: Tau over pairs within a family that differ in one knob alone, by the knob: ``t``, ``a``, ``u``.
        effective_n: Number of exchangeable configurations that would give as precise a ``within`` as these do.
        placebo: Value below which lies ``within`` of one in twenty unrelated random curves over the knobs that are as
            smooth as the sum.
        p_negative, p_positive: One-sided p of ``within`` < 0, and > 0 (``association``).
        method: Test that gave p: ``exact``, ``permutation`` (there are ties), ``curves`` (the largest p of the former
            and of curves drawn over the knobs), ``none`` (tau is undefined).
        needed: Independent configurations that would show such a ``within`` with power .8, or None where it is 0 or
            undefined.
        left_out: Case ids of the configurations left out because one of their records is not complete and finite.
    """

    level: Level
    family: Family
    n: int
    tau: float
    low: float
    high: float
    p_negative: float
    p_positive: float
    method: Method
    needed: int | None
    left_out: tuple[str, ...]
    within: float = math.nan
    within_low: float = math.nan
    within_high: float = math.nan
    between: float = math.nan
    by_knob: Mapping[str, float] = field(default_factory=dict)
    effective_n: float = math.nan
    placebo: float = math.nan

    def __str__(self) -> str:
        return _bounded(self.tau, self.low, self.high)

    @property
    def told(self) -> str:
        """Tau over all pairs and, where there are several families, within them, as text."""
        if math.isnan(self.between):
            return f"tau = {self}"
        return f"tau = {self} over all pairs, {self.inside} within families"

    @property
    def inside(self) -> str:
        """Tau within families, with its interval, as text."""
        return _bounded(self.within, self.within_low, self.within_high)

    @property
    def along(self) -> str:
        """Tau along each knob alone, as text; empty where no knob is known."""
        return ", ".join(f"{SYMBOLS[name]} {tau:.2f}" for name, tau in self.by_knob.items())

    @property
    def counted(self) -> str:
        """Number of configurations, and of exchangeable ones that would be worth as much, as text."""
        worth = "" if math.isnan(self.effective_n) else f" (worth {self.effective_n:.1f} independent ones)"
        return f"n = {self.n}{worth}" if self.method == "curves" else f"n = {self.n}"

    @property
    def disagrees(self) -> bool:
        """True where tau over all pairs and tau within families have opposite signs."""
        return self.tau * self.within < 0


class Association(NamedTuple):
    """Result of testing whether two figures are associated within families.

    Attributes:
        p_negative, p_positive: One-sided p of tau < 0, and of tau > 0.
        effective_n: Number of exchangeable configurations whose tau, without any association, varies as much.
        method: Test that gave p, as in ``Correlation``.
        placebo: Tau that one in twenty of the curves drawn for x stays below; nan where no knob is known.
    """

    p_negative: float
    p_positive: float
    effective_n: float
    method: Method
    placebo: float = math.nan


def _bounded(tau: float, low: float, high: float) -> str:
    """Format a tau with its interval, where it has one."""
    if math.isnan(tau):
        return "undefined"
    return f"{tau:.2f}" if math.isnan(low) else f"{tau:.2f} [{low:.2f}, {high:.2f}]"


def normalised_sum(L_a: Array, L_u: Array) -> Array:
    """Return ``minmax(L_a) + minmax(L_u)`` in [0, 2]; both are (..., n), scaled over the last axis.

    A constant column counts as zeros.
    """

    def minmax(values: Array) -> Array:
        span = np.ptp(values, axis=-1, keepdims=True)
        return np.asarray((values - np.min(values, -1, keepdims=True)) / np.where(span > 0, span, 1.0))

    return minmax(L_a) + minmax(L_u)


def association(x: Array, y: Array, groups: Sequence[Group]) -> Association:
    """Test whether two figures of configurations are associated within families, given that neighbours are alike.

    The result is the largest p of three tests, each of tau over pairs within a family. The first takes every order
    within a family to be equally likely (exact, or 4,999 seeded permutations where there are ties). The second keeps x
    and redraws y as a curve over the knobs that is as smooth as y; the third keeps y and redraws x. In a family whose
    knobs are not known every order is equally likely in all three. docs/statistics.md gives the test's size and power.

    Args:
        x: (n,) first figure.
        y: (n,) second figure.
        groups: Families of the n configurations.
    """
    names = np.empty(len(x), dtype=np.intp)
    for k, group in enumerate(groups):
        names[group.members] = k
    pairs = within(names)
    observed = counts(x[None], y[None], pairs)
    if math.isnan(observed.tau[0]):
        return Association(1.0, 1.0, math.nan, "none")
    s = observed.s[0]
    untied = observed.untied_x[0] == observed.untied_y[0] == len(pairs.first)
    found: list[tuple[float, float, float]] = []
    placebo = math.nan
    if untied:
        values, chance = null_distribution([len(group.members) for group in groups])
        spread = math.sqrt(float((chance * values**2).sum())) / len(pairs.first)
        found.append((float(chance[values <= s].sum()), float(chance[values >= s].sum()), spread))
    known = any(group.places is not None for group in groups)
    ways = [] if untied else [(x, y, [Group(group.members, None) for group in groups])]
    if known:
        ways += [(x, y, [*groups]), (y, x, [*groups])]
    for kept, redraw, over in ways:
        drawn = counts(kept[None], unrelated(redraw, over), pairs)
        as_low, as_high = ((1 + int(hits.sum())) / (1 + DRAWS) for hits in (drawn.s <= s, drawn.s >= s))
        found.append((as_low, as_high, float(np.nanstd(drawn.tau))))
        placebo = float(np.nanquantile(drawn.tau, 0.05))  # the last way draws x
    negative, positive, spread = (max(column) for column in zip(*found, strict=True))
    method: Method = "curves" if known else "exact" if untied else "permutation"
    worth = min(float(len(x)), effective(spread))
    return Association(min(1.0, negative), min(1.0, positive), worth, method, placebo if known else math.nan)


def effective_total(x: Array, y: Array, groups: Sequence[Group]) -> float:
    """Return the number of exchangeable configurations whose tau varies as much as tau over all pairs does.

    That is by the curves of ``association``; it is n where no knob is known.
    """
    n, everything = len(x), all_pairs(len(x))
    if all(group.places is None for group in groups):
        return float(n)
    drawn = (counts(kept[None], unrelated(other, groups), everything) for kept, other in ((x, y), (y, x)))
    return min(float(n), effective(max(float(np.nanstd(one.tau)) for one in drawn)))


def unrelated(values: Array, groups: Sequence[Group]) -> Array:
    """Return the (4999, n) curves that figures are compared with, always the same for the same ranks and families."""
    return redrawn(values, groups, DRAWS, np.random.default_rng(_SEED))


def one_sided(x: Array, y: Array) -> tuple[float, float, Method]:
    """Return P(tau as low), P(tau as high) and the test, for exchangeable points (n,); by permutation with ties."""
    found = association(x, y, [Group(np.arange(len(x)), None)])
    return found.p_negative, found.p_positive, found.method


def correlate(
    records: Sequence[Record],
    level: Level,
    family: Family = "total",
    alpha: float = 0.05,
    exchangeable: bool = False,
) -> Correlation:
    """Compute Kendall's tau-b of a row (the paper's statistic) with its p, intervals and effective sample size.

    p and the effective numbers of configurations are from ``association``. Intervals are Fieller's for those. The
    min-max is over the configurations that take part; the order of the records has no effect. ``exchangeable``: the
    names of configurations tell no knobs, and without an association every order of them is equally likely.

    Raises:
        ValueError: If the records are of more than one row.
    """
    kept, left_out = configurations(records, level, family)
    n, (x, y) = len(kept), _sum_and_performance(kept)
    if n < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(level, family, n, math.nan, math.nan, math.nan, 1.0, 1.0, "none", None, left_out)
    families = [c.family for c in kept]
    tau, inside = tau_b(x, y), tau_b(x, y, within(families))
    known = families_of([c.name for c in kept], families)
    groups = [Group(group.members, None) for group in known] if exchangeable else known
    found = association(x, y, groups)
    total = math.nan if found.method == "none" else effective_total(x, y, groups)

    def interval(value: float, worth: float) -> tuple[float, float]:
        return fieller_interval(value, worth, _SIGNIFICANT) if n >= FEWEST else (math.nan, math.nan)

    (low, high), (within_low, within_high) = interval(tau, total), interval(inside, found.effective_n)
    return Correlation(
        level=level,
        family=family,
        n=n,
        tau=tau,
        low=low,
        high=high,
        p_negative=found.p_negative,
        p_positive=found.p_positive,
        method=found.method,
        needed=needed_for(inside, alpha),
        left_out=left_out,
        within=inside,
        within_low=within_low,
        within_high=within_high,
        between=tau_b(x, y, between(families)),
        by_knob={} if exchangeable else _by_knob(kept, x, y),
        effective_n=found.effective_n,
        placebo=found.placebo,
    )


def tau_of(records: Sequence[Record], level: Level, family: Family = "total") -> float:
    """Compute tau-b of a row, without intervals or p; nan where it is undefined.

    Raises:
        ValueError: If the records are of more than one row.
    """
    kept, _ = configurations(records, level, family)
    return tau_b(*_sum_and_performance(kept)) if kept else math.nan


def figures_of(kept: Sequence[Configuration]) -> tuple[Array, Array, Array]:
    """Return L_a, L_u and performance of each configuration, (n,) each."""
    points = np.array([(c.alignment, c.uniformity, c.performance) for c in kept], dtype=np.float64).reshape(-1, 3).T
    return points[0], points[1], points[2]


def _sum_and_performance(kept: Sequence[Configuration]) -> tuple[Array, Array]:
    """Return the normalised sum and the performance of each configuration, (n,) each."""
    L_a, L_u, performance = figures_of(kept)
    return (normalised_sum(L_a, L_u) if kept else L_a), performance


def _by_knob(kept: Sequence[Configuration], x: Array, y: Array) -> dict[str, float]:
    knobs = [knobs_of(c.name) for c in kept]
    names = sorted({name for k in knobs for name in k})
    places = np.array([[k.get(name, math.nan) for name in names] for k in knobs])
    families = [c.family for c in kept]
    taus = {name: tau_b(x, y, along(families, places, axis)) for axis, name in enumerate(names)}
    return {name: tau for name, tau in taus.items() if not math.isnan(tau)}
