"""Faster R-CNN C4 as detectron2 builds it, for ResNet-18: the other backend of detection.

detectron2's own ``Res5ROIHeads`` builds a last stage of three bottleneck blocks whatever the depth: an R18's weights
then fill less than half of it, and the rest stays random.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from detectron2.config import get_cfg
from detectron2.layers import get_norm
from detectron2.modeling import ROI_HEADS_REGISTRY, build_model
from detectron2.modeling.backbone.resnet import BasicBlock, ResNet
from detectron2.modeling.roi_heads import Res5ROIHeads
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from cl_bench.encoders import Encoder
from cl_bench.errors import Diverged, SpecError
from cl_bench.evaluate.average_precision import Detections, Truth
from cl_bench.spec import DetectionSpec

Channels = tuple[float, float, float]

CANDIDATES = 6
"""Proposals before non-maximum suppression for each one kept after it (12000:2000, 6000:1000)."""
NORM = "BN"
"""Plain batch norm: one process has the whole batch, which MoCo's synchronised batch norm sees on eight GPUs."""
NAMES = (
    (r"^backbone\.stem\.conv1\.norm\.", "trunk.1."),
    (r"^backbone\.stem\.conv1\.", "trunk.0."),
    (r"^backbone\.res2\.", "trunk.4."),
    (r"^backbone\.res3\.", "trunk.5."),
    (r"^backbone\.res4\.", "trunk.6."),
    (r"^roi_heads\.res5\.(?=\d)", "last."),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
)
"""Replacements, applied in order, that turn detectron2's names into the encoder's."""


@ROI_HEADS_REGISTRY.register()
class BasicRes5ROIHeads(Res5ROIHeads):  # type: ignore[misc]  # detectron2 has no types
    """Heads with a last stage of two basic blocks, and MoCo's batch norm after it."""

    @classmethod
    def _build_res5_block(cls, cfg: Any) -> tuple[nn.Sequential, int]:
        norm, channels = cfg.MODEL.RESNETS.NORM, 512
        blocks = ResNet.make_stage(
            BasicBlock, 2, stride_per_block=[2, 1], in_channels=channels // 2, out_channels=channels, norm=norm
        )
        res5 = nn.Sequential(*blocks)
        res5.add_module("norm", get_norm(norm, channels))
        return res5, channels


class Detectron2Detector(nn.Module):
    """A ``BoxDetector`` that is detectron2's GeneralizedRCNN; all of it is trained.

    Args:
        encoder: A ResNet-18; only its architecture is used here, ``load_backbone`` copies the weights.
        classes: Number of classes, without background.
        spec: Anchors, sampling sizes and the pooler.
        mean: Mean of the encoder's input by channel, on the scale [0, 1].
        std: Standard deviation of the encoder's input, likewise.

    Raises:
        SpecError: If the encoder is not a ResNet-18.
    """

    frozen = False

    def __init__(self, encoder: Encoder, classes: int, spec: DetectionSpec, mean: Channels, std: Channels) -> None:
        super().__init__()
        if (encoder.trunk_stride, encoder.trunk_channels, encoder.channels) != (16, 256, 512):
            raise SpecError("--detector detectron2 takes encoder.name = resnet18; --detector torchvision takes any")
        self.model = build_model(_configuration(classes, spec, mean, std))

    def losses(self, images: Sequence[Tensor], truths: Sequence[Truth]) -> dict[str, Tensor]:
        """Compute the losses by name, as in ``BoxDetector.losses``.

        Raises:
            Diverged: If proposals are not finite.
        """
        inputs = []
        for image, truth in zip(images, truths, strict=True):
            objects = Instances(
                (image.shape[-2], image.shape[-1]), gt_boxes=Boxes(truth.boxes), gt_classes=truth.labels
            )
            inputs.append({"image": image, "instances": objects})
        try:
            with EventStorage():  # detectron2's modules write their logs there
                found: dict[str, Tensor] = self.model(inputs)
        except FloatingPointError as error:
            raise Diverged(f"detection: {error}") from None
        return found

    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        """Find the objects in each image, as in ``BoxDetector.detect``."""
        found = [output["instances"] for output in self.model([{"image": image} for image in images])]
        return [Detections(i.pred_boxes.tensor, i.pred_classes, i.scores) for i in found]

    def features(self, images: Sequence[Tensor]) -> Tensor:
        """Compute the trunk map, as in ``BoxDetector.features``."""
        batch = self.model.preprocess_image([{"image": image} for image in images])
        out: Tensor = self.model.backbone(batch.tensor)["res4"]
        return out

    def backbone(self) -> dict[str, Tensor]:
        """Return the encoder's tensors by name, as in ``BoxDetector.backbone``."""
        named = {_encoder_name(name): tensor for name, tensor in self.model.state_dict().items()}
        return {name: tensor for name, tensor in named.items() if name.startswith(("trunk.", "last."))}


def _encoder_name(name: str) -> str:
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _configuration(classes: int, spec: DetectionSpec, mean: Channels, std: Channels) -> Any:
    """Configure R18-C4 by the spec; other values are detectron2's defaults, as in MoCo's VOC recipe."""
    cfg = get_cfg()
    model = cfg.MODEL
    model.DEVICE = "cpu"  # moved with the module
    model.WEIGHTS = ""
    model.PIXEL_MEAN, model.PIXEL_STD = [255 * v for v in mean], [255 * v for v in std]
    model.BACKBONE.FREEZE_AT = 0
    model.RESNETS.DEPTH, model.RESNETS.RES2_OUT_CHANNELS = 18, 64
    model.RESNETS.NORM, model.RESNETS.OUT_FEATURES = NORM, ["res4"]
    model.ANCHOR_GENERATOR.SIZES, model.ANCHOR_GENERATOR.ASPECT_RATIOS = [[*spec.anchors]], [[*spec.aspect_ratios]]
    model.RPN.BATCH_SIZE_PER_IMAGE = spec.rpn_samples
    model.RPN.PRE_NMS_TOPK_TRAIN, model.RPN.POST_NMS_TOPK_TRAIN = (
        CANDIDATES * spec.proposals_train,
        spec.proposals_train,
    )
    model.RPN.PRE_NMS_TOPK_TEST, model.RPN.POST_NMS_TOPK_TEST = CANDIDATES * spec.proposals_test, spec.proposals_test
    model.ROI_HEADS.NAME, model.ROI_HEADS.NUM_CLASSES = BasicRes5ROIHeads.__name__, classes
    model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = spec.roi_samples
    model.ROI_BOX_HEAD.POOLER_RESOLUTION, model.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO = spec.roi_size, spec.roi_sampling
    model.ROI_BOX_HEAD.POOLER_TYPE = "ROIAlignV2" if spec.roi_aligned else "ROIAlign"
    return cfg
