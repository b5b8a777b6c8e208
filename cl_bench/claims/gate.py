"""Comparison of a run with a kept one: is it worse by more than seeds explain, and by more than is allowed?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cl_bench.spec.claim import Claim
from cl_bench.spec.records import EVALUATIONS, Level
from cl_bench.statistics.power import FEWEST
from cl_bench.statistics.reseeding import DRAWS, Seeded, reseeded, taus

_BAD: Mapping[str, Callable[[Any], Any]] = {
    "tau_negative": np.positive,
    "tau_not_negative": np.negative,
    "no_correlation": np.abs,
}
"""Functions of tau, by kind of claim, whose value is larger the worse tau is for the claim."""


class NotComparable(ValueError):
    """Two sweeps that cannot be compared; the message gives the reason in one line."""


@dataclass(frozen=True)
class Check:
    """A figure of a row before and now.

    Attributes:
        row: Name of the row.
        what: The figure in words, such as ``tau with detection``.
        unit: Unit of the figure: empty, or ``points``.
        before, now: The figure over the configurations that both sides have.
        worse: Amount by which the figure is worse now; negative where it is better.
        allowed: Amount by which it may be worse, and the name of that limit in the profile.
        p: One-sided p of "worse by no more than is allowed"; 1 where the observed change is within the limit.
        bound: Function from a level to the one-sided lower bound of ``worse``.
        compared: Number of configurations that both sides have, and that at least one of them has.
    """

    row: str
    what: str
    unit: str
    before: float
    now: float
    worse: float
    allowed: tuple[float, str]
    p: float
    bound: Callable[[float], float]
    compared: tuple[int, int]


@dataclass(frozen=True)
class Finding:
    """A check with the result of Holm's procedure: the ``level`` it was tested at, and whether it ``failed``."""

    check: Check
    level: float
    failed: bool

    def __str__(self) -> str:
        c, unit = self.check, self.check.unit and f" {self.check.unit}"
        change = f"{'worse' if c.worse > 0 else 'better'} by {abs(c.worse):.2f}{unit}"
        bound = min(c.bound(self.level), c.worse)
        least = f", at least {bound:.2f} at one-sided level {self.level:.2g}" if math.isfinite(bound) else ""
        over = "" if c.compared[0] == c.compared[1] else f" (over {c.compared[0]} of {c.compared[1]} configurations)"
        rule = f"{'more than' if self.failed else 'allowed:'} {c.allowed[1]} = {c.allowed[0]:g}"
        return f"{c.row}: {c.what} {c.before:.2f} before, {c.now:.2f} now{over}: {change}{least}; {rule}"


@dataclass(frozen=True)
class Held:
    """A claim about a row, and the figures of the row at the claim's level before and now."""

    row: str
    claim: Claim
    before: Seeded
    now: Seeded


def findings(
    held: Sequence[Held], alpha: float = 0.05, max_tau_drop: float = 0.1, max_performance_drop: float = 1.0
) -> list[list[Finding | NotComparable]]:
    """Check the tau of each claim, and the mean performance of its row at every level that the row is judged at.

    The result has one list for each claim. An exploratory claim has no finding, since it never fails; the findings on
    mean performance belong to the row's first claim that is not exploratory. Where all figures are the same as before
    there is nothing to check. Holm's procedure is over all checks.

    Args:
        held: The claims of a run, in order.
        alpha: Chance that a run without any deterioration fails.
        max_tau_drop: Amount by which a tau may move against its claim.
        max_performance_drop: Percentage points by which the mean performance of a row may fall.
    """
    checks: list[tuple[int, Check]] = []
    told: list[list[Finding | NotComparable]] = [[] for _ in held]
    tellers = {one.row: at for at, one in reversed([*enumerate(held)]) if not one.claim.exploratory}
    done: set[tuple[str, Level]] = set()
    for at, one in enumerate(held):
        row, level = one.row, one.claim.level
        first = (row, level) not in done
        done.add((row, level))
        if row not in tellers or one.before.same_as(one.now):
            continue
        try:
            if one.claim.about_tau and not one.claim.exploratory:
                checks.append((at, tau_check(row, one.claim, one.before, one.now, max_tau_drop)))
            if first:
                mean = performance_check(row, level, one.before, one.now, max_performance_drop)
                checks.append((tellers[row], mean))
        except NotComparable as error:
            told[tellers[row]] += [error] if first else []
    for (at, _), finding in zip(checks, holm([check for _, check in checks], alpha), strict=True):
        told[at].append(finding)
    return told


