"""A session's records as a baseline keeps them, and against one: between ``baseline``, ``gate`` and the store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cl_bench.claims.baseline import Baseline, Kept
from cl_bench.claims.gate import Finding, Held, findings
from cl_bench.claims.judgement import Judgement
from cl_bench.compute.record import load_record
from cl_bench.errors import SpecError
from cl_bench.spec import RunSpec
from cl_bench.spec.claim import Claim
from cl_bench.spec.profile import Row
from cl_bench.spec.records import Record, figures
from cl_bench.statistics.reseeding import Seeded

if TYPE_CHECKING:
    from cl_bench.plugin.session import Session


def kept_of(session: Session, judgement: Judgement, row: Row) -> Kept:
    """Return a baseline's entry for a judged claim, with the figures of its rows from the store."""
    claim, reference = judgement.claim, session.reference_of(judgement.claim, row)

    def stored(specs: Sequence[RunSpec]) -> list[Record]:
        return [record for spec in specs if (record := load_record(spec, session.store)) is not None]

    def seeded(row: Row) -> Seeded:
        return Seeded.of(stored(session.sweep(row)), claim.level)

    untrained = {r.seed: figures(r, claim.level)[2] for r in stored(session.profile.random_init())}
    return Kept(
        judgement.verdict,
        judgement.sentence,
        session.setting(claim, row),
        seeded(row),
        {seed: performance for seed, performance in untrained.items() if math.isfinite(performance)},
        (reference.name, seeded(reference)) if reference else None,
    )


def findings_of(session: Session, baseline: Baseline) -> dict[tuple[Row, Claim], list[str | Finding]]:
    """Compare a run with a baseline, and return the findings by the claim whose test reports them.

    It computes all rows that the baseline has. If a claim cannot be compared, its finding is a sentence. Rows that lack
    records are left out, because their own tests fail.
    """
    held: list[Held] = []
    of: list[tuple[Row, Claim]] = []
    told: dict[tuple[Row, Claim], list[str | Finding]] = {}
    for row, claim in session.selected:
        try:
            kept = baseline.of(row.name, claim, session.setting(claim, row))
        except SpecError as error:
            told[row, claim] = [str(error)]
            continue
        if kept is None:
            continue
        records, failures = session.pull(session.sweep(row))
        if not failures:
            now = Seeded.of([record for record in records if record is not None], claim.level)
            held.append(Held(row.name, claim, kept.figures, now))
            of.append((row, claim))
    allowed = session.profile.claims
    found = findings(held, allowed.alpha, allowed.max_tau_drop, allowed.max_performance_drop)
    for where, shown in zip(of, found, strict=True):
        told.setdefault(where, []).extend(one if isinstance(one, Finding) else str(one) for one in shown)
    return told
