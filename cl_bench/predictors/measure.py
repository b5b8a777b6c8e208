"""Computation of all predictors of an encoder from one pass over held-out images; a failure affects one figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from cl_bench.data import Dataset
from cl_bench.encoders import Encoder, cells, pooled
from cl_bench.errors import PredictorError
from cl_bench.evaluate.alignment_uniformity import held_out_maps, probed
from cl_bench.predictors.predictor import Predictor, Seen
from cl_bench.spec import AlignUniform, InfoNCE, MeasureSpec, PretrainSpec
from cl_bench.spec.records import Level
from cl_bench.statistics.curves import apart


@dataclass(frozen=True)
class Found:
    """Result of a predictor for an encoder: ``values`` by ``name@level`` or ``name``, or why it ``failed``."""

    values: dict[str, float] = field(default_factory=dict)
    failed: str = ""


def knob_of(objective: InfoNCE | AlignUniform) -> float:
    """Return in [0, 1] how strongly an objective pushes features apart rather than together, for ``Seen.knob``."""
    if isinstance(objective, InfoNCE):
        return apart({"t": objective.temperature})
    return apart({"a": objective.w_a, "u": objective.w_u})


def seen_of(
    encoder: Encoder,
    data: Dataset,
    spec: MeasureSpec,
    pretrain: PretrainSpec,
    losses: Sequence[float],
    device: torch.device,
) -> dict[Level, Seen]:
    """Compute the input of predictors by level; arguments as for ``cl_bench.evaluate.alignment_uniformity.measure``.

    Raises:
        Diverged: If features are not finite.
    """
    assert isinstance(pretrain.objective, (InfoNCE, AlignUniform)), "an untrained encoder has no predictors"
    first, second, _ = held_out_maps(encoder, data, spec, pretrain.augment, pretrain.views, device)
    some = probed(len(data))
    labels = None if data.labels is None else data.labels[some].to(device)
    knob = knob_of(pretrain.objective)
    levels: dict[Level, Seen] = {}
    for level, vectors in (("instance", pooled), ("dense", cells)):
        x1, x2 = (vectors(kept[some]).contiguous() for kept in (first, second))
        levels[level] = Seen.of(level, x1, x2, knob, labels, tuple(losses))  # type: ignore[index,arg-type]
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
