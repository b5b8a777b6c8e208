"""Average precision of detections, by the rule of COCO (computed by pycocotools) and by that of PASCAL VOC 2007."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torchvision.ops import box_iou

MAX_DETECTIONS = 100
"""Detections per image that count in COCO's average precision, best scores first (COCO's limit)."""
IOU_THRESHOLDS = np.arange(50, 100, 5) / 100
"""IoU thresholds that VOC07 AP is averaged over since COCO; the original VOC07 has .50 alone."""
RECALL_POINTS = np.linspace(0, 1, 11)
"""Recall points of VOC07. In binary the fourth exceeds 0.3 slightly, so 3 of 10 do not reach it, as in detectron2."""

Bools = NDArray[np.bool_]


class Truth(NamedTuple):
    """The objects of one image.

    Attributes:
        boxes: (n, 4) (x1, y1, x2, y2) in pixels.
        labels: (n,) int64, the class of each box.
        difficult: (n,) bool, True for objects that do not count, found or missed; None if there are none.
    """

    boxes: Tensor
    labels: Tensor
    difficult: Tensor | None = None


class Detections(NamedTuple):
    """Boxes that a detector found in one image.

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
    """Compute COCO average precision: 101 recall points, a mean over the classes with an object that is not difficult.

    Difficult objects are ignored as COCO ignores crowds: any number of detections may lie in one and not count.

    Args:
        detections: Detections of each image; an image may have none.
        truths: Objects of each image, in the same order; an image may have none.
        classes: Names of the classes; index = label.

    Returns:
        In percent: ``coco_ap``, the mean over IoU thresholds .50:.05:.95, and ``coco_ap50``, at IoU .50.

    Raises:
        ValueError: If there are not as many detections as truths, a label names no class, a score or a box is not
            finite, ``difficult`` is not (n,) bool, or every object in every image is difficult.

    Source: Lin et al., Microsoft COCO, ECCV 2014; pycocotools. It is not VOC07's 11-point AP.
    """
    _check(detections, truths, len(classes))
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress with print
        evaluation = COCOeval(
            _coco(truths, classes, "iscrowd", [_difficult(t).tolist() for t in truths]),
            _coco(detections, classes, "score", [d.scores.tolist() for d in detections]),
            "bbox",
        )
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, 0]  # (thresholds, recalls, classes); -1: a class without objects
    present = precision[:, :, (precision > -1).all((0, 1))]
    return {"coco_ap": 100 * float(np.mean(present)), "coco_ap50": 100 * float(np.mean(present[0]))}


def voc07_average_precision(
    detections: Sequence[Detections], truths: Sequence[Truth], classes: Sequence[str]
) -> dict[str, float]:
    """Compute PASCAL VOC 2007 average precision: 11 recall points, a mean over the classes with an object to find.

    Best scores first, each detection is compared with the object of its class in its image that it overlaps most. If
    their IoU exceeds the threshold, the detection is right, or wrong if that object was found before; if the object is
    difficult, it does not count. Any other detection is wrong. Precision at a recall is the best one at that recall or
    more.

    Args:
        detections: Detections of each image; an image may have none. All of them count.
        truths: Objects of each image, in the same order; an image may have none.
        classes: Names of the classes; index = label.

    Returns:
        In percent: ``voc07_ap``, the mean over IoU thresholds .50:.05:.95, and ``voc07_ap50``, at IoU .50.

    Raises:
        ValueError: In the cases of ``coco_average_precision``.

    Source: Everingham et al., The PASCAL VOC challenge, IJCV 2010; detectron2's ``PascalVOCDetectionEvaluator``. That
    one rounds scores to 3 decimals and boxes to 1 and counts a class without objects as 0; here nothing is rounded, and
    such a class is left out. VOC's (xmin, ymin, xmax, ymax), with pixels counted from 1 and all of them in the box,
    are (xmin - 1, ymin - 1, xmax, ymax) here.
    """
    _check(detections, truths, len(classes))
    first = np.cumsum([0, *(len(t.boxes) for t in truths[:-1])]).tolist()
    matches = [_most_overlapped(*image) for image in zip(detections, truths, first, strict=True)]
    order = np.argsort(-torch.cat([d.scores for d in detections]).double().numpy(), kind="stable")
    labels = torch.cat([d.labels for d in detections]).numpy()[order]
    overlaps, objects = (torch.cat(column).numpy()[order] for column in zip(*matches, strict=True))
    difficult = torch.cat([_difficult(t) for t in truths]).numpy()
    positives = np.bincount(torch.cat([t.labels for t in truths]).numpy()[~difficult], minlength=len(classes))
    aps = np.empty((len(IOU_THRESHOLDS), np.count_nonzero(positives)))
    for row, threshold in zip(aps, IOU_THRESHOLDS, strict=True):
        hits = np.flatnonzero(overlaps > threshold)
        right, counts = np.zeros(len(order), dtype=bool), np.ones(len(order), dtype=bool)
        right[hits[np.unique(objects[hits], return_index=True)[1]]] = True  # the first index, so the best score
        counts[hits] = ~difficult[objects[hits]]
        row[:] = [_eleven_points(right[counts & (labels == k)], positives[k]) for k in np.flatnonzero(positives)]
    return {"voc07_ap": 100 * float(np.mean(aps)), "voc07_ap50": 100 * float(np.mean(aps[0]))}


