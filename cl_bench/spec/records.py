"""Results of one encoder, and of a configuration over its seeds, as plain values that do not need torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

Level = Literal["instance", "dense"]
LEVELS: tuple[Level, Level] = ("instance", "dense")
OTHER_LEVEL: Mapping[Level, Level] = {"instance": "dense", "dense": "instance"}
EVALUATIONS: Mapping[Level, str] = {"instance": "linear evaluation", "dense": "detection"}
Better = Literal["low", "high"]
Status = Literal["complete", "diverged", "failed"]
RANDOM_INIT = "random_init"
Family = Literal["align_uniform", "info_nce", "total"]
FAMILIES: tuple[Family, Family, Family] = ("align_uniform", "info_nce", "total")
NAMES: Mapping[Family, str] = {"align_uniform": "L_a & L_u", "info_nce": "InfoNCE", "total": "total"}


@dataclass(frozen=True)
class Record:
    """Results of one encoder: its pre-training, the measurements on it, and its downstream performance.

    Attributes:
        key: Store key of the pre-training run.
        case: Id on the command line, such as ``dense_index-info_nce-t0.1-s0``.
        method: Method with its options, such as ``dense_emd:epsilon=0.1``; ``random_init`` for an untrained encoder.
        data: Pre-training data, such as ``single_object``.
        views: ``overlapping`` or ``disjoint``.
        family: Objective family: ``info_nce``, ``align_uniform`` or ``random_init``.
        config: Knobs of the objective without the seed, such as ``info_nce-t0.1``.
        seed: Seed of initialisation, data order and augmentation.
        status: ``complete``; ``diverged`` (NaN or infinity in pre-training or evaluation); ``failed`` (it raised).
        detail: Reason in one line, when it is not complete.
        alignment: L_a on held-out images by level, in [-1, 1]; lower is better aligned.
        uniformity: L_u on held-out images by level, at most 0; lower is more uniform.
        performance: Downstream performance in percent by level: ``instance`` linear-evaluation accuracy, ``dense``
            detection AP over IoU .50:.05:.95.
        halves: ``performance`` on the test images at even and at odd positions, by level; absent where a half has no
            object to find.
        extra: Further figures by name: ``coco_ap50`` or ``voc07_ap50`` (percent), and ``matching_precision``, the share
            in [0, 1] of the positives it was trained on whose cells overlap in the source image, where that is defined.
        probes: Probes of dense features of held-out images by name (``cl_bench.evaluate.probes``): ``position_share``,
            ``image_share``, ``colour_share``, ``position_accuracy`` and ``position_chance``, all in [0, 1].
        similarities: Histograms of cosines over [-1, 1] by kind of pair (``positive``, ``same_image``,
            ``other_images``), each a tuple of shares that sum to 1.
        predictors: Values of its predictors by ``name@level``, or by ``name`` where there is one value per encoder.
        failed_predictors: Reason, in one line, for each predictor that failed, by ``name``.
        losses: (step, loss) of each logged step of pre-training.
        position_only_loss: Least loss of features that encode only the place of their cell, under the encoder's
            objective; nan where it is not defined (instance level, untrained, a plugin with its own loss).
        decomposition_error: Largest |loss - (alignment + distribution)| / max(1, |loss|) over the logged steps.
        seconds: Seconds by stage, such as ``pretrain``.
        provenance: Machine, versions and settings of the pre-training; plain values by name.
    """

    key: str
    case: str
    method: str
    data: str
    views: str
    family: str
    config: str
    seed: int
    status: Status
    detail: str = ""
    alignment: Mapping[Level, float] = field(default_factory=dict)
    uniformity: Mapping[Level, float] = field(default_factory=dict)
    performance: Mapping[Level, float] = field(default_factory=dict)
    halves: Mapping[Level, tuple[float, float]] = field(default_factory=dict)
    extra: Mapping[str, float] = field(default_factory=dict)
    probes: Mapping[str, float] = field(default_factory=dict)
    similarities: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    predictors: Mapping[str, float] = field(default_factory=dict)
    failed_predictors: Mapping[str, str] = field(default_factory=dict)
    losses: tuple[tuple[int, float], ...] = ()
    position_only_loss: float = math.nan
    decomposition_error: float = 0.0
    seconds: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Configuration:
    """One point of a row: ``Record.config``, its ``seeds``, and mean L_a, L_u and performance (percent) over them."""

    name: str
    family: str
    seeds: tuple[int, ...]
    alignment: float
    uniformity: float
    performance: float


def configurations(
    records: Sequence[Record], level: Level, family: Family = "total"
) -> tuple[list[Configuration], tuple[str, ...]]:
    """Return the configurations of one row in order of name, and the cases of configurations that are left out.

    A configuration is left out if one of its records is not complete and finite at the level. Randomly initialised
    encoders are ignored.

    Raises:
        ValueError: If the records are of more than one (method, data, views).
    """
    wanted = [r for r in records if r.family != RANDOM_INIT and family in ("total", r.family)]
    rows = sorted({(r.method, r.data, r.views) for r in wanted})
    if len(rows) > 1:
        raise ValueError(f"records of more than one row: {rows}")
    kept: list[Configuration] = []
    left_out: list[str] = []
    for name, group in groupby(sorted(wanted, key=lambda r: (r.config, r.seed)), key=lambda r: r.config):
        runs = list(group)
        values = [figures(r, level) for r in runs]
        if all(r.status == "complete" for r in runs) and all(math.isfinite(v) for row in values for v in row):
            L_a, L_u, performance = map(statistics.fmean, zip(*values, strict=True))
            seeds = tuple(r.seed for r in runs)
            kept.append(Configuration(name, runs[0].family, seeds, L_a, L_u, performance))
        else:
            left_out += (r.case for r in runs)
    return kept, tuple(left_out)


def figures(record: Record, level: Level) -> tuple[float, ...]:
    """Return L_a, L_u and performance at a level; nan where one was not measured."""
    return tuple(c.get(level, math.nan) for c in (record.alignment, record.uniformity, record.performance))
