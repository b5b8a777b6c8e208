"""Numbers printed in the paper (Moon, Kim, Choi, BMVC 2022, arXiv:2210.08819), Tables 1 to 3, and agreement with them.

The paper's setting differs from a run on embedded data: STL-10 and COCO, ResNet-18, 200 epochs, 12 to 100 models a row.
Linear evaluation is STL-10 accuracy in percent. For detection the paper prints "average precision (AP)" in percent
without naming the kind. It is taken to be the one that MoCo's VOC recipe reports, VOC07 AP (11 points, IoU
.50:.05:.95), which is not COCO's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from cl_bench.claims.comparison import REFERENCE
from cl_bench.claims.judgement import Verdict
from cl_bench.spec.claim import NEGLIGIBLE, Claim
from cl_bench.spec.records import EVALUATIONS, LEVELS, OTHER_LEVEL, Level
from cl_bench.statistics.correlation import Correlation, Method, one_sided
from cl_bench.statistics.kendall import equivalence
from cl_bench.statistics.power import FEWEST, spread

CITED = "Moon, Kim, Choi, BMVC 2022"
SOURCE = f"{CITED}, Tables 1-3"
SETTINGS = {"single_object": "stl10", "multi_object": "coco"}
"""Data set of the paper for each kind of pre-training data; embedded data of that kind ask the same question."""
SETTING_NAMES = {"stl10": "STL-10", "coco": "COCO"}
METRIC, METRIC_NAME = "voc07_ap", "VOC07 AP"
METHODS: Mapping[Level, str] = {"instance": "instance", "dense": REFERENCE}
"""Method of this suite for each scheme of the paper; no other matching has a printed row."""
ROUNDING = 0.01  # half a hundredth for a printed number, and as much for the mean of printed numbers
SWAPPED = "the text of section 4.3 swaps the two detection taus of Table 2"


@dataclass(frozen=True)
class Score:
    """One evaluation of one printed row.

    Attributes:
        models: Number of models.
        max: Best model, percent.
        avg: Mean over models, percent.
        top10: Mean of the best ten, percent.
        tau: Kendall's tau-b with the normalised sum of L_a and L_u.
    """

    models: int
    max: float
    avg: float
    top10: float
    tau: float

    @property
    def told_from_zero(self) -> bool:
        """True where tau differs from 0 at the 5 % level (two-sided), for that number of models.

        It uses Kendall's normal approximation, since the paper prints neither intervals nor p.
        """
        return abs(self.tau) > float(stats.norm.isf(0.025)) * spread(self.models)


@dataclass(frozen=True)
class PaperRow:
    """One printed row.

    Attributes:
        table: 1, 2 or 3.
        data: Pre-training data, ``stl10`` or ``coco``.
        views: ``overlapping``, or ``disjoint`` in Table 3.
        scheme: ``instance`` or ``dense``.
        loss: ``align_uniform``, ``info_nce`` or ``total``.
        linear: Linear evaluation.
        detection: Detection.
    """

    table: int
    data: Literal["stl10", "coco"]
    views: Literal["overlapping", "disjoint"]
    scheme: Level
    loss: Literal["align_uniform", "info_nce", "total"]
    linear: Score
    detection: Score

    def score(self, level: Level) -> Score:
        """Return the linear evaluation at ``instance`` level and the detection at ``dense`` level."""
        return self.linear if level == "instance" else self.detection

    @property
    def families(self) -> tuple[PaperRow, ...]:
        """Printed rows of the families that make up a total; none in Table 3, and none if this is not a total."""
        kin = (row for row in ROWS if (row.table, row.data, row.scheme) == (self.table, self.data, self.scheme))
        return tuple(row for row in kin if self.loss == "total" != row.loss)

    @property
    def separate(self) -> bool:
        """True for families, and for totals without printed families: no two of these rows share a model."""
        return not self.families

    def notes(self, level: Level) -> tuple[str, ...]:
        """Return remarks on the printed numbers, which are shown as printed even where they contradict each other."""
        swapped = (self.table, self.loss, level) == (2, "total", "dense")
        found = inconsistencies(self.score(level), [family.score(level) for family in self.families])
        return (*found, *([SWAPPED] if swapped else []))


# fmt: off
ROWS: tuple[PaperRow, ...] = (
    PaperRow(1, "stl10", "overlapping", "instance", "align_uniform",
             Score(70, 76.16, 64.39, 75.56, -0.50), Score(70, 40.37, 37.21, 40.14, -0.31)),
    PaperRow(1, "stl10", "overlapping", "instance", "info_nce",
             Score(30, 75.47, 71.99, 74.97, -0.07), Score(30, 43.38, 40.17, 42.33, -0.41)),
    PaperRow(1, "stl10", "overlapping", "instance", "total",
             Score(100, 76.16, 66.51, 75.61, -0.45), Score(100, 43.38, 38.02, 42.33, -0.41)),
    PaperRow(1, "stl10", "overlapping", "dense", "align_uniform",
             Score(70, 75.45, 64.61, 75.01, -0.19), Score(70, 43.44, 38.99, 43.19, -0.22)),
    PaperRow(1, "stl10", "overlapping", "dense", "info_nce",
             Score(30, 75.12, 60.85, 74.18, -0.01), Score(30, 43.71, 39.63, 42.80, -0.54)),
    PaperRow(1, "stl10", "overlapping", "dense", "total",
             Score(100, 75.45, 63.47, 75.13, -0.32), Score(100, 43.71, 39.20, 43.31, -0.12)),
    PaperRow(2, "coco", "overlapping", "instance", "align_uniform",
             Score(40, 67.58, 59.48, 66.75, -0.54), Score(40, 44.54, 38.27, 43.94, -0.23)),
    PaperRow(2, "coco", "overlapping", "instance", "info_nce",
             Score(20, 67.99, 65.05, 66.63, -0.67), Score(20, 44.51, 37.77, 42.83, -0.03)),
    PaperRow(2, "coco", "overlapping", "instance", "total",
             Score(60, 67.99, 61.43, 67.17, -0.67), Score(60, 44.54, 38.09, 44.32, -0.13)),
    PaperRow(2, "coco", "overlapping", "dense", "align_uniform",
             Score(40, 60.19, 53.41, 58.64, -0.21), Score(40, 44.71, 36.99, 42.90, -0.41)),
    PaperRow(2, "coco", "overlapping", "dense", "info_nce",
             Score(20, 59.29, 46.36, 57.30, -0.10), Score(20, 44.95, 38.69, 42.89, -0.54)),
    PaperRow(2, "coco", "overlapping", "dense", "total",
             Score(60, 60.19, 50.39, 58.84, -0.01), Score(60, 44.95, 37.72, 44.12, -0.21)),
    PaperRow(3, "stl10", "disjoint", "dense", "total",
             Score(46, 69.94, 57.60, 68.74, -0.35), Score(46, 43.06, 40.01, 42.78, -0.65)),
    PaperRow(3, "coco", "disjoint", "dense", "total",
             Score(12, 54.89, 40.30, 44.80, -0.15), Score(12, 32.49, 32.03, 32.12, 0.03)),
)
# fmt: on
RANDOM_INIT: dict[Level, float] = {"instance": 28.04, "dense": 31.93}
"""Score of the one randomly initialised encoder by level, percent; nothing else of it is printed."""


def scheme_of(method: str) -> Level | None:
    """Return the paper's scheme that a method of this suite is, or None for another matching."""
    return next((scheme for scheme, answers in METHODS.items() if answers == method), None)


