"""Boxes chosen for a batch at once are those that torchvision chooses image by image, bit for bit."""

import pytest
import torch
from helpers import rng
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from cl_bench.evaluate.batched_sampling import BatchedHeads, BatchedMatcher, BatchedProposals, BatchedSampler

SEEDS = range(20)


@pytest.mark.parametrize("seed", SEEDS)
def test_matches_of_anchors(seed):
    draws = rng(seed)
    overlaps = (torch.rand(4, 60, generator=draws) ** 3 * 8).round() / 8  # with ties
    found, expected = (kind(0.7, 0.3, allow_low_quality_matches=True)(overlaps) for kind in (BatchedMatcher, Matcher))
    assert torch.equal(found, expected)
    assert (found >= 0).any()


def labels(seed, dtype, sizes=(30, 7, 50, 12)):
    """Labels -1, 0 and up of several images; the last has no positive, the second no negative."""
    draws = rng(seed)
    drawn = [torch.randint(-1, 3, (n,), generator=draws) for n in sizes]
    drawn[1].abs_().clamp_(1, 2)
    drawn[-1].clamp_(max=0)
    return [one.to(dtype) for one in drawn]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
@pytest.mark.parametrize(("count", "fraction"), [(16, 0.5), (8, 0.25), (1, 0.5), (200, 0.5)])
def test_samples_and_the_random_numbers_left(seed, dtype, count, fraction):
    def sample(kind):
        torch.manual_seed(seed)
        masks = kind(count, fraction)(labels(seed, dtype))
        return [*masks[0], *masks[1], torch.rand(1)]

    assert all(map(torch.equal, sample(BatchedSampler), sample(BalancedPositiveNegativeSampler)))


@pytest.mark.parametrize("seed", SEEDS)
def test_sampled_boxes_of_the_heads(seed):
    def sample(kind):
        heads = kind(None, torch.nn.Identity(), torch.nn.Identity(), 0.5, 0.5, 8, 0.25, None, 0.05, 0.5, 100)
        torch.manual_seed(seed)
        return heads.subsample(labels(seed, torch.int64))

    assert all(map(torch.equal, sample(BatchedHeads), sample(RoIHeads)))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("anchors", [300, 3000])  # torchvision has another way past 1000 boxes
def test_proposals(seed, anchors):
    draws = rng(seed)
    corner = torch.rand(3, anchors, 2, generator=draws) * 60 - 5
    proposals = torch.cat([corner, corner + torch.rand(3, anchors, 2, generator=draws) * 20], -1)
    proposals[:, :10, 2:] = proposals[:, :10, :2]  # without area
    objectness = (torch.randn(3, anchors, 1, generator=draws) * 4).round() / 2  # with ties
    sizes = [(48, 64), (64, 40), (33, 50)]

    def filtered(kind):
        counts = {"training": 2000, "testing": 100}
        head = RPNHead(4, 1)
        generator = AnchorGenerator(((8,),), ((1.0,),))
        network = kind(generator, head, 0.7, 0.3, 16, 0.5, counts, {"training": 40, "testing": 20}, 0.7)
        boxes, scores = network.filter_proposals(proposals, objectness, sizes, [anchors])
        return [*boxes, *scores]

    found, expected = filtered(BatchedProposals), filtered(RegionProposalNetwork)
    assert all(map(torch.equal, found, expected))
    assert len(found[0]) == 40
