"""Judgements of claims as plain values; ``judge`` makes them."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from cl_bench.claims.comparison import Comparison, Contrast
from cl_bench.claims.league import Prediction
from cl_bench.claims.validity import Validity
from cl_bench.errors import listed
from cl_bench.spec.claim import Claim
from cl_bench.spec.records import Level, Record
from cl_bench.statistics.controls import Controls
from cl_bench.statistics.correlation import Correlation


class Verdict(StrEnum):
    """Verdict of the records on a claim; absence of evidence is never evidence but ``INCONCLUSIVE``."""

    SUPPORTED = "SUPPORTED"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"


class IncompleteSweep(Exception):
    """Missing records that the claim's grid asks for: the ``row``, and ``missing``, the case ids."""

    def __init__(self, row: str, missing: Sequence[str]) -> None:
        super().__init__(row, tuple(missing))
        self.row, self.missing = row, tuple(missing)

    def __str__(self) -> str:
        count = len(self.missing)
        return f"{self.row}: {count} record{'s' if count != 1 else ''} missing: {listed(self.missing)}"


@dataclass(frozen=True)
class Sweep:
    """Records of a row, and ``expected``, the case ids that its grid asks for."""

    row: str
    records: Sequence[Record]
    expected: Sequence[str]

    @property
    def present(self) -> list[Record]:
        """Records that the grid asks for; others take no part."""
        wanted = set(self.expected)
        return [r for r in self.records if r.case in wanted]

    def missing(self, levels: Collection[Level]) -> list[str]:
        """Return the case ids without a record, or whose complete record was not measured at these levels."""
        seen = {
            r.case
            for r in self.records
            if r.status != "complete"
            or all(level in c for c in (r.alignment, r.uniformity, r.performance) for level in levels)
        }
        return [case for case in self.expected if case not in seen]


@dataclass(frozen=True)
class Judgement:
    """A claim about a row, its verdict and, in one ``sentence``, the evidence for it.

    ``correlation`` is the whole row's, None if the claim is not about tau; ``contrast`` belongs to ``at_random_level``
    and ``above_random_level``, ``comparison`` to the paired claims, ``prediction`` to a claim about a predictor;
    ``missing`` names the cases without a record; ``alpha`` is the level. ``validity`` describes what the encoders
    learnt and ``controls`` how far an order can be believed; they are None where nothing was judged or no order is
    claimed.
    ``p`` is the p of the claim and ``p_against`` that of its contrary, nan where nothing was judged.
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
        """Make an INCONCLUSIVE judgement that names what is missing, for when ``judge`` raised ``error``."""
        sentence = f"{error.row}: INCONCLUSIVE: {claim.text}; missing: {listed(error.missing)}"
        return cls(claim, error.row, Verdict.INCONCLUSIVE, None, None, sentence, error.missing)

    def to_json(self) -> str:
        """Return the judgement as strict JSON; a nan becomes null."""
        return json.dumps(json.loads(json.dumps(asdict(self)), parse_constant=lambda name: None))

    @classmethod
    def from_json(cls, text: str) -> Judgement:
        """Read a judgement from the text of ``to_json``."""

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
