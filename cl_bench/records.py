"""What is known of one encoder. Plain values only: the claims and the report need no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["instance", "dense"]
LEVELS: tuple[Level, Level] = ("instance", "dense")
Status = Literal["complete", "diverged", "failed"]
RANDOM_INIT = "random_init"


@dataclass(frozen=True)
class Record:
    """One encoder: how it was pre-trained, what was measured on it, how it did downstream.

    Attributes:
        key: Store key of the pre-training run.
        case: The id a person types, as ``dense_index-info_nce-t0.1-s0``.
        method: The method with its options, as ``dense_emd:epsilon=0.1``; ``random_init`` for an untrained encoder.
        data: Pre-training data, as ``single_object``.
        views: ``overlapping`` or ``disjoint``.
        family: Objective family: ``info_nce``, ``align_uniform`` or ``random_init``.
        config: The objective's knobs without the seed, as ``info_nce-t0.1``.
        seed: Seed of initialisation, data order and augmentation.
        status: ``complete``; ``diverged`` (NaN or infinity in pre-training or evaluation); ``failed`` (it raised).
        detail: Why, in one line, when it is not complete.
        alignment: L_a on held-out images by level, in [-1, 1]; lower is better aligned.
        uniformity: L_u on held-out images by level, at most 0; lower is more uniform.
        performance: Downstream performance in percent by level: ``instance`` linear-evaluation accuracy, ``dense``
            detection AP over IoU .50:.05:.95.
        extra: Further figures by name, as ``coco_ap50`` (percent).
        decomposition_error: Largest |loss - (alignment + distribution)| / max(1, |loss|) over the logged steps.
        seconds: Time by stage, as ``pretrain``.
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
    extra: Mapping[str, float] = field(default_factory=dict)
    decomposition_error: float = 0.0
    seconds: Mapping[str, float] = field(default_factory=dict)
