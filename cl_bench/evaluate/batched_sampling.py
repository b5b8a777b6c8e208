"""Parts of torchvision's Faster R-CNN that choose boxes, for a batch at once where torchvision goes image by image.

Each choice makes the CPU wait for a GPU, since it needs their number: with these parts a step on 16 images waits about
30 times, of which 16 are the non-maximum suppressions, and otherwise more than 200 times. Results are torchvision's,
bit for bit on a CPU, and the random numbers that are drawn are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import batched_nms, clip_boxes_to_image, nms

Size = tuple[int, int]


class BatchedMatcher(Matcher):  # type: ignore[misc]  # torchvision has no types
    """Matcher of anchors that finds the best anchors of each object without asking how many they are."""

    def set_low_quality_matches_(self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor) -> None:
        """Match the anchors (N,) that overlap an object most, however little, by the (M, N) overlaps; in place."""
        best = (match_quality_matrix == match_quality_matrix.amax(1, keepdim=True)).any(0)
        matches.copy_(torch.where(best, all_matches, matches))


class BatchedSampler(BalancedPositiveNegativeSampler):  # type: ignore[misc]  # torchvision has no types
    """Sampler of a fixed number of boxes an image."""

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Sample positives (label 1 and above) and negatives (label 0) of each image, as masks (N_i,) uint8."""
        sizes = [len(labels) for labels in matched_idxs]
        labels = torch.cat(matched_idxs)
        kinds = [_of_each(chosen, sizes) for chosen in (labels >= 1, labels == 0)]
        drawn: tuple[list[Tensor], list[Tensor]] = ([], [])
        for positive, negative in zip(*kinds, strict=True):
            most = int(self.batch_size_per_image * self.positive_fraction)
            for kept, found in zip(drawn, (positive, negative), strict=True):
                taken = torch.randperm(len(found), device=found.device)[:most]
                kept.append(found[taken])
                most = self.batch_size_per_image - len(taken)
        masks = []
        for kept in drawn:
            mask = torch.zeros_like(labels, dtype=torch.uint8)
            mask[torch.cat(kept)] = 1
            masks.append([*torch.split(mask, sizes)])
        return masks[0], masks[1]


class BatchedProposals(RegionProposalNetwork):  # type: ignore[misc]  # torchvision has no types
    """Region proposals from a single feature map."""

    def filter_proposals(
        self, proposals: Tensor, objectness: Tensor, image_shapes: list[Size], num_anchors_per_level: list[int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the boxes of each image that are kept, best first, and their scores."""
        objectness = objectness.detach().reshape(len(proposals), -1)
        best = self._get_top_n_idx(objectness, num_anchors_per_level)
        scores = torch.sigmoid(objectness.gather(1, best))
        candidates = proposals.gather(1, best[..., None].expand(-1, -1, 4))
        boxes = torch.stack([clip_boxes_to_image(*image) for image in zip(candidates, image_shapes, strict=True)])
        large = (boxes[..., 2:] - boxes[..., :2] >= self.min_size).all(-1)
        good = large & (scores >= self.score_thresh)
        left = _of_each(good.flatten(), [good.shape[1]] * len(good))
        kept = [(boxes.flatten(0, 1)[of], scores.flatten()[of]) for of in left]
        survivors = [self._survivors(*image) for image in kept]
        pairs = [(b[of], s[of]) for (b, s), of in zip(kept, survivors, strict=True)]
        return [b for b, _ in pairs], [s for _, s in pairs]

    def _survivors(self, boxes: Tensor, scores: Tensor) -> Tensor:
        """Suppress boxes that overlap a better one."""
        if boxes.device.type == "cpu":  # the order in which torchvision leaves boxes of one score
            kept = batched_nms(boxes, scores, torch.zeros_like(scores, dtype=torch.int64), self.nms_thresh)
        else:
            kept = nms(boxes, scores, self.nms_thresh)
        first: Tensor = kept[: self.post_nms_top_n()]
        return first


class BatchedHeads(RoIHeads):  # type: ignore[misc]  # torchvision has no types
    """RoI heads that sample the boxes of all images together."""

    def subsample(self, labels: list[Tensor]) -> list[Tensor]:
        """Return the indices of each image's sampled boxes, in order."""
        positive, negative = self.fg_bg_sampler(labels)
        sizes = [len(of_image) for of_image in labels]
        found = _of_each(torch.cat(positive) | torch.cat(negative), sizes)
        return [of - start for of, start in zip(found, accumulate(sizes, initial=0), strict=False)]


def _of_each(chosen: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Return the places of the chosen ones among (N,), in order, split by the image that they belong to.

    Args:
        chosen: (N,) mask of the boxes of all images, one image after the other.
        sizes: Number of boxes of each image.
    """
    counts = torch.stack([of_image.count_nonzero() for of_image in torch.split(chosen, [*sizes])]).tolist()
    return torch.split(chosen.nonzero()[:, 0], counts)
