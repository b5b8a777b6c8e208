"""Networks of any kind, read as encoders: against timm's own maps, by hand, and refused in one line."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from cl_bench.encoders import build_encoder
from cl_bench.encoders.frozen import FrozenEncoder, frozen
from cl_bench.errors import Diverged, EncoderError

VIEW = 24


def seeded(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def images(side=VIEW, count=3):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(5))


def vit(**more):
    shape = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
    return timm.models.VisionTransformer(**(shape | {"dynamic_img_size": True} | more))


@torch.no_grad()
def read(encoder: FrozenEncoder, x):
    return encoder.features(x)


def test_timm_s_resnet_is_its_last_map_and_its_mean_and_is_cut_at_c4():
    network = seeded(lambda: timm.create_model("resnet18", num_classes=0))
    maps = timm.create_model("resnet18", features_only=True).eval()
    maps.load_state_dict(network.state_dict())
    encoder = frozen(network, "it", 64, enlarged=1)
    x = images(64)
    with torch.no_grad():
        expected = maps(x)
        found = encoder.features(x)
        trunk = encoder.parts.trunk(x)
    torch.testing.assert_close(found.dense, expected[-1])
    torch.testing.assert_close(found.pooled, expected[-1].mean((2, 3)))
    torch.testing.assert_close(trunk, expected[-2])
    torch.testing.assert_close(encoder.parts.last(trunk), expected[-1])
    assert (encoder.parts.trunk_stride, encoder.parts.trunk_channels, encoder.parts.channels) == (16, 256, 512)


def test_a_small_view_is_enlarged_to_three_cells_and_the_trunk_with_it():
    encoder = frozen(seeded(lambda: timm.create_model("resnet18", num_classes=0)), "it", VIEW)
    assert encoder.shape.enlarged == 4 and encoder.shape.grid == (3, 3)
    assert encoder.parts.trunk_stride == 4
    x = images()
    larger = nn.functional.interpolate(x, scale_factor=4, mode="bilinear")
    with torch.no_grad():
        expected = encoder.network.forward_features(larger)
        torch.testing.assert_close(encoder.features(x).dense, expected)
        torch.testing.assert_close(encoder.parts(x), expected)


@pytest.mark.parametrize(
    ("prefix", "more"), [(1, {}), (0, {"class_token": False, "global_pool": "avg"}), (5, {"reg_tokens": 4})]
)
def test_tokens_of_a_transformer_become_a_grid_row_by_row_and_the_class_token_stands_apart(prefix, more):
    network = seeded(lambda: vit(**more))
    encoder = frozen(network, "it", VIEW)
    x = images()
    with torch.no_grad():
        tokens, found = network.forward_features(x), encoder.features(x)
    assert found.dense.shape == (3, 24, 3, 3) and encoder.shape.grid == (3, 3)
    for row in range(3):
        for column in range(3):
            assert torch.equal(found.dense[:, :, row, column], tokens[:, prefix + 3 * row + column])
    expected = tokens[:, 0] if prefix else tokens.mean(1)
    torch.testing.assert_close(found.pooled, network.fc_norm(expected))
    assert encoder.parts is None and encoder.shape.uncut == "is not a sequence of layers of a known kind"


def test_a_transformer_of_one_size_sees_images_resized_to_it():
    network = seeded(lambda: vit(dynamic_img_size=False))
    encoder = frozen(network, "it", VIEW)
    assert encoder.shape.side == 16 and encoder.shape.grid == (2, 2)
    assert read(encoder, images(40)).dense.shape == (3, 24, 2, 2)
    assert encoder.shape.uncut == "sees every image resized to 16 x 16"


def test_torchvision_s_resnet_is_cut_before_pooling():
    network = seeded(lambda: torchvision.models.resnet18(weights=None))
    encoder = frozen(network, "it", 64, enlarged=1)
    x = images(64)
    with torch.no_grad():
        expected = nn.Sequential(*list(network.children())[:-2])(x)
        found = encoder.features(x)
    torch.testing.assert_close(found.dense, expected)
    torch.testing.assert_close(found.pooled, network.avgpool(expected).flatten(1))
    assert (encoder.parts.trunk_stride, encoder.parts.trunk_channels) == (16, 256)


def test_torchvision_s_swin_puts_channels_first():
    shape = {"patch_size": [4, 4], "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": [4, 4]}
    encoder = frozen(seeded(lambda: torchvision.models.SwinTransformer(**shape)), "it", VIEW)
    assert encoder.shape.dense == 16 and encoder.shape.grid == (3, 3)


def test_a_built_in_encoder_stays_what_it_is():
    network = seeded(lambda: build_encoder("small_cnn", "reflect"))
    encoder = frozen(network, "it", VIEW)
    assert encoder.parts is network and encoder.shape.enlarged == 1
    with torch.no_grad():
        assert torch.equal(encoder.features(images()).dense, network(images()))


class Gives(nn.Module):
    """Whatever a function makes of images; it has a weight, as networks have."""

    def __init__(self, what):
        super().__init__()
        self.conv, self.what = nn.Conv2d(3, 7, 4, 4), what

    def forward(self, x):
        return self.what(self.conv(x))


def test_a_module_may_give_a_map_or_tokens_or_a_map_and_a_feature():
    x = images()
    plain = frozen(seeded(lambda: Gives(lambda m: m)), "it", VIEW)
    tokens = frozen(seeded(lambda: Gives(lambda m: m.flatten(2).transpose(1, 2))), "it", VIEW)
    both = frozen(seeded(lambda: Gives(lambda m: (m, m.amax((2, 3))))), "it", VIEW)
    expected = read(plain, x)
    torch.testing.assert_close(expected.pooled, expected.dense.mean((2, 3)))
    torch.testing.assert_close(read(tokens, x).dense, expected.dense)
    torch.testing.assert_close(read(tokens, x).pooled, expected.pooled)
    torch.testing.assert_close(read(both, x).pooled, expected.dense.amax((2, 3)))
    assert plain.parts is None


def test_a_row_of_layers_is_cut_before_the_last_that_shrinks_the_map():
    layers = [
        nn.Conv2d(3, 4, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, 2, 1),
        nn.Sequential(nn.ReLU(), nn.Conv2d(5, 7, 1)),
    ]
    encoder = frozen(seeded(lambda: nn.Sequential(*layers)), "it", VIEW)
    assert (encoder.parts.trunk_stride, encoder.parts.trunk_channels, encoder.parts.channels) == (2, 4, 7)
    with torch.no_grad():
        torch.testing.assert_close(encoder.parts(images()), encoder.features(images()).dense)


def test_layers_that_are_not_the_whole_network_are_not_taken_for_it():
    """A ResNet that does something between its layers must not be measured as if it did not."""

    class Other(torchvision.models.ResNet):
        def forward(self, x):
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            return self.layer4(self.layer3(self.layer2(self.layer1(x) * 2)))

    network = seeded(lambda: Other(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1]))
    encoder = frozen(network, "it", 64, enlarged=1)
    with torch.no_grad():
        assert torch.equal(encoder.features(images(64)).dense, network(images(64)))
    assert encoder.parts is None


def test_what_pixels_are_normalised_by_is_the_network_s_own():
    network = seeded(lambda: Gives(lambda m: m))
    assert frozen(network, "it", VIEW).mean is None
    network.mean, network.std = (0.1, 0.2, 0.3), [1, 1, 2]
    encoder = frozen(network, "it", VIEW)
    assert (encoder.mean, encoder.std) == ((0.1, 0.2, 0.3), (1.0, 1.0, 2.0))
    timm_s = frozen(seeded(lambda: timm.create_model("test_vit", num_classes=0, dynamic_img_size=True)), "it", VIEW)
    assert timm_s.mean == tuple(timm.get_pretrained_cfg("test_vit").mean)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda m: m.mean((2, 3)), r"it gives \(2, 7\), and has no layers known here"),
        (lambda m: m.flatten(2)[:, :, :-1].transpose(1, 2), "tokens .* no grid"),
        (lambda m: m.permute(0, 2, 3, 1), "for square images: channels come first"),
        (lambda m: m[:1], r"it gives \(\(1, 7, 6, 6\), \(1, 7\)\) for 2 images"),
        (lambda m: {"map": m}, "it gives dict"),
        (lambda m: m.long(), "it gives"),
        (
            lambda m: m[0, 0, 0, 0].foo,
            "it takes no images of 24 x 24 pixels, or up to 32 times as large: AttributeError",
        ),
        (lambda m: m + torch.rand(()), "other features when it sees the same images again"),
    ],
)
def test_what_gives_no_features_is_refused_in_one_line(what, said):
    with pytest.raises(EncoderError, match=said) as refused:
        frozen(seeded(lambda: Gives(what)), "it", VIEW)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_have_diverged(value):
    with pytest.raises(Diverged, match=r"^features are not finite"):
        frozen(seeded(lambda: Gives(lambda m: m * value)), "it", VIEW)
