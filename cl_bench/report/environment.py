"""Origin of results: command, versions, settings, dates."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from cl_bench.report.row import RowResult
from cl_bench.spec.records import Record

VERSIONS = ("cl_bench", "python", "torch", "torchvision", "machine", "device", "gpu", "cpu_capability")
"""Names of a record's provenance that the CSV files have as columns."""
ORIGIN = (*VERSIONS, "commit")
"""Columns of the CSV files that tell where their figures come from."""


def origin(records: Iterable[Record], commit: str) -> dict[str, str]:
    """Return the columns ``ORIGIN`` for figures that rest on some records; several values are joined by ``; ``.

    Args:
        records: Records that the figures rest on.
        commit: Commit of the code that writes the report; records do not know theirs.
    """
    of = [record.provenance for record in records]
    told = {name: "; ".join(sorted({str(one[name]) for one in of if name in one})) for name in VERSIONS}
    return {**told, "commit": commit}


def environment(rows: Sequence[RowResult], command: str, commit: str) -> dict[str, Any]:
    """Collect how the records of a run were made.

    The result has ``command`` and ``commit`` of the session that writes the report, ``profile``, ``seeds``,
    ``encoders``, ``begun`` (dates of the first and the last encoder) and, for each name in the records' provenance, the
    values that occur: a single value, or a list of several. Switches of CUDA are left out where no record is of a GPU.
    """
    records = {r.key: r for row in rows for r in (*row.records, *row.random_init)}.values()
    begun = sorted(str(r.provenance["begun"]) for r in records if "begun" in r.provenance)
    on_gpu = any(str(r.provenance.get("device", "")).startswith("cuda") for r in records)
    of_gpus = () if on_gpu else ("cuda.", "cudnn.")
    named = {name for r in records for name in r.provenance if not name.startswith(of_gpus)}
    names = sorted(named - {"begun"})
    values = {name: sorted({json.dumps(r.provenance[name]) for r in records if name in r.provenance}) for name in names}
    return {
        "command": command,
        "commit": commit,
        "profile": _one(sorted({row.profile for row in rows})),
        "seeds": sorted({r.seed for row in rows for r in row.records}),
        "encoders": len(records),
        "begun": [begun[0], begun[-1]] if begun else [],
        **{name: _one([json.loads(value) for value in found]) for name, found in values.items()},
    }


def _one(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values
