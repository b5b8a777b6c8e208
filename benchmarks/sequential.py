"""Costs and savings of stopping when decided: wrong verdicts, power and seeds of plans of looks, by simulation.

A row is ``n`` configurations in order of ``minmax(L_a) + minmax(L_u)``. The performance of one is ``-slope`` times its
place (standardised) plus noise of variance 1 in a single seed, of which ``share`` is new in each seed and the rest
stays with the configuration. With a slope of 0 configurations are exchangeable, and every verdict is wrong. Kendall's
exact p for exchangeable configurations decides; the p of ``cl_bench`` also takes the grid into account and is never
smaller within a family. More seeds average out their own share of the noise and none of the rest: a tau that
configurations have by chance stays, and the p of each look accounts for it.

Usage: ``python benchmarks/sequential.py [--repeats 4000] [--n 15]``, seconds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cl_bench.claims.sequential import looks, spent
from cl_bench.statistics.kendall import null_distribution

ALPHA, MOST = 0.05, 16
Plan = Sequence[tuple[int, float]]
"""Plan: seeds and one-sided level of each look."""


class Outcome(NamedTuple):
    """Shares of the repeats in which tau < 0 was supported and refuted, and the mean number of seeds until then."""

    supported: float
    refuted: float
    seeds: float


def run(plan: Plan, share: float, slope: float, n: int, repeats: int, seed: int = 0) -> Outcome:
    """Simulate a claim of tau < 0 over the looks of a plan, which ends at the first look that decides."""
    draws = np.random.default_rng(seed)
    place = (np.arange(n) - (n - 1) / 2) / math.sqrt((n * n - 1) / 12)
    lasting = math.sqrt(1 - share) * draws.standard_normal((repeats, n)) - slope * place
    summed, seeds = np.zeros((repeats, n)), 0
    p_of = at_least(n)
    pairs = n * (n - 1) // 2
    verdict, took = np.zeros(repeats, int), np.full(repeats, plan[-1][0])
    for count, alpha in plan:
        fresh = draws.standard_normal((repeats, count - seeds, n)).sum(1)
        summed, seeds = summed + math.sqrt(share) * fresh, count
        falls = inversions(lasting + summed / seeds)
        found = np.where(p_of[falls] < alpha, 1, np.where(p_of[pairs - falls] < alpha, -1, 0))
        now = (verdict == 0) & (found != 0)
        verdict[now], took[now] = found[now], count
    return Outcome(float((verdict == 1).mean()), float((verdict == -1).mean()), float(took.mean()))


def inversions(performance: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count the pairs of configurations that are out of order, (repeats,) of (repeats, n).

    Tau is 1 - 2 times their share.
    """
    i, j = np.triu_indices(performance.shape[1], 1)
    return np.array((performance[:, i] > performance[:, j]).sum(1), dtype=np.int64)


def at_least(n: int) -> NDArray[np.float64]:
    """Return P(k inversions or more) in a random order of n, for every k: Kendall's exact one-sided p."""
    _, shares = null_distribution([n])
    return np.cumsum(shares[::-1])[::-1]


def spent_late(share: float, alpha: float) -> float:
    """Return the level spent by a share of the seeds by Lan & DeMets' function in the style of O'Brien & Fleming."""
    return float(2 * stats.norm.sf(stats.norm.isf(alpha / 2) / math.sqrt(share)))


def planned(counts: Sequence[int], spending: Callable[[float, float], float], alpha: float = ALPHA) -> Plan:
    """Return the looks at those numbers of seeds, with the levels that a spending function gives them."""
    by_then = [0.0, *(spending(count / counts[-1], alpha) for count in counts)]
    return [(count, b - a) for count, a, b in zip(counts, by_then, by_then[1:], strict=False)]


def main() -> None:
    """Print a table for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=4000)
    parser.add_argument("--n", type=int, default=15)
    given = parser.parse_args()
    ours = [(look.seeds, look.alpha) for look in looks(2, MOST, ALPHA)]
    doubled, one_by_one = [count for count, _ in ours], range(2, MOST + 1)
    plans: dict[str, Plan] = {
        "doubled, as Pocock (cl-bench)": ours,
        "doubled, as O'Brien-Fleming": planned(doubled, spent_late),
        "one by one, as Pocock": planned(one_by_one, spent),
        "one by one, as O'Brien-Fleming": planned(one_by_one, spent_late),
        f"{MOST} seeds at once": [(MOST, ALPHA)],
        "doubled, .05 at every look": [(count, ALPHA) for count in doubled],
    }
    print("| slope | seeds' share of the noise | looks | supported | refuted | seeds |\n|---|---|---|---|---|---|")
    for slope in (0.0, 0.4, 0.8):
        for share in (0.0, 0.5, 1.0):
            for name, plan in plans.items():
                found = run(plan, share, slope, given.n, given.repeats)
                shares = " | ".join(f"{value:.3f}" for value in found[:2])
                print(f"| {slope:g} | {share:g} | {name} | {shares} | {found.seeds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
