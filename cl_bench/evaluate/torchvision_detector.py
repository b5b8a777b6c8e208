"""Faster R-CNN C4 built from torchvision's parts.

trunk -> region proposals;
RoIAlign on the trunk's map -> last stage -> batch norm -> global average pool -> box predictor.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import roi_align

from cl_bench.data.colour import to_device
from cl_bench.encoders import Encoder, widened
from cl_bench.evaluate.average_precision import Detections, Truth
from cl_bench.evaluate.batched_sampling import BatchedHeads, BatchedMatcher, BatchedProposals, BatchedSampler, Size
from cl_bench.spec import DetectionSpec

Channels = tuple[float, float, float]

MAP = "c4"
"""Name of the single feature map in torchvision's parts."""
CANDIDATES = 6
"""Proposals before non-maximum suppression for each one kept after it, as detectron2's C4 (12000:2000, 6000:1000)."""


class TorchvisionDetector(nn.Module):
    """Faster R-CNN C4 with an encoder's two parts in it.

    Batch norm follows one policy for every encoder. Both protocols add a batch norm after the last stage (inherited: He
    et al., MoCo, CVPR 2020). ``finetune`` trains the whole network on batch statistics. ``frozen`` keeps the encoder's
    own statistics and also adds a batch norm before the region proposals (our choice), so that one learning rate suits
    features of any scale. Without the two, an encoder whose features are 10 times larger or smaller, and otherwise the
    same, fell from AP50 47 to 0.

    Args:
        encoder: Encoder whose architecture and weights are copied; it is not changed.
        classes: Number of classes, without background.
        spec: Protocol, anchors and sampling sizes.
        mean: Mean of the encoder's input by channel, on the scale [0, 1].
        std: Standard deviation of the encoder's input, likewise.
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
        predictor = FastRCNNPredictor(encoder.channels, classes + 1)
        self.roi_heads = _roi_heads(box_head, predictor, encoder.trunk_stride, spec)
        if spec.precision == "bfloat16":
            for part in (self.trunk, self.rpn.head, box_head, predictor):
                _in_bfloat16(part)

    def train(self, mode: bool = True) -> TorchvisionDetector:
        """Set the training mode, except for a frozen encoder's parts, which stay in eval mode."""
        super().train(mode)
        if self.frozen:
            self.trunk.eval()
            self.roi_heads.box_head.last.eval()
        return self

    def features(self, images: Sequence[Tensor]) -> Tensor:
        """Compute the (B, C, h, w) trunk map of B images (3, h_i, w_i) uint8; sides are padded to whole cells.

        Images of different sizes are padded to the largest, with the mean colour.
        """
        sizes = [image.shape[-2:] for image in images]
        h, w = (max(side) for side in zip(*sizes, strict=True))
        batch = torch.zeros(len(images), 3, h + -h % self.stride, w + -w % self.stride, device=self.mean.device)
        for place, image, (high, wide) in zip(batch, images, sizes, strict=True):
            place[:, :high, :wide] = (to_device(image, batch.device).float() / 255 - self.mean) / self.std
        with torch.set_grad_enabled(not self.frozen and torch.is_grad_enabled()):
            out: Tensor = self.trunk(batch)
        return out

    def losses(self, images: Sequence[Tensor], truths: Sequence[Truth]) -> dict[str, Tensor]:
        """Compute the four losses by name, in training mode, as in ``BoxDetector.losses``."""
        return self.losses_of(self.features(images), [_size(image) for image in images], truths)

    def losses_of(self, feature_map: Tensor, sizes: Sequence[Size], truths: Sequence[Truth]) -> dict[str, Tensor]:
        """Compute the losses from the (B, C, h, w) trunk map; ``sizes`` are (height, width) before padding."""
        # torchvision's class 0 is background.
        device = feature_map.device
        targets = [{"boxes": to_device(t.boxes, device), "labels": to_device(t.labels, device) + 1} for t in truths]
        return self._heads(feature_map, sizes, targets)[1]

    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        """Find the objects in each image, in eval mode, as in ``BoxDetector.detect``."""
        found, _ = self._heads(self.features(images), [_size(image) for image in images], None)
        return [Detections(f["boxes"], f["labels"] - 1, f["scores"]) for f in found]

    def _heads(
        self, feature_map: Tensor, sizes: Sequence[Size], targets: list[dict[str, Tensor]] | None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Compute detections (empty in training) and losses (empty in evaluation)."""
        B, _, h, w = feature_map.shape
        # The proposals use only the shape of the images, so no pixels are needed.
        pixels = torch.empty((B, 3, h * self.stride, w * self.stride), device="meta")
        images = ImageList(pixels, list(sizes))
        proposals, rpn_losses = self.rpn(images, {MAP: self.rpn_norm(feature_map)}, targets)
        found, box_losses = self.roi_heads({MAP: feature_map}, proposals, images.image_sizes, targets)
        return found, {**rpn_losses, **box_losses}

    def backbone(self) -> dict[str, Tensor]:
        """Return every tensor of the encoder's parts, buffers too, under the encoder's names, sharing the storage."""
        trunk = {f"trunk.{name}": tensor for name, tensor in self.trunk.state_dict().items()}
        return trunk | {f"last.{name}": tensor for name, tensor in self.roi_heads.box_head.last.state_dict().items()}


def _in_bfloat16(module: nn.Module) -> None:
    """Make a module compute in bfloat16 with float32 outputs; bfloat16 would round boxes to whole pixels."""
    plain = module.forward

    def forward(x: Tensor | list[Tensor]) -> Any:
        device = (x if isinstance(x, Tensor) else x[0]).device
        with torch.autocast(device.type, torch.bfloat16):
            return widen(plain(x))

    def widen(x: Any) -> Any:
        return widened(x) if isinstance(x, Tensor) else type(x)(widen(part) for part in x)

    module.forward = forward


def _extra_norm(channels: int) -> nn.BatchNorm2d:
    """Build batch norm for frozen features of any scale; its statistics are averaged over all steps."""
    return nn.BatchNorm2d(channels, eps=1e-10, momentum=None)


def _region_proposals(channels: int, spec: DetectionSpec) -> BatchedProposals:
    """Build the region proposal network with the thresholds of torchvision's Faster R-CNN."""
    anchors = AnchorGenerator((spec.anchors,), (spec.aspect_ratios,))
    kept = {"training": spec.proposals_train, "testing": spec.proposals_test}
    overlaps = {"fg_iou_thresh": 0.7, "bg_iou_thresh": 0.3}
    proposals = BatchedProposals(
        anchors,
        RPNHead(channels, anchors.num_anchors_per_location()[0]),
        **overlaps,
        batch_size_per_image=spec.rpn_samples,
        positive_fraction=0.5,
        pre_nms_top_n={phase: CANDIDATES * n for phase, n in kept.items()},
        post_nms_top_n=kept,
        nms_thresh=0.7,
    )
    proposals.proposal_matcher = BatchedMatcher(*overlaps.values(), allow_low_quality_matches=True)
    proposals.fg_bg_sampler = BatchedSampler(spec.rpn_samples, 0.5)
    return proposals


class _Pool(nn.Module):
    """RoIAlign on the single feature map; torchvision's own pooler has no half-pixel shift."""

    def __init__(self, stride: int, spec: DetectionSpec) -> None:
        super().__init__()
        self.stride, self.spec = stride, spec

    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], _: list[Size]) -> Tensor:
        """Pool the features of R boxes, image after image, to (R, C, roi_size, roi_size)."""
        spec = self.spec
        out: Tensor = roi_align(
            maps[MAP], boxes, spec.roi_size, 1 / self.stride, spec.roi_sampling or -1, aligned=spec.roi_aligned
        )
        return out


def _size(image: Tensor) -> Size:
    return image.shape[-2], image.shape[-1]


def _roi_heads(box_head: nn.Module, predictor: nn.Module, stride: int, spec: DetectionSpec) -> BatchedHeads:
    """Build the RoI heads with the thresholds of torchvision's Faster R-CNN."""
    heads = BatchedHeads(
        _Pool(stride, spec),
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
    heads.fg_bg_sampler = BatchedSampler(spec.roi_samples, 0.25)
    return heads
