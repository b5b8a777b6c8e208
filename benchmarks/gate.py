"""False alarms of the baseline gate on unchanged code, and its power to detect a correlation that became weaker.

``python benchmarks/gate.py false-alarms RECORDS.csv --before 2 --now 3`` draws disjoint sets of seeds from real
records and compares them like two runs of the same code. ``python benchmarks/gate.py power RECORDS.csv`` simulates rows
with the noise of real ones, whose true tau changes from -.6 to -.3, or to ``--after``. Tables are in Markdown;
docs/baseline.md quotes them.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cl_bench.claims.gate import Finding, Held, findings, tau_check
from cl_bench.report.records_csv import read_records
from cl_bench.spec.claim import Claim
from cl_bench.spec.records import LEVELS, Level
from cl_bench.statistics.kendall import counts, within
from cl_bench.statistics.reseeding import Seeded

ALPHA = 0.05
Rows = dict[tuple[str, Level], Seeded]
Array = NDArray[np.float64]


def rows_of(path: Path) -> Rows:
    """Read the figures of each row and level."""
    return {(row, level): Seeded.of(records, level) for row, records in read_records(path).items() for level in LEVELS}


def taken(seeded: Seeded, seeds: Sequence[int]) -> Seeded:
    """Return the figures of some of the seeds."""
    at = [seeded.seeds.index(seed) for seed in seeds]
    return replace(seeded, seeds=tuple(seeds), values=seeded.values[:, at])


def splits(seeds: Sequence[int], before: int, now: int, most: int) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """Yield pairs of disjoint sets of ``before`` and ``now`` seeds: all of them, or ``most`` if there are more.

    These are drawn by cutting the seeds, in random orders, into as many pairs as they give, which share no seed.
    """
    each = before + now
    if math.comb(len(seeds), each) * math.comb(each, now) <= most:
        for first in itertools.combinations(seeds, before):
            for second in itertools.combinations([s for s in seeds if s not in first], now):
                yield first, second
        return
    rng = np.random.default_rng(0)
    for n in range(most):
        if (at := n % (len(seeds) // each) * each) == 0:
            order = rng.permutation(seeds).tolist()
        yield order[at : at + before], order[at + before : at + each]


def found_of(rows: Rows, first: Sequence[int], second: Sequence[int], tau: float, points: float) -> list[Finding]:
    """Return all checks of a run: tau and mean performance of every row and level."""
    held = [
        Held(row, Claim("tau_negative", level), taken(seeded, first), taken(seeded, second))
        for (row, level), seeded in rows.items()
    ]
    return [one for told in findings(held, ALPHA, tau, points) for one in told if isinstance(one, Finding)]


def false_alarms(rows: Rows, before: int, now: int, most: int, tau: float = 0.1, points: float = 1.0) -> str:
    """Make a line of the table: runs of unchanged code, and the number that fails."""
    common = sorted(set.intersection(*(set(seeded.seeds) for seeded in rows.values())))
    pairs = list(splits(common, before, now, most))
    failed = alone = 0
    for first, second in pairs:
        checks = found_of(rows, first, second, tau, points)
        failed += any(finding.failed for finding in checks)
        alone += sum(finding.check.p <= ALPHA for finding in checks)
    high = stats.binomtest(failed, len(pairs)).proportion_ci(0.95, "exact").high
    one = alone / (len(pairs) * len(checks))
    return (
        f"| {before} against {now} | {tau:g}, {points:g} | {len(checks)} | {len(pairs)} | {failed} "
        f"({failed / len(pairs):.1%}, at most {high:.1%}) | {one:.1%} |"
    )


def noise_of(seeded: Seeded) -> tuple[float, float]:
    """Compute the spread over seeds, relative to that over configurations of a family, of the sum and of performance.

    An effect of a seed on a whole family is subtracted, because it does not change the order within the family.
    """
    L_a, L_u, performance = seeded.values
    sums = L_a / np.ptp(L_a.mean(0)) + L_u / np.ptp(L_u.mean(0))
    ratios = []
    for figure in (sums, performance):
        inside = figure.copy()
        for family in set(seeded.families):
            of = np.asarray(seeded.families) == family
            inside[:, of] -= inside[:, of].mean(1, keepdims=True)
        seeds, between = inside.var(0, ddof=1).mean(), inside.mean(0).var(ddof=1)
        ratios.append(float(np.sqrt(seeds / between)))
    return ratios[0], ratios[1]


def true_means(x: Array, families: Sequence[str], tau: float, rng: np.random.Generator) -> Array:
    """Draw performance (n,) of spread 1 whose tau-b with x over pairs within a family is ``tau`` +- .03."""
    rho = np.sin(np.pi / 2 * tau)
    z = stats.norm.ppf(stats.rankdata(x) / (len(x) + 1))
    while True:
        y = rho * z + np.sqrt(1 - rho**2) * rng.normal(size=(1000, len(x)))
        near = np.abs(counts(x[None], y, within(families)).tau - tau) < 0.03
        if near.any():
            found = y[near][0]
            return np.asarray((found - found.mean()) / found.std(ddof=1))


def planted(
    x: Array, y: Array, families: Sequence[str], seeds: int, noise: tuple[float, float], rng: np.random.Generator
) -> Seeded:
    """Make a row of S seeds whose normalised sum and performance have that ``noise``, in units of their spread."""
    shape = seeds, len(x)
    L_a, L_u = (x + noise[0] * np.sqrt(2) * x.std(ddof=1) * rng.normal(size=shape) for _ in range(2))
    values = np.stack([L_a, L_u, 10 * (y + noise[1] * rng.normal(size=shape))])
    return Seeded(tuple(map(str, range(len(x)))), tuple(families), tuple(range(seeds)), values)


def power(n: int, seeds: int, noise: tuple[float, float], runs: int, after: float = -0.3, draws: int = 1999) -> str:
    """Make cells of the table: how often a change of true tau from -.6 is detected, alone and as one of 16 checks.

    With ``after`` of -.6 nothing has changed but the seeds, and what is detected are false alarms.
    """
    rng = np.random.default_rng([n, seeds, int(100 * noise[1])])
    families = ["align_uniform"] * ((n + 1) // 2) + ["info_nce"] * (n // 2)
    seen = np.zeros(2)
    for _ in range(runs):
        x = rng.uniform(size=n)
        means = true_means(x, families, -0.6, rng)
        before = planted(x, means, families, seeds, noise, rng)
        if after != -0.6:
            means = true_means(x, families, after, rng)
        now = planted(x, means, families, seeds, noise, rng)
        p = tau_check("row", Claim("tau_negative", "dense"), before, now, 0.1, draws).p
        seen += p <= ALPHA, p <= ALPHA / 16
    return " | ".join(f"{share:.0%}" for share in seen / runs)


def main() -> None:
    """Print the chosen table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("false-alarms", "power"))
    parser.add_argument("records", type=Path, nargs="?", default=Path("results/smoke/records.csv"))
    parser.add_argument("--before", type=int, default=2)
    parser.add_argument("--now", type=int, default=2)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--tau", type=float, default=0.1, help="max_tau_drop")
    parser.add_argument("--points", type=float, default=1.0, help="max_performance_drop")
    parser.add_argument("--configurations", type=int, nargs="+", default=[15, 40])
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--after", type=float, default=-0.3, help="the true tau that -.6 becomes; -.6 for no change")
    given = parser.parse_args()
    if given.what == "false-alarms":
        print(false_alarms(rows_of(given.records), given.before, given.now, given.runs, given.tau, given.points))
    else:
        for (row, level), seeded in rows_of(given.records).items():
            noise = noise_of(seeded)
            for n, seeds in itertools.product(given.configurations, given.seeds):
                cells = power(n, seeds, noise, given.runs, given.after)
                print(f"| {row} | {level} | {noise[0]:.2f} | {noise[1]:.2f} | {n} | {seeds} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
