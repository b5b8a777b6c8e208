"""Origin of results: command, versions, settings, dates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from cl_bench.report.row import RowResult


def environment(rows: Sequence[RowResult], command: str, commit: str) -> dict[str, Any]:
    """Collect how the records of a run were made.

    The result has ``command``, ``commit``, ``profile``, ``seeds``, ``encoders``, ``begun`` (dates of the first and the
    last encoder) and, for each name in the records' provenance, the values that occur: a single value, or a list of
    several.
    """
    records = {r.key: r for row in rows for r in (*row.records, *row.random_init)}.values()
    begun = sorted(str(r.provenance["begun"]) for r in records if "begun" in r.provenance)
    names = sorted({name for r in records for name in r.provenance} - {"begun"})
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
