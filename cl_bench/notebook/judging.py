"""Claims about records, judged without pytest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cl_bench.claims.judge import judge as judge_sweep
from cl_bench.claims.judgement import IncompleteSweep, Judgement, Sweep
from cl_bench.errors import SpecError
from cl_bench.notebook.checks import expect, expect_records
from cl_bench.report.collection import Records, row_name
from cl_bench.spec.claim import Claim
from cl_bench.spec.profile import ClaimsSpec
from cl_bench.spec.records import RANDOM_INIT, Record


def judge(
    records: Sequence[Record],
    claim: Claim,
    *,
    reference: Sequence[Record] | None = None,
    twin: Sequence[Record] | None = None,
    alpha: float | None = None,
    margin: float | None = None,
) -> Judgement:
    """Judge a claim about a row of encoders as the suites judge it.

    Every configuration must have a record of every seed, and where ``records`` know their profile, of its whole grid.

    Args:
        records: Those of one row and of untrained encoders: of ``run``, of ``load_records``, or a plain list.
        claim: What is claimed, as ``Claim("tau_negative", "dense")``.
        reference: The row that a paired claim (``no_worse_than``, ``keeps_up``, ``falls_behind``) compares with.
        twin: For a row of disjoint views, the same row with overlapping ones, whose encoders must have learnt.
        alpha: One-sided level; the profile's if None, or .05 where no profile is known.
        margin: Percentage points that count as no difference; the profile's if None, or 1.

    Returns:
        The verdict, with what it rests on; ``sentence`` tells it in words.

    Raises:
        IncompleteSweep: A record is missing; the message names the cases, and the notes say what to do.
        SpecError: Records of no row or of several, of a case twice, or without the row that the claim compares with; an
            argument that is none of what it takes.

    Example:
        >>> import cl_bench
        >>> records = cl_bench.load_records("results", "ci")
        >>> judgement = cl_bench.judge(records, cl_bench.Claim("tau_negative", "instance"))
        >>> judgement.row, judgement.alpha
        ('single_object-overlapping-dense_index', 0.05)
        >>> str(judgement.verdict) in ("SUPPORTED", "REFUTED", "INCONCLUSIVE")
        True
    """
    expect("claim", claim, Claim, "a Claim, as Claim('tau_negative', 'dense')")
    expect_records("records", records)
    for name, given in (("reference", reference), ("twin", twin)):
        if given is not None:
            expect_records(name, given)
    for name, number, below in (("alpha", alpha, 0.5), ("margin", margin, 100.0)):
        if number is not None:
            expect(name, number, (int, float), "a number")
            if not 0 < number < below:
                raise SpecError(f"{name} must be above 0 and below {below:g}, got {number!r}")
    row, untrained = _sweep(records), [r for r in records if r.family == RANDOM_INIT]
    if claim.paired and reference is None:
        raise SpecError(f"claim {claim.kind!r} compares with another row: give its records as reference=")
    disjoint = any(record.views == "disjoint" for record in row.records)
    if disjoint and twin is None:
        raise SpecError(f"{row.row}: its views are disjoint: give the same row with overlapping views as twin=")
    if claim.about_untrained and len(untrained) == 1:
        raise SpecError(f"claim {claim.kind!r} needs the spread of untrained encoders, and there is only one of them")
    profile = records.profile if isinstance(records, Records) else None
    settings = ClaimsSpec() if profile is None else profile.claims
    better = {p.name: p.better for s in (records.specs if isinstance(records, Records) else ()) for p in s.predictors}
    try:
        return judge_sweep(
            claim,
            row,
            untrained,
            settings.alpha if alpha is None else alpha,
            settings.margin if margin is None else margin,
            None if reference is None or not claim.paired else _sweep(reference),
            _sweep(twin) if disjoint and twin is not None else None,
            better,
        )
    except IncompleteSweep as error:
        for line in records.failures if isinstance(records, Records) else ():
            error.add_note(line)
        if not untrained:
            error.add_note("There are no records of untrained encoders; cl_bench.run() computes them with each row.")
        error.add_note("cl_bench.run() computes what is missing and takes the rest from the store.")
        raise


def _sweep(records: Sequence[Record]) -> Sweep:
    """Return the one row of these records, with every case that its grid asks for.

    Raises:
        SpecError: There is none, or there are several, or two records of a case.
    """
    trained = [record for record in records if record.family != RANDOM_INIT]
    rows = sorted({row_name(record) for record in trained})
    if len(rows) != 1:
        told = f"of several rows; select one with where(): {', '.join(rows)}" if rows else "of no trained encoder"
        raise SpecError(f"a claim is about one row, and these are records {told}")
    counted = Counter(record.case for record in records)
    if twice := [case for case, count in counted.items() if count > 1]:
        told = "of different settings or of a method that was edited; load those of one profile= and method="
        raise SpecError(f"{rows[0]}: more than one record of {twice[0]}: {told}")
    grid = {f"{r.method}-{r.config}-s{seed}": None for r in trained for seed in sorted({o.seed for o in trained})}
    asked = records.expected(trained[0]) if isinstance(records, Records) else []
    return Sweep(rows[0], trained, list(dict.fromkeys([*asked, *grid])))
