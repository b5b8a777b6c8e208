"""From records to tau, its interval and a verdict. Pure: neither torch nor pytest, nothing read, nothing written.

The unit of analysis is a *configuration* of the objective: its seeds are averaged first, because seeds of one
configuration are not independent points of a correlation.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cl_bench.comparison import Comparison, compare
from cl_bench.power import FEWEST, POWER, needed_for
from cl_bench.records import LEVELS, RANDOM_INIT, Family, Level, Record, configurations, figures

EVALUATIONS: Mapping[Level, str] = {"instance": "linear evaluation", "dense": "detection"}
PERMUTATIONS, RESAMPLES = 9999, 2000
_SEED, _CHUNK = 20220, 2_000_000  # of resampling; pairwise signs held at once
_TEXTS = {
    "tau_negative": "better aligned and more uniform features go with better {} (tau < 0)",
    "tau_not_negative": "better aligned and more uniform features no longer go with better {} (tau > 0)",
    "at_random_level": "on average {} falls to the level of random initialisation or below",
    "no_worse_than": "on average the reference does no worse at {}",
}
Array = NDArray[np.float64]


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
class Correlation:
    """Kendall's tau-b between ``normalised_sum(L_a, L_u)`` and performance over a row's configurations.

    Attributes:
        level: Where all three were measured.
        family: Objective family, or ``total`` for all of them.
        n: Number of configurations.
        tau: In [-1, 1]; negative where better aligned and more uniform goes with better; nan where undefined.
        low, high: 95 % percentile bootstrap interval, nan below four configurations.
        p_negative, p_positive: One-sided p of tau < 0, of tau > 0.
        method: How p was had: ``exact``, ``permutation`` (there are ties), ``none`` (tau is undefined).
        needed: Configurations that would show such a tau with power .8, or None where tau is 0 or undefined.
        left_out: Case ids of the configurations left out, because a record of theirs is not complete and finite.
    """

    level: Level
    family: Family
    n: int
    tau: float
    low: float
    high: float
    p_negative: float
    p_positive: float
    method: Literal["exact", "permutation", "none"]
    needed: int | None
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        if math.isnan(self.tau):
            return "undefined"
        return f"{self.tau:.2f} [{self.low:.2f}, {self.high:.2f}]" if self.n >= FEWEST else f"{self.tau:.2f}"


@dataclass(frozen=True)
class Contrast:
    """Mean performance of ``n`` configurations and of ``n_random`` randomly initialised encoders, in percent.

    ``low`` and ``high`` bound their difference (percentage points) in the two-sided ``1 - 2 alpha`` Welch interval, nan
    where undefined; a difference below ``margin`` counts as the level of random initialisation.
    """

    mean: float
    random_mean: float
    difference: float
    low: float
    high: float
    n: int
    n_random: int
    margin: float

    def __str__(self) -> str:
        return (
            f"{self.mean:.2f} - {self.random_mean:.2f} (random) = {self.difference:+.2f} points "
            f"[{self.low:+.2f}, {self.high:+.2f}], margin {self.margin:g}, n = {self.n} and {self.n_random}"
        )


@dataclass(frozen=True)
class Claim:
    """What is said of a row; ``level`` is ``instance`` (linear evaluation) or ``dense`` (detection).

    Raises:
        ValueError: If the kind or the level is not one of those named here.
    """

    kind: Literal["tau_negative", "tau_not_negative", "at_random_level", "no_worse_than"]
    level: Level

    def __post_init__(self) -> None:
        if self.kind not in _TEXTS or self.level not in LEVELS:
            raise ValueError(f"claim {self.kind!r} at level {self.level!r}: kinds {list(_TEXTS)}, levels {LEVELS}")

    @property
    def text(self) -> str:
        """The claim as a person would say it."""
        return _TEXTS[self.kind].format(EVALUATIONS[self.level])

    @property
    def about_tau(self) -> bool:
        """Whether it is decided by a correlation."""
        return self.kind in ("tau_negative", "tau_not_negative")


@dataclass(frozen=True)
class Judgement:
    """A claim about a row, its verdict and, in one ``sentence``, what that rests on.

    ``correlation`` is the whole row's, None if the claim is not about tau; ``contrast`` belongs to ``at_random_level``,
    ``comparison`` to ``no_worse_than``; ``missing`` names the cases without a record; ``alpha`` is the one-sided level.
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

    @property
    def p(self) -> float:
        """One-sided p of what is claimed; nan where nothing was judged, and of ``at_random_level``."""
        if self.correlation is not None:
            return self.correlation.p_negative if self.claim.kind == "tau_negative" else self.correlation.p_positive
        return self.comparison.p if self.comparison is not None else math.nan

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
            optional = ("needed", "correlation", "contrast", "comparison")
            values = {k: math.nan if v is None and k not in optional else v for k, v in data.items()}
            return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}

        data = json.loads(text, object_hook=restore)
        kinds = {"claim": Claim, "correlation": Correlation, "contrast": Contrast, "comparison": Comparison}
        for name, kind in kinds.items():
            data[name] = data[name] and kind(**data[name])
        return cls(**{**data, "verdict": Verdict(data["verdict"])})


