"""Rows of a report that its folder keeps, so that running a part of the suites adds to the report and loses nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cl_bench.claims.judgement import Judgement
from cl_bench.report import RowResult
from cl_bench.spec import MethodSpec
from cl_bench.spec.claim import Claim
from cl_bench.spec.profile import Row
from cl_bench.spec.records import Record
from cl_bench.store import digest, sealed, unsealed, write_atomically

FILE = "rows.json"


class KeptClaim(NamedTuple):
    """Judgement, with the names of the ``rows`` whose records it is based on, and their fingerprint."""

    judgement: Judgement
    rows: tuple[str, ...]
    of: str


class KeptRow(NamedTuple):
    """Row of a report, with its number of seeds and its judgements."""

    row: Row
    seeds: int
    claims: tuple[KeptClaim, ...]


def read_kept(folder: Path) -> dict[str, KeptRow]:
    """Read the rows of the report in a folder, by name; none if there is no report or it cannot be read."""
    try:
        payload = unsealed((folder / FILE).read_bytes(), ("rows",))
        return {} if payload is None else {row.row.name: row for row in map(_row, payload["rows"])}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _row(told: Mapping[str, Any]) -> KeptRow:
    claims = (KeptClaim(Judgement.from_json(json.dumps(j)), tuple(rows), of) for j, rows, of in told["claims"])
    return KeptRow(row_from_json(told["row"]), int(told["seeds"]), tuple(claims))


def write_kept(folder: Path, rows: Iterable[KeptRow]) -> None:
    """Write the rows of a report to its folder.

    Raises:
        OSError: If the file cannot be written.
    """
    told = [
        {
            "row": row_to_json(row.row),
            "seeds": row.seeds,
            "claims": [[json.loads(c.judgement.to_json()), c.rows, c.of] for c in row.claims],
        }
        for row in rows
    ]
    write_atomically(folder / FILE, sealed({"rows": told}))


def merged(
    kept: Mapping[str, KeptRow], tested: Mapping[str, RowResult], stored: Callable[[KeptRow], RowResult]
) -> dict[str, RowResult]:
    """Merge the rows tested now with those of earlier runs of which the store still has records.

    An earlier judgement stays unless its claim was judged now, or the records that it took are others by now. Where
    some of them are missing, it stays until it is judged anew.

    Args:
        kept: Rows that the folder holds.
        tested: This session's rows, by name.
        stored: Function that reads a row of an earlier run from the store.
    """
    rows = dict(tested)
    for name, one in kept.items():
        if name not in rows and (found := stored(one)).records:
            rows[name] = found
    for name, one in kept.items():
        if name in rows:
            told = {c.judgement.claim: c.judgement for c in one.claims if _stands(c, rows)}
            now = {j.claim: j for j in rows[name].judgements}
            rows[name] = replace(rows[name], judgements=tuple({**told, **now}.values()))
    return rows


def _stands(claim: KeptClaim, rows: Mapping[str, RowResult]) -> bool:
    if any(len(row.records) < row.expected for name in claim.rows if (row := rows.get(name))):
        return True
    return fingerprint(claim.rows, rows) == claim.of


def fingerprint(names: Sequence[str], rows: Mapping[str, RowResult]) -> str:
    """Return a hash of the records of some rows, and of the level and margin of their claims."""
    told = [
        [row.alpha, row.margin, [[r.key, r.status, *_figures(r)] for r in (*row.records, *row.random_init)]]
        for row in (rows[name] for name in names if name in rows)
    ]
    return digest(told)


def _figures(record: Record) -> list[object]:
    return [dict(getattr(record, name)) for name in ("alignment", "uniformity", "performance", "predictors")]


def kept_rows(
    kept: Mapping[str, KeptRow],
    rows: Mapping[str, RowResult],
    tested: Mapping[str, tuple[Row, int]],
    pulled: Callable[[Claim, Row], Sequence[str]],
) -> list[KeptRow]:
    """Return the rows of a report in the form in which its folder keeps them.

    Args:
        kept: Rows that its folder held before.
        rows: The report's rows, by name.
        tested: Each row of this session with its number of seeds.
        pulled: Function that names the rows whose records a claim about a row is based on.
    """
    out = []
    for name, result in rows.items():
        row, seeds = tested[name] if name in tested else (kept[name].row, kept[name].seeds)
        before = kept[name].claims if name in kept else ()
        claims = []
        for judgement in result.judgements:
            known = next((c for c in before if c.judgement is judgement), None)
            if known is None:
                names = tuple(pulled(judgement.claim, row))
                known = KeptClaim(judgement, names, fingerprint(names, rows))
            claims.append(known)
        out.append(KeptRow(row, seeds, tuple(claims)))
    return out


def row_to_json(row: Row) -> str:
    """Return a row as text, which a test report can carry."""
    return json.dumps({**row._asdict(), "method": row.method.model_dump(mode="json")})


def row_from_json(text: str) -> Row:
    """Return the row of a text of ``row_to_json``.

    Raises:
        ValueError: If the text is not such a row.
    """
    told = json.loads(text)
    return Row(**{**told, "method": MethodSpec.model_validate(told["method"])})
