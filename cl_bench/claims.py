"""From records to a verdict on a claim. Pure: neither torch nor pytest, nothing read, nothing written."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

from cl_bench.comparison import Comparison, Contrast, compare, contrast
from cl_bench.correlation import Correlation, correlate
from cl_bench.league import Prediction, holm_adjusted, predicted
from cl_bench.power import FEWEST, POWER
from cl_bench.records import EVALUATIONS, LEVELS, OTHER_LEVEL, RANDOM_INIT, Better, Level, Record, configurations
from cl_bench.validity import Validity, listed, performances, validity

Kind = Literal[
    "tau_negative",
    "tau_not_negative",
    "at_random_level",
    "above_random_level",
    "no_worse_than",
    "keeps_up",
    "falls_behind",
    "predictor_against",
]
_TEXTS: Mapping[Kind, str] = {
    "tau_negative": "better aligned and more uniform features go with better {} (tau < 0)",
    "tau_not_negative": "better aligned and more uniform features no longer go with better {} (tau > 0)",
    "at_random_level": "on average {} falls to the level of random initialisation or below",
    "above_random_level": "on average {} is better than with random initialisation",
    "no_worse_than": "on average the reference does no worse at {}",
    "keeps_up": "on average it does no worse at {} than the other scheme",
    "falls_behind": "on average it does worse at {} than the same method on single-object data",
    "predictor_against": "what the predictor counts as better is worse at {} (tau > 0)",
}
PAIRED = ("no_worse_than", "keeps_up", "falls_behind")
TWIN = "its twin of overlapping views"


class Verdict(StrEnum):
    """What the records say of a claim; absence of evidence is never evidence, it is ``INCONCLUSIVE``."""

    SUPPORTED = "SUPPORTED"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"


class IncompleteSweep(Exception):
    """Records that the claim's grid asks for are not there; ``row``, and ``missing``: the case ids."""

    def __init__(self, row: str, missing: Sequence[str]) -> None:
        super().__init__(row, tuple(missing))
        self.row, self.missing = row, tuple(missing)

    def __str__(self) -> str:
        return f"{self.row}: {len(self.missing)} record(s) missing: {', '.join(self.missing)}"


@dataclass(frozen=True)
class Sweep:
    """What there is of a row: its ``records``, and ``expected``, the case ids that its grid asks for."""

    row: str
    records: Sequence[Record]
    expected: Sequence[str]

    @property
    def present(self) -> list[Record]:
        """The records that were asked for; others take no part."""
        wanted = set(self.expected)
        return [r for r in self.records if r.case in wanted]

    def missing(self, levels: Collection[Level]) -> list[str]:
        """Cases without a record, or complete without having been measured at these levels."""
        seen = {
            r.case
            for r in self.records
            if r.status != "complete"
            or all(level in c for c in (r.alignment, r.uniformity, r.performance) for level in levels)
        }
        return [case for case in self.expected if case not in seen]


@dataclass(frozen=True)
class Claim:
    """What is said of a row; ``level`` is ``instance`` (linear evaluation) or ``dense`` (detection).

    An ``exploratory`` claim is one that the paper does not make: judged and shown, but never failing. ``against`` names
    the scenes, among a profile's ``scenes``, that ``falls_behind`` compares with instead of single-object data.
    ``predictor``: the one that ``predictor_against`` is about, as ``rankme@dense``.

    Raises:
        ValueError: If the kind or the level is not one of those named here, or a predictor is missing.
    """

    kind: Kind
    level: Level
    exploratory: bool = field(default=False, compare=False)
    against: str = field(default="", compare=False)
    predictor: str = ""

    def __post_init__(self) -> None:
        if self.kind not in _TEXTS or self.level not in LEVELS:
            raise ValueError(f"claim {self.kind!r} at level {self.level!r}: kinds {list(_TEXTS)}, levels {LEVELS}")
        if self.about_predictor != bool(self.predictor):
            raise ValueError(f"claim {self.kind!r}: predictor= goes with 'predictor_against', got {self.predictor!r}")

    @property
    def text(self) -> str:
        """The claim as a person would say it."""
        told = _TEXTS[self.kind].format(EVALUATIONS[self.level]).replace("the predictor", self.predictor)
        return (
            told.replace("single-object data", f"scenes with {self.against.replace('_', ' ')}")
            if self.against
            else told
        )

    @property
    def about_tau(self) -> bool:
        """Whether it is decided by a correlation."""
        return self.kind in ("tau_negative", "tau_not_negative")

    @property
    def paired(self) -> bool:
        """Whether it is decided by a comparison with another row, configuration by configuration."""
        return self.kind in PAIRED

    @property
    def about_predictor(self) -> bool:
        """Whether it is decided by the correlation of a predictor of the league."""
        return self.kind == "predictor_against"

    @property
    def about_untrained(self) -> bool:
        """Whether it is decided by a comparison with untrained encoders."""
        return not (self.about_tau or self.paired or self.about_predictor)


