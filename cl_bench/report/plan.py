"""Plan of a run: stored records, records to compute, their time, and the power of the run's claims."""

from __future__ import annotations

import heapq
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cl_bench.claims.sequential import Look
from cl_bench.spec.provenance import Origin
from cl_bench.spec.records import RANDOM_INIT, Record
from cl_bench.statistics.power import power

TAUS = (-0.3, -0.5, -0.7)
STAGES = {"pretrain": "pre-\ntraining", "measure": "L_a\nand L_u", "linear": "linear", "detection": "detec-\ntion"}
WORKERS = tuple(4**k for k in range(5))
"""Numbers of workers that the time is told for beside the run's own."""
LISTED = 20
"""Number of cases to compute that are named for each row."""
UNITS = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
"""Units of time in seconds; a time of at least two of a unit is shown in it, a shorter one in the next smaller."""


class Planned(Protocol):
    """A case that would run."""

    @property
    def case(self) -> str:
        """Id of the case."""


Cases = Sequence[tuple[Planned, str, Record | None]]
"""Cases of a row: the spec, its configuration, and its stored record or None."""


def plan_table(
    rows: Mapping[str, Cases],
    alpha: float,
    jobs: int,
    estimates: Mapping[str, Mapping[str, float]] | None = None,
    gpus: int | None = None,
) -> Group:
    """Make the plan of a run.

    Args:
        rows: Cases of each row.
        alpha: One-sided level of the claims.
        jobs: Number of encoders that are computed at a time.
        estimates: Seconds per encoder by stage, timed on this machine, for rows without a stored record.
        gpus: Number of GPUs that compute them, or None on a CPU. A GPU that several encoders share is taken to do no
            more in an hour for it.
    """
    return Group(_counts(rows, alpha), *_listed(rows), *_times(rows, jobs, estimates or {}, gpus))


def wall_time(seconds: Iterable[float], workers: int) -> float:
    """Return the time until the last of some encoders is done, in the unit of theirs.

    They are taken in order, each by the first worker that is free, as an engine's workers take them. So the time is
    never less than the longest encoder's, however many workers there are.
    """
    free = [0.0] * workers
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def missing(cases: Cases) -> list[Planned]:
    """Return the cases that would be computed."""
    return [spec for spec, _, record in cases if record is None]


def looks_table(looks: Sequence[tuple[Look, int, float]]) -> Table:
    """Make a table of the looks of ``--until-conclusive``, with the most encoders to compute by then, and the time."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", title="Looks", title_justify="left")
    for name in ("look", "seeds", "alpha", "alpha\nspent", "to compute,\nat most", "time,\nat most"):
        table.add_column(name, justify="right", vertical="bottom", no_wrap=True)
    spent = 0.0
    for look, encoders, seconds in looks:
        spent += look.alpha
        time = "?" if math.isnan(seconds) else time_text(seconds)
        table.add_row(str(look.number), str(look.seeds), f"{look.alpha:.2g}", f"{spent:.2g}", str(encoders), time)
    return table


def origins_table(values: Sequence[Origin]) -> Table:
    """Make a table of the profile's values and their origins."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", title="Values", title_justify="left", expand=True)
    table.add_column("key", overflow="fold", ratio=4)
    table.add_column("value", overflow="fold", ratio=4)
    table.add_column("from", no_wrap=True, width=9)
    table.add_column("", overflow="fold", ratio=4)
    for origin in values:
        table.add_row(*(Text(text) for text in origin))
    return table


def _counts(rows: Mapping[str, Cases], alpha: float) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", title="Plan", title_justify="left")
    table.add_column("row", vertical="bottom", overflow="fold")
    for name in ("enco-\nders", "in the\nstore", "to com-\npute", "config-\nurations"):
        table.add_column(name, justify="right", vertical="bottom", no_wrap=True)
    for tau in TAUS:
        table.add_column(f"power\nat tau\n{tau:g}", justify="right", vertical="bottom", no_wrap=True)
    for row, cases in rows.items():
        n, missed = len({config for _, config, _ in cases}), len(missing(cases))
        powers = ["-" for _ in TAUS] if row == RANDOM_INIT else [f"{power(n, tau, alpha):.2f}" for tau in TAUS]
        table.add_row(row, str(len(cases)), str(len(cases) - missed), str(missed), str(n), *powers)
    return table


