"""Detection evaluation: Faster R-CNN C4 is trained on an encoder, and its average precision measured."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from cl_bench.data.colour import to_device
from cl_bench.data.crops import resized
from cl_bench.data.dataset import Dataset, Images
from cl_bench.encoders import Encoder
from cl_bench.errors import Diverged, SpecError
from cl_bench.evaluate.average_precision import (
    Detections,
    Truth,
    coco_average_precision,
    has_objects,
    voc07_average_precision,
)
from cl_bench.evaluate.torchvision_detector import Channels, TorchvisionDetector
from cl_bench.losses.checks import all_finite
from cl_bench.spec import DetectionSpec
from cl_bench.train.checkpoint import Checkpoint, State
from cl_bench.train.rng import random_state, seeded, set_random_state

OnStep = Callable[[int, int], None]

CHUNK = 50
"""Number of images of one size that go through the trunk, or are searched for objects, at a time."""


class BoxDetector(Protocol):
    """A detection backend: a module that finds boxes and holds an encoder's two parts."""

    frozen: bool

    def losses(self, images: Sequence[Tensor], truths: Sequence[Truth]) -> dict[str, Tensor]:
        """Compute the losses of B images (3, h_i, w_i) uint8 by name, in training mode; their sum is minimised."""

    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        """Find the objects in each image (3, h_i, w_i) uint8, in eval mode; boxes are in the image's own pixels."""

    def features(self, images: Sequence[Tensor]) -> Tensor:
        """Compute the (B, C, h, w) trunk map, C4, of B images (3, h_i, w_i) uint8."""

    def backbone(self) -> dict[str, Tensor]:
        """Return every tensor of the encoder's parts, buffers too, under the encoder's names, sharing the storage."""


def build_detector(encoder: Encoder, classes: int, spec: DetectionSpec, mean: Channels, std: Channels) -> nn.Module:
    """Build the detector of a spec (``BoxDetector``), load an encoder's weights and check that every tensor is loaded.

    Args:
        encoder: Encoder to evaluate; it is not changed.
        classes: Number of classes, without background.
        spec: Protocol of the detection.
        mean: Mean of the encoder's input by channel, on the scale [0, 1], used where the spec names none.
        std: Standard deviation of the encoder's input, likewise.

    Raises:
        ValueError: If a tensor was not loaded, in the cases of ``load_backbone``.
        SpecError: If the backend is not installed.
    """
    mean, std = spec.mean or mean, spec.std or std
    if spec.detector == "detectron2":
        check_detector(spec.detector)
        from cl_bench.evaluate.detectron2_detector import Detectron2Detector

        detector: nn.Module = Detectron2Detector(encoder, classes, spec, mean, std)
    else:
        detector = TorchvisionDetector(encoder, classes, spec, mean, std)
    load_backbone(detector, encoder)
    return detector


def check_detector(name: str) -> None:
    """Check that a backend is installed.

    Raises:
        SpecError: If it is not; the message says how to get it.
    """
    if name == "detectron2" and importlib.util.find_spec("detectron2") is None:
        how = "pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2"
        raise SpecError(f"--detector detectron2: detectron2 is not installed; {how}; or --detector torchvision")