def tau_check(row: str, claim: Claim, before: Seeded, now: Seeded, allowed: float = 0.1, draws: int = DRAWS) -> Check:
    """Check whether tau over pairs within a family moved against a claim about it.

    The interval is a percentile bootstrap of the difference over re-seeding (``reseeded``): the configurations stay,
    and the seeds of each are resampled on both sides, independently of the other configurations. A side with one seed
    takes its spread from the other side. An undefined tau, where performance is the same everywhere, counts as 0.

    Taus are those of as many seeds as both sides have, of each the first ones: a mean over fewer seeds is noisier, and
    its tau therefore nearer to 0, which would be taken for a deterioration. The spread is that of all seeds of a side.

    Args:
        row: Name of the row.
        claim: ``tau_negative``, ``tau_not_negative``, or ``no_correlation``, for which a tau farther from 0 is worse.
        before: Figures of the kept run.
        now: Figures of this run; the configurations that both have are compared.
        allowed: Amount by which tau may move.
        draws: Number of bootstrap draws.

    Raises:
        NotComparable: In the cases that ``paired`` names.
    """
    compared = _compared(before, now)
    before, now = paired(row, before, now)
    spreads = [side if len(side.seeds) > 1 else other for side, other in ((before, now), (now, before))]
    common = min(len(before.seeds), len(now.seeds))
    sides = before.first(common), now.first(common)
    observed = np.nan_to_num(taus(np.stack([side.means for side in sides]), before.families))
    drawn = [
        np.nan_to_num(taus(reseeded(side, draws, spread=spread, stream=stream), side.families))
        for stream, (side, spread) in enumerate(zip(sides, spreads, strict=True))
    ]
    bad = _BAD[claim.kind]
    differences = np.sort(bad(drawn[1]) - bad(drawn[0]))
    worse = float(bad(observed[1]) - bad(observed[0]))
    p = (1 + int(np.searchsorted(differences, allowed, "right"))) / (1 + draws) if worse > allowed else 1.0
    return Check(
        row=row,
        what=f"tau with {EVALUATIONS[claim.level]} ({claim.kind})",
        unit="",
        before=float(observed[0]),
        now=float(observed[1]),
        worse=worse,
        allowed=(allowed, "max_tau_drop"),
        p=p,
        bound=lambda level: _quantile(differences, level),
        compared=compared,
    )


def performance_check(row: str, level: Level, before: Seeded, now: Seeded, allowed: float = 1.0) -> Check:
    """Check whether performance, averaged over the configurations, fell by more points than are allowed.

    A seed may affect all configurations in a similar way, so the mean over the configurations for one seed is one
    observation: Student's two-sample t with pooled variance, its degrees of freedom the seeds of both sides less two.

    Args:
        row: Name of the row.
        level: Level of the performance.
        before: Figures of the kept run.
        now: Figures of this run; the configurations that both have are compared.
        allowed: Percentage points by which it may fall.

    Raises:
        NotComparable: In the cases that ``paired`` names.
    """
    compared = _compared(before, now)
    before, now = paired(row, before, now)
    old, new = (side.values[2].mean(-1) for side in (before, now))
    worse, degrees = float(old.mean() - new.mean()), len(old) + len(new) - 2
    squares = sum(float(((side - side.mean()) ** 2).sum()) for side in (old, new))
    error = math.sqrt(squares / degrees * (1 / len(old) + 1 / len(new)))
    p = 1.0
    if worse > allowed:
        p = float(stats.t.sf((worse - allowed) / error, degrees)) if error else 0.0
    return Check(
        row=row,
        what=f"mean performance at {EVALUATIONS[level]}",
        unit="points",
        before=float(old.mean()),
        now=float(new.mean()),
        worse=worse,
        allowed=(allowed, "max_performance_drop"),
        p=p,
        bound=lambda at: worse - float(stats.t.isf(at, degrees)) * error,
        compared=compared,
    )


def paired(row: str, before: Seeded, now: Seeded) -> tuple[Seeded, Seeded]:
    """Restrict both sides to the configurations that both have.

    Raises:
        NotComparable: If these are fewer than four or fewer than half of those before, or if both sides have one seed.
    """
    names = [name for name in before.names if name in now.names]
    if len(names) < FEWEST or 2 * len(names) < len(before.names):
        raise NotComparable(
            f"{row}: {len(names)} of the {len(before.names)} configurations of the baseline are complete in this run "
            f"too; a comparison takes at least half of them, and at least {FEWEST}"
        )
    if len(before.seeds) < 2 and len(now.seeds) < 2:
        raise NotComparable(
            f"{row}: with one seed before and one now there is no spread between seeds to compare a difference with"
        )
    return before.only(names), now.only(names)


def holm(checks: Sequence[Check], alpha: float = 0.05) -> list[Finding]:
    """Apply Holm's step-down procedure to all checks of a run: the chance of any false alarm is at most ``alpha``.

    The findings are in the order of the checks. Checks that do not fail get the level at which the procedure stopped.
    """
    findings: dict[int, Finding] = {}
    level, failing = alpha, True
    for rank, i in enumerate(sorted(range(len(checks)), key=lambda i: checks[i].p)):
        level = alpha / (len(checks) - rank) if failing else level
        failing = failing and checks[i].p <= level
        findings[i] = Finding(checks[i], level, failing)
    return [findings[i] for i in range(len(checks))]


def _compared(before: Seeded, now: Seeded) -> tuple[int, int]:
    """Count the configurations that both sides have, and those that at least one of them has."""
    one, other = set(before.names), set(now.names)
    return len(one & other), len(one | other)


def _quantile(ordered: NDArray[np.float64], level: float) -> float:
    """Return the bound that exceeds a value exactly where the p of that value is at most ``level``."""
    k = math.floor(level * (1 + len(ordered)) + 1e-9)
    return float(ordered[k - 1]) if k else -math.inf
