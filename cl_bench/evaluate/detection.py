"""Detection on an encoder: Faster R-CNN C4, composed of torchvision's parts.

trunk -> region proposals;
RoIAlign on the trunk's map -> last stage -> batch norm -> global average pool -> box predictor.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

from cl_bench.data.dataset import Dataset
from cl_bench.encoders import Encoder
from cl_bench.errors import Diverged
from cl_bench.evaluate.average_precision import Detections, Truth, coco_average_precision
from cl_bench.spec import DetectionSpec

Channels = tuple[float, float, float]
OnStep = Callable[[int, int], None]

MAP = "c4"
"""What torchvision's parts call the one feature map."""
CHUNK = 50
"""Images that go through the trunk, or are searched for objects, at a time."""
CANDIDATES = 6
"""Proposals before non-maximum suppression for each one kept after it, as detectron2's C4 (12000:2000, 6000:1000)."""


class Detector(nn.Module):
    """Faster R-CNN C4 with an encoder's two parts in it.

    Batch norm, one policy for every encoder. Both protocols put one after the last stage (inherited: He et al., MoCo,
    CVPR 2020). ``finetune`` trains all of it on batch statistics. ``frozen`` keeps the encoder's own statistics and
    puts one before the region proposals too (ours), so that one learning rate suits features of any scale. Without the
    two, an encoder whose features are 10 times larger or smaller, and otherwise the same, fell from AP50 47 to 0.

    Args:
        encoder: Its architecture and weights are copied; it stays as it is.
        classes: How many classes, without background.
        spec: The protocol, anchors and sampling sizes.
        mean: Of the encoder's input, each channel, on the scale [0, 1].
        std: Likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder, classes: int, spec: DetectionSpec, mean: Channels, std: Channels) -> None:
        super().__init__()
        self.frozen = spec.protocol == "frozen"
        self.stride = encoder.trunk_stride
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))
        self.trunk: nn.Module = copy.deepcopy(encoder.trunk)
        last = copy.deepcopy(encoder.last)
        if self.frozen:
            self.trunk.requires_grad_(False)
            last.requires_grad_(False)
        self.rpn_norm = _extra_norm(encoder.trunk_channels) if self.frozen else nn.Identity()
        box_norm = _extra_norm(encoder.channels) if self.frozen else nn.BatchNorm2d(encoder.channels)
        self.rpn = _region_proposals(encoder.trunk_channels, spec)
        box_head = nn.Sequential(OrderedDict(last=last, norm=box_norm, pool=nn.AdaptiveAvgPool2d(1)))
        self.roi_heads = _roi_heads(box_head, FastRCNNPredictor(encoder.channels, classes + 1), spec)

    def train(self, mode: bool = True) -> Detector:
        """As everywhere, but a frozen encoder's parts stay in eval mode."""
        super().train(mode)
        if self.frozen:
            self.trunk.eval()
            self.roi_heads.box_head.last.eval()
        return self

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, C, h, w) trunk map; the sides are padded to whole cells, as torchvision does."""
        normalised = (images.to(self.mean.device).float() / 255 - self.mean) / self.std
        h, w = images.shape[-2:]
        padded = nn.functional.pad(normalised, (0, -w % self.stride, 0, -h % self.stride))
        out: Tensor = self.trunk(padded)
        return out

    def forward(
        self, feature_map: Tensor, size: tuple[int, int], targets: Sequence[dict[str, Tensor]] | None = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Losses (in training) or detections of images whose trunk map is known.

        Args:
            feature_map: (B, C, h, w), as ``features`` gives it.
            size: Height and width of the images in pixels, before padding.
            targets: In training: an image's ``boxes`` (n, 4) in pixels and ``labels`` (n,), 0 being background.

        Returns:
            Detections, one dict an image with ``boxes``, ``labels`` and ``scores``, empty in training; and the four
            losses by name, empty in evaluation.
        """
        B, _, h, w = feature_map.shape
        # The proposals ask the images for no more than their shape: no pixels needed.
        pixels = torch.empty((B, 3, h * self.stride, w * self.stride), device="meta")
        images = ImageList(pixels, [size] * B)
        proposals, rpn_losses = self.rpn(images, {MAP: self.rpn_norm(feature_map)}, targets)
        found, box_losses = self.roi_heads({MAP: feature_map}, proposals, images.image_sizes, targets)
        return found, {**rpn_losses, **box_losses}

    def backbone(self) -> dict[str, Tensor]:
        """Every tensor of the encoder's parts, buffers too, under the encoder's names; they share the storage."""
        trunk = {f"trunk.{name}": tensor for name, tensor in self.trunk.state_dict().items()}
        return trunk | {f"last.{name}": tensor for name, tensor in self.roi_heads.box_head.last.state_dict().items()}


