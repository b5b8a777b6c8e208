"""What can be claimed of a row, and what was found of a claim. Plain values; ``judging`` is how one is had."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

from cl_bench.comparison import Comparison, Contrast
from cl_bench.controls import Controls
from cl_bench.correlation import Correlation
from cl_bench.league import Prediction
from cl_bench.records import EVALUATIONS, LEVELS, Level, Record
from cl_bench.validity import Validity

Kind = Literal[
    "tau_negative",
    "tau_not_negative",
    "no_correlation",
    "at_random_level",
    "above_random_level",
    "no_worse_than",
    "keeps_up",
    "falls_behind",
    "predictor_against",
]
NEGLIGIBLE = 0.3
"""How far from 0 a tau may be and still count as no correlation (ours)."""
_TEXTS: Mapping[Kind, str] = {
    "tau_negative": "better aligned and more uniform features go with better {} (tau < 0)",
    "tau_not_negative": "better aligned and more uniform features no longer go with better {} (tau > 0)",
    "no_correlation": f"alignment and uniformity tell next to nothing of {{}} (|tau| < {NEGLIGIBLE:g})",
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
        return self.kind in ("tau_negative", "tau_not_negative", "no_correlation")

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
    the cases without a record; ``alpha`` is the level; ``validity`` tells what the encoders learnt and ``controls`` how
    far an order can be believed, None where nothing was judged or no order is claimed. ``p`` is the p of what is
    claimed and ``p_against`` that of its contrary, nan where nothing was judged.
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
    controls: Controls | None = None
    p: float = math.nan
    p_against: float = math.nan

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
    "controls": Controls,
}