def _listed(rows: Mapping[str, Cases]) -> Iterator[Text]:
    for row, cases in rows.items():
        absent = missing(cases)
        yield from (Text(f"would compute {row}: {spec.case}") for spec in absent[:LISTED])
        if len(absent) > LISTED:
            yield Text(f"would compute {row}: and {len(absent) - LISTED} more")


def _times(
    rows: Mapping[str, Cases], jobs: int, estimates: Mapping[str, Mapping[str, float]], gpus: int | None
) -> Iterator[RenderableType]:
    absent = {row: len(missing(cases)) for row, cases in rows.items() if missing(cases)}
    if not absent:
        yield Text("Everything is in the store; nothing would be trained.")
        return
    count = f"{sum(absent.values())} encoders to compute, {jobs} at a time"
    seconds = encoder_seconds(rows, estimates)
    every = [s for known in _stored_seconds(rows).values() for s in known]
    if estimates:
        yield _estimated(absent, estimates)
    if not set(absent) <= set(seconds):
        yield Text(f"{count}; none is stored yet to estimate the time from.")
        return
    each = [seconds[row] for row, n in absent.items() for _ in range(n)]
    whole, workers = sum(each), min(jobs, gpus or jobs)
    source = ["as timed here"] if estimates else []
    source += [f"at the stored ones' median of {statistics.median(every):.1f} s"] if every else []
    device = f", {whole / 3600:,.1f} device-hours," if whole >= 3600 else ""
    yield Text(f"{count}: about {time_text(wall_time(each, workers))}{device} {' and '.join(source)}.")
    if workers < jobs:
        yield Text(f"{jobs} workers share {workers} GPUs; the time is that of one encoder after the other.")
    if len(each) > 1:
        by = [f"{k} in {time_text(wall_time(each, k))}" for k in _told(len(each))]
        yield Text(
            f"Workers, each on its own core or GPU: {', '.join(by)}; the longest encoder takes {time_text(max(each))}."
        )


def _told(encoders: int) -> list[int]:
    """Return the numbers of workers to tell the time for, of which the last is one for each encoder."""
    return [*(k for k in WORKERS if k < encoders), encoders]


def encoder_seconds(rows: Mapping[str, Cases], estimates: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the seconds per encoder of each row: the median of its stored ones, an estimate, or other rows' median."""
    stored = _stored_seconds(rows)
    every = [s for known in stored.values() for s in known]
    seconds = {row: sum(stages.values()) for row, stages in estimates.items()}
    for row, known in stored.items():
        if known or (row not in seconds and every):
            seconds[row] = statistics.median(known or every)
    return seconds


def _stored_seconds(rows: Mapping[str, Cases]) -> dict[str, list[float]]:
    return {row: [sum(r.seconds.values()) for _, _, r in cases if r is not None] for row, cases in rows.items()}


def _estimated(absent: Mapping[str, int], estimates: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", title="Time an encoder", title_justify="left")
    table.add_column("row", vertical="bottom", overflow="fold")
    for name in (*STAGES.values(), "toge-\nther", "all to\ncompute"):
        table.add_column(name, justify="right", vertical="bottom", no_wrap=True)
    for row, stages in estimates.items():
        each = sum(stages.values())
        every = time_text(each), time_text(each * absent[row])
        table.add_row(row, *(time_text(stages[stage]) for stage in STAGES), *every)
    return table


def time_text(seconds: float) -> str:
    """Format seconds as a text such as ``2.5 h``."""
    size, unit = next((u for u in UNITS if seconds >= 2 * u[0]), UNITS[-1])
    return f"{seconds / size:,.1f} {unit}"
