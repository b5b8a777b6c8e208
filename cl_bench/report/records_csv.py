"""Records as CSV, written and read; a folder of results is enough to judge its claims again."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from cl_bench.report.cells import plain, write_lines
from cl_bench.report.environment import ORIGIN, VERSIONS, origin
from cl_bench.report.row import RowResult
from cl_bench.spec.records import LEVELS, Record

_PLAIN = ("key", "case", "method", "data", "views", "family", "config", "seed", "status", "detail")
_BY_LEVEL = ("alignment", "uniformity", "performance")
_BY_NAME = ("extra", "probes", "predictors", "seconds")


def records_csv(rows: Sequence[RowResult], commit: str = "") -> str:
    """Return one line per record, also of randomly initialised encoders; a cell without a measurement is empty.

    Args:
        rows: Rows of the run.
        commit: Commit of the code that writes the report.
    """
    lines = [
        {"row": row.name, **flat_record(record), "profile": row.profile, **origin([record], commit)}
        for row in rows
        for record in (*row.records, *row.random_init)
    ]
    fixed = ["row", *_PLAIN, *(f"{name}_{level}" for name in _BY_LEVEL for level in LEVELS), "decomposition_error"]
    last = ["profile", *ORIGIN]
    others = sorted({name for line in lines for name in line} - {*fixed, *last})
    out = io.StringIO()
    write_lines(out, [*fixed, *others, *last], lines)
    return out.getvalue()


def flat_record(record: Record) -> dict[str, Any]:
    """Return a record's figures by the names of the columns of ``records.csv``."""
    flat = {name: getattr(record, name) for name in (*_PLAIN, "decomposition_error")}
    for name in _BY_LEVEL:
        flat |= {f"{name}_{level}": value for level, value in getattr(record, name).items()}
    for name in _BY_NAME:
        flat |= {f"{name}.{key}": value for key, value in getattr(record, name).items()}
    for level, halves in record.halves.items():
        flat |= {f"half.{level}.{i}": value for i, value in enumerate(halves)}
    if record.losses:
        flat["final_loss"] = record.losses[-1][1]
    if not math.isnan(record.position_only_loss):
        flat["position_only_loss"] = record.position_only_loss
    return flat


def read_records(path: Path) -> dict[str, list[Record]]:
    """Read the records of each row, also of untrained encoders, that ``records_csv`` wrote.

    Of the losses only the last one is known, and of the provenance the columns that the file has: those of earlier
    versions have none.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not such a file.
    """
    rows: dict[str, list[Record]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for cells in csv.DictReader(file):
            try:
                line = {plain(name): plain(value) for name, value in cells.items()}
                rows.setdefault(line["row"], []).append(_record(line))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}: not a table of records: {type(error).__name__}: {error}") from None
    return rows


def _record(line: Mapping[str, str]) -> Record:
    plain: dict[str, Any] = {name: line[name] for name in _PLAIN} | {"seed": int(line["seed"])}
    by_level = {
        name: {level: float(value) for level in LEVELS if (value := line[f"{name}_{level}"])} for name in _BY_LEVEL
    }
    by_name = {
        name: {key.removeprefix(f"{name}."): float(v) for key, v in line.items() if key.startswith(f"{name}.") and v}
        for name in _BY_NAME
    }
    return Record(
        **plain,
        **cast(Any, by_level),
        **cast(Any, by_name),
        halves={
            level: (float(line[f"half.{level}.0"]), float(line[f"half.{level}.1"]))
            for level in LEVELS
            if line.get(f"half.{level}.0")
        },
        losses=((-1, float(line["final_loss"])),) if line.get("final_loss") else (),
        position_only_loss=float(line.get("position_only_loss") or math.nan),
        decomposition_error=float(line["decomposition_error"]),
        provenance={name: line[name] for name in VERSIONS if line.get(name)},
    )
