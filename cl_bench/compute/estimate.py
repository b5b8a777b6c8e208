"""Estimates of an encoder's time on this machine: a few steps on images of noise are timed and extrapolated."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache

import torch

from cl_bench.data.dataset import Dataset, Images, Ragged
from cl_bench.encoders.trainable import trainable
from cl_bench.evaluate.alignment_uniformity import measure
from cl_bench.evaluate.detection import evaluate_detection
from cl_bench.evaluate.linear import evaluate_linear
from cl_bench.methods.method import Method
from cl_bench.spec import DataSpec, DetectionSpec, EncoderSpec, FilesSpec, LinearSpec, PretrainSpec, RunSpec, ScenesSpec
from cl_bench.train.pretrain import pretrain
from cl_bench.train.training import untrained

STEPS = 3
"""Timed steps of a training, between a warm-up step and a last step that is logged, as few real steps are."""
FEW = 8
"""Largest batch that is timed on a CPU, where one batch of a GPU's profile may take hours."""
SIZES = {"stl10": (96, 96), "coco": (480, 640), "voc": (375, 500)}
"""Height and width of a typical image of each data set, in pixels, where it has not been found."""
BOXES = 3  # objects in each image of noise
TESTS = 8  # images of noise that objects are searched in
COLOURS = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)  # mean and standard deviation of the pixels; they do not affect the time


def estimate(spec: RunSpec, method: Method | None, device: torch.device) -> dict[str, float]:
    """Estimate the seconds of each stage of one encoder on a device, by the names of ``Record.seconds``.

    Batches are the profile's on a GPU, and small on a CPU, where time is about proportional to the number of images.
    The time of the losses grows with the square of the batch, so the estimate for a CPU is too low in that part.

    Args:
        spec: Specification of the encoder.
        method: Method of the spec; None for an untrained encoder.
        device: Device to time on.

    Raises:
        RuntimeError: If torch raises it, for example for lack of memory.
    """
    pre = spec.pretrain
    encoder = untrained(pre).to(device).eval()
    out = {"pretrain": _pretrain(pre, method, device) if method is not None else 0.0}
    held_out = _noise(spec.measure.data, 2 * FEW)
    took = _seconds(lambda: measure(encoder, held_out, spec.measure, pre.augment, pre.views, device), device)
    out["measure"] = took * spec.measure.data.count / len(held_out)
    of, view, at = pre.encoder, pre.augment.size, device
    return {**out, "linear": _linear(spec.linear, of, view, at), "detection": _detection(spec.detection, of, view, at)}


def _pretrain(spec: PretrainSpec, method: Method, device: torch.device) -> float:
    plan = spec.optimiser
    batch = plan.batch if device.type == "cuda" else min(plan.batch, FEW)
    chunk = plan.chunk and min(plan.chunk, batch)
    few = plan.model_copy(update={"batch": batch, "epochs": 1, "chunk": chunk, "log_every": STEPS + 2})
    noise = _noise(spec.data, batch * (STEPS + 2))
    clock = _Clock(device)
    pretrain(spec.model_copy(update={"optimiser": few}), method, noise, device, clock)
    steps = plan.epochs * (spec.data.count // plan.batch)
    return clock.step * steps * plan.batch / batch


@lru_cache(maxsize=8)
def _linear(spec: LinearSpec, of: EncoderSpec, view: int, device: torch.device) -> float:
    """Estimate the seconds of linear evaluation, which are the same for every row."""
    encoder = trainable(of, view).to(device).eval()
    train, test = _noise(spec.train, spec.batch), _noise(spec.test, FEW)
    clock = _Clock(device)
    few = spec.model_copy(update={"epochs": STEPS + 2})
    whole = _seconds(lambda: evaluate_linear(encoder, train, test, few, *COLOURS, device, clock), device)
    once = whole - clock.step * few.epochs  # features of both sets, which are computed once
    per_image = once / (len(test) + (len(train) if spec.protocol == "cached" else 0))
    images = spec.test.count + (spec.train.count if spec.protocol == "cached" else 0)
    return clock.step * spec.epochs * spec.train.count / len(train) + max(0.0, per_image) * images


@lru_cache(maxsize=8)
def _detection(spec: DetectionSpec, of: EncoderSpec, view: int, device: torch.device) -> float:
    """Estimate the seconds of detection, which are the same for every row."""
    encoder = trainable(of, view).to(device).eval()
    batch = spec.batch if device.type == "cuda" else 1
    few = spec.model_copy(update={"batch": batch, "iterations": STEPS + 2, "precise_norm": 0})
    train, test = _noise(spec.train, max(batch, 4)), _noise(spec.test, TESTS)
    clock = _Clock(device)
    evaluate_detection(encoder, train, test, few, *COLOURS, device, clock)
    per_test_image = clock.since_the_last / len(test)
    # Batch norm's statistics need forward passes only, a third of a step each.
    steps = spec.iterations + spec.precise_norm / 3
    return clock.step * steps * spec.batch / batch + per_test_image * spec.test.count


class _Clock:
    """Timer of a training's steps, called after each step; it leaves out the first and the last."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._at: list[float] = []

    def __call__(self, done: int, total: int) -> None:
        self._at.append(_now(self._device))

    @property
    def step(self) -> float:
        """Seconds per step."""
        return (self._at[-2] - self._at[0]) / (len(self._at) - 2)

    @property
    def since_the_last(self) -> float:
        """Seconds since the last step."""
        return _now(self._device) - self._at[-1]


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    begun = _now(device)
    work()
    return _now(device) - begun


def _now(device: torch.device) -> float:
    """Return the time in seconds, once the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _noise(spec: DataSpec, count: int) -> Dataset:
    """Make ``count`` images of noise of the data set's size, with labels or boxes."""
    draws = torch.Generator().manual_seed(0)
    height, width = (spec.size, spec.size) if isinstance(spec, ScenesSpec) else SIZES.get(spec.name, SIZES["voc"])
    if isinstance(spec, FilesSpec) and spec.found and spec.found.size:
        height, width = spec.found.size
    if isinstance(spec, FilesSpec) and spec.short_side and spec.short_side < min(height, width):
        height, width = (round(side * spec.short_side / min(height, width)) for side in (height, width))
    image = torch.randint(256, (3, height, width), generator=draws, dtype=torch.uint8)
    if isinstance(spec, ScenesSpec) or spec.name == "stl10":  # of one size, so that a GPU holds them all
        images: Images = image.expand(count, -1, -1, -1)
    else:  # one image in memory, many times
        each = torch.tensor([[height, width]] * count)
        images = Ragged(image.permute(1, 2, 0).flatten(), each, starts=torch.zeros(count, dtype=torch.int64))
    known = spec.found.classes if isinstance(spec, FilesSpec) and spec.found else None
    classes = known or tuple(map(str, range({"coco": 80, "voc": 20}.get(spec.name, 10))))
    if spec.kind == "single_object":
        return Dataset(images, classes, labels=torch.arange(count) % len(classes))
    corners = torch.rand(count, BOXES, 2, 2, generator=draws).sort(2).values * torch.tensor([width, height])
    boxes = torch.cat([corners[:, :, 0], corners[:, :, 1] + 1], 2)
    labels = torch.randint(len(classes), (count, BOXES), generator=draws)
    return Dataset(images, classes, boxes=tuple(boxes), box_labels=tuple(labels))
