"""Measures on an encoder's own features, against loops over the same views."""

from __future__ import annotations

import oracles
import pytest
import torch
from helpers import KINDS, ragged
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from cl_bench.data import Dataset
from cl_bench.data.dataset import take
from cl_bench.data.views import Geometry, two_views
from cl_bench.encoders import Encoder, build_encoder
from cl_bench.errors import Diverged
from cl_bench.evaluate import alignment_uniformity as metrics
from cl_bench.evaluate.alignment_uniformity import measure
from cl_bench.evaluate.probes import probes
from cl_bench.evaluate.similarities import BINS
from cl_bench.losses import types
from cl_bench.losses.types import DenseViews, Match
from cl_bench.spec import AugmentSpec, MeasureSpec, ScenesSpec

CPU = torch.device("cpu")
AUGMENT = AugmentSpec(size=8, flip=0.5)
POLICIES = ("overlapping", "disjoint")


def correct_positives(match, views):
    return tuple(types.correct_positives(match, views).tolist())


def spec(**changes):
    data = ScenesSpec(kind="single_object", split="test", images=6, size=16)
    return MeasureSpec(data=data, **changes)


def images(n=6, side=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Dataset(torch.randint(256, (n, 3, side, side), generator=generator, dtype=torch.uint8), ("0",))


def of_all_sizes():
    return Dataset(ragged([(16, 40), (31, 9), (8, 8), (20, 21), (50, 12), (9, 70)]), ("0",))


def fake(channels=5, last=None):
    """Make an encoder with maps of 2 x 2 cells from one fixed convolution."""
    convolution = nn.Conv2d(3, channels, 4, stride=4)
    with torch.no_grad():
        for parameter in convolution.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return Encoder(convolution, last or nn.Identity(), channels, channels, 4).eval()


def value(measured):
    return [measured[name][level] for name in ("alignment", "uniformity") for level in ("instance", "dense")]


@torch.no_grad()
def by_hand(encoder, data, spec, policy, batch):
    draws = torch.Generator().manual_seed(spec.seed)
    maps, colours = [], []
    for start in range(0, len(data), batch):
        index = torch.arange(start, min(start + batch, len(data)))
        pair = two_views(take(data.images, index), AUGMENT, policy, draws)
        maps.append([encoder(view).double() for view, _ in pair])
        colours.append(pair[0][0].mean((2, 3)))
    colours = torch.cat(colours)
    out = {"alignment": {}, "uniformity": {}, "colours": colours}
    for level in ("instance", "dense"):
        h = []
        for side in zip(*maps, strict=True):
            features = torch.cat(side)
            features = features.mean((2, 3))[:, None] if level == "instance" else features.flatten(2).mT
            h.append(features / features.norm(dim=-1, keepdim=True))
        identity = oracles.identity(len(data), h[0].shape[1])
        out["alignment"][level] = float(oracles.alignment(*h, identity))
        out["uniformity"][level] = float(sum(oracles.uniformity(x, spec.t, spec.scope) for x in h) / 2)
    return {**out, "dense": h}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("scope", ["same_index", "other_images", "all_pairs"])
@pytest.mark.parametrize(("t", "batch"), [(1.0, 256), (2.5, 4)])
@pytest.mark.parametrize("data", [images(), of_all_sizes()], ids=["uniform", "ragged"])
def test_measures_are_the_oracle_s_on_the_same_views(data, policy, scope, t, batch, monkeypatch):
    monkeypatch.setattr(metrics, "BATCH", batch)
    asked, encoder = spec(t=t, scope=scope, seed=3), fake()
    measured = measure(encoder, data, asked, AUGMENT, policy, CPU)
    assert set(measured["alignment"]) == set(measured["uniformity"]) == {"instance", "dense"}
    expected = by_hand(encoder, data, asked, policy, batch)
    assert value(measured) == pytest.approx(value(expected), rel=1e-5, abs=1e-7)
    shares = [measured["probes"][name] for name in ("position_share", "image_share")]
    assert shares == pytest.approx(oracles.variance_shares(expected["dense"][0]), rel=1e-5)
    assert measured["probes"] == pytest.approx(probes(expected["dense"][0], expected["colours"]), rel=1e-4, abs=1e-6)
    others = oracles.similarities(*expected["dense"], BINS, lambda i: [j for j in range(len(data)) if j != i])
    assert {kind: pytest.approx(shares, abs=2e-2) for kind, shares in others.items()} == measured["similarities"]
    lesser = sum(map(min, others["positive"], others["other_images"]))
    assert measured["similarity_overlap"] == pytest.approx(lesser, abs=2e-2)


def test_the_seed_and_the_policy_decide_the_views():
    first, again, seed, policy = (
        value(measure(fake(), images(), spec(seed=s), AUGMENT, p, CPU))
        for s, p in ((0, "overlapping"), (0, "overlapping"), (1, "overlapping"), (0, "disjoint"))
    )
    assert first == again and first != seed and first != policy


def test_without_augmentation_the_views_agree_and_the_order_of_images_does_not_matter():
    still = AugmentSpec(size=16, scale=(1, 1), ratio=(1, 1), jitter=0, grayscale=0)
    data = images()
    measured = measure(fake(), data, spec(), still, "overlapping", CPU)
    assert measured["alignment"] == pytest.approx({"instance": -1, "dense": -1})
    turned = Dataset(data.images[torch.tensor([3, 0, 5, 1, 4, 2])], data.classes)
    assert value(measure(fake(), turned, spec(), still, "overlapping", CPU)) == pytest.approx(value(measured))


def test_features_that_say_nothing_are_aligned_and_not_uniform():
    encoder = fake()
    with torch.no_grad():
        encoder.trunk.weight.zero_()
    measured = measure(encoder, images(), spec(), AUGMENT, "overlapping", CPU)
    assert value(measured) == pytest.approx([-1, -1, 0, 0], abs=1e-5)


def test_of_many_images_some_are_probed_all_over_the_set(monkeypatch):
    seen = []
    monkeypatch.setattr(metrics, "PROBED", 3)
    monkeypatch.setattr(metrics, "probes", lambda h, colours: seen.append((h, colours)) or {})
    monkeypatch.setattr(metrics, "similarity_histograms", lambda *h: seen.append(h) or {k: [1.0] for k in KINDS})
    for n in (3, 6, 7):
        encoder, data = fake(), images(n)
        whole = by_hand(encoder, data, spec(), "overlapping", 256)
        measure(encoder, data, spec(), AUGMENT, "overlapping", CPU)
        step = {3: 1, 6: 2, 7: 3}[n]
        (h1, h2), (again, colours) = seen[-2:]
        for found, expected in ((h1, whole["dense"][0]), (h2, whole["dense"][1]), (colours, whole["colours"])):
            torch.testing.assert_close(found, expected[::step].float())
        assert again is h1 or torch.equal(again, h1)


def test_the_encoder_and_the_global_generator_stay_as_they_are():
    encoder = build_encoder("small_cnn").eval()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    state = torch.get_rng_state()
    measured = measure(encoder, images(), spec(), AUGMENT, "overlapping", CPU)
    assert not any(module.training for module in encoder.modules())
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in encoder.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(isinstance(v, float) for v in value(measured))


class Breaks(nn.Module):
    """One value of one image's features of the second view."""

    def __init__(self, bad):
        super().__init__()
        self.bad, self.calls = bad, 0

    def forward(self, feature_map):
        self.calls += 1
        if self.calls == 2:
            feature_map = feature_map.clone()
            feature_map[-1, -1, -1, -1] = self.bad
        return feature_map


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_diverge(bad):
    with pytest.raises(Diverged, match="not finite"):
        measure(fake(last=Breaks(bad)), images(), spec(), AUGMENT, "overlapping", CPU)


@pytest.mark.parametrize("exponent", [-80, 80])
def test_the_scale_of_the_features_does_not_matter(exponent):
    encoder, scaled = fake(), fake()
    with torch.no_grad():
        for parameter in scaled.parameters():
            parameter *= 2.0**exponent
    a, b = (value(measure(e, images(), spec(), AUGMENT, "overlapping", CPU)) for e in (encoder, scaled))
    assert a == pytest.approx(b, rel=1e-5)


# How often a matching is right


def placed(boxes, flips, image, grid):
    """Make views from the boxes and flips of both, of which only the geometry matters."""
    B, P = len(boxes[0]), grid[0] * grid[1]
    z = torch.ones(B, P, 1)
    (xy1, size1), (xy2, size2) = (
        Geometry(torch.tensor(b).float(), torch.tensor(f), image[1], image[0]).cells(grid)
        for b, f in zip(boxes, flips, strict=True)
    )
    norm = z[..., 0]
    return DenseViews(z, z, z, z, norm, norm, xy1, xy2, size1, size2, grid)


@st.composite
def situations(draw):
    """Two crops each of a few images, and weights; narrow images make cells touch often."""
    B, grid = draw(st.integers(1, 3)), draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    image = draw(st.tuples(st.sampled_from([4, 7, 640, 4000]), st.sampled_from([3, 9, 480])))
    P = grid[0] * grid[1]

    def box():
        (x1, x2), (y1, y2) = (sorted(draw(st.sets(st.integers(0, n), min_size=2, max_size=2))) for n in image)
        return x1, y1, x2, y2

    boxes = [[box() for _ in range(B)] for _ in range(2)]
    flips = [[draw(st.booleans()) for _ in range(B)] for _ in range(2)]
    weights = torch.tensor(
        [[draw(st.lists(st.integers(0, 2), min_size=P, max_size=P)) for _ in range(P)] for _ in range(B)]
    ).float()
    rows = weights.sum(-1, keepdim=True)
    return boxes, flips, image, grid, weights / rows.masked_fill(rows == 0, 1.0)


@settings(max_examples=150, deadline=None)
@given(situations())
@example(([[(0, 0, 3, 3)], [(3, 0, 7, 3)]], [[False], [True]], (7, 3), (1, 1), torch.ones(1, 1, 1)))
def test_correct_positives_are_those_of_exact_arithmetic(situation):
    boxes, flips, image, grid, weights = situation
    found = correct_positives(Match(weights=weights), placed(boxes, flips, image, grid))
    assert found == pytest.approx(oracles.correct_positives(weights.tolist(), boxes, flips, grid), abs=1e-6)


@pytest.mark.parametrize("side", [32, 48, 224, 640, 4000])
@pytest.mark.parametrize("cells", [1, 2, 3, 7, 8])
def test_neighbouring_cells_of_one_crop_only_touch(side, cells):
    """The one positive that is right is the cell itself, wherever the crop lies."""
    starts = torch.randint(side // 2, (64, 2), generator=torch.Generator().manual_seed(side))
    sizes = torch.randint(1, side // 2, (64, 2), generator=torch.Generator().manual_seed(cells))
    boxes = torch.cat([starts, starts + sizes], 1).tolist()
    P = cells**2
    views = placed([boxes] * 2, [[False] * 64] * 2, (side, side), (cells, cells))
    everywhere = Match(weights=torch.full((64, P, P), 1 / P))
    right, every = correct_positives(everywhere, views)
    assert every == pytest.approx(64 * P) and right == pytest.approx(64)


def test_a_flip_moves_the_cells():
    boxes = [[(0, 0, 8, 8)]] * 2
    straight, turned = (placed(boxes, [[False], [flip]], (8, 8), (2, 2)) for flip in (False, True))
    swapped = Match(index=torch.tensor([[1, 0, 3, 2]]))
    assert correct_positives(Match.identity(straight), straight) == (4, 4)
    assert correct_positives(Match.identity(turned), turned) == (0, 4)
    assert correct_positives(swapped, turned) == (4, 4)


def test_an_anchor_without_positive_does_not_count():
    views = placed([[(0, 0, 8, 8)]] * 2, [[False]] * 2, (8, 8), (1, 2))
    index = torch.tensor([[0, 0]])
    assert correct_positives(Match(index=index), views) == (1, 2)
    assert correct_positives(Match(index=index, valid=torch.tensor([[True, False]])), views) == (1, 1)
    assert correct_positives(Match(index=index, valid=torch.tensor([[False, False]])), views) == (0, 0)


def test_the_cell_of_the_instance_level_is_the_whole_crop():
    views = placed([[(0, 0, 4, 8)] * 2, [(3, 0, 8, 8), (4, 0, 8, 8)]], [[False] * 2] * 2, (8, 8), (1, 1))
    assert correct_positives(Match.identity(views), views) == (1, 2)