def lookup(data: str, views: str, scheme: str, loss: str) -> PaperRow | None:
    """Return the printed row that corresponds to a row of this suite, or None.

    Args:
        data: ``stl10`` or ``coco``, or the kind of data (``SETTINGS``), ``single_object`` or ``multi_object``. With
            other data of that kind the setting differs, and only the sign and the order of tau can be compared.
        views: ``overlapping`` or ``disjoint``.
        scheme: ``instance`` or ``dense``.
        loss: ``align_uniform``, ``info_nce`` or ``total``.
    """
    wanted = (SETTINGS.get(data, data), views, scheme, loss)
    return next((row for row in ROWS if (row.data, row.views, row.scheme, row.loss) == wanted), None)


@dataclass(frozen=True)
class Own:
    """Verdict of the paper's own numbers on a claim.

    Attributes:
        numbers: The printed numbers in words.
        verdict: Verdict of our rule on a printed tau and its n; None for printed means, which come without a spread.
        p: One-sided p of the claim; nan without a verdict.
    """

    numbers: str
    verdict: Verdict | None = None
    p: float = math.nan

    def __str__(self) -> str:
        if self.verdict is None:
            return f"the paper's own {self.numbers}; it prints no spread, so they cannot be tested"
        return f"the paper's own {self.numbers}: of independent models it would be {self.verdict} (p = {self.p:.2g})"


