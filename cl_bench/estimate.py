"""How long an encoder takes here: a handful of steps on images of noise, timed and multiplied."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cl_bench.data.dataset import Dataset, Ragged
from cl_bench.encoders import Encoder
from cl_bench.evaluate.detection import evaluate_detection
from cl_bench.evaluate.linear import evaluate_linear
from cl_bench.method import Method
from cl_bench.metrics import measure
from cl_bench.pretrain import pretrain, untrained
from cl_bench.spec import (
    DataSpec,
    DetectionSpec,
    FilesSpec,
    LinearSpec,
    PretrainSpec,
    RunSpec,
    ScenesSpec,
)

STEPS = 3
"""Timed steps of a training; one more before them warms up."""
FEW = 8
"""Images a batch at most on a CPU, which may have hours to go on each batch of a GPU's profile."""
SIZES = {"stl10": (96, 96), "coco": (480, 640), "voc": (375, 500)}
"""Height and width of a usual image of each data set, in pixels."""
BOXES = 3  # objects an image of noise


def estimate(spec: RunSpec, method: Method | None, device: torch.device) -> dict[str, float]:
    """Seconds of each stage of one encoder on a device, by the names of ``Record.seconds``.

    Batches are the profile's on a GPU, and of few images on a CPU, where time goes by the image. The losses of a batch
    grow with its square, so that a CPU's figure for them is low.

    Args:
        spec: What would be computed.
        method: Its method; None for an untrained encoder.
        device: Where.

    Raises:
        RuntimeError: As torch raised it, out of memory for one.
    """
    pre = spec.pretrain
    encoder = untrained(pre).to(device).eval()
    out = {"pretrain": _pretrain(pre, method, device) if method is not None else 0.0}
    held_out = _noise(spec.measure.data, 2 * FEW)
    took = _seconds(lambda: measure(encoder, held_out, spec.measure, pre.augment, pre.views, device), device)
    out["measure"] = took * spec.measure.data.count / len(held_out)
    colours = pre.augment.mean, pre.augment.std
    return {**out, **_downstream(spec.linear, spec.detection, pre.encoder.name, colours, device)}


def _pretrain(spec: PretrainSpec, method: Method, device: torch.device) -> float:
    plan = spec.optimiser
    batch = plan.batch if device.type == "cuda" else min(plan.batch, FEW)
    few = plan.model_copy(update={"batch": batch, "epochs": 1, "chunk": plan.chunk and min(plan.chunk, batch)})
    noise = _noise(spec.data, batch * (1 + STEPS))
    clock = _Clock(device)
    pretrain(spec.model_copy(update={"optimiser": few}), method, noise, device, clock)
    steps = plan.epochs * (spec.data.count // plan.batch)
    return clock.step * steps * plan.batch / batch


@lru_cache(maxsize=8)
def _downstream(
    linear: LinearSpec, detection: DetectionSpec, name: Any, colours: tuple[Any, Any], device: torch.device
) -> dict[str, float]:
    """Of linear evaluation and detection, which are the same for every row."""
    from cl_bench.encoders import build_encoder

    encoder = build_encoder(name).to(device).eval()
    return {
        "linear": _linear(encoder, linear, colours, device),
        "detection": _detection(encoder, detection, colours, device),
    }


def _linear(encoder: Encoder, spec: LinearSpec, colours: tuple[Any, Any], device: torch.device) -> float:
    train, test = _noise(spec.train, spec.batch), _noise(spec.test, FEW)
    clock = _Clock(device)
    few = spec.model_copy(update={"epochs": 1 + STEPS})
    whole = _seconds(lambda: evaluate_linear(encoder, train, test, few, *colours, device, clock), device)
    once = whole - clock.step * (1 + STEPS)  # features that are computed once, of both sets
    per_image = once / (len(test) + (len(train) if spec.protocol == "cached" else 0))
    images = spec.test.count + (spec.train.count if spec.protocol == "cached" else 0)
    return clock.step * spec.epochs * spec.train.count / len(train) + max(0.0, per_image) * images


def _detection(encoder: Encoder, spec: DetectionSpec, colours: tuple[Any, Any], device: torch.device) -> float:
    batch = spec.batch if device.type == "cuda" else 1
    few = spec.model_copy(update={"batch": batch, "iterations": 1 + STEPS})
    train, test = _noise(spec.train, max(batch, 4)), _noise(spec.test, 4)
    clock = _Clock(device)
    whole = _seconds(lambda: evaluate_detection(encoder, train, test, few, *colours, device, clock), device)
    per_test_image = max(0.0, whole - clock.step * (1 + STEPS)) / len(test)
    return clock.step * spec.iterations * spec.batch / batch + per_test_image * spec.test.count


class _Clock:
    """Times the steps of a training after its first, which is called after each."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._at: list[float] = []

    def __call__(self, done: int, total: int) -> None:
        _wait(self._device)
        self._at.append(time.perf_counter())

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return (self._at[-1] - self._at[0]) / (len(self._at) - 1)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    begun = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - begun


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Same(Ragged):
    """One image, as often as it is asked for."""

    def __init__(self, image: Tensor, count: int) -> None:
        super().__init__(image.permute(1, 2, 0).flatten(), torch.tensor([image.shape[1:]] * count))
        self._image = image

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        return self._image


def _noise(spec: DataSpec, count: int) -> Dataset:
    """So many images of noise as the data set has them, with labels or boxes."""
    draws = torch.Generator().manual_seed(0)
    height, width = (spec.size, spec.size) if isinstance(spec, ScenesSpec) else SIZES[spec.name]
    if isinstance(spec, FilesSpec) and spec.short_side and spec.short_side < min(height, width):
        height, width = (round(side * spec.short_side / min(height, width)) for side in (height, width))
    image = torch.randint(256, (3, height, width), generator=draws, dtype=torch.uint8)
    images = image.expand(count, -1, -1, -1) if isinstance(spec, ScenesSpec) else _Same(image, count)
    classes = tuple(map(str, range({"coco": 80, "voc": 20}.get(spec.name, 10))))
    if spec.kind == "single_object":
        return Dataset(images, classes, labels=torch.arange(count) % len(classes))
    corners = torch.rand(count, BOXES, 2, 2, generator=draws).sort(2).values * torch.tensor([width, height])
    boxes = torch.cat([corners[:, :, 0], corners[:, :, 1] + 1], 2)
    labels = torch.randint(len(classes), (count, BOXES), generator=draws)
    return Dataset(images, classes, boxes=tuple(boxes), box_labels=tuple(labels))
