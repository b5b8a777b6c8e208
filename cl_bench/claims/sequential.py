"""How often a claim is judged while seeds are added, at which level each time, and what a budget of time is. Pure.

Judged again and again at one level, a claim that is wrong passes sooner or later. So the level is spent: each look has
a level of its own, and together they have that of the profile. How much is spent by which share of the seeds is a
function that is fixed beforehand (Lan & DeMets, Discrete sequential boundaries for clinical trials, Biometrika 70,
1983), here the one that imitates Pocock's boundaries, ``alpha log(1 + (e - 1) t)``.

Lan & DeMets turn what is spent into boundaries by the joint distribution of independent increments. Seeds do not give
those: the configurations stay, and what chance gave to them is in every look. Here the levels simply add up
(Boole's inequality), which takes no more than that each look's own p is one. It is cautious, the more so the less of
the noise is the seeds'.

Nothing of this is kept: looks follow from the options, verdicts from the records. Whoever goes on later, judges the
first look with the seeds of the first look once more.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from cl_bench.claims.judgement import Judgement, Verdict
from cl_bench.errors import SpecError

FEWEST_SEEDS = 2
"""At the first look: one seed shows no spread."""
_BUDGET = re.compile(r"(?=\d)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)


@dataclass(frozen=True)
class Look:
    """A time at which claims are judged: its number from 1, how many there are at most, and the seeds by then.

    ``alpha`` is the one-sided level of this look alone.
    """

    number: int
    of: int
    seeds: int
    alpha: float

    def __str__(self) -> str:
        return f"look {self.number} of {self.of}, {self.seeds} seeds, alpha {f'{self.alpha:.2g}'.removeprefix('0')}"


def spent(share: float, alpha: float) -> float:
    """How much of ``alpha`` may be spent by a share in [0, 1] of the seeds: 0 at none of them, ``alpha`` at all."""
    return alpha * math.log1p((math.e - 1) * share)


def looks(first: int, most: int, alpha: float) -> tuple[Look, ...]:
    """The looks from ``first`` seeds (two at least) to ``most``, the seeds doubled from each to the next.

    Doubling makes few looks, so that each keeps a level worth having, and ends with at most twice the seeds that it
    took. The levels of all looks sum to ``alpha``.

    Raises:
        SpecError: ``most`` is less than the first look has.
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
    """The first judgement that decides, for what a look decided stays decided; else the last.

    Raises:
        ValueError: There is none.
    """
    found = None
    for found in judgements:
        if found.verdict is not Verdict.INCONCLUSIVE:
            break
    if found is None:
        raise ValueError("no look, no judgement")
    return found


def budget_seconds(text: str) -> float:
    """Seconds of ``90s``, ``45m``, ``2h`` or ``1h30m``.

    Raises:
        SpecError: It is none of those, or no time at all.
    """
    found = _BUDGET.fullmatch(text)
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    whole = 3600 * hours + 60 * minutes + seconds
    if not whole:
        raise SpecError(f"--budget takes hours, minutes and seconds, as 90s, 45m, 2h or 1h30m, got {text!r}")
    return float(whole)