def own(claim: Claim, data: str, views: str, method: str, alpha: float = 0.05) -> Own | None:
    """Judge a claim about a row by the paper's own numbers; None where the paper prints none for such a row.

    This takes the paper's models for independent, which points on a grid are not, since it prints no figures of each.
    p uses the normal approximation of tau without ties: the printed tau has two decimals, so an exact p would suggest
    more precision than there is. Where the printed numbers are means, the result gives their difference.
    """
    scheme = scheme_of(method)
    row = scheme and lookup(data, views, scheme, "total")
    if not scheme or not row:
        return None
    score = row.score(claim.level)
    if claim.about_tau:
        if claim.kind == "no_correlation":
            p, against = equivalence(score.tau, score.models, NEGLIGIBLE)
        else:
            negative, positive = (float(stats.norm.cdf(side * score.tau / spread(score.models))) for side in (1, -1))
            p, against = (negative, positive) if claim.kind == "tau_negative" else (positive, negative)
        verdict = Verdict.SUPPORTED if p < alpha else Verdict.REFUTED if against < alpha else Verdict.INCONCLUSIVE
        return Own(f"tau {score.tau:.2f}, n {score.models}", verdict, p)
    if claim.about_untrained:
        return Own(_averages(score.avg, RANDOM_INIT[claim.level]))
    other = {"keeps_up": (data, OTHER_LEVEL[scheme]), "falls_behind": ("single_object", scheme)}.get(claim.kind)
    against_row = other and lookup(other[0], views, other[1], "total")
    if not against_row:
        return None
    pair = score.avg, against_row.score(claim.level).avg
    return Own(_averages(*(pair if claim.kind == "keeps_up" else reversed(pair))))


def _averages(one: float, other: float) -> str:
    return f"averages {one:.2f} - {other:.2f} = {one - other:+.2f} points"


def inconsistencies(total: Score, families: Sequence[Score]) -> tuple[str, ...]:
    """Describe where a total does not follow from its families by more than rounding, with the numbers concerned.

    A total tau outside the range of theirs is no contradiction, since it compares models across families too, on a
    min-max over all of them. It is named because a reader of the families' numbers would expect otherwise.
    """
    if not families:
        return ()
    models = sum(s.models for s in families)
    mean = sum(s.models * s.avg for s in families) / models
    best, top10, taus = max(s.max for s in families), max(s.top10 for s in families), [s.tau for s in families]
    parts = " and ".join(f"{s.models} x {s.avg:.2f}" for s in families)
    between = " and ".join(f"{tau:.2f}" for tau in taus)
    off = (
        (total.models != models, f"{total.models} models, where the families have {models}"),
        (total.max != best, f"max {total.max:.2f}, where the families' is {best:.2f}"),
        (abs(total.avg - mean) > ROUNDING + 1e-9, f"avg {total.avg:.2f}, where {parts} give {mean:.2f}"),
        (total.top10 < top10, f"top10 {total.top10:.2f}, where a family has {top10:.2f}"),
        (total.top10 > total.max, f"top10 {total.top10:.2f}, where the max is {total.max:.2f}"),
        (
            not min(taus) <= total.tau <= max(taus),
            f"tau {total.tau:.2f}, outside its families' {between}: it compares families too",
        ),
    )
    return tuple(text for is_off, text in off if is_off)