def has_objects(truths: Sequence[Truth]) -> bool:
    """Return True if there is an object that is not difficult, so that average precision is defined."""
    return not all(bool(_difficult(truth).all()) for truth in truths)


def _most_overlapped(detections: Detections, truth: Truth, first: int) -> tuple[Tensor, Tensor]:
    """Return the IoU of each detection with the object of its class that it overlaps most, and that object's number.

    Both are (n,). The image's objects are numbered from ``first``. Without an overlap the IoU is 0 and the number has
    no meaning.
    """
    iou = box_iou(detections.boxes.double(), truth.boxes.double())
    iou = torch.where(detections.labels[:, None] == truth.labels, iou, 0.0)
    overlap, index = nn.functional.pad(iou, (0, 1)).max(1)  # padded, because without objects there is no maximum
    return overlap, first + index


def _eleven_points(right: Bools, positives: int) -> float:
    """Compute the average precision of detections that are right or wrong, best scores first, of so many objects."""
    found = np.cumsum(right)
    precision = found / np.arange(1, len(right) + 1)
    reached = found / positives >= RECALL_POINTS[:, None]
    return float(np.where(reached, precision, 0).max(1, initial=0).mean())


def _check(detections: Sequence[Detections], truths: Sequence[Truth], classes: int) -> None:
    if len(detections) != len(truths):
        raise ValueError(f"detections of {len(detections)} images, but truths of {len(truths)}")
    for i, truth in enumerate(truths):
        _check_image(f"truths[{i}]", truth, classes)
        given = _difficult(truth)
        if given.dtype != torch.bool or given.shape != truth.labels.shape:
            raise ValueError(f"truths[{i}]: difficult must be bool, one a box, got {given}")
    for i, found in enumerate(detections):
        _check_image(f"detections[{i}]", found, classes)
    if not has_objects(truths):
        raise ValueError(
            f"average precision is undefined: none of the {len(truths)} images has an object that is not difficult"
        )


def _check_image(name: str, image: Truth | Detections, classes: int) -> None:
    labels = image.labels
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"{name}: labels must be in 0..{classes - 1}, got {labels.tolist()}")
    if not all(bool(torch.isfinite(field).all()) for field in image if field is not None):
        raise ValueError(f"{name}: boxes and scores must be finite")


def _difficult(truth: Truth) -> Tensor:
    return torch.zeros(len(truth.boxes), dtype=torch.bool) if truth.difficult is None else truth.difficult


def _coco(
    images: Sequence[Truth | Detections], classes: Sequence[str], extra: str, values: Sequence[Sequence[float]]
) -> Any:
    """Build pycocotools' index of boxes; ``extra`` names the field that only truths, or only detections, have."""
    annotations: list[dict[str, Any]] = []
    for i, (image, column) in enumerate(zip(images, values, strict=True)):
        for (x1, y1, x2, y2), label, value in zip(image.boxes.tolist(), image.labels.tolist(), column, strict=True):
            width, height = x2 - x1, y2 - y1
            annotations.append(
                {
                    "id": len(annotations) + 1,  # from 1: COCOeval reads a match with object 0 as no match
                    "image_id": i,
                    "category_id": label,
                    "bbox": [x1, y1, width, height],
                    "area": width * height,
                    extra: value,
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
