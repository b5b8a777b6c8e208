"""What a run would do: which records are there, which would be computed, how long it takes and what it can show."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cl_bench.power import power
from cl_bench.records import RANDOM_INIT, Record

TAUS = (-0.3, -0.5, -0.7)


class Planned(Protocol):
    """A case that would run."""

    @property
    def case(self) -> str:
        """Its id."""


def plan_table(rows: Mapping[str, Sequence[tuple[Planned, str, Record | None]]], alpha: float, jobs: int) -> Group:
    """The plan of a run.

    Args:
        rows: For each row its cases: the spec, its configuration, and what the store holds of it.
        alpha: One-sided level of the claims.
        jobs: How many are computed at a time.
    """
    return Group(*_blocks(rows, alpha, jobs))


def _blocks(
    rows: Mapping[str, Sequence[tuple[Planned, str, Record | None]]], alpha: float, jobs: int
) -> Iterator[RenderableType]:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", title="Plan", title_justify="left")
    for name in ("row", "encoders", "in the\nstore", "to\ncompute", "config-\nurations"):
        table.add_column(name, justify="left" if name == "row" else "right", no_wrap=name == "row")
    for tau in TAUS:
        table.add_column(f"power at\ntau {tau:g}", justify="right")
    for row, cases in rows.items():
        n = len({config for _, config, _ in cases})
        stored = sum(record is not None for _, _, record in cases)
        powers = ["-" for _ in TAUS] if row == RANDOM_INIT else [f"{power(n, tau, alpha):.2f}" for tau in TAUS]
        table.add_row(row, str(len(cases)), str(stored), str(len(cases) - stored), str(n), *powers)
    yield table
    missing = [(row, spec.case) for row, cases in rows.items() for spec, _, record in cases if record is None]
    for row, case in missing:
        yield Text(f"would compute {row}: {case}")
    known = [sum(r.seconds.values()) for cases in rows.values() for _, _, r in cases if r is not None]
    if not missing:
        yield Text("Everything is in the store; nothing would be trained.")
    elif known:
        minutes = statistics.median(known) * len(missing) / jobs / 60
        yield Text(
            f"{len(missing)} encoders to compute, {jobs} at a time: about {minutes:.1f} min at the stored ones' "
            f"median of {statistics.median(known):.1f} s."
        )
    else:
        yield Text(f"{len(missing)} encoders to compute, {jobs} at a time; no stored one to take the time from yet.")
