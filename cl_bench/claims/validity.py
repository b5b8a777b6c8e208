"""The gate before a claim: did the encoders learn, and does what is compared exceed its noise? Pure.

A correlation over encoders that learnt nothing is one of noise, or of what they learnt instead of content. Such a row
tells of its recipe and not of the claim.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from scipy import stats

from cl_bench.spec.records import EVALUATIONS, RANDOM_INIT, Level, Record, configurations, figures

COLLAPSED = -0.02
"""Dense L_u above which cells of different images are as good as equal; 0 is equal."""
AT_OPTIMUM = 0.01
"""How near to the optimum of knowing the place alone a final loss counts as there, in units of ``max(1, |optimum|)``:
relative where the optimum is far from 0, absolute near 0, where a relative distance (L_a + w L_u passes 0) is none."""
MOSTLY = 0.5
"""Position share above which the place is most of what the features tell."""
LISTED = 5


@dataclass(frozen=True)
class Validity:
    """What the encoders of a row learnt, and why nothing can be said of a claim about them, if so.

    Attributes:
        whose: The row that was asked, in words: not the claim's own where that is predicted not to learn.
        level: The evaluation that was asked.
        learnt: Configurations that beat ``threshold``, their seeds averaged.
        of: Usable configurations; those that diverged are left out and named elsewhere.
        threshold: Mean of the untrained encoders plus its standard error, percent; nan with fewer than two of them.
        reliability: Share of the variance between configurations' means that seeds do not explain, in [0, 1]; nan where
            there are fewer than two configurations or no seeds' variance.
        p: Of the F test that configurations differ no more than seeds do; nan where reliability is.
        own_seeds: Whether the variance of seeds is the configurations' own; that of untrained encoders stands in
            where each configuration has one seed.
        collapsed: Case ids of the claim's own row with dense L_u above -.02.
        at_shortcut: Case ids of the claim's own row whose training ends at the loss of knowing the place alone.
        knows_place: Whether the encoders of the claim's own row mostly know the place.
        reason: Why nothing can be said; empty where the gate is passed.
    """

    whose: str
    level: Level
    learnt: int
    of: int
    threshold: float
    reliability: float
    p: float
    own_seeds: bool
    collapsed: tuple[str, ...] = ()
    at_shortcut: tuple[str, ...] = ()
    knows_place: bool = False
    reason: str = ""

    def __str__(self) -> str:
        beat = (
            f"{self.learnt} of {self.of} beat an untrained one ({EVALUATIONS[self.level]} above {self.threshold:.2f})"
        )
        return beat if math.isnan(self.reliability) else f"{beat}, {self.spread}"

    @property
    def spread(self) -> str:
        """Reliability in words."""
        seeds = "" if self.own_seeds else "; one seed each, so held against untrained encoders' seeds"
        return f"reliability {self.reliability:.2f} (p = {self.p:.2g}{seeds})"


def validity(
    records: Sequence[Record],
    untrained: Sequence[Record],
    level: Level,
    *,
    gate: Sequence[Record] | None = None,
    whose: str = "this row",
    ordered: bool = True,
    alpha: float = 0.05,
) -> Validity:
    """Whether the encoders learnt enough for a claim about them to be judged.

    At least half of the configurations must beat the mean of the untrained encoders by more than its standard error
    (``sd / sqrt(k)``). One untrained encoder has no error, and none is guessed: it takes two. For a claim about order
    (tau) performance must also spread more between configurations than between seeds: a one-way analysis of variance,
    its F test at ``alpha``. What a seed does to all configurations alike counts as noise there, which is cautious. A
    claim about a mean does not need a spread: configurations may all do equally well.

    Args:
        records: The claim's own row, whose collapsed and shortcut encoders are named.
        untrained: Randomly initialised encoders.
        level: The evaluation that must show it.
        gate: The row that must have learnt, where it is another: for confusing positives the overlapping twin.
        whose: That row in words.
        ordered: Whether the claim is about order.
        alpha: Level of the F test.

    Raises:
        ValueError: If a side's records are of more than one row.
    """
    gated = records if gate is None else gate
    kept, _ = configurations(gated, level)
    scores = performances(untrained, level)
    threshold = math.nan
    if len(scores) > 1:
        threshold = statistics.fmean(scores) + statistics.stdev(scores) / math.sqrt(len(scores))
    reliability, p, own_seeds = _spread(gated, {c.name for c in kept}, scores, level)
    found = Validity(
        whose,
        level,
        sum(c.performance > threshold for c in kept),
        len(kept),
        threshold,
        reliability,
        p,
        own_seeds,
        collapsed(records),
        at_shortcut(records),
        bool(place_sentence(records, untrained)),
    )
    return replace(found, reason=_reason(found, len(scores), ordered=ordered, alpha=alpha))


def _reason(found: Validity, untrained: int, *, ordered: bool, alpha: float) -> str:
    if untrained < 2:
        return f"{untrained} untrained encoder shows no spread to beat: it takes two (random_inits)"
    if 2 * found.learnt < found.of:
        return f"encoders of {found.whose} did not learn: {found}"
    if ordered and found.p >= alpha:
        return f"configurations of {found.whose} differ no more than their seeds do: {found.spread}"
    return ""


def _spread(
    records: Sequence[Record], usable: set[str], untrained: list[float], level: Level
) -> tuple[float, float, bool]:
    """Reliability of configurations' means, p of the F test, and whether the seeds are the configurations' own."""
    runs = sorted((r for r in records if r.config in usable), key=lambda r: r.config)
    groups = [[r.performance[level] for r in group] for _, group in groupby(runs, key=lambda r: r.config)]
    repeated = [group for group in groups if len(group) > 1]
    noisy = repeated or [untrained]
    degrees = sum(len(group) - 1 for group in noisy)
    if len(groups) < 2 or degrees < 1:
        return math.nan, math.nan, bool(repeated)
    within = sum((len(group) - 1) * statistics.variance(group) for group in noisy) / degrees
    means = [statistics.fmean(group) for group in groups]
    if within == 0 or len(set(means)) == 1:
        differ = len(set(means)) > 1
        return float(differ), float(not differ), bool(repeated)
    grand = statistics.fmean(v for group in groups for v in group)
    between = sum(len(g) * (mean - grand) ** 2 for g, mean in zip(groups, means, strict=True)) / (len(groups) - 1)
    p = float(stats.f.sf(between / within, len(groups) - 1, degrees))
    return max(0.0, 1 - within / between), p, bool(repeated)


def performances(records: Sequence[Record], level: Level) -> list[float]:
    """Performance of the complete encoders in which it is finite, percent."""
    return [v for r in records if r.status == "complete" and math.isfinite(v := figures(r, level)[2])]


def collapsed(records: Sequence[Record]) -> tuple[str, ...]:
    """Case ids of the trained encoders with dense L_u above -.02."""
    return tuple(r.case for r in _trained(records) if r.uniformity.get("dense", -math.inf) > COLLAPSED)


def at_shortcut(records: Sequence[Record]) -> tuple[str, ...]:
    """Case ids of the trained encoders whose last logged loss is at the least that knowing the place alone gives.

    At it is within 1 % (``AT_OPTIMUM``), or above it. It is a hint and decides nothing: at temperatures from about 1 on
    every loss that there can be lies as near.
    """
    return tuple(
        r.case
        for r in _trained(records)
        if r.losses and r.losses[-1][1] >= r.position_only_loss - AT_OPTIMUM * max(1.0, abs(r.position_only_loss))
    )


def place_sentence(records: Sequence[Record], untrained: Sequence[Record]) -> str:
    """That encoders of a row mostly know the place, in one sentence; empty where they do not.

    They do where more than half of the variance of the median encoder's features is the cell's place. Untrained
    encoders are told for comparison and are no threshold: padding alone gives some of them more than half.
    """
    share = _median_share(_trained(records))
    if not share > MOSTLY:
        return ""
    free = _median_share([r for r in untrained if r.status == "complete"])
    beside = "" if math.isnan(free) else f", {free:.2f} of untrained ones"
    return f"encoders of this row mostly know the place: the median's position share is {share:.2f}{beside}"


def listed(names: Sequence[str]) -> str:
    """The first five, and how many more."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{', '.join(names[:LISTED])}{more}"


def _trained(records: Sequence[Record]) -> list[Record]:
    return [r for r in records if r.status == "complete" and r.family != RANDOM_INIT]


def _median_share(records: Sequence[Record]) -> float:
    shares = [share for r in records if math.isfinite(share := r.probes.get("position_share", math.nan))]
    return statistics.median(shares) if shares else math.nan
