"""Conditions for judging a claim: did the encoders learn, and do the compared figures exceed their noise?

A correlation over encoders that learnt nothing shows noise, or whatever they learnt instead of content. Such a row
says something about its recipe, and nothing about the claim.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from scipy import stats

from cl_bench.errors import listed
from cl_bench.spec.records import EVALUATIONS, RANDOM_INIT, Level, Record, configurations, figures

COLLAPSED = -0.02
"""Dense L_u above which cells of different images count as equal; at 0 they are equal."""
AT_OPTIMUM = 0.01
"""Distance from the optimum of position-only features below which a final loss counts as being there.

It is in units of ``max(1, |optimum|)``: relative where the optimum is far from 0, and absolute near 0, where a relative
distance would be meaningless (L_a + w L_u passes through 0)."""
MOSTLY = 0.5
"""Position share above which features mostly encode the place of their cell."""


@dataclass(frozen=True)
class Validity:
    """Result of asking whether the encoders of a row learnt enough for a claim about them to be judged.

    Attributes:
        whose: The row that was examined, in words; not the claim's own row where that is predicted not to learn.
        level: Level of the evaluation that was examined.
        learnt: Number of configurations whose mean over seeds exceeds ``threshold``.
        of: Number of usable configurations; those that diverged are left out and named elsewhere.
        threshold: Mean of the untrained encoders plus its standard error, percent; nan with fewer than two of them.
        reliability: Share of the variance between configurations' means that seeds do not explain, in [0, 1]; nan where
            there are fewer than two configurations or no seeds' variance.
        p: p of the F test that configurations differ no more than seeds do; nan where reliability is nan.
        own_seeds: True if the variance of seeds is the configurations' own; where each configuration has one seed, that
            of the untrained encoders is used instead.
        collapsed: Case ids of the claim's own row with dense L_u above -.02.
        at_shortcut: Case ids of the claim's own row whose training ends at the loss of position-only features.
        knows_place: True if the features of the claim's own row mostly encode the place of their cell.
        reason: Reason why the claim cannot be judged; empty where it can.
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
            f"{self.learnt} of {self.of} beat the untrained mean by more than its standard error "
            f"({EVALUATIONS[self.level]} above {self.threshold:.2f})"
        )
        return beat if math.isnan(self.reliability) else f"{beat}, {self.spread}"

    @property
    def spread(self) -> str:
        """Reliability, with the p of its F test, in words."""
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
    """Check whether the encoders learnt enough for a claim about them to be judged.

    At least half of the configurations must beat the mean of the untrained encoders by more than its standard error
    (``sd / sqrt(k)``). A single untrained encoder gives no standard error, so at least two are needed. For a claim
    about an order (tau) performance must also vary more between configurations than between seeds: a one-way analysis
    of variance with its F test at ``alpha``. An effect that a seed has on all configurations counts as noise there,
    which is cautious. A claim about a mean needs no such variation, since all configurations may do equally well.

    Args:
        records: Records of the claim's own row, whose collapsed and shortcut encoders are named.
        untrained: Records of randomly initialised encoders.
        level: Level of the evaluation that must show learning.
        gate: Records of the row that must have learnt, if it is another: the overlapping twin for disjoint views.
        whose: That row in words.
        ordered: True for a claim about an order.
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
        return f"too few untrained encoders to compare with: {untrained}; set random_inits to 2 or more"
    if 2 * found.learnt < found.of:
        return f"encoders of {found.whose} did not learn: {found}"
    if ordered and found.p >= alpha:
        return f"configurations of {found.whose} differ no more than their seeds do: {found.spread}"
    return ""


def _spread(
    records: Sequence[Record], usable: set[str], untrained: list[float], level: Level
) -> tuple[float, float, bool]:
    """Return the reliability of configurations' means, p of the F test, and True if the seeds are their own."""
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
    """Return the finite performances of the complete encoders, in percent."""
    return [v for r in records if r.status == "complete" and math.isfinite(v := figures(r, level)[2])]


def collapsed(records: Sequence[Record]) -> tuple[str, ...]:
    """Return the case ids of the trained encoders with dense L_u above -.02."""
    return tuple(r.case for r in _trained(records) if r.uniformity.get("dense", -math.inf) > COLLAPSED)


def at_shortcut(records: Sequence[Record]) -> tuple[str, ...]:
    """Return the case ids of the trained encoders whose last logged loss does not beat position-only features.

    Such a loss is above the least loss of features that know only their cell's place, or within 1 % of it
    (``AT_OPTIMUM``). This is a hint and decides nothing: at temperatures of about 1 and more every possible loss is
    that near.
    """
    return tuple(
        r.case
        for r in _trained(records)
        if r.losses and r.losses[-1][1] >= r.position_only_loss - AT_OPTIMUM * max(1.0, abs(r.position_only_loss))
    )


def place_sentence(records: Sequence[Record], untrained: Sequence[Record]) -> str:
    """Say in one sentence that the encoders of a row mostly encode the place; empty where they do not.

    They do where the cell's place accounts for more than half of the variance of the median encoder's features. The
    share of untrained encoders is named for comparison; it is no threshold, since padding alone gives some of them more
    than half.
    """
    share = _median_share(_trained(records))
    if not share > MOSTLY:
        return ""
    free = _median_share([r for r in untrained if r.status == "complete"])
    beside = "" if math.isnan(free) else f", {free:.2f} of untrained ones"
    return f"encoders of this row mostly know the place: the median's position share is {share:.2f}{beside}"


def warnings(records: Sequence[Record], untrained: Sequence[Record]) -> list[str]:
    """Return sentences on encoders of a row that learnt something other than content, with their names."""
    told = [place] if (place := place_sentence(records, untrained)) else []
    at_optimum = (
        f"end at the loss of features that know only the place of each cell (within {AT_OPTIMUM:.0%}), or above it"
    )
    for names, what in (
        (collapsed(records), f"collapsed (dense L_u above {COLLAPSED:g})"),
        (at_shortcut(records), at_optimum),
    ):
        if names:
            told.append(f"{len(names)} of {len(records)} encoders {what}: {listed(names)}")
    return told


def _trained(records: Sequence[Record]) -> list[Record]:
    return [r for r in records if r.status == "complete" and r.family != RANDOM_INIT]


def _median_share(records: Sequence[Record]) -> float:
    shares = [share for r in records if math.isfinite(share := r.probes.get("position_share", math.nan))]
    return statistics.median(shares) if shares else math.nan
