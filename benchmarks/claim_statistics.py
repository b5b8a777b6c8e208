"""Size and power of the tests of tau, by simulation: ``python benchmarks/claim_statistics.py``.

Two families of configurations on a grid of knobs have a predictor x and a performance y, drawn with or without an
association. Four one-sided tests at 5 % decide whether tau is negative:

- ``naive``: tau over all pairs, every order of configurations equally likely (valid for independent configurations);
- ``within``: tau within families, every order within a family equally likely;
- ``shifts``: tau within families, y shifted and reflected along each knob (cyclically), so that it stays a curve;
- ``curves``: ``cl_bench.statistics.correlation.association``, which claims rest on.

A fifth test at 5 % decides whether there is ``no correlation`` (|tau| < .3 by two one-sided tests).

Writes docs/claim_statistics.jsonl, one line a case, and from it the tables of docs/statistics.md. These are of
``--only size --repeats 1000`` (200 with ``--n 100``) and ``--only power``.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

import cl_bench.statistics.correlation
from cl_bench.report.quote import markdown_table
from cl_bench.spec.claim import NEGLIGIBLE
from cl_bench.statistics.correlation import association, effective_total
from cl_bench.statistics.curves import Group, families_of
from cl_bench.statistics.kendall import counts, equivalence, fieller_interval, tau_b, within

Array = NDArray[np.float64]
DOCS = Path(__file__).parent.parent / "docs"
LOG = DOCS / "claim_statistics.jsonl"
DRAWS = 499  # curves or shifts per test; 4,999 in cl_bench.statistics.correlation
TEMPERATURES = [0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5, 2, 3, 4, 5, 8, 10]
PATH = [(1, 0.1), (1, 0.2), (1, 0.5), (1, 1), (0.5, 1), (0.2, 1), (0.1, 1), (0, 1)]
GRIDS: Mapping[int, tuple[Sequence[float], Sequence[tuple[float, float]]]] = {
    8: (TEMPERATURES[:4], [*product((1, 2), (1, 2))]),
    15: (TEMPERATURES[:7], PATH),
    30: (TEMPERATURES[:10], [*product(range(1, 5), range(1, 6))]),
    40: (TEMPERATURES, [*product((0.25, 0.5, 1, 2), (0.1, 0.25, 0.5, 1, 2))]),  # the profile desk
    60: (TEMPERATURES, [*product(range(1, 6), range(1, 9))]),
    100: ([*TEMPERATURES, *range(11, 21)], [*product(range(1, 8), range(1, 11))]),
}
SMOOTH, SMOOTHER = {"length": 0.25}, {"length": 0.5}
RATIO = {"length": 0.5, "noise": 0.05, "along": "ratio"}  # of the two weights; else along the temperature
KNOB = {"length": 0.5, "noise": 0.02, "along": "first"}
TREND = {"trend": True, "noise": 0.1}
MIXED = {"length": 1.0, "noise": 0.02, "smooth": 1}
NULLS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]] = {
    "independent points": ({}, {}, {}),
    "heavy tails": ({"heavy": True}, {"heavy": True}, {}),
    "ties": ({"ties": True}, {"ties": True}, {}),
    "family offset": ({}, {}, {"offset": 1.0}),
    "curves": (SMOOTH, SMOOTH, {}),
    "curves, noise in y": (SMOOTH, {**SMOOTH, "noise": 0.3}, {}),
    "smoother curves": (SMOOTHER, SMOOTHER, {}),
    "smoother, noise in both": ({**SMOOTHER, "noise": 0.1}, {**SMOOTHER, "noise": 0.3}, {}),
    "one bend": ({"length": 1.0}, {"length": 1.0, "noise": 0.1}, {}),
    "rough walks": ({"length": 0.3, "rough": True}, {"length": 0.3, "rough": True}, {}),
    "curves and offset": (SMOOTH, {**SMOOTH, "noise": 0.1}, {"offset": 1.0}),
    "curves of the ratio": (RATIO, RATIO, {}),
    "curves of one knob": (KNOB, KNOB, {}),
    "noisy trends": (TREND, TREND, {}),
    "one family smooth": (MIXED, MIXED, {}),
}
TRUE_TAUS = (-0.3, -0.5, -0.7)
POWERED = ("independent points", "curves, noise in y", "smoother, noise in both")
TESTS = ("naive", "within", "shifts", "curves")


def draw(groups: Sequence[Group], of: Mapping[str, Any], rng: np.random.Generator) -> Array:
    """Draw figures of one kind for the configurations of both families."""
    out = np.empty(sum(len(g.members) for g in groups))
    for place, group in enumerate(groups):
        m, at = len(group.members), group.places
        assert at is not None
        values = rng.standard_t(1, m) if of.get("heavy") else rng.standard_normal(m)
        noise, curve = of.get("noise", 0.0), None
        if of.get("trend"):
            curve = stats.zscore(at @ rng.standard_normal(at.shape[1]))
        elif "length" in of and place < of.get("smooth", len(groups)):
            if of.get("along") == "ratio" and group.ratio is not None:
                at = group.ratio[:, None]
            elif of.get("along") == "first":
                at = at[:, :1]
            distance = np.linalg.norm(at[:, None] - at, axis=-1) / of["length"]
            kernel = np.exp(-distance) if of.get("rough") else np.exp(-(distance**2) / 2)
            curve = np.linalg.cholesky(kernel + 1e-8 * np.eye(m)) @ rng.standard_normal(m)
        if curve is not None:
            values = math.sqrt(1 - noise) * curve + math.sqrt(noise) * values
        out[group.members] = np.round(values) if of.get("ties") else values
    return out


def names_of(n: int) -> list[str]:
    """Return the names of a grid of n configurations."""
    temperatures, weightings = GRIDS[n]
    return [f"info_nce-t{t:g}" for t in temperatures] + [f"align_uniform-a{a:g}-u{u:g}" for a, u in weightings]


def configurations(n: int) -> tuple[list[Group], list[str]]:
    """Return the families of a grid of n configurations, and the family of each."""
    names = names_of(n)
    families = [name.split("-")[0] for name in names]
    return families_of(names, families), families


def case(
    n: int, name: str, true_tau: float, rng: np.random.Generator
) -> Iterator[tuple[Array, Array, list[Group], list[str]]]:
    """Yield endless draws of x and y of a case; the true tau is that of two normal figures of any configurations."""
    groups, families = configurations(n)
    of_x, of_y, more = NULLS[name]
    rho = math.sin(math.pi / 2 * true_tau)
    while True:
        x, y = draw(groups, of_x, rng), draw(groups, of_y, rng)
        if true_tau:
            y = rho * x + math.sqrt(1 - rho * rho) * y
        if more:
            first = np.asarray(families) == families[0]
            x, y = x + more["offset"] * first, y - more["offset"] * first
        yield x, y, groups, families


def shifted(groups: Sequence[Group], rng: np.random.Generator) -> NDArray[np.intp]:
    """Draw (draws, n) orders that shift and reflect configurations along each knob; the first is the identity."""
    orders = np.tile(np.arange(sum(len(g.members) for g in groups)), (DRAWS + 1, 1))
    for group in groups:
        assert group.places is not None
        sides = [len(np.unique(axis)) for axis in group.places.T]
        if math.prod(sides) != len(group.members):
            sides = [len(group.members)]  # a path, not a grid
        grid = np.lexsort(group.places.T[::-1]).reshape(sides) if len(sides) > 1 else np.arange(sides[0])
        for k in range(1, DRAWS + 1):
            moved = grid
            for axis, side in enumerate(sides):
                moved = np.roll(moved, rng.integers(side), axis)
                moved = np.flip(moved, axis) if rng.random() < 0.5 else moved
            orders[k, group.members[grid.ravel()]] = group.members[moved.ravel()]
    return orders


def run(n: int, name: str, true_tau: float, repeats: int) -> dict[str, Any]:
    """Measure how often each test rejects, the interval's coverage, and the mean effective number of configurations."""
    rng = np.random.default_rng([n, repeats, list(NULLS).index(name)])
    rejected, held, held_total, none, worth = np.zeros(len(TESTS)), 0, 0, 0, []
    draws = case(n, name, true_tau, rng)
    orders = shifted(configurations(n)[0], rng)
    for _ in range(repeats):
        x, y, groups, families = next(draws)
        pairs = within(families)
        naive = stats.kendalltau(x, y, alternative="less").pvalue
        found = association(x, y, groups)
        apart = association(x, y, [Group(g.members, None) for g in groups])
        s = counts(x[None], y[orders], pairs).s
        p = np.array([naive, apart.p_negative, (s <= s[0]).mean(), found.p_negative])
        rejected += np.nan_to_num(p, nan=1.0) < 0.05
        tau = tau_b(x, y, pairs)
        low, high = fieller_interval(tau, found.effective_n, 1.96)
        held += low <= true_tau <= high
        low, high = fieller_interval(tau_b(x, y), effective_total(x, y, groups), 1.96)
        held_total += low <= true_tau <= high
        none += equivalence(tau, found.effective_n, NEGLIGIBLE)[0] < 0.05
        worth.append(found.effective_n)
    return {
        "n": n,
        "case": name,
        "tau": true_tau,
        "repeats": repeats,
        **{test: round(100 * float(share), 1) for test, share in zip(TESTS, rejected / repeats, strict=True)},
        "none": round(100 * none / repeats, 1),
        "covered": round(100 * held / repeats, 1),
        "total": None if "offset" in NULLS[name][2] else round(100 * held_total / repeats, 1),
        "worth": round(float(np.nanmean(worth)), 1),
    }


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Write a table in Markdown, with one line per case."""
    columns = (*TESTS, "none", "covered", "total", "worth")
    rows = [[r["case"], str(r["n"]), *("-" if r[c] is None else f"{r[c]:.1f}" for c in columns)] for r in lines]
    return markdown_table(["case", "n", *TESTS, "no correlation", "interval holds", "of all pairs", "worth"], rows)


def write_tables() -> None:
    """Put the tables of the log into docs/statistics.md."""
    lines = [json.loads(line) for line in LOG.read_text().splitlines()]
    size = [r for r in lines if not r["tau"]]
    power = [{**r, "case": f"{r['case']}, tau {r['tau']:g}"} for r in lines if r["tau"]]
    for name, some in (("size", size), ("power", power)):
        write_table(name, table(some))


def write_table(name: str, content: str) -> None:
    """Put a table into docs/statistics.md, in place of the one of that name."""
    page = DOCS / "statistics.md"
    text = page.read_text()
    opening, closing = f"<!-- {name} -->\n", "<!-- end -->"
    start = text.index(opening) + len(opening)
    page.write_text(f"{text[:start]}{content}\n{text[text.index(closing, start) :]}")


def main() -> None:
    """Run the chosen cases, add them to the log, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", choices=list(GRIDS), default=list(GRIDS))
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--only", choices=("size", "power"), help="cases without, or with an association; else both")
    asked = parser.parse_args()
    cl_bench.statistics.correlation.DRAWS = DRAWS
    size, power = [(name, 0.0) for name in NULLS], [(name, tau) for name in POWERED for tau in TRUE_TAUS]
    for n in asked.n:
        for name, tau in {"size": size, "power": power}.get(asked.only, size + power):
            found = run(n, name, tau, asked.repeats)
            keep(found)
            print(found, flush=True)
    write_tables()


def keep(found: Mapping[str, Any]) -> None:
    """Put the figures of a case into the log, in place of earlier ones."""
    order = {(n, name, tau): None for n in GRIDS for tau in (0.0, *TRUE_TAUS) for name in NULLS}
    lines = [json.loads(line) for line in LOG.read_text().splitlines()] if LOG.exists() else []
    of = {(line["n"], line["case"], line["tau"]): line for line in [*lines, found]}
    LOG.write_text("".join(json.dumps(of[case]) + "\n" for case in order if case in of))


if __name__ == "__main__":
    main()
