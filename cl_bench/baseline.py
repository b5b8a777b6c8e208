"""Verdicts kept in a file, and later runs held against them: the regression check of claims."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_bench.claims import Claim, Judgement, Verdict
from cl_bench.errors import SpecError
from cl_bench.records import EVALUATIONS
from cl_bench.spec import RunSpec
from cl_bench.store import digest, write_atomically

FORMAT = 1
_RANK = {Verdict.REFUTED: 0, Verdict.INCONCLUSIVE: 1, Verdict.SUPPORTED: 2}


@dataclass(frozen=True)
class Kept:
    """A verdict that was kept.

    Attributes:
        verdict: Of a claim about a row.
        sentence: What it rested on.
        setting: Of the run, as ``setting_of`` names it.
    """

    verdict: Verdict
    sentence: str
    setting: str


@dataclass(frozen=True)
class Changes:
    """Judgements against a baseline.

    Attributes:
        name: Of its file.
        compared: How many the baseline holds too.
        regressed, improved: Those whose verdict is worse, and better.
        new: Those that the baseline does not hold.
    """

    name: str
    compared: int
    regressed: tuple[Judgement, ...]
    improved: tuple[Judgement, ...]
    new: tuple[Judgement, ...]

    def __str__(self) -> str:
        told = [f"{self.compared} claim{'s' if self.compared != 1 else ''} compared"]
        for what in ("regressed", "improved", "new"):
            claims: tuple[Judgement, ...] = getattr(self, what)
            names = ", ".join(f"{j.row} ({_named(j.claim)}): {j.verdict}" for j in claims)
            told.append(f"{len(claims)} {what}" + (f": {names}" if claims else ""))
        return f"since {self.name}: {'; '.join(told)}"


def _named(claim: Claim) -> str:
    named = f"{EVALUATIONS[claim.level]}, {claim.kind}"
    return f"{named}, exploratory" if claim.exploratory else named


class Baseline:
    """Verdicts by row and claim.

    Args:
        path: The file, named in what is said of it.
        kept: What it holds.
    """

    def __init__(self, path: Path, kept: dict[tuple[str, Claim], Kept] | None = None) -> None:
        self.path = path
        self._kept = dict(kept or {})

    @classmethod
    def load(cls, path: Path) -> Baseline:
        """Read a file that ``save`` wrote.

        Raises:
            SpecError: It is not one.
            OSError: It cannot be read.
        """
        content = path.read_bytes()
        try:
            outer = json.loads(content)
            if outer["format"] != FORMAT:
                raise SpecError(f"{path}: a baseline of format {outer['format']!r}; this cl-bench reads {FORMAT}")
            kept = {
                (str(entry["row"]), Claim(entry["claim"], entry["level"])): Kept(
                    Verdict(entry["verdict"]), str(entry["sentence"]), str(entry["setting"])
                )
                for entry in outer["claims"]
            }
        except SpecError:
            raise
        except (ValueError, KeyError, TypeError, RecursionError):
            raise SpecError(f"{path}: not a baseline, as --save-baseline writes it") from None
        return cls(path, kept)

    def regression(self, judgement: Judgement, setting: str) -> str | None:
        """In one line, how a claim that was judged before does worse than it did; None where it does not.

        Raises:
            SpecError: It was judged in another setting: the two are not to be compared.
        """
        kept = self._kept[judgement.row, judgement.claim]
        if kept.setting != setting:
            raise SpecError(
                f"{judgement.row}: {self.path.name} holds this claim of another setting (profile, grid, seeds or "
                "thresholds); keep a new one with --save-baseline"
            )
        if self._change(judgement) >= 0:
            return None
        return f"regressed since {self.path.name}, which has: {kept.sentence}; now: {judgement.sentence}"

    def compare(self, judgements: Iterable[Judgement]) -> Changes:
        """Which judgements are worse or better than here, or not here at all; whole ones only."""
        whole = [j for j in judgements if not j.missing]
        held = [j for j in whole if j in self]
        return Changes(
            name=self.path.name,
            compared=len(held),
            regressed=tuple(j for j in held if self._change(j) < 0),
            improved=tuple(j for j in held if self._change(j) > 0),
            new=tuple(j for j in whole if j not in self),
        )

    def _change(self, judgement: Judgement) -> int:
        """By how much it is better than the verdict kept here."""
        return _RANK[judgement.verdict] - _RANK[self._kept[judgement.row, judgement.claim].verdict]

    def renewed(self, judged: Iterable[tuple[Judgement, str]]) -> Baseline:
        """With these judgements, each with its setting, in the place of older ones; an incomplete one renews none."""
        new = {(j.row, j.claim): Kept(j.verdict, j.sentence, setting) for j, setting in judged if not j.missing}
        return Baseline(self.path, {**self._kept, **new})

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, judgement: Judgement) -> bool:
        return (judgement.row, judgement.claim) in self._kept

    def save(self) -> None:
        """Write the file, whole or not at all; sorted, so that a change of verdict is a change of few lines.

        Raises:
            OSError: It cannot be written.
        """
        claims = [
            {
                "row": row,
                "claim": claim.kind,
                "level": claim.level,
                "verdict": str(kept.verdict),
                "sentence": kept.sentence,
                "setting": kept.setting,
            }
            for (row, claim), kept in sorted(self._kept.items(), key=lambda item: (item[0][0], str(item[0][1])))
        ]
        text = json.dumps({"format": FORMAT, "claims": claims}, indent=1) + "\n"
        write_atomically(self.path, text.encode())


def setting_of(specs: Sequence[RunSpec], alpha: float, margin: float) -> str:
    """A name for all that a verdict depends on but the code: grid, seeds, data, recipes and thresholds.

    A method's source and the version of the recipe are code: a baseline tells what a change to it does.
    """

    def described(spec: RunSpec) -> Any:
        told = spec.model_dump(mode="json", exclude={"predictors"})
        del told["pretrain"]["method"]["source"], told["pretrain"]["recipe"]
        return told

    return digest([[described(spec) for spec in specs], alpha, margin])[:16]
