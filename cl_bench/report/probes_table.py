"""Table of the probes of a row's dense features, compared with untrained encoders."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from cl_bench.report.row import RowResult
from cl_bench.spec.records import NAMES, Record

COLUMNS = {
    "position": "position_share",
    "image": "image_share",
    "colour": "colour_share",
    "place read": "position_accuracy",
    "overlap": "similarity_overlap",
}


def shortcut_table(row: RowResult) -> Iterator[RenderableType]:
    """Yield a table of a row's probes, a line per family: median, minimum and maximum; nothing without probes."""
    families = {NAMES[f]: [r for r in row.records if r.family == f and r.probes] for f in ("align_uniform", "info_nce")}
    lines = {**families, _untrained(row): [r for r in row.random_init if r.probes]}
    if not any(families.values()):
        return
    chance = statistics.median(r.probes["position_chance"] for records in families.values() for r in records)
    yield Text(
        f"What dense features know (median, least to most; place read: chance {_share(chance)})", style="underline"
    )
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("", width=10, no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, width=13, justify="right", no_wrap=True)
    for name, records in lines.items():
        if records:
            style = "dim" if name not in families else ""
            table.add_row(name, *(_spread(records, key) for key in COLUMNS.values()), style=style)
    yield table


def shortcut_notes(rows: Sequence[RowResult]) -> Iterator[str]:
    """Yield an explanation of the columns, and the untrained encoders that were probed on other images or views."""
    probed = [row for row in rows if any(r.probes for r in row.records)]
    if not probed:
        return
    yield (
        "position, image: the share of the dense features' variance that lies between places, or between images. "
        "colour: R^2 of a linear read-out of the crop's mean colour from the features. place read: accuracy of a "
        "linear read-out of the cell's place. Both read-outs are tested on images they were not fitted to. overlap: "
        "how far the similarities of positives overlap with those of cells of other images. All are measured on "
        "held-out images, under the row's own views."
    )
    elsewhere = {
        (r.data, r.views) for row in probed for r in row.random_init if r.probes and _untrained(row)[-1] == "*"
    }
    for data, views in sorted(elsewhere):
        yield f"untrained*: their probes were measured on {data} images under {views} views."


def _untrained(row: RowResult) -> str:
    """Return the label of the untrained encoders, with a mark if they were probed on other images or views."""
    return "untrained" if row.measured_untrained else "untrained*"


def _spread(records: Sequence[Record], key: str) -> str:
    values = [v for r in records for v in ({**r.extra, **r.probes}.get(key),) if v is not None]
    if not values:
        return "-"
    low, middle, high = (_share(f(values)) for f in (min, statistics.median, max))
    return f"{middle} ({low}-{high})"


def _share(value: float) -> str:
    """Format a number in [0, 1] in at most three characters: .05, 1.0."""
    return f"{value:.2f}".removeprefix("0")[:3]