@dataclass(frozen=True)
class Judgement:
    """A claim about a row, its verdict and, in one ``sentence``, what that rests on.

    ``correlation`` is the whole row's, None if the claim is not about tau; ``contrast`` belongs to ``at_random_level``
    and ``above_random_level``, ``comparison`` to the paired claims, ``prediction`` to a predictor's; ``missing`` names
    the cases without a record; ``alpha`` is the one-sided level; ``validity`` tells what the encoders learnt, None
    where nothing was judged.
    """

    claim: Claim
    row: str
    verdict: Verdict
    correlation: Correlation | None
    contrast: Contrast | None
    sentence: str
    missing: tuple[str, ...] = ()
    alpha: float = 0.05
    comparison: Comparison | None = None
    validity: Validity | None = None
    prediction: Prediction | None = None

    @property
    def p(self) -> float:
        """One-sided p of what is claimed; nan where nothing was judged, and for the level of random initialisation."""
        if self.correlation is not None:
            return self.correlation.p_negative if self.claim.kind == "tau_negative" else self.correlation.p_positive
        if self.prediction is not None:
            return self.prediction.p_positive
        return self.comparison.p if self.comparison is not None else math.nan

    @classmethod
    def incomplete(cls, claim: Claim, error: IncompleteSweep) -> Judgement:
        """What to show where ``judge`` raised: nothing is concluded, and what is missing is named."""
        sentence = f"{error.row}: INCONCLUSIVE: {claim.text}; missing: {', '.join(error.missing)}"
        return cls(claim, error.row, Verdict.INCONCLUSIVE, None, None, sentence, error.missing)

    def to_json(self) -> str:
        """As strict JSON: a nan becomes null."""
        return json.dumps(json.loads(json.dumps(asdict(self)), parse_constant=lambda name: None))

    @classmethod
    def from_json(cls, text: str) -> Judgement:
        """The inverse of ``to_json``."""

        def restore(data: dict[str, Any]) -> dict[str, Any]:
            optional = ("needed", *_PARTS)
            values = {k: math.nan if v is None and k not in optional else v for k, v in data.items()}
            return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}

        data = json.loads(text, object_hook=restore)
        for name, kind in {"claim": Claim, **_PARTS}.items():
            data[name] = data[name] and kind(**data[name])
        return cls(**{**data, "verdict": Verdict(data["verdict"])})


_PARTS: Mapping[str, type] = {
    "correlation": Correlation,
    "contrast": Contrast,
    "comparison": Comparison,
    "validity": Validity,
    "prediction": Prediction,
}


