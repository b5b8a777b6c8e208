"""Baseline files: figures of a run and the verdicts that they gave; ``gate`` compares later runs with them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cl_bench.claims.judgement import Judgement, Verdict
from cl_bench.errors import SpecError
from cl_bench.spec import RunSpec
from cl_bench.spec.claim import Claim
from cl_bench.spec.frozen import CANONICAL
from cl_bench.spec.records import EVALUATIONS
from cl_bench.statistics.reseeding import Seeded
from cl_bench.store import digest, write_atomically

FORMAT = 2
_FIGURES = ("alignment", "uniformity", "performance")


class OldFormat(SpecError):
    """A baseline file of an earlier format, whose content cannot be compared with a run."""


@dataclass(frozen=True, eq=False)
class Kept:
    """Entry of a baseline for one claim about one row.

    Attributes:
        verdict, sentence: Judgement of the run, for display; they take no part in the comparison.
        setting: Name of the run's setting, from ``setting_of``.
        figures: Figures of the row at the claim's level.
        untrained: Performance of the untrained encoders at that level by seed, percent.
        reference: Name and figures of the row that a paired claim compares with.
    """

    verdict: Verdict
    sentence: str
    setting: str
    figures: Seeded
    untrained: Mapping[int, float]
    reference: tuple[str, Seeded] | None = None


@dataclass(frozen=True)
class Changes:
    """Differences between the verdicts of a run and those of a baseline.

    Attributes:
        name: Name of the baseline's file.
        compared: Number of judgements that the baseline holds too.
        changed: Judgements whose verdict has changed, each with the earlier verdict.
        new: Judgements that the baseline does not hold.
    """

    name: str
    compared: int
    changed: tuple[tuple[Judgement, Verdict], ...]
    new: tuple[Judgement, ...]

    def __str__(self) -> str:
        changed = [f"{_named(j)}: {before} -> {j.verdict}" for j, before in self.changed]
        new = [f"{_named(j)}: {j.verdict}" for j in self.new]
        told = [f"{self.compared} claim{'s' if self.compared != 1 else ''} compared"]
        for what, claims in (("verdicts changed", changed), ("new", new)):
            told.append(f"{len(claims)} {what}" + (f": {', '.join(claims)}" if claims else ""))
        return f"since {self.name}: {'; '.join(told)}"


def _named(judgement: Judgement) -> str:
    claim = judgement.claim
    exploratory = ", exploratory" if claim.exploratory else ""
    return f"{judgement.row} ({EVALUATIONS[claim.level]}, {claim.kind}{exploratory})"


class Baseline:
    """Figures and verdicts of a run, by row and claim, that later runs are compared with.

    Args:
        path: The file, which messages name.
        kept: Entries by row and claim.
    """

    def __init__(self, path: Path, kept: Mapping[tuple[str, Claim], Kept] | None = None) -> None:
        self.path = path
        self.kept = dict(kept or {})

    @classmethod
    def load(cls, path: Path, renew: str = "pytest suites/ --save-baseline FILE") -> Baseline:
        """Read a file that ``save`` wrote.

        Args:
            path: The file.
            renew: Command that makes the file again, shown for one of an earlier format.

        Raises:
            OldFormat: If the file is of an earlier format.
            SpecError: If it is not a baseline; the message names the first thing that is wrong with it.
            OSError: If it cannot be read.
        """
        content = path.read_bytes()
        try:
            outer = json.loads(content)
        except (ValueError, RecursionError):
            outer = None
        if not isinstance(outer, dict) or "format" not in outer:
            raise SpecError(f"{path}: not a baseline that --save-baseline wrote")
        if outer["format"] == 1:
            raise OldFormat(
                f"{path}: a baseline of format 1, which holds verdicts and no figures; renew it with: {renew}"
            )
        if outer["format"] != FORMAT:
            raise SpecError(f"{path}: a baseline of format {outer['format']!r}; this cl-bench reads format {FORMAT}")
        entries = outer.get("claims")
        if not isinstance(entries, list):
            raise SpecError(f"{path}: claims: must be a list, got {_short(entries)}")
        kept: dict[tuple[str, Claim], Kept] = {}
        for n, entry in enumerate(entries):
            try:
                row, claim, what = _entry(entry)
            except _Wrong as wrong:
                raise SpecError(f"{path}: claims[{n}]{wrong}") from None
            if (row, claim) in kept:
                raise SpecError(f"{path}: claims[{n}]: {row} ({claim.kind}, {claim.level}) is listed twice")
            kept[row, claim] = what
        return cls(path, kept)

    def of(self, row: str, claim: Claim, setting: str) -> Kept | None:
        """Return the entry for a claim about a row, or None where there is none.

        Raises:
            SpecError: If the claim was judged in another setting, so that the two cannot be compared.
        """
        kept = self.kept.get((row, claim))
        if kept is not None and kept.setting != setting:
            raise SpecError(
                f"{row}: {self.path.name} holds this claim for another setting (profile, grid, data or thresholds); "
                "keep a new one with --save-baseline"
            )
        return kept

    def compare(self, judgements: Iterable[Judgement]) -> Changes:
        """Find the verdicts that differ from this baseline or are not in it; incomplete judgements are ignored."""
        whole = [j for j in judgements if not j.missing]
        before = [(j, self.kept[j.row, j.claim].verdict) for j in whole if j in self]
        changed = tuple((j, verdict) for j, verdict in before if verdict is not j.verdict)
        return Changes(self.path.name, len(before), changed, tuple(j for j in whole if j not in self))

    def renewed(self, judged: Iterable[tuple[str, Claim, Kept]]) -> Baseline:
        """Return a copy in which these entries, each for a row and a claim, replace older ones."""
        return Baseline(self.path, {**self.kept, **{(row, claim): kept for row, claim, kept in judged}})

    @property
    def one_seed(self) -> bool:
        """True where no row in it has a second seed."""
        return all(len(kept.figures.seeds) < 2 for kept in self.kept.values())

    def __len__(self) -> int:
        return len(self.kept)

    def __contains__(self, judgement: Judgement) -> bool:
        return (judgement.row, judgement.claim) in self.kept

    def save(self) -> None:
        """Write the file atomically, sorted and with a figure's seeds on one line, so that a diff of it is readable.

        Raises:
            OSError: If it cannot be written.
        """
        claims = [
            {
                "row": row,
                "claim": claim.kind,
                "level": claim.level,
                "verdict": str(kept.verdict),
                "sentence": kept.sentence,
                "setting": kept.setting,
                "figures": _written(kept.figures),
                "untrained": {str(seed): value for seed, value in sorted(kept.untrained.items())},
                "reference": kept.reference and {"row": kept.reference[0], "figures": _written(kept.reference[1])},
            }
            for (row, claim), kept in sorted(self.kept.items(), key=lambda item: (item[0][0], str(item[0][1])))
        ]
        text = json.dumps({"format": FORMAT, "claims": claims}, indent=1)
        # Only lists of numbers match, because a JSON string holds no line break.
        text = re.sub(r"\[\n[^\[\]{}\"]*\n\s*\]", lambda found: re.sub(r"\s+", " ", found[0]), text)
        write_atomically(self.path, f"{text}\n".encode())


def _written(seeded: Seeded) -> dict[str, Any]:
    by_name = {
        name: {"family": family, **dict(zip(_FIGURES, seeded.values[:, :, c].tolist(), strict=True))}
        for c, (name, family) in enumerate(zip(seeded.names, seeded.families, strict=True))
    }
    return {"seeds": list(seeded.seeds), "configurations": by_name}


# ---- strict reading


class _Wrong(Exception):
    """Error in an entry: its place, the value that is expected, and the value that is there."""

    def __init__(self, where: str, wanted: str, got: object) -> None:
        super().__init__(f"{where}: {wanted} is wanted, got {_short(got)}")


_KEYS = ("row", "claim", "level", "verdict", "sentence", "setting", "figures", "untrained", "reference")


def _entry(entry: Any) -> tuple[str, Claim, Kept]:
    table = _table(entry, "", _KEYS)
    texts = {name: _text(table[name], f".{name}") for name in _KEYS[:6]}
    try:
        claim = Claim(texts["claim"], texts["level"])  # type: ignore[arg-type]  # it refuses other texts
    except ValueError as error:
        raise _Wrong("", "a claim", str(error)) from None
    if texts["verdict"] not in list(Verdict):
        raise _Wrong(".verdict", " or ".join(Verdict), texts["verdict"])
    untrained: dict[int, float] = {}
    for seed, value in _table(table["untrained"], ".untrained").items():
        if not re.fullmatch(r"\d+", seed):
            raise _Wrong(".untrained", "a seed as key", seed)
        untrained[int(seed)] = _number(value, f".untrained.{seed}")
    reference = table["reference"]
    if reference is not None:
        told = _table(reference, ".reference", ("row", "figures"))
        reference = (_text(told["row"], ".reference.row"), _figures(told["figures"], ".reference.figures"))
    figures = _figures(table["figures"], ".figures")
    verdict = Verdict(texts["verdict"])
    return texts["row"], claim, Kept(verdict, texts["sentence"], texts["setting"], figures, untrained, reference)


def _figures(told: Any, where: str) -> Seeded:
    table = _table(told, where, ("seeds", "configurations"))
    seeds = table["seeds"]
    whole = isinstance(seeds, list) and all(type(s) is int and s >= 0 for s in seeds)
    if not whole or seeds != sorted(set(seeds)):
        raise _Wrong(f"{where}.seeds", "a rising list of whole numbers", seeds)
    by_name = _table(table["configurations"], f"{where}.configurations")
    if by_name and not seeds:
        raise _Wrong(f"{where}.seeds", "a seed", seeds)
    families: list[str] = []
    values = np.zeros((len(_FIGURES), len(seeds), len(by_name)))
    for c, (name, configuration) in enumerate(by_name.items()):
        place = f"{where}.configurations.{name}"
        columns = _table(configuration, place, ("family", *_FIGURES))
        families.append(_text(columns["family"], f"{place}.family"))
        for f, figure in enumerate(_FIGURES):
            column = columns[figure]
            if not isinstance(column, list) or len(column) != len(seeds):
                raise _Wrong(f"{place}.{figure}", f"a list of {len(seeds)} numbers, one a seed,", column)
            values[f, :, c] = [_number(value, f"{place}.{figure}") for value in column]
    return Seeded(tuple(by_name), tuple(families), tuple(seeds), values)


def _table(value: Any, where: str, keys: Sequence[str] = ()) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Wrong(where, "a table", value)
    if keys and set(value) != set(keys):
        raise _Wrong(where, f"a table of {', '.join(keys)}", list(value))
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _Wrong(where, "text", value)
    return value


def _number(value: Any, where: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise _Wrong(where, "a finite number", value)
    return float(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def setting_of(specs: Sequence[RunSpec], alpha: float, margin: float) -> str:
    """Return a hash of everything that a verdict depends on except code and seeds: grid, data, recipes, thresholds.

    A method's source and the recipe's version count as code, because a baseline is there to show the effect of changing
    it. Runs may differ in the number and choice of their seeds, which the comparison treats as a random draw.
    """

    def described(spec: RunSpec) -> Any:
        told = spec.model_dump(mode="json", exclude={"predictors"}, context=CANONICAL)
        del told["pretrain"]["method"]["source"], told["pretrain"]["recipe"], told["pretrain"]["seed"]
        return told

    distinct = {digest(described(spec)): None for spec in specs}
    return digest([list(distinct), alpha, margin])[:16]
