"""Faster R-CNN C4 on an encoder, out of torchvision's parts: how good are its features, cell by cell?"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

from cl_bench.encoders import Encoder
from cl_bench.errors import Diverged
from cl_bench.evaluate.average_precision import Detections, Truth, coco_average_precision
from cl_bench.spec import DetectionSpec

Target = dict[str, Tensor]
MAP = "c4"
CHUNK = 50


class Detector(nn.Module):
    def __init__(self, encoder: Encoder, classes: int, spec: DetectionSpec) -> None:
        super().__init__()
        self.frozen = spec.protocol == "frozen"
        self.stride = encoder.trunk_stride
        self.trunk = copy.deepcopy(encoder.trunk)
        self.rpn_norm = nn.BatchNorm2d(encoder.trunk_channels) if self.frozen else nn.Identity()
        anchors = AnchorGenerator((tuple(spec.anchors),), (tuple(spec.aspect_ratios),))
        self.rpn = RegionProposalNetwork(
            anchors,
            RPNHead(encoder.trunk_channels, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=spec.rpn_samples,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 6 * spec.proposals_train, "testing": 6 * spec.proposals_test},
            post_nms_top_n={"training": spec.proposals_train, "testing": spec.proposals_test},
            nms_thresh=0.7,
        )
        last = copy.deepcopy(encoder.last)
        head = nn.Sequential(last, nn.BatchNorm2d(encoder.channels), nn.AdaptiveAvgPool2d(1))
        self.roi_heads = RoIHeads(
            MultiScaleRoIAlign([MAP], spec.roi_size, sampling_ratio=2),
            head,
            FastRCNNPredictor(encoder.channels, classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=spec.roi_samples,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=spec.score_thresh,
            nms_thresh=0.5,
            detections_per_img=100,
        )
        if self.frozen:
            for part in (self.trunk, last):
                part.requires_grad_(False)

    def train(self, mode: bool = True) -> Detector:
        super().train(mode)
        if self.frozen:
            self.trunk.eval()
            self.roi_heads.box_head[0].eval()
        return self

    def forward(self, feature_map: Tensor, size: tuple[int, int], targets: Sequence[Target] | None = None):
        n, _, h, w = feature_map.shape
        padded = torch.empty((n, 3, h * self.stride, w * self.stride), device="meta")
        images = ImageList(padded, [size] * n)
        proposals, rpn_losses = self.rpn(images, {MAP: self.rpn_norm(feature_map)}, targets)
        found, roi_losses = self.roi_heads({MAP: feature_map}, proposals, images.image_sizes, targets)
        return found, {**rpn_losses, **roi_losses}


def evaluate_detection(encoder, train, test, spec, mean, std, device, on_step=None):
    import time

    T0 = time.time()
    with torch.random.fork_rng():
        torch.manual_seed(spec.seed)
        det = Detector(encoder, len(train.classes), spec).to(device)
        m = torch.tensor(mean).view(3, 1, 1)
        s = torch.tensor(std).view(3, 1, 1)

        def maps(d):
            with torch.no_grad():
                return torch.cat([det.trunk((c.float() / 255 - m) / s) for c in d.images.split(CHUNK)])

        det.train()
        size = tuple(train.images.shape[-2:])
        cache = maps(train)
        targets = [{"boxes": b, "labels": l + 1} for b, l in zip(train.boxes, train.box_labels)]
        opt = torch.optim.SGD(
            [p for p in det.parameters() if p.requires_grad],
            lr=spec.lr,
            momentum=spec.momentum,
            weight_decay=spec.weight_decay,
        )
        ms = [round(x * spec.iterations) for x in spec.milestones]
        sch = torch.optim.lr_scheduler.LambdaLR(
            opt, lambda i: min(1, (i + 1) / max(1, spec.warmup)) * 0.1 ** sum(i >= x for x in ms)
        )
        order = torch.cat([torch.randperm(len(train)) for _ in range(-(-spec.iterations * spec.batch // len(train)))])
        T1 = time.time()
        for i in range(spec.iterations):
            idx = order[i * spec.batch : (i + 1) * spec.batch]
            _, losses = det(cache[idx], size, [targets[j] for j in idx.tolist()])
            loss = sum(losses.values())
            if not math.isfinite(float(loss.detach())):
                raise Diverged(str(i))
            opt.zero_grad()
            loss.backward()
            opt.step()
            sch.step()
        T2 = time.time()
        det.eval()
        found = []
        with torch.inference_mode():
            for c in maps(test).split(CHUNK):
                found += det(c, size)[0]
        T3 = time.time()
        r = coco_average_precision(
            [Detections(f["boxes"], f["labels"] - 1, f["scores"]) for f in found],
            [Truth(b, l) for b, l in zip(test.boxes, test.box_labels)],
            test.classes,
        )
        r.update(
            loss=float(loss),
            cache=T1 - T0,
            train=T2 - T1,
            test=T3 - T2,
            ap=time.time() - T3,
            n=sum(len(f["boxes"]) for f in found) / len(found),
            **{k: float(v) for k, v in losses.items()},
        )
        return r
