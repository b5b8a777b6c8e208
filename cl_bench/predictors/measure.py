"""Computation of all predictors of an encoder from one pass over held-out images; a failure affects one figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cl_bench.data import Dataset
from cl_bench.encoders import Backbone, Features
from cl_bench.errors import PredictorError
from cl_bench.evaluate.alignment_uniformity import held_out_features, probed, vectors
from cl_bench.predictors.predictor import Predictor, Seen
from cl_bench.spec import AlignUniform, AugmentSpec, InfoNCE, MeasureSpec, RandomInit, ViewPolicy
from cl_bench.spec.records import LEVELS, Level
from cl_bench.statistics.curves import apart


@dataclass(frozen=True)
class Found:
    """Result of a predictor for an encoder: ``values`` by ``name@level`` or ``name``, or why it ``failed``."""

    values: dict[str, float] = field(default_factory=dict)
    failed: str = ""


def knob_of(objective: InfoNCE | AlignUniform | RandomInit) -> float:
    """Return in [0, 1] how strongly an objective pushes features apart rather than together; nan where there is none.

    It is what predictors see as ``Seen.knob``.
    """
    if isinstance(objective, RandomInit):
        return math.nan
    if isinstance(objective, InfoNCE):
        return apart({"t": objective.temperature})
    return apart({"a": objective.w_a, "u": objective.w_u})


def seen_of(
    encoder: Backbone,
    data: Dataset,
    spec: MeasureSpec,
    augment: AugmentSpec,
    policy: ViewPolicy,
    device: torch.device,
    knob: float = math.nan,
    losses: Sequence[float] = (),
) -> dict[Level, Seen]:
    """Compute the input of predictors by level; arguments as for ``cl_bench.evaluate.alignment_uniformity.measure``.

    Args:
        encoder: In eval mode.
        data: Held-out images.
        spec: Kernel width t, scope and the seed of the views.
        augment: How views are drawn.
        policy: How the two views lie to each other.
        device: Where.
        knob: ``knob_of`` its objective; nan where it is not known.
        losses: Of its pre-training's logged steps; none where they are not known.

    Raises:
        Diverged: If features are not finite.
    """
    first, second, _ = held_out_features(encoder, data, spec, augment, policy, device)
    return seen_in(first, second, data.labels, knob, losses)


def seen_in(
    first: Features, second: Features, labels: Tensor | None, knob: float = math.nan, losses: Sequence[float] = ()
) -> dict[Level, Seen]:
    """Arrange features of both views that are known, and the labels of their images, if they have any."""
    some = probed(len(first.pooled))
    labels = None if labels is None else labels[some].to(first.pooled.device)
    levels: dict[Level, Seen] = {}
    for level in LEVELS:
        x1, x2 = (vectors(features, level)[some].contiguous() for features in (first, second))
        levels[level] = Seen.of(level, x1, x2, knob, labels, tuple(losses))
    return levels


def found_by(predictors: Iterable[Predictor], levels: dict[Level, Seen]) -> dict[str, Found]:
    """Apply each predictor and return its result by name; a predictor whose needs are not met has no values."""
    return {predictor.name: _found(predictor, levels) for predictor in predictors}


def _found(predictor: Predictor, levels: dict[Level, Seen]) -> Found:
    values: dict[str, float] = {}
    for where in predictor.levels:
        seen = levels["dense" if where == "encoder" else where]
        if set(predictor.needs) <= set(seen.has):
            try:
                values[predictor.name if where == "encoder" else f"{predictor.name}@{where}"] = predictor(seen)
            except PredictorError as error:
                return Found(failed=str(error))
    return Found(values)
