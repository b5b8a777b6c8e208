"""Size and power of the league's test of a difference, by simulation: ``python benchmarks/league_statistics.py``.

Two predictors x and y and a performance z of the configurations of four rows, on a grid of knobs. Neither predictor
knows anything, or both know as much (tau -.5 with performance), or x alone does. The rows' figures are unrelated, or
nearly the same. Two tests at 5 % decide whether the predictors' taus differ:

- ``swaps``: both predictors' ranks, standardised, change places in random configurations (arXiv:2104.00054);
- ``curves``: ``cl_bench.claims.league.paired_difference``, which the league rests on.

Writes docs/league_statistics.jsonl, one line a case, and from it the table of docs/statistics.md.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from claim_statistics import DOCS, DRAWS, SMOOTH, SMOOTHER, Array, configurations, draw, names_of, write_table
from scipy import stats

import cl_bench.statistics.correlation
from cl_bench.claims.league import Paired, paired_difference
from cl_bench.report.quote import markdown_table
from cl_bench.statistics.kendall import all_pairs, counts, tau_b

LOG = DOCS / "league_statistics.jsonl"
ROWS = 4
KINDS: Mapping[str, Mapping[str, Any]] = {
    "independent points": {},
    "curves": {**SMOOTH, "noise": 0.1},
    "smoother curves": {**SMOOTHER, "noise": 0.1},
    "one bend": {"length": 1.0, "noise": 0.1},
}
KNOW: Mapping[str, tuple[float, float]] = {"none": (0.0, 0.0), "both": (-0.5, -0.5), "one": (-0.5, 0.0)}
"""Taus of x and of y with performance, were configurations independent."""
SHARED: Mapping[str, float] = {"other": 0.0, "alike": 0.8}
"""Shares of the variance that all rows have in common."""
Row = tuple[Array, Array, Array]


def league(n: int, kind: str, know: str, rows: str, rng: np.random.Generator) -> list[Row]:
    """Draw x, y and z, (n,) each, for every row."""
    groups, _ = configurations(n)
    common = [draw(groups, KINDS[kind], rng) for _ in range(3)]
    found = []
    for _ in range(ROWS):
        share = SHARED[rows]
        own = [draw(groups, KINDS[kind], rng) for _ in range(3)]
        x, y, z = (math.sqrt(share) * c + math.sqrt(1 - share) * o for c, o in zip(common, own, strict=True))
        rho = [math.sin(math.pi / 2 * tau) for tau in KNOW[know]]
        x, y = (r * z + math.sqrt(1 - r * r) * v for r, v in zip(rho, (x, y), strict=True))
        found.append((x, y, z))
    return found


def swapped(rows: Sequence[Row], rng: np.random.Generator) -> float:
    """Return the two-sided p of no difference between mean taus over all pairs, by swaps in random configurations."""
    observed, total = 0.0, np.zeros(DRAWS)
    for x, y, z in rows:
        pairs = all_pairs(len(z))
        observed += tau_b(x, z, pairs) - tau_b(y, z, pairs)
        a, b = (stats.zscore(stats.rankdata(v)) for v in (x, y))
        swaps = rng.random((DRAWS, len(z))) < 0.5
        one, other = (counts(np.where(s, b, a), z[None], pairs).tau for s in (swaps, ~swaps))
        total += one - other
    return float((1 + (np.abs(total) >= abs(observed) - 1e-9).sum()) / (1 + DRAWS))


def run(n: int, kind: str, know: str, rows: str, repeats: int) -> dict[str, Any]:
    """Measure how often each test finds a difference."""
    rng = np.random.default_rng([n, repeats, *(list(of).index(name) for of, name in ((KINDS, kind), (KNOW, know)))])
    _, families = configurations(n)
    names, found = names_of(n), np.zeros(2)
    for _ in range(repeats):
        drawn = league(n, kind, know, rows, rng)
        told = tuple(Paired(*(tuple(v.tolist()) for v in row), tuple(names), tuple(families)) for row in drawn)
        found += [swapped(drawn, rng) < 0.05, paired_difference(told)[1] < 0.05]
        paired_difference.cache_clear()
    swaps, curves = (round(100 * float(share), 1) for share in found / repeats)
    return {"n": n, "case": kind, "know": know, "rows": rows, "repeats": repeats, "swaps": swaps, "curves": curves}


def main() -> None:
    """Run every case, and write the log and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    asked = parser.parse_args()
    cl_bench.statistics.correlation.DRAWS = DRAWS
    lines = []
    for n, kind, rows, know in product((15, 40), KINDS, SHARED, KNOW):
        lines.append(run(n, kind, know, rows, asked.repeats))
        print(lines[-1], flush=True)
    LOG.write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = [[str(line[c]) for c in ("case", "n", "rows", "know", "swaps", "curves")] for line in lines]
    write_table("league", markdown_table(["case", "n", "rows", "predictors that know", "swaps", "curves"], told))


if __name__ == "__main__":
    main()
