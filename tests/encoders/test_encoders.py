"""Encoders against torchvision's, heads against convolutions, unit vectors at every scale."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn

from cl_bench.encoders import ProjectionHead, ReflectingConv2d, build_encoder, cells, pooled, unit, unit_and_norm

NAMES = ("small_cnn", "resnet18")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def built(name, seed=0, padding="zeros"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_encoder(name, padding).eval()


@pytest.mark.parametrize(
    ("name", "stride", "channels"), [("small_cnn", 4, (64, 128)), ("resnet18", 16, (256, 512))], ids=NAMES
)
@pytest.mark.parametrize("shape", [(32, 64), (33, 47)])
def test_shapes_and_strides(name, stride, channels, shape):
    encoder = built(name)
    assert (encoder.trunk_stride, encoder.trunk_channels, encoder.channels) == (stride, *channels)
    images = draw(2, 3, *shape)
    with torch.no_grad():
        trunk, whole = encoder.trunk(images), encoder(images)
        assert torch.equal(encoder.last(trunk), whole)
    assert trunk.shape == (2, channels[0], *(-(-side // stride) for side in shape))
    assert whole.shape == (2, channels[1], *(-(-side // (2 * stride)) for side in shape))


def test_resnet18_is_torchvision_s_up_to_the_pooling():
    encoder, images = built("resnet18"), draw(2, 3, 64, 64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reference = torchvision.models.resnet18(weights=None).eval()
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
    for name, part in zip(names, encoder.trunk, strict=True):
        for key, value in part.state_dict().items():
            assert torch.equal(value, reference.state_dict()[f"{name}.{key}"])
    with torch.no_grad():
        expected = nn.Sequential(*list(reference.children())[:-2])(images)
        torch.testing.assert_close(encoder(images), expected, rtol=0, atol=0)
        reference.fc = nn.Identity()
        torch.testing.assert_close(pooled(encoder(images))[:, 0], reference(images))


@pytest.mark.parametrize("name", NAMES)
def test_zeros_tell_a_cell_s_place_and_reflection_does_not(name):
    """On an image of one colour all cells are alike, unless something but the image reaches them."""
    flat = torch.full((1, 3, 96, 96), 0.7)
    with torch.no_grad():
        by_zeros, by_reflection = (cells(built(name, padding=p)(flat))[0] for p in ("zeros", "reflect"))
    torch.testing.assert_close(by_reflection, by_reflection[:1].expand_as(by_reflection), rtol=1e-4, atol=1e-4)
    assert (by_zeros - by_zeros.mean(0)).norm() > 0.05 * by_zeros.norm()


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_neither_weights_nor_their_names_nor_what_is_drawn_next(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        zeros, drawn = build_encoder(name).state_dict(), torch.rand(1)
        torch.manual_seed(0)
        reflecting = build_encoder(name, "reflect")
        assert torch.equal(torch.rand(1), drawn)
    assert list(reflecting.state_dict()) == list(zeros)
    assert all(torch.equal(value, zeros[key]) for key, value in reflecting.state_dict().items())
    assert copy.deepcopy(reflecting).load_state_dict(zeros)


def test_reflection_is_torch_s_own_and_maps_of_one_row_repeat_their_edge():
    conv = nn.Conv2d(3, 5, 3, 2, padding=1, padding_mode="reflect")
    same = ReflectingConv2d(conv)
    for shape in ((7, 8), (2, 2)):
        images = draw(2, 3, *shape)
        torch.testing.assert_close(same(images), conv(images), rtol=0, atol=0)
    one = draw(2, 3, 1, 1)
    expected = torch.einsum("oikl,bi->bo", conv.weight, one[:, :, 0, 0]) + conv.bias
    torch.testing.assert_close(same(one)[:, :, 0, 0], expected)


def test_small_cnn_has_five_convolutions():
    layers = list(built("small_cnn").modules())
    assert [sum(isinstance(m, kind) for m in layers) for kind in (nn.Conv2d, nn.BatchNorm2d, nn.ReLU)] == [5, 5, 5]


@pytest.mark.parametrize("name", NAMES)
def test_weights_come_from_the_global_generator(name):
    first, again, other = (built(name, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_pooled_and_cells_are_the_loops():
    feature_map = draw(2, 5, 3, 4)
    mean, vectors = pooled(feature_map), cells(feature_map)
    assert mean.shape == (2, 1, 5) and vectors.shape == (2, 12, 5)
    for b in range(2):
        torch.testing.assert_close(mean[b, 0], torch.stack([feature_map[b, c].mean() for c in range(5)]))
        for p in range(12):
            assert torch.equal(vectors[b, p], feature_map[b, :, p // 4, p % 4])


@pytest.mark.parametrize("exponent", [-35, -30, -22, -12, 0, 12, 18, 25, 37])
def test_unit_keeps_directions_at_every_scale(exponent):
    x = draw(4, 6, 8).clamp(-3, 3).double()
    expected = x / x.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(unit((x * 10.0**exponent).float()).double(), expected, rtol=1e-5, atol=1e-5)


def test_unit_of_nothing_is_one_constant_direction():
    x = draw(3, 4, 9)
    x[0, 1] = x[2, 3] = 0
    result = unit(x)
    assert torch.equal(result[0, 1], result[2, 3])
    torch.testing.assert_close(result.norm(dim=-1), torch.ones(3, 4))
    torch.testing.assert_close(result[0, 1], torch.full((9,), 1 / 3))


@pytest.mark.parametrize("exponent", [-35, -22, 0, 25, 37])
def test_norms_are_the_lengths_at_every_scale(exponent):
    x = (draw(4, 6, 8).clamp(-3, 3).double() * 10.0**exponent).float()
    direction, norm = unit_and_norm(x)
    assert torch.equal(direction, unit(x)) and norm.shape == (4, 6)
    torch.testing.assert_close(norm.double(), x.double().norm(dim=-1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_norms_are_finite_where_features_are_and_only_there(dtype):
    x = torch.ones(4, 9, dtype=dtype)
    x[0], x[1] = torch.finfo(dtype).max, 0
    x[2, 3] = float("inf")
    _, norm = unit_and_norm(x)
    assert norm[0] == torch.finfo(dtype).max and norm[1] == 0 and norm[3] == 3 and not norm[2].isfinite()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_unit_hides_nothing_that_is_not_finite(value):
    x = draw(2, 5)
    x[1, 2] = value
    assert torch.isfinite(unit(x)).all(-1).tolist() == [True, False]


def test_a_head_on_cells_is_two_1x1_convolutions():
    head, feature_map = ProjectionHead(6, 7, 4), draw(2, 6, 3, 5)
    first, _, second = head.net
    convolutions = nn.Sequential(nn.Conv2d(6, 7, 1), nn.ReLU(), nn.Conv2d(7, 4, 1))
    convolutions.load_state_dict(
        {
            "0.weight": first.weight[..., None, None],
            "0.bias": first.bias,
            "2.weight": second.weight[..., None, None],
            "2.bias": second.bias,
        }
    )
    expected = nn.functional.normalize(convolutions(feature_map), dim=1)
    projections = head(cells(feature_map))
    assert projections.shape == (2, 15, 4)
    torch.testing.assert_close(projections, cells(expected))
    torch.testing.assert_close(projections.norm(dim=-1), torch.ones(2, 15))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_a_head_s_projections_are_unit_vectors_at_every_scale(scale):
    head = ProjectionHead(6, 7, 4)
    with torch.no_grad():
        for parameter in head.net[-1].parameters():
            parameter *= scale
        torch.testing.assert_close(head(draw(2, 3, 6)).norm(dim=-1), torch.ones(2, 3))