_OFF = [note.split()[0] for row in ROWS if row.families for level in LEVELS for note in row.notes(level)]
NOTE = (
    f'"Average precision (AP)" is read as {METRIC_NAME}, that of MoCo\'s recipe. '
    f"As printed: the avg of {_OFF.count('avg')} totals is not the mean that their counts give, the tau of "
    f"{_OFF.count('tau')} is not between their families', and {SWAPPED}."
)
RANDOM_NOTE = "of random initialisation only n = 1 and the score are printed: " + ", ".join(
    f"{EVALUATIONS[level]} {score:.2f}" for level, score in RANDOM_INIT.items()
)


@dataclass(frozen=True)
class Pair:
    """Our tau of a row at a level, and the paper's."""

    ours: Correlation
    printed: Score

    @property
    def sign(self) -> Literal["same", "other", "-"]:
        """``same`` if both taus lie on one side of 0, else ``other``; ``-`` if a tau is 0 or ours is undefined."""
        product = self.ours.tau * self.printed.tau
        return "-" if math.isnan(product) or product == 0 else "same" if product > 0 else "other"

    @property
    def certain(self) -> bool:
        """True where both differ from 0: our 95 % interval excludes it, and the paper's tau is ``told_from_zero``."""
        return (self.ours.low > 0 or self.ours.high < 0) and self.printed.told_from_zero


@dataclass(frozen=True)
class Agreement:
    """Agreement of our rows with the paper's.

    Attributes:
        rows: Number of rows whose tau is defined in our run.
        signed: Number of these rows in which neither tau is 0.
        same: Number of signed rows in which our tau has the paper's sign.
        certain: Number of signed rows in which both taus differ from 0 significantly.
        certain_same: Number of certain rows in which our tau has the paper's sign.
        tau: Kendall's tau-b of our taus with the paper's; nan below four rows and where one side does not vary.
        p: One-sided p of tau > 0 if the rows were exchangeable; nan if tau is nan, and for both evaluations together.
        method: Test that gave p: ``exact``, ``permutation`` (there are ties), ``none``.
    """

    rows: int
    signed: int
    same: int
    certain: int
    certain_same: int
    tau: float
    p: float
    method: Method


def agreement(pairs: Sequence[Pair]) -> Agreement:
    """Count equal signs, and compute Kendall's tau-b between our rows' taus and the paper's.

    Give only rows that share no model (``PaperRow.separate``); a total and its families would count the same models
    twice. Linear evaluation and detection of a row are of the same models, so there is no p for both together. The
    count of signs has no p either: nearly all of the paper's taus are negative, so anything that makes ours negative
    agrees, and our rows share a grid, seeds and evaluation images.
    """
    defined = [pair for pair in pairs if not math.isnan(pair.ours.tau)]
    signed = [pair for pair in defined if pair.sign != "-"]
    certain = [pair for pair in signed if pair.certain]
    same, certain_same = (sum(pair.sign == "same" for pair in some) for some in (signed, certain))
    ours, printed = np.array([(pair.ours.tau, pair.printed.tau) for pair in defined]).reshape(-1, 2).T
    tau = p = math.nan
    method: Method = "none"
    if len(defined) >= FEWEST and np.ptp(ours) > 0 and np.ptp(printed) > 0:
        tau = float(stats.kendalltau(ours, printed, variant="b").statistic)
        if len({pair.ours.level for pair in defined}) == 1:
            _, p, method = one_sided(ours, printed)
    return Agreement(len(defined), len(signed), same, len(certain), certain_same, tau, p, method)
