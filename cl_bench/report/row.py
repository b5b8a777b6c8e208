"""Results of a row as the report uses them, and the formatting of numbers and verdicts."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from rich.text import Text

from cl_bench.claims import paper
from cl_bench.claims.judgement import Judgement, Verdict
from cl_bench.claims.paper import Own, PaperRow
from cl_bench.spec.claim import Claim
from cl_bench.spec.records import FAMILIES, LEVELS, RANDOM_INIT, Better, Family, Level, Record
from cl_bench.statistics.correlation import Correlation, correlate

Metric = Literal["coco_ap", "voc07_ap"]
BEST = 10
AP_UNITS: dict[Metric, str] = {"coco_ap": "AP, %", "voc07_ap": "VOC07 AP, %"}
COLOURS = {Verdict.SUPPORTED: "green", Verdict.REFUTED: "red", Verdict.INCONCLUSIVE: "yellow"}


@dataclass(frozen=True)
class RowResult:
    """One row of the comparison: a method on some data, with its records and judgements.

    Attributes:
        name: Short unique name, used in file names.
        title: Title for display.
        method: Method with its options.
        scheme: Pre-training scheme, ``instance`` or ``dense``.
        data: Pre-training data.
        views: ``overlapping`` or ``disjoint``.
        records: Trained encoders of the row.
        random_init: Randomly initialised encoders to compare with.
        judgements: Judgements of the claims about the row.
        expected: Number of trained encoders that the row asks for.
        profile: Name of the profile.
        detection_protocol: Protocol of detection, in a sentence.
        linear_protocol: Protocol of linear evaluation, in a sentence.
        known: Claims that the profile is known not to reproduce, each with its reason.
        alpha: One-sided level of the claims.
        margin: Percentage points by which a method may fall behind and still count as no worse.
        dataset: Data set of ``data``: ``scenes``, ``stl10``, ``coco``.
        detection_metric: Metric of detection; its value at IoU .50 is ``extra[f"{detection_metric}50"]``.
        better: Better values (low or high) of each predictor, by its name.
        departs: True if recipes, schedules or evaluation sets differ from the paper's, whatever the pre-training data.
    """

    name: str
    title: str
    method: str
    scheme: Level
    data: str
    views: str
    records: tuple[Record, ...]
    random_init: tuple[Record, ...]
    judgements: tuple[Judgement, ...]
    expected: int
    profile: str
    detection_protocol: str
    linear_protocol: str
    known: tuple[tuple[Claim, str], ...] = ()
    alpha: float = 0.05
    margin: float = 1.0
    dataset: str = "scenes"
    detection_metric: Metric = "coco_ap"
    departs: bool = False
    better: Mapping[str, Better] = field(default_factory=dict)

    @cached_property
    def correlations(self) -> dict[tuple[Level, Family], Correlation]:
        """Correlation by level and family; that of the total is the judged one, if a claim was judged."""
        judged = {j.correlation.level: j.correlation for j in self.judgements if j.correlation}
        return {
            (level, family): (judged.get(level) if family == "total" else None)
            or correlate(self.records, level, family)
            for level in LEVELS
            for family in FAMILIES
        }

    def unit(self, level: Level) -> str:
        """Return the unit of performance at a level."""
        return "accuracy, %" if level == "instance" else AP_UNITS[self.detection_metric]

    def printed(self, family: Family) -> PaperRow | None:
        """Return the paper's row that corresponds to this one, or None: it has none of another matching strategy."""
        scheme = paper.scheme_of(self.method)
        return paper.lookup(self.data, self.views, scheme, family) if scheme else None

    @property
    def claimed(self) -> list[Judgement]:
        """Judgements in the order in which they are shown."""
        return sorted(self.judgements, key=lambda j: j.claim.place)

    def papers_own(self, claim: Claim) -> Own | None:
        """Judge a claim about this row by the paper's own numbers; None if it has none."""
        return paper.own(claim, self.data, self.views, self.method, self.alpha)

    def of_papers_data(self, printed: PaperRow) -> bool:
        """Return True if a printed row has the same data set, so that figures can be compared and not only taus."""
        return printed.data in (self.data, self.dataset)

    def of_papers_setting(self, printed: PaperRow, level: Level) -> bool:
        """Return True if performance has the same data sets, recipes and metric as in a printed row."""
        metric = level == "instance" or self.detection_metric == paper.METRIC
        return self.of_papers_data(printed) and metric and not self.departs

    def untrained(self, level: Level) -> list[float]:
        """Return the performance of the randomly initialised encoders, in percent."""
        values = (r.performance.get(level, math.nan) for r in self.random_init if r.status == "complete")
        return [v for v in values if math.isfinite(v)]

    @property
    def measured_untrained(self) -> list[Record]:
        """Randomly initialised encoders that were measured on this row's images and views."""
        return [r for r in self.random_init if (r.data, r.views) == (self.data, self.views)]

    @property
    def measured(self) -> list[Level]:
        """Levels for which there is anything to show."""
        return [level for level in LEVELS if any(level in r.performance for r in self.records)]

    @property
    def runs(self) -> str:
        """Number of complete runs, and of those that are not, as text."""
        trained = [r for r in self.records if r.family != RANDOM_INIT]
        counts = Counter[str](r.status for r in trained)
        counts["missing"] = max(0, self.expected - len(trained))
        others = [f"{counts[s]} {s}" for s in ("diverged", "failed", "missing") if counts[s]]
        return ", ".join([f"{counts['complete']} of {self.expected} runs complete", *others])

    @property
    def whole(self) -> bool:
        """True if all runs are there and complete."""
        return sum(r.status == "complete" and r.family != RANDOM_INIT for r in self.records) >= self.expected

    @property
    def matching_precision(self) -> list[float]:
        """Share in [0, 1] of correct positives, for each trained encoder for which it is defined."""
        return [r.extra["matching_precision"] for r in self.records if "matching_precision" in r.extra]


class Performance(NamedTuple):
    """Performance of some models, percent, by the columns of the paper's tables.

    Attributes:
        models: Number of models.
        max: Best model.
        avg: Mean over models.
        top10: Mean of the best ten, or of all if they are fewer.
    """

    models: int
    max: float
    avg: float
    top10: float

    @property
    def few(self) -> str:
        """Number of models behind ``top10`` in brackets, if they are fewer than ten; else empty."""
        return f" ({self.models})" if self.models < BEST else ""


def performance_of(scores: Sequence[float]) -> Performance | None:
    """Return the figures of some models' performance, or None without models."""
    if not scores:
        return None
    best = sorted(scores, reverse=True)[:BEST]
    return Performance(len(scores), best[0], statistics.fmean(scores), statistics.fmean(best))


def number(value: float) -> str:
    """Format a number in five characters: two decimals, or one from 100 on."""
    return f"{value:.2f}" if value < 99.995 else f"{value:.1f}"


def verdicts(judgements: Sequence[Judgement]) -> Text:
    """Format verdicts in colour, one per line; exploratory claims have that word below the verdict."""
    lines = []
    for judgement in judgements:
        lines.append(Text(judgement.verdict.value, style=f"bold {COLOURS[judgement.verdict]}"))
        lines += [Text("exploratory", style="dim")] if judgement.claim.exploratory else []
    return Text("\n").join(lines)
