"""Two kept runs side by side: verdicts, tau and mean performance of each claim that both hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from cl_bench.claims.baseline import Baseline, Kept
from cl_bench.claims.gate import Finding, Held, findings
from cl_bench.errors import SpecError
from cl_bench.report.row import number
from cl_bench.spec.claim import Claim
from cl_bench.spec.records import EVALUATIONS
from cl_bench.statistics.reseeding import Seeded, taus


@dataclass(frozen=True)
class Compared:
    """Two runs, claim by claim.

    Attributes:
        pairs: Row, claim, and what each of the two runs kept of it.
        told: A line for each figure that moved or could not be compared.
        failed: Whether a figure is surely worse than is allowed.
    """

    pairs: Sequence[tuple[str, Claim, Kept, Kept]]
    told: Sequence[str]
    failed: bool


def compared(
    before: Baseline, now: Baseline, alpha: float, max_tau_drop: float, max_performance_drop: float
) -> Compared:
    """Hold what one run kept against what another did, as ``--baseline`` does.

    Args:
        before: The earlier run.
        now: The later one.
        alpha: Chance that a run without any deterioration fails.
        max_tau_drop: By how much a tau may be worse.
        max_performance_drop: By how many points the mean performance of a row may be worse.

    Raises:
        SpecError: The two have no claim in common, or one seed each.
    """
    told, pairs = [], []
    for (row, claim), old in before.kept.items():
        new = now.kept.get((row, claim))
        if new is None:
            told.append(f"{row} ({claim.kind}, {EVALUATIONS[claim.level]}): only in {before.path.name}")
        elif new.setting != old.setting:
            told.append(
                f"{row} ({claim.kind}, {EVALUATIONS[claim.level]}): another setting (profile, grid, data or thresholds)"
            )
        else:
            pairs.append((row, claim, old, new))
    told += [
        f"{row} ({claim.kind}, {EVALUATIONS[claim.level]}): only in {now.path.name}"
        for (row, claim), _ in now.kept.items()
        if (row, claim) not in before.kept
    ]
    if not pairs:
        raise SpecError(f"{before.path} and {now.path} have no claim of the same setting in common")
    held = [Held(row, claim, old.figures, new.figures) for row, claim, old, new in pairs]
    found = findings(held, alpha, max_tau_drop, max_performance_drop)
    lines = [one for shown in found for one in shown]
    failed = any(isinstance(one, Finding) and one.failed for one in lines)
    return Compared(pairs, [*map(str, lines), *told], failed)


def baselines_table(before: str, now: str, both: Compared) -> Table:
    """Return the table: verdict, tau within families and mean performance before and now."""
    table = Table(title=f"{before} and {now}: {len(both.pairs)} claims", title_justify="left")
    table.add_column("row", overflow="fold")
    table.add_column("claim", overflow="fold")
    for name in ("verdict", "tau", "mean performance"):
        table.add_column(name, justify="left" if name == "verdict" else "right")
    for row, claim, old, new in both.pairs:
        verdict = str(old.verdict) if old.verdict is new.verdict else f"{old.verdict} -> {new.verdict}"
        table.add_row(
            row,
            f"{claim.kind}, {EVALUATIONS[claim.level]}",
            verdict,
            " -> ".join(number(_tau(side.figures)) for side in (old, new)),
            " -> ".join(f"{side.figures.means[2].mean():.1f}" for side in (old, new)),
        )
    return table


def _tau(figures: Seeded) -> float:
    return float(taus(np.asarray(figures.means)[None], figures.families)[0])