def normalised_sum(L_a: Array, L_u: Array) -> Array:
    """``minmax(L_a) + minmax(L_u)``, each (..., n) over the last axis, in [0, 2]; a constant column counts as zeros."""

    def minmax(values: Array) -> Array:
        span = np.ptp(values, axis=-1, keepdims=True)
        return np.asarray((values - np.min(values, -1, keepdims=True)) / np.where(span > 0, span, 1.0))

    return minmax(L_a) + minmax(L_u)


def _pair_signs(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Concordant minus discordant pairs, pairs untied in x, and in y: (m,) each, of y (m, n) and x (m, n) or (1, n)."""
    i, j = np.triu_indices(y.shape[1], 1)
    x = np.broadcast_to(x, y.shape)
    parts = []
    step = max(1, _CHUNK // max(1, len(i)))
    for at in range(0, len(y), step):
        a, b = x[at : at + step], y[at : at + step]
        sx, sy = np.sign(a[:, i] - a[:, j]), np.sign(b[:, i] - b[:, j])
        parts.append(np.stack([(sx * sy).sum(-1), (sx * sx).sum(-1), (sy * sy).sum(-1)]))
    s, untied_x, untied_y = np.concatenate(parts, axis=1)
    return s, untied_x, untied_y


def _bootstrap(points: Array) -> tuple[float, float]:
    """95 % percentile interval of tau over resampled configurations; points (3, n): L_a, L_u, performance."""
    n = points.shape[1]
    L_a, L_u, performance = points[:, np.random.default_rng(_SEED).integers(n, size=(RESAMPLES, n))]
    s, untied_x, untied_y = _pair_signs(normalised_sum(L_a, L_u), performance)
    defined = untied_x * untied_y > 0
    low, high = np.percentile(s[defined] / np.sqrt(untied_x * untied_y)[defined], [2.5, 97.5])
    return float(low), float(high)


def one_sided(x: Array, y: Array) -> tuple[float, float, Literal["exact", "permutation"]]:
    """P(tau as low), P(tau as high) under no association; a random permutation test where there are ties."""
    if len(np.unique(x)) == len(x) and len(np.unique(y)) == len(y):
        less, greater = (stats.kendalltau(x, y, method="exact", alternative=a).pvalue for a in ("less", "greater"))
        return float(less), float(greater), "exact"
    # Under permutation the denominator of tau-b stays: the pair count decides, in whole numbers.
    shuffled = np.random.default_rng(_SEED).permuted(np.tile(y, (PERMUTATIONS, 1)), axis=1)
    observed, s = _pair_signs(x[None], y[None])[0], _pair_signs(x[None], shuffled)[0]
    less, greater = ((1 + int(hits.sum())) / (1 + PERMUTATIONS) for hits in (s <= observed, s >= observed))
    return less, greater, "permutation"


def correlate(records: Sequence[Record], level: Level, family: Family = "total", alpha: float = 0.05) -> Correlation:
    """Kendall's tau-b of a row (the paper's statistic), with what is needed to believe it.

    p is exact without ties and a seeded permutation test (9,999) with them. The interval is a seeded percentile
    bootstrap (2,000) over configurations that recomputes the min-max in every resample and drops the resamples in
    which tau is undefined. The min-max is over the configurations that take part; the order of records is of no effect.

    Raises:
        ValueError: If the records are of more than one row.
    """
    kept, left_out = configurations(records, level, family)
    n = len(kept)
    points = np.array([(c.alignment, c.uniformity, c.performance) for c in kept], dtype=np.float64).reshape(n, 3).T
    x = normalised_sum(points[0], points[1]) if n else points[0]
    if n < 2 or np.ptp(x) == 0 or np.ptp(points[2]) == 0:
        return Correlation(level, family, n, math.nan, math.nan, math.nan, 1.0, 1.0, "none", None, left_out)
    tau = float(stats.kendalltau(x, points[2], variant="b").statistic)
    less, greater, method = one_sided(x, points[2])
    low, high = _bootstrap(points) if n >= FEWEST else (math.nan, math.nan)
    return Correlation(level, family, n, tau, low, high, less, greater, method, needed_for(tau, alpha), left_out)


def contrast(performance: Sequence[float], random: Sequence[float], alpha: float, margin: float) -> Contrast:
    """Welch's interval of mean performance minus that of random initialisation: two one-sided tests at ``alpha``.

    A group of one is taken as known (a one-sample t interval of the other); two groups without variance give the
    difference itself. Where neither group has two values, or one is empty, the interval is nan.
    """
    mean, random_mean = (statistics.fmean(g) if g else math.nan for g in (performance, random))
    spreads = [(statistics.variance(g) / len(g), len(g) - 1) for g in (performance, random) if len(g) > 1]
    variance, difference = sum(v for v, _ in spreads), mean - random_mean
    half = 0.0 if spreads else math.nan
    if variance > 0:
        degrees = variance**2 / sum(v**2 / df for v, df in spreads)
        half = float(stats.t.isf(alpha, degrees)) * math.sqrt(variance)
    low, high = difference - half, difference + half
    return Contrast(mean, random_mean, difference, low, high, len(performance), len(random), margin)


def judge(
    claim: Claim,
    row: str,
    records: Sequence[Record],
    expected: Sequence[str],
    random_init: Sequence[Record] = (),
    alpha: float = 0.05,
    margin: float = 1.0,
    reference: Sequence[Record] = (),
) -> Judgement:
    """The verdict of a row's records on a claim.

    ``tau_negative`` is supported by a one-sided p of tau < 0 below alpha and refuted by one of tau > 0.
    ``tau_not_negative`` is its mirror: that a correlation is *not* found is no support, since a small sweep never finds
    one; only a tau that is significantly positive shows that it is no longer negative. ``at_random_level`` is supported
    where the ``1 - 2 alpha`` interval of mean performance minus that of random initialisation lies below ``margin``,
    refuted where it lies above. ``no_worse_than`` is of a reference method against the row's: supported where the
    ``1 - 2 alpha`` interval of the mean paired difference, reference minus row, lies above ``-margin``, refuted where
    it lies below. Nothing is concluded from fewer than four configurations (or pairs), or if over half are left out.

    Args:
        claim: What is claimed.
        row: Name of the row, for the sentence.
        records: The row's; those not ``expected`` take no part. Diverged and failed ones count as present.
        expected: Case ids that the claim's grid asks for, of the reference too.
        random_init: Randomly initialised encoders, for ``at_random_level``.
        alpha: One-sided level.
        margin: In percentage points (ours).
        reference: Records of the method to compare with, for ``no_worse_than``; on the row's data and views.

    Raises:
        IncompleteSweep: If an expected case has no record, or a complete one was not measured at the claim's level; or
            if there is no randomly initialised encoder to compare with.
        ValueError: If the records, or the reference's, are of more than one row.
    """
    level, wanted = claim.level, set(expected)
    present, others = ([r for r in side if r.case in wanted] for side in (records, reference))
    both = [*present, *others]
    measured = {r.case for r in both if all(level in c for c in (r.alignment, r.uniformity, r.performance))}
    seen = measured | {r.case for r in both if r.status != "complete"}
    missing = [case for case in expected if case not in seen]
    random = [v for r in random_init if r.status == "complete" and math.isfinite(v := figures(r, level)[2])]
    if claim.kind == "at_random_level" and not random:
        missing.append(RANDOM_INIT)
    if missing:
        raise IncompleteSweep(row, missing)

    kept, left_out = configurations(present, level)
    remain, asked = len(kept), len({r.config for r in present if r.family != RANDOM_INIT})
    correlation = compared = comparison = None
    if claim.about_tau:
        correlation = correlate(present, level, alpha=alpha)
        p, against, side = correlation.p_negative, correlation.p_positive, "<"
        if claim.kind == "tau_not_negative":
            p, against, side = against, p, ">"
        supported, refuted = p < alpha, against < alpha
        shown, way = (against, "><"[side == ">"]) if refuted else (p, side)
        evidence = f"tau = {correlation}, n = {correlation.n}, p(tau {way} 0) = {shown:.2g} ({correlation.method})"
    elif claim.kind == "at_random_level":
        compared = contrast([c.performance for c in kept], random, alpha, margin)
        supported, refuted = compared.high < margin, compared.low > margin
        evidence = str(compared)
    else:
        comparison = compare(others, present, level, alpha, margin)
        remain, asked, left_out = comparison.n, comparison.n + len(comparison.left_out), comparison.left_out
        supported, refuted = comparison.low > -margin, comparison.high < -margin
        evidence = str(comparison)
    verdict = Verdict.SUPPORTED if supported else Verdict.REFUTED if refuted else Verdict.INCONCLUSIVE
    if remain < FEWEST or 2 * remain < asked:
        verdict = Verdict.INCONCLUSIVE
        unit = "pairs" if comparison else "configurations"
        evidence += f"; too few: {remain} of {asked} {unit} remain"
    elif verdict is Verdict.INCONCLUSIVE and correlation and correlation.needed:
        way = "support" if (correlation.tau < 0) == (side == "<") else "refute"
        evidence += f"; were this tau true, n = {correlation.needed} would {way} it with power {POWER}"
    if left_out:
        more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
        evidence += f"; left out: {', '.join(left_out[:5])}{more}"
    sentence = f"{row}: {verdict}: {claim.text}; {evidence}"
    return Judgement(claim, row, verdict, correlation, compared, sentence, alpha=alpha, comparison=comparison)


def holm(judgements: Sequence[Judgement]) -> list[float]:
    """Holm-adjusted one-sided p of each claim over the run, in order; nan for a claim without a p."""
    adjusted = [math.nan] * len(judgements)
    p = {i: j.p for i, j in enumerate(judgements) if not math.isnan(j.p)}
    worst = 0.0
    for rank, i in enumerate(sorted(p, key=p.__getitem__)):
        worst = max(worst, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = worst
    return adjusted
