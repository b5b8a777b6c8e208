"""What the report knows of a row, and how it writes numbers and verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from rich.text import Text

from cl_bench.claims import paper
from cl_bench.claims.judgement import (
    Judgement,
    Verdict,
)
from cl_bench.claims.paper import Own, PaperRow
from cl_bench.spec.claim import Claim
from cl_bench.spec.records import FAMILIES, LEVELS, Better, Family, Level, Record
from cl_bench.statistics.correlation import Correlation, correlate

Metric = Literal["coco_ap", "voc07_ap"]
AP_UNITS: dict[Metric, str] = {"coco_ap": "AP, %", "voc07_ap": "VOC07 AP, %"}
COLOURS = {Verdict.SUPPORTED: "green", Verdict.REFUTED: "red", Verdict.INCONCLUSIVE: "yellow"}


@dataclass(frozen=True)
class RowResult:
    """One row of the comparison: a method on some data, and what was made of it.

    Attributes:
        name: Short and unique, as in file names.
        title: For people.
        method: The method with its options.
        scheme: Pre-training scheme, ``instance`` or ``dense``.
        data: Pre-training data.
        views: ``overlapping`` or ``disjoint``.
        records: Trained encoders of the row.
        random_init: Randomly initialised encoders to compare with.
        judgements: Claims about the row, judged.
        expected: Number of trained encoders that the row asks for.
        profile: Name of the profile.
        detection_protocol: How detection was evaluated, in a sentence.
        linear_protocol: How linear evaluation was done, in a sentence.
        known: Claims that the profile is known not to reproduce, each with its reason.
        alpha: One-sided level of the claims.
        margin: By how many percentage points a method may fall behind and still count as no worse.
        dataset: What ``data`` was drawn from: ``scenes``, ``stl10``, ``coco``.
        detection_metric: What detection's performance is; its value at IoU .50 is ``extra[f"{detection_metric}50"]``.
        better: Which values of a predictor are better, by its name.
        departs: Whether recipes, schedules or evaluation sets differ from the paper's, whatever the pre-training data.
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
        """Tau by level and family; that of the total is the one that was judged, where a claim was."""
        judged = {j.correlation.level: j.correlation for j in self.judgements if j.correlation}
        return {
            (level, family): (judged.get(level) if family == "total" else None)
            or correlate(self.records, level, family)
            for level in LEVELS
            for family in FAMILIES
        }

    def unit(self, level: Level) -> str:
        """What performance is counted in."""
        return "accuracy, %" if level == "instance" else AP_UNITS[self.detection_metric]

    def printed(self, family: Family) -> PaperRow | None:
        """The paper's row that this one answers to."""
        return paper.lookup(self.data, self.views, self.scheme, family)

    def papers_own(self, claim: Claim) -> Own | None:
        """What the paper's own numbers give a claim about this row."""
        return paper.own(claim, self.data, self.views, self.method, self.alpha)

    def of_papers_data(self, printed: PaperRow) -> bool:
        """Whether a printed row's encoders saw the same data set, so that figures can be compared and not only taus."""
        return printed.data in (self.data, self.dataset)

    def of_papers_setting(self, printed: PaperRow, level: Level) -> bool:
        """Whether performance is of the same data sets, recipes and metric as a printed row's."""
        metric = level == "instance" or self.detection_metric == paper.METRIC
        return self.of_papers_data(printed) and metric and not self.departs

    def untrained(self, level: Level) -> list[float]:
        """Performance of the randomly initialised encoders, percent."""
        values = (r.performance.get(level, math.nan) for r in self.random_init if r.status == "complete")
        return [v for v in values if math.isfinite(v)]

    @property
    def measured_untrained(self) -> list[Record]:
        """The randomly initialised encoders that were measured on this row's images and views."""
        return [r for r in self.random_init if (r.data, r.views) == (self.data, self.views)]

    @property
    def measured(self) -> list[Level]:
        """The levels of which there is anything to tell."""
        return [level for level in LEVELS if any(level in r.performance for r in self.records)]

    @property
    def matching_precision(self) -> list[float]:
        """Of each trained encoder for which it is defined: the share in [0, 1] of its positives that are correct."""
        return [r.extra["matching_precision"] for r in self.records if "matching_precision" in r.extra]


def number(value: float) -> str:
    """Five characters: two decimals, one from 100 on."""
    return f"{value:.2f}" if value < 99.995 else f"{value:.1f}"


def verdicts(judgements: Sequence[Judgement]) -> Text:
    """One a line, in colour; beneath that of an exploratory claim the word."""
    lines = []
    for judgement in judgements:
        lines.append(Text(judgement.verdict.value, style=f"bold {COLOURS[judgement.verdict]}"))
        lines += [Text("exploratory", style="dim")] if judgement.claim.exploratory else []
    return Text("\n").join(lines)
