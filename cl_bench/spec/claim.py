"""Claims about a row of encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cl_bench.errors import nearest
from cl_bench.spec.records import EVALUATIONS, LEVELS, Level

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
"""Distance from 0 below which a tau counts as no correlation (our choice)."""
_SYMBOLS: Mapping[Kind, str] = {
    "tau_negative": "tau < 0",
    "tau_not_negative": "tau > 0",
    "no_correlation": f"|tau| < {NEGLIGIBLE:g}",
    "predictor_against": "tau > 0",
}
_TEXTS: Mapping[Kind, str] = {
    "tau_negative": "better aligned and more uniform features go with better {}",
    "tau_not_negative": "better aligned and more uniform features no longer go with better {}",
    "no_correlation": "alignment and uniformity say next to nothing about {}",
    "at_random_level": "on average {} falls to the level of random initialisation or below",
    "above_random_level": "on average {} is better than with random initialisation",
    "no_worse_than": "on average the reference does no worse at {}",
    "keeps_up": "on average it does no worse at {} than the other scheme",
    "falls_behind": "on average it does worse at {} than the same method on single-object data",
    "predictor_against": "encoders that the predictor ranks higher do worse at {}",
}
PAIRED = ("no_worse_than", "keeps_up", "falls_behind")
TWIN = "the same row with overlapping views"


@dataclass(frozen=True)
class Claim:
    """A statement about a row; ``level`` is ``instance`` (linear evaluation) or ``dense`` (detection).

    An ``exploratory`` claim is one that the paper does not make: it is judged and shown, but never fails. ``against``
    names the scenes, among a profile's ``scenes``, that ``falls_behind`` compares with instead of single-object data.
    ``predictor`` names the predictor of ``predictor_against``, such as ``rankme@dense``.

    Raises:
        ValueError: If the kind or the level is not one of those named here, or a predictor is missing.
    """

    kind: Kind
    level: Level
    exploratory: bool = field(default=False, compare=False)
    against: str = field(default="", compare=False)
    predictor: str = ""

    def __post_init__(self) -> None:
        for name, value, known in (("kind", self.kind, [*_TEXTS]), ("level", self.level, [*LEVELS])):
            if value not in known:
                near = nearest(str(value), known)
                raise ValueError(f"no {name} of claim {value!r}{near}; {name}s: {', '.join(known)}")
        if self.about_predictor != bool(self.predictor):
            raise ValueError(f"claim {self.kind!r}: predictor= goes with 'predictor_against', got {self.predictor!r}")

    @property
    def text(self) -> str:
        """Claim in words."""
        symbols = f" ({self.symbols})" if self.symbols else ""
        told = _TEXTS[self.kind].format(EVALUATIONS[self.level]).replace("the predictor", self.predictor) + symbols
        return (
            told.replace("single-object data", f"scenes with {self.against.replace('_', ' ')}")
            if self.against
            else told
        )

    @property
    def symbols(self) -> str:
        """Claim about a tau in symbols, such as ``tau < 0``; empty for another claim."""
        return _SYMBOLS.get(self.kind, "")

    @property
    def about_tau(self) -> bool:
        """True for a claim that is decided by a correlation."""
        return self.kind in ("tau_negative", "tau_not_negative", "no_correlation")

    @property
    def place(self) -> tuple[bool, bool]:
        """Sort key for the claims of a row: the paper's come first, of these the ones about tau."""
        return self.exploratory, not self.about_tau

    @property
    def paired(self) -> bool:
        """True for a claim that is decided by a comparison with another row, configuration by configuration."""
        return self.kind in PAIRED

    @property
    def about_predictor(self) -> bool:
        """True for a claim that is decided by the correlation of a predictor of the league."""
        return self.kind == "predictor_against"

    @property
    def about_untrained(self) -> bool:
        """True for a claim that is decided by a comparison with untrained encoders."""
        return not (self.about_tau or self.paired or self.about_predictor)