def judge(
    claim: Claim,
    sweep: Sweep,
    random_init: Sequence[Record],
    alpha: float = 0.05,
    margin: float = 1.0,
    reference: Sweep | None = None,
    twin: Sweep | None = None,
    better: Mapping[str, Better] | None = None,
) -> Judgement:
    """The verdict of a row's records on a claim.

    ``tau_negative`` is supported by a one-sided p of tau < 0 below alpha and refuted by one of tau > 0; both are of tau
    within families and know that neighbours on a knob are alike (``cl_bench.correlation.association``).
    ``tau_not_negative`` is its mirror: that a correlation is *not* found is no support, since a small sweep never finds
    one; only a tau that is significantly positive shows that it is no longer negative.

    ``predictor_against`` is decided as ``tau_not_negative`` is, with the predictor in the place of alignment and
    uniformity.

    The other claims are decided by a ``1 - 2 alpha`` interval: of mean performance minus that of random initialisation
    (``at_random_level``: below ``margin``, refuted above it; ``above_random_level``: above 0, refuted below 0), or of
    the mean difference over configurations (``no_worse_than``, reference minus row, and ``keeps_up``, row minus
    reference: above ``-margin``, refuted below it; ``falls_behind``, reference minus row: above 0, refuted below 0).

    Nothing is concluded from fewer than four configurations (or pairs), or if over half are left out; nor where the
    encoders that the claim is about did not learn (``validity``), at its level. Those are the row's and the
    reference's; of disjoint views, where not learning is the prediction, the twin's alone; and of ``falls_behind``,
    where doing badly is, the reference's alone. A claim about the level of random initialisation that has no twin is
    about learning at that level itself: there learning has to show at the other level.

    Args:
        claim: What is claimed.
        sweep: The row. Diverged and failed records count as present.
        random_init: Randomly initialised encoders.
        alpha: One-sided level.
        margin: In percentage points (ours).
        reference: The row that a paired claim compares with.
        twin: The same method on the same data with overlapping views, for a row of disjoint ones.
        better: Which values of a predictor are better, by its name without the level.

    Raises:
        IncompleteSweep: If an expected case has no record, or a complete one was not measured at the claim's level; or
            if there is no randomly initialised encoder to compare with.
        ValueError: If the records of a row are of more than one; or if the rows of a pair differ in more than the
            method or the data, or one of them is not given.
    """
    level, records = claim.level, sweep.present
    gate_level = OTHER_LEVEL[level] if claim.about_untrained and twin is None else level
    _complete({level, gate_level}, sweep, random_init, reference, twin)
    kept, left_out = configurations(records, level)
    remain, asked, unit = len(kept), len({r.config for r in records if r.family != RANDOM_INIT}), "configurations"
    correlation = compared = comparison = prediction = None
    if claim.about_tau:
        correlation = correlate(records, level, alpha=alpha)
        supported, refuted, evidence = _on_tau(claim, correlation, alpha)
    elif claim.about_predictor:
        prediction = predicted(records, level, claim.predictor, better or {})
        remain = prediction.n
        supported, refuted = prediction.p_positive < alpha, prediction.p_negative < alpha
        evidence = f"tau = {prediction}, n = {remain}, p(tau > 0 within families) = {prediction.p_positive:.2g}"
    elif claim.paired:
        if reference is None:
            raise ValueError(f"claim {claim.kind!r} needs the records of a reference row")
        sides = (records, reference.present) if claim.kind == "keeps_up" else (reference.present, records)
        behind = 0.0 if claim.kind == "falls_behind" else margin
        comparison = compare(*sides, level, alpha, behind)
        left_out, unit = comparison.left_out, "pairs"
        remain, asked = comparison.n, comparison.n + len(left_out)
        supported, refuted, evidence = comparison.low > -behind, comparison.high < -behind, str(comparison)
    else:
        above = claim.kind == "above_random_level"
        scores = [c.performance for c in kept]
        compared = contrast(scores, performances(random_init, level), alpha, 0.0 if above else margin)
        below, over = compared.high < compared.margin, compared.low > compared.margin
        supported, refuted, evidence = (over, below, str(compared)) if above else (below, over, str(compared))
    gate = _gate(claim, gate_level, sweep, random_init, alpha, reference, twin)
    verdict = Verdict.SUPPORTED if supported else Verdict.REFUTED if refuted else Verdict.INCONCLUSIVE
    if remain < FEWEST or 2 * remain < asked:
        verdict = Verdict.INCONCLUSIVE
        evidence += f"; too few: {remain} of {asked} {unit} remain"
    elif gate.reason:
        verdict = Verdict.INCONCLUSIVE
    elif verdict is Verdict.INCONCLUSIVE and correlation and correlation.needed:
        way = "support" if (correlation.within < 0) == (claim.kind == "tau_negative") else "refute"
        evidence += f"; were it true, {correlation.needed} independent configurations would {way} it with power {POWER}"
    if correlation and correlation.disagrees:
        evidence += "; all pairs and families disagree: what goes together here is families, not configurations"
    if left_out:
        evidence += f"; left out: {listed(left_out)}"
    said = [gate.reason, claim.text, evidence] if gate.reason else [claim.text, evidence, f"{gate.whose}: {gate}"]
    sentence = f"{sweep.row}: {verdict}{' (exploratory)' if claim.exploratory else ''}: {'; '.join(said)}"
    return Judgement(
        claim, sweep.row, verdict, correlation, compared, sentence, (), alpha, comparison, gate, prediction
    )


def _complete(
    levels: Collection[Level],
    sweep: Sweep,
    random_init: Sequence[Record],
    reference: Sweep | None,
    twin: Sweep | None,
) -> None:
    """Raise IncompleteSweep where anything is missing that the verdict rests on; another row's is told with its row."""
    missing = sweep.missing(levels)
    for other in (reference, twin):
        missing += [f"{case} of {other.row}" for case in other.missing(levels)] if other else []
    if not all(performances(random_init, level) for level in levels):
        missing.append(RANDOM_INIT)
    if missing:
        raise IncompleteSweep(sweep.row, missing)


def _gate(
    claim: Claim,
    level: Level,
    sweep: Sweep,
    random_init: Sequence[Record],
    alpha: float,
    reference: Sweep | None,
    twin: Sweep | None,
) -> Validity:
    """The validity of the rows that must have learnt: the first that fails, or else the first."""
    asked = [(TWIN, twin)] if twin else [] if claim.kind == "falls_behind" else [("this row", sweep)]
    if reference and not twin:
        asked.append((reference.row, reference))
    found = [
        validity(
            sweep.present,
            random_init,
            level,
            gate=gated.present,
            whose=whose,
            ordered=claim.about_tau or claim.about_predictor,
            alpha=alpha,
        )
        for whose, gated in asked
    ]
    return next((gate for gate in found if gate.reason), found[0])


def _on_tau(claim: Claim, found: Correlation, alpha: float) -> tuple[bool, bool, str]:
    """Whether a correlation supports and refutes a claim, and the evidence: of either way the p that decided."""
    p, against, sides = found.p_negative, found.p_positive, "<>"
    if claim.kind == "tau_not_negative":
        p, against, sides = against, p, "><"
    supported, refuted = p < alpha, against < alpha
    shown, way = (against, sides[1]) if refuted else (p, sides[0])
    told = f"{found.told}, {found.counted}, p(tau {way} 0) = {shown:.2g} ({found.method})"
    return supported, refuted, told


def holm(judgements: Sequence[Judgement]) -> list[float]:
    """Holm-adjusted one-sided p of each claim over the run, in order; nan without a p, and for an exploratory one."""
    return holm_adjusted([math.nan if j.claim.exploratory else j.p for j in judgements])
