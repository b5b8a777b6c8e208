"""Average precision of detections by COCO's rule, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

MAX_DETECTIONS = 100
"""Detections an image that count, best scores first (COCO's limit)."""


class Truth(NamedTuple):
    """The objects of one image.

    Attributes:
        boxes: (n, 4) (x1, y1, x2, y2) in pixels.
        labels: (n,) int64, the class of each box.
    """

    boxes: Tensor
    labels: Tensor


class Detections(NamedTuple):
    """What a detector found in one image.

    Attributes:
        boxes: (n, 4) (x1, y1, x2, y2) in pixels.
        labels: (n,) int64, the class of each box.
        scores: (n,) confidences; only their order matters.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor


def coco_average_precision(
    detections: Sequence[Detections], truths: Sequence[Truth], classes: Sequence[str]
) -> dict[str, float]:
    """COCO average precision: 101 recall points, a mean over the classes that have an object.

    Args:
        detections: One an image; an image may have none.
        truths: One an image, in the same order; an image may have no object.
        classes: Names of the classes; index = label.

    Returns:
        In percent: ``coco_ap``, the mean over IoU thresholds .50:.05:.95, and ``coco_ap50``, at IoU .50.

    Raises:
        ValueError: Not as many detections as truths, a label that names no class, a score or a box that is not finite,
            or no object in any image.

    Source: Lin et al., Microsoft COCO, ECCV 2014; pycocotools. It is not VOC07's 11-point AP.
    """
    if len(detections) != len(truths):
        raise ValueError(f"detections of {len(detections)} images, but truths of {len(truths)}")
    _check("truths", truths, len(classes))
    _check("detections", detections, len(classes))
    if not any(len(truth.boxes) for truth in truths):
        raise ValueError(f"average precision is undefined: none of the {len(truths)} images has an object")
    found = [d.scores.tolist() for d in detections]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress with print
        evaluation = COCOeval(
            _coco(truths, classes, [[1.0] * len(t.boxes) for t in truths]), _coco(detections, classes, found), "bbox"
        )
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, 0]  # (thresholds, recalls, classes); -1: a class without objects
    present = precision[:, :, (precision > -1).all((0, 1))]
    return {"coco_ap": 100 * float(np.mean(present)), "coco_ap50": 100 * float(np.mean(present[0]))}


def _check(name: str, images: Iterable[Truth | Detections], classes: int) -> None:
    for i, image in enumerate(images):
        labels = image.labels
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(f"{name}[{i}]: labels must be in 0..{classes - 1}, got {labels.tolist()}")
        if not all(bool(torch.isfinite(field).all()) for field in image):
            raise ValueError(f"{name}[{i}]: boxes and scores must be finite")


def _coco(images: Sequence[Truth | Detections], classes: Sequence[str], scores: Sequence[Sequence[float]]) -> Any:
    """An index of boxes as pycocotools wants it; truths carry a score too, which it does not read."""
    annotations: list[dict[str, Any]] = []
    for i, (image, confidences) in enumerate(zip(images, scores, strict=True)):
        for (x1, y1, x2, y2), label, score in zip(
            image.boxes.tolist(), image.labels.tolist(), confidences, strict=True
        ):
            width, height = x2 - x1, y2 - y1
            annotations.append(
                {
                    "id": len(annotations) + 1,  # from 1: COCOeval reads a match with object 0 as no match
                    "image_id": i,
                    "category_id": label,
                    "bbox": [x1, y1, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "score": score,
                }
            )
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i} for i in range(len(images))],
        "categories": [{"id": k, "name": name} for k, name in enumerate(classes)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco
