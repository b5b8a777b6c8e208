"""Sequential testing: repeated looks at a claim while seeds are added, the level of each look.

A wrong claim that is judged again and again at one level passes sooner or later. Each look therefore has a level of its
own, and together they have the level of the profile. A function that is fixed beforehand gives the level that may be
spent by a share t of the seeds (Lan & DeMets, Discrete sequential boundaries for clinical trials, Biometrika 70, 1983),
here the one that imitates Pocock's boundaries, ``alpha log(1 + (e - 1) t)``.

Lan & DeMets derive boundaries from the joint distribution of independent increments. Adding seeds does not give
independent increments: the configurations stay, and their share of chance is in every look. Here the levels simply add
up (Boole's inequality), which assumes only that the p of each look is valid. This is cautious, and more so the less of
the noise comes from the seeds.

No state is kept: looks follow from the options, verdicts from the records. A run that is continued later judges the
first look again, with the seeds of the first look.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from cl_bench.claims.judgement import Judgement, Verdict
from cl_bench.errors import SpecError

FEWEST_SEEDS = 2
"""Least number of seeds at the first look; one seed shows no spread."""


@dataclass(frozen=True)
class Look:
    """A time at which claims are judged: its number from 1, the number of looks at most, and the seeds by then.

    ``alpha`` is the one-sided level of this look alone.
    """

    number: int
    of: int
    seeds: int
    alpha: float

    def __str__(self) -> str:
        return f"look {self.number} of {self.of}, {self.seeds} seeds, alpha {f'{self.alpha:.2g}'.removeprefix('0')}"


def spent(share: float, alpha: float) -> float:
    """Return the part of ``alpha`` that a share in [0, 1] of the seeds may spend: 0 without seeds, ``alpha`` at all."""
    return alpha * math.log1p((math.e - 1) * share)


def looks(first: int, most: int, alpha: float) -> tuple[Look, ...]:
    """Return the looks from ``first`` seeds (two at least) to ``most``, each with twice the seeds of the last.

    Doubling gives few looks, so that each has a useful level, and spends at most twice the seeds that were necessary.
    The levels of all looks sum to ``alpha``.

    Raises:
        SpecError: If ``most`` is less than the seeds of the first look.
    """
    counts = [max(first, FEWEST_SEEDS)]
    if most < counts[0]:
        raise SpecError(
            f"max_seeds is {most}, less than the {counts[0]} of the first look; --set max_seeds={counts[0]}"
        )
    while counts[-1] < most:
        counts.append(min(2 * counts[-1], most))
    by_then = [0.0, *(spent(count / most, alpha) for count in counts)]
    return tuple(
        Look(number, len(counts), count, by_then[number] - by_then[number - 1])
        for number, count in enumerate(counts, 1)
    )


def first_decided(judgements: Iterable[Judgement]) -> Judgement:
    """Return the first judgement that is not INCONCLUSIVE, since a decision stays; else the last judgement.

    Raises:
        ValueError: If there is no judgement.
    """
    found = None
    for found in judgements:
        if found.verdict is not Verdict.INCONCLUSIVE:
            break
    if found is None:
        raise ValueError("no look, no judgement")
    return found