def load_backbone(detector: Detector, encoder: Encoder) -> None:
    """Copy an encoder's weights and batch-norm statistics into a detector, and prove that all of them arrived.

    A silent partial load is the trap: detectron2's R18-C4 conversion fills 13 of 50 tensors of res5 and says nothing.

    Raises:
        ValueError: A tensor that the detector lacks, that it has too many, of another shape or dtype, or that reads
            differently after loading; the message names every one of them.
    """
    wanted, held = encoder.state_dict(), detector.backbone()
    faults = [f"{name} is not in the detector" for name in wanted.keys() - held.keys()]
    faults += [f"{name} is not in the encoder" for name in held.keys() - wanted.keys()]
    for name in wanted.keys() & held.keys():
        a, b = wanted[name], held[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            faults.append(f"{name} is {a.dtype} {tuple(a.shape)}, in the detector {b.dtype} {tuple(b.shape)}")
        else:
            b.copy_(a)
    if not faults:
        loaded = detector.backbone()
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
) -> dict[str, float]:
    """Train Faster R-CNN C4 on an encoder and measure its average precision.

    The same arguments give the same bits on a CPU. Neither the encoder nor the global generators of CPU and ``device``
    change. ``frozen`` keeps the trunk's maps of all training images in memory: they are computed once.

    Args:
        encoder: What is evaluated.
        train: Boxed images to train on.
        test: Boxed images of the same classes to measure on.
        spec: Protocol, optimiser, sizes and seed.
        mean: Of the encoder's input, each channel, on the scale [0, 1].
        std: Likewise.
        device: Where to compute.
        on_step: Called after each step with the steps done and the steps in all.

    Returns:
        ``coco_ap`` and ``coco_ap50`` in percent.

    Raises:
        Diverged: A loss or a trained weight that is not finite.
        ValueError: A data set without boxes, or of other classes than the other one.
    """
    targets, truths = _truths("train", train), _truths("test", test)
    if train.classes != test.classes:
        raise ValueError(f"detection: train has the classes {train.classes}, test {test.classes}")
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(spec.seed)  # torchvision samples anchors and boxes from the global generator
        detector = Detector(encoder, len(train.classes), spec, mean, std)
        load_backbone(detector, encoder)
        detector.to(device)
        _fit(detector, train.images, targets, spec, on_step)
        found = _detect(detector, test.images)
    return coco_average_precision(found, truths, test.classes)


def _fit(
    detector: Detector, images: Tensor, truths: Sequence[Truth], spec: DetectionSpec, on_step: OnStep | None
) -> None:
    device, size = detector.mean.device, (images.shape[-2], images.shape[-1])
    # torchvision's class 0 is background.
    targets = [{"boxes": t.boxes.to(device), "labels": t.labels.to(device) + 1} for t in truths]
    detector.train()
    if detector.frozen:
        with torch.no_grad():
            cached = torch.cat([detector.features(chunk) for chunk in torch.split(images, CHUNK)])
    trained = [p for p in detector.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, spec.lr, spec.momentum, weight_decay=spec.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, spec))
    for step, batch in enumerate(_batches(len(images), spec), start=1):
        maps = cached[batch.to(device)] if detector.frozen else detector.features(images[batch])
        _, losses = detector(maps, size, [targets[i] for i in batch.tolist()])
        loss = torch.stack(list(losses.values())).sum()
        value = loss.item()
        if not math.isfinite(value):
            parts = ", ".join(f"{name} {part.item():.4g}" for name, part in losses.items())
            raise Diverged(f"detection: the loss is {value} at step {step} of {spec.iterations} ({parts})")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if on_step is not None:
            on_step(step, spec.iterations)
    # The last step's weights meet no loss: left unchecked they would pass for a detector that finds nothing.
    if not all(bool(torch.isfinite(p).all()) for p in trained):
        raise Diverged(f"detection: a weight is not finite after step {spec.iterations} of {spec.iterations}")


@torch.no_grad()
def _detect(detector: Detector, images: Tensor) -> list[Detections]:
    detector.eval()
    size = (images.shape[-2], images.shape[-1])
    found = [image for chunk in torch.split(images, CHUNK) for image in detector(detector.features(chunk), size)[0]]
    return [Detections(f["boxes"].cpu(), f["labels"].cpu() - 1, f["scores"].cpu()) for f in found]


def _batches(images: int, spec: DetectionSpec) -> Iterator[Tensor]:
    """``iterations`` batches of indices; every image is seen once before any is seen again."""
    epochs = math.ceil(spec.iterations * spec.batch / images)
    order = torch.cat([torch.randperm(images) for _ in range(epochs)])
    return iter(torch.split(order[: spec.iterations * spec.batch], spec.batch))


def _rate(step: int, spec: DetectionSpec) -> float:
    """The learning rate at a step (from 0) as a share of ``lr``: linear warm-up, then x0.1 at each milestone."""
    warm = min(1.0, (step + 1) / (spec.warmup + 1))
    return warm * 0.1 ** sum(step >= m * spec.iterations for m in spec.milestones)


def _truths(name: str, data: Dataset) -> list[Truth]:
    if data.boxes is None or data.box_labels is None:
        raise ValueError(f"detection: the {name} images have no boxes")
    return [Truth(boxes, labels) for boxes, labels in zip(data.boxes, data.box_labels, strict=True)]


def _extra_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm on features that stay what they are: statistics averaged over all steps, whatever their scale."""
    return nn.BatchNorm2d(channels, eps=1e-10, momentum=None)


def _region_proposals(channels: int, spec: DetectionSpec) -> RegionProposalNetwork:
    """With the thresholds of torchvision's Faster R-CNN."""
    anchors = AnchorGenerator((spec.anchors,), (spec.aspect_ratios,))
    kept = {"training": spec.proposals_train, "testing": spec.proposals_test}
    return RegionProposalNetwork(
        anchors,
        RPNHead(channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=spec.rpn_samples,
        positive_fraction=0.5,
        pre_nms_top_n={phase: CANDIDATES * n for phase, n in kept.items()},
        post_nms_top_n=kept,
        nms_thresh=0.7,
    )


def _roi_heads(box_head: nn.Module, predictor: nn.Module, spec: DetectionSpec) -> RoIHeads:
    """With the thresholds of torchvision's Faster R-CNN."""
    return RoIHeads(
        MultiScaleRoIAlign([MAP], spec.roi_size, sampling_ratio=2),
        box_head,
        predictor,
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=spec.roi_samples,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=100,
    )