def load_backbone(detector: nn.Module, encoder: Encoder) -> None:
    """Copy an encoder's weights and batch-norm statistics into a detector, and check that all of them are loaded.

    The check prevents a silent partial load: in detectron2's own C4 head an R18's weights fill less than half of res5.

    Raises:
        ValueError: If a tensor is missing in the detector or in the encoder, has another shape or dtype, or differs
            after loading; the message names every such tensor.
    """
    backbone = cast(BoxDetector, detector).backbone
    wanted, held = encoder.state_dict(), backbone()
    faults = [f"{name} is not in the detector" for name in wanted.keys() - held.keys()]
    faults += [f"{name} is not in the encoder" for name in held.keys() - wanted.keys()]
    for name in wanted.keys() & held.keys():
        a, b = wanted[name], held[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            faults.append(f"{name} is {a.dtype} {tuple(a.shape)}, in the detector {b.dtype} {tuple(b.shape)}")
        else:
            b.copy_(a)
    if not faults:
        loaded = backbone()
        faults = [
            f"{name} was not loaded"
            for name, tensor in wanted.items()
            if not torch.equal(tensor.nan_to_num(), loaded[name].to(tensor.device).nan_to_num())
        ]
    if faults:
        raise ValueError(f"backbone of the detector: {'; '.join(sorted(faults))}")


def evaluate_detection(
    encoder: Encoder,
    train: Dataset,
    test: Dataset,
    spec: DetectionSpec,
    mean: Channels,
    std: Channels,
    device: torch.device,
    on_step: OnStep | None = None,
    checkpoint: Checkpoint | None = None,
) -> dict[str, float | dict[str, list[float]]]:
    """Train Faster R-CNN C4 on an encoder and measure its average precision.

    The same arguments give the same bits on a CPU, interrupted or not. Neither the encoder nor the global generators of
    CPU and ``device`` change. Training images without objects are left out, as detectron2 does. A ``frozen`` encoder's
    trunk maps are computed once and kept in memory if the images are of one size and not augmented.

    Args:
        encoder: Encoder to evaluate.
        train: Images with boxes to train on.
        test: Images with boxes, of the same classes, to measure on.
        spec: Protocol, optimiser, sizes and seed.
        mean: Mean of the encoder's input by channel, on the scale [0, 1], used where the spec names none.
        std: Standard deviation of the encoder's input, likewise.
        device: Device to compute on.
        on_step: Function that is called after each step with the steps done and the steps in all.
        checkpoint: Checkpoint to continue from and to keep the state in.

    Returns:
        ``coco_ap``, ``coco_ap50``, ``voc07_ap`` and ``voc07_ap50`` in percent; and under ``halves`` the same figures,
        each as a list for the test images at even and at odd positions. A half without an object to find is left out.

    Raises:
        Diverged: If a loss or a trained weight is not finite.
        ValueError: If a data set has no boxes, a test image has a class that the training images lack, or no training
            image has an object.
    """
    targets = _truths("train", train)
    try:
        test = test.labelled_as(train)
    except ValueError as error:
        raise ValueError(f"detection: {error}") from None
    truths = _truths("test", test)
    if not any(len(t.boxes) for t in targets):
        raise ValueError(f"detection: none of the {len(targets)} train images has an object")
    with seeded(spec.seed, device):  # torchvision samples anchors and boxes from the global generator
        detector = build_detector(encoder, len(train.classes), spec, mean, std).to(device)
        _fit(detector, train.images, targets, spec, device, on_step, checkpoint)
        found = _detect(detector, test.images, spec)
    whole = _precisions(found, truths, test.classes)
    halves = [(found[start::2], truths[start::2]) for start in (0, 1)]
    of_halves = [_precisions(*half, test.classes) for half in halves if has_objects(half[1])]
    return {**whole, "halves": {name: [half[name] for half in of_halves] for name in whole}}


def _precisions(found: Sequence[Detections], truths: Sequence[Truth], classes: Sequence[str]) -> dict[str, float]:
    return {**coco_average_precision(found, truths, classes), **voc07_average_precision(found, truths, classes)}


def _fit(
    detector: nn.Module,
    images: Images,
    truths: Sequence[Truth],
    spec: DetectionSpec,
    device: torch.device,
    on_step: OnStep | None = None,
    checkpoint: Checkpoint | None = None,
) -> None:
    detector.train()
    as_they_are = isinstance(images, Tensor) and not spec.short_sides and not spec.flip
    cached = None
    if isinstance(detector, TorchvisionDetector) and detector.frozen and as_they_are:
        with torch.no_grad():
            cached = torch.cat([detector.features([*chunk]) for chunk in torch.split(cast(Tensor, images), CHUNK)])
    trained = [p for p in detector.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(_groups(detector, spec), spec.lr, spec.momentum, weight_decay=spec.weight_decay)
    with_objects = torch.tensor([i for i, t in enumerate(truths) if len(t.boxes)])
    order = _order(with_objects, spec)
    draws = torch.Generator().manual_seed(spec.seed)
    first = 0

    def state_at(step: int) -> State:
        return {
            "detector": detector.state_dict(),
            "optimiser": optimiser.state_dict(),
            "draws": draws.get_state(),
            "random": random_state(device),
            "step": step,
        }

    if checkpoint and (state := checkpoint.load(state_at(first))):
        detector.load_state_dict(state["detector"])
        optimiser.load_state_dict(state["optimiser"])
        draws.set_state(state["draws"].cpu())
        set_random_state(state["random"], device)
        first = state["step"]

    def losses_of(batch: Tensor) -> dict[str, Tensor]:
        if cached is not None:
            sizes = [(cast(Tensor, images).shape[-2], cast(Tensor, images).shape[-1])] * len(batch)
            maps, objects = cached[to_device(batch, device)], [truths[i] for i in batch.tolist()]
            return cast(TorchvisionDetector, detector).losses_of(maps, sizes, objects)
        seen = [_as_seen(images[i], truths[i], spec, draws) for i in batch.tolist()]
        return cast(BoxDetector, detector).losses([image for image, _ in seen], [truth for _, truth in seen])

    for step in range(first, spec.iterations):
        for group in optimiser.param_groups:
            group["lr"] = spec.lr * _rate(step, spec)
        losses = losses_of(order[step * spec.batch :][: spec.batch])
        loss = torch.stack(list(losses.values())).sum()
        value = loss.item()
        if not math.isfinite(value):
            parts = ", ".join(f"{name} {part.item():.4g}" for name, part in losses.items())
            raise Diverged(f"detection: the loss is {value} at step {step + 1} of {spec.iterations} ({parts})")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimiser.step()
        if checkpoint and checkpoint.due:
            checkpoint.save(state_at(step + 1))
        if on_step is not None:
            on_step(step + 1, spec.iterations)
    # No loss is computed after the last step; unchecked, its weights would pass for a detector that finds nothing.
    if not all_finite(trained):
        raise Diverged(f"detection: a weight is not finite after step {spec.iterations} of {spec.iterations}")
    if spec.precise_norm:
        with _statistics_anew(detector), torch.no_grad():
            for batch in torch.split(_order(with_objects, spec, spec.precise_norm), spec.batch):
                losses_of(batch)


@contextmanager
def _statistics_anew(detector: nn.Module) -> Iterator[None]:
    """Set batch norm's statistics to those of all values that it sees within the context, as if they were one batch.

    Source: PreciseBN, as fvcore pools it since May 2021 (Wu & Johnson, Rethinking "Batch" in BatchNorm, 2021).
    """
    norms = [m for m in detector.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    momenta = [norm.momentum for norm in norms]
    pooled: dict[nn.Module, tuple[int, Tensor, Tensor]] = {}

    def pool(norm: nn.Module, _: object, output: Tensor) -> None:
        seen, mean, variance = pooled.get(norm, (0, *torch.zeros(2)))
        count = output.numel() // output.shape[1]  # values of a channel
        share = count / (seen + count)
        step = cast(Tensor, norm.running_mean) - mean
        biased = cast(Tensor, norm.running_var) * (count - 1) / count
        pooled[norm] = (
            seen + count,
            mean + share * step,
            variance + share * (biased - variance + (1 - share) * step.square()),
        )

    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0  # the running statistics are then the last batch's alone
    hooks = [norm.register_forward_hook(pool) for norm in norms]
    yield
    for norm, hook, momentum in zip(norms, hooks, momenta, strict=True):
        hook.remove()
        norm.momentum = momentum
        _, mean, variance = pooled[norm]
        cast(Tensor, norm.running_mean).copy_(mean)
        cast(Tensor, norm.running_var).copy_(variance)


@torch.no_grad()
def _detect(detector: nn.Module, images: Images, spec: DetectionSpec) -> list[Detections]:
    detector.eval()
    found: list[Detections] = []
    of_one_size = isinstance(images, Tensor) and spec.test_short_side is None
    step = CHUNK if of_one_size else 1  # one by one, because the result for an image must not depend on its neighbours
    for start in range(0, len(images), step):
        chunk = [images[i] for i in range(start, min(start + step, len(images)))]
        shown = [resized(image, spec.test_short_side, spec.long_side) for image in chunk]
        for image, larger, d in zip(chunk, shown, cast(BoxDetector, detector).detect(shown), strict=True):
            boxes = d.boxes.float().cpu() * _factors(larger, image)
            found.append(Detections(boxes, d.labels.cpu(), d.scores.float().cpu()))
    return found


def _as_seen(image: Tensor, truth: Truth, spec: DetectionSpec, draws: torch.Generator) -> tuple[Tensor, Truth]:
    """Resize a training image to one of the short sides and perhaps mirror it, with its boxes."""
    side = None
    if spec.short_sides:
        side = spec.short_sides[int(torch.randint(len(spec.short_sides), (1,), generator=draws))]
    seen = resized(image, side, spec.long_side)
    boxes = truth.boxes * _factors(image, seen)
    if spec.flip and float(torch.rand(1, generator=draws)) < spec.flip:
        seen = seen.flip(-1)
        boxes = torch.stack([seen.shape[-1] - boxes[:, 2], boxes[:, 1], seen.shape[-1] - boxes[:, 0], boxes[:, 3]], 1)
    return seen, Truth(boxes, truth.labels)


def _factors(old: Tensor, new: Tensor) -> Tensor:
    """Return the (4,) factors that map boxes of one image to the resized image."""
    x, y = new.shape[-1] / old.shape[-1], new.shape[-2] / old.shape[-2]
    return torch.tensor([x, y, x, y])


def _groups(detector: nn.Module, spec: DetectionSpec) -> list[dict[str, object]]:
    """Return groups of trained parameters; batch norm's are a group if they have their own weight decay."""
    norms = {id(p) for m in detector.modules() if isinstance(m, nn.modules.batchnorm._NormBase) for p in m.parameters()}
    trained = [p for p in detector.parameters() if p.requires_grad]
    if spec.weight_decay_norm is None:
        return [{"params": trained}]
    return [
        {"params": [p for p in trained if id(p) not in norms]},
        {"params": [p for p in trained if id(p) in norms], "weight_decay": spec.weight_decay_norm},
    ]


def _order(images: Tensor, spec: DetectionSpec, steps: int | None = None) -> Tensor:
    """Draw (steps * batch,) images, for the steps of the training by default; each once before any comes again."""
    count = (steps or spec.iterations) * spec.batch
    return torch.cat([images[torch.randperm(len(images))] for _ in range(math.ceil(count / len(images)))])[:count]


def _rate(step: int, spec: DetectionSpec) -> float:
    """Return the learning rate at a step (from 0) as a share of ``lr``: linear warm-up, then x0.1 at each milestone."""
    warm = 1.0
    if spec.warmup_start is None:
        warm = min(1.0, (step + 1) / (spec.warmup + 1))
    elif step < spec.warmup:
        warm = spec.warmup_start + (1 - spec.warmup_start) * step / spec.warmup
    return warm * 0.1 ** sum(step >= m * spec.iterations for m in spec.milestones)


def _truths(name: str, data: Dataset) -> list[Truth]:
    if data.boxes is None or data.box_labels is None:
        raise ValueError(f"detection: the {name} images have no boxes")
    difficult = data.difficult or [None] * len(data)
    return [Truth(*image) for image in zip(data.boxes, data.box_labels, difficult, strict=True)]
