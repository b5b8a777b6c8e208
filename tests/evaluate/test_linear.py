"""Linear evaluation reads what is there, nothing that is not, and leaves the encoder alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from pydantic import ValidationError
from real_formats import write_stl10
from torch import nn

from cl_bench.data import DataPaths, Dataset, Ragged, load
from cl_bench.encoders import Encoder, build_encoder
from cl_bench.errors import Diverged
from cl_bench.evaluate.linear import evaluate_linear
from cl_bench.spec import COCOSpec, LinearSpec, ScenesSpec, STL10Spec

CPU = torch.device("cpu")
DATA = ScenesSpec(kind="single_object", split="train", images=8, size=16)
COLOURS = torch.tensor([[200, 60, 60], [60, 200, 60], [60, 60, 200]])
UNIT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def spec(**changes):
    return LinearSpec(**{"train": DATA, "test": DATA, "standardise": True, "epochs": 40, "lr": 0.02, **changes})


def painted(labels, noise=40, seed=0):
    """Images of one colour a class, with noise around it."""
    generator = torch.Generator().manual_seed(seed)
    shade = COLOURS[labels] + torch.randint(-noise, noise + 1, (len(labels), 3), generator=generator)
    return Dataset(shade.clamp(0, 255).byte()[:, :, None, None].expand(-1, -1, 4, 4).contiguous(), tuple("abc"), labels)


def balanced(n):
    return torch.arange(n) % 3


def colours(factor=1.0, last=None):
    """Make an encoder whose feature is the image's colour, scaled."""

    class Scale(nn.Module):
        def forward(self, x):
            return x * factor

    return Encoder(Scale(), last or nn.Identity(), 3, 3, 1).eval()


def accuracy(encoder=None, train=None, test=None, **changes):
    train, test = train or painted(balanced(90)), test or painted(balanced(60), seed=1)
    return evaluate_linear(encoder or colours(), train, test, spec(**changes), **UNIT, device=CPU)["accuracy"]


HARD = {"train": painted(balanced(120), noise=160), "test": painted(balanced(300), noise=160, seed=1)}


def test_halves_are_of_the_images_at_even_and_at_odd_places():
    test = painted(balanced(60), seed=1)
    wrong = Dataset(test.images, test.classes, labels=test.labels.clone())
    wrong.labels[1::2] = (wrong.labels[1::2] + 1) % 3
    found = evaluate_linear(colours(), painted(balanced(90)), wrong, spec(), **UNIT, device=CPU)
    assert found == {"accuracy": 50.0, "halves": [100.0, 0.0]}
    one = Dataset(test.images[:1], test.classes, labels=test.labels[:1])
    assert evaluate_linear(colours(), painted(balanced(90)), one, spec(), **UNIT, device=CPU)["halves"] == [100.0]


@pytest.mark.parametrize("standardise", [True, False])
def test_separable_features_are_read_entirely(standardise):
    assert accuracy(standardise=standardise) == 100.0


def test_labels_that_the_features_know_nothing_of_are_at_chance():
    generator = torch.Generator().manual_seed(3)
    test = painted(balanced(900), seed=1)
    shuffled = Dataset(test.images, test.classes, test.labels[torch.randperm(900, generator=generator)])
    assert abs(accuracy(test=shuffled) - 100 / 3) < 5
    noise = torch.randint(256, (2, 300, 3, 4, 4), generator=generator, dtype=torch.uint8)
    train, test = (Dataset(images, tuple("abc"), balanced(300)) for images in noise)
    assert abs(accuracy(train=train, test=test) - 100 / 3) < 8


def test_accuracy_is_a_share_in_percent():
    # All of class 0 in training: every guess is class 0.
    assert accuracy(train=painted(torch.zeros(30, dtype=torch.int64)), test=painted(balanced(60))) == pytest.approx(
        100 / 3
    )


def test_the_test_set_is_scaled_by_the_training_set_s_figures():
    for label in range(3):  # by its own, a test set of one class would lie around the origin
        assert accuracy(test=painted(torch.full((40,), label), seed=1)) == 100.0


def test_the_order_of_the_test_set_does_not_matter():
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    test = HARD["test"]
    turned = Dataset(test.images[order], test.classes, test.labels[order])
    assert accuracy(**HARD) == accuracy(**{**HARD, "test": turned})


def watched():
    """Make an encoder whose feature is the image's colour, and a list of the batches that it gets."""
    seen = []

    class Watch(nn.Module):
        def forward(self, x):
            seen.append(x.clone())
            return x

    return Encoder(Watch(), nn.Identity(), 3, 3, 1).eval(), seen


OWN = {"mean": (0.4, 0.5, 0.6), "std": (3.0, 0.5, 0.25)}


@pytest.mark.parametrize("settings", [{}, OWN], ids=["pre-training's", "its own"])
@pytest.mark.parametrize("protocol", ["cached", "augmented"])
def test_pixels_are_normalised_by_the_spec_s_mean_and_std_and_by_those_given_where_it_names_none(protocol, settings):
    encoder, seen = watched()
    given = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 2.0)}
    grey = Dataset(torch.full((9, 3, 8, 8), 51, dtype=torch.uint8), tuple("abc"), balanced(9))  # crops show the same
    whole = {"protocol": protocol, "size": 8, "resize": 8, "standardise": False, "epochs": 1}
    evaluate_linear(encoder, grey, grey, spec(**whole, **settings), **given, device=CPU)
    used = settings or given
    expected = (torch.full((3,), 0.2) - torch.tensor(used["mean"])) / torch.tensor(used["std"])
    assert len(seen) == 2
    for x in seen:
        torch.testing.assert_close(x, expected[None, :, None, None].expand(9, 3, 8, 8))


# Scale


@pytest.mark.parametrize("factor", [2.0**-12, 1024.0, 1000.0])
def test_standardised_features_have_no_scale(factor):
    assert accuracy(**HARD, encoder=colours(factor)) == pytest.approx(accuracy(**HARD), abs=0.4)


def test_without_standardising_the_scale_counts():
    small = {"encoder": colours(1e-5), "epochs": 20}
    assert accuracy(**small) > 95
    assert accuracy(**small, standardise=False) < 70


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
@pytest.mark.parametrize("standardise", [True, False])
def test_a_constant_feature_does_no_harm(constant, standardise):
    class Extra(nn.Module):
        def forward(self, x):
            return torch.cat([x, torch.full_like(x[:, :1], constant)], 1)

    encoder = Encoder(nn.Identity(), Extra(), 3, 4, 1).eval()
    if standardise or constant < 1:
        assert accuracy(encoder, standardise=standardise) == 100.0
    assert 0 <= accuracy(encoder, standardise=standardise) <= 100


def test_features_that_are_all_constant_give_one_guess():
    assert accuracy(colours(0.0)) == pytest.approx(100 / 3)


@pytest.mark.filterwarnings("ignore:std_mean")
def test_one_image_to_learn_from():
    assert accuracy(train=painted(balanced(1))) == pytest.approx(100 / 3)


# Repeatability


def test_the_seed_decides_and_the_global_generator_neither_counts_nor_moves():
    first = accuracy(**HARD, epochs=2)
    torch.manual_seed(9)
    state = torch.get_rng_state()
    assert accuracy(**HARD, epochs=2) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert any(accuracy(**HARD, epochs=2, seed=seed) != first for seed in (1, 2, 3))


def test_the_encoder_stays_as_it_is():
    encoder = build_encoder("small_cnn").eval()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    data = painted(balanced(12))
    data = Dataset(data.images.repeat(1, 1, 4, 4), data.classes, data.labels)
    assert 0 <= accuracy(encoder, data, data, epochs=2) <= 100
    assert not any(module.training for module in encoder.modules())
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in encoder.parameters())


# The schedule


def test_the_protocol_is_wang_and_isola_s():
    usual = LinearSpec(train=DATA, test=DATA, standardise=True)
    assert (usual.epochs, usual.batch, usual.lr, usual.betas) == (100, 128, 1e-3, (0.5, 0.999))
    assert (usual.milestones, usual.gamma) == ((60, 80), 0.2)


def test_the_rate_falls_at_the_milestones():
    stopped = accuracy(**HARD, epochs=30, milestones=(1,), gamma=1e-12)
    assert stopped == accuracy(**HARD, epochs=1)
    assert stopped != accuracy(**HARD, epochs=30)


def test_progress_is_told_by_the_epoch():
    seen = []
    data = painted(balanced(9))
    evaluate_linear(colours(), data, data, spec(epochs=3), **UNIT, device=CPU, on_step=lambda *step: seen.append(step))
    assert seen == [(1, 3), (2, 3), (3, 3)]


# What is refused


@pytest.mark.parametrize("which", ["train", "test"])
def test_data_without_labels_is_refused(which):
    bare = Dataset(painted(balanced(9)).images, tuple("abc"))
    with pytest.raises(ValueError, match="labelled images"):
        accuracy(**{which: bare})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": STL10Spec(name="stl10", split="test")}, "the same data set, got stl10 and scenes"),
        (dict.fromkeys(("train", "test"), STL10Spec(name="stl10", split="train+unlabeled")), "stl10 train.unlabeled"),
        (dict.fromkeys(("train", "test"), COCOSpec(name="coco", split="val2017")), "labelled .* coco val2017"),
        ({"test": DATA.model_copy(update={"kind": "multi_object"})}, "labelled .* multi_object scenes train"),
        ({"mean": (0.5, 0.5, 0.5)}, "mean and std go together, got .* and None"),
        ({"std": (0.5, 0.5, 0.5)}, "mean and std go together, got None and"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_with_the_spec(changes, message):
    with pytest.raises(ValidationError, match=message):
        spec(**changes)


class Breaks(nn.Module):
    def __init__(self, call, bad):
        super().__init__()
        self.call, self.bad, self.calls = call, bad, 0

    def forward(self, x):
        self.calls += 1
        x = x.clone()
        if self.calls == self.call:
            x[-1, -1, -1, -1] = self.bad
        return x


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("call", [1, 2], ids=["train", "test"])
def test_features_that_are_not_finite_diverge(call, bad):
    with pytest.raises(Diverged, match="not finite"):
        accuracy(colours(last=Breaks(call, bad)), epochs=1)


def test_a_classifier_that_is_not_finite_diverges():
    with pytest.raises(Diverged, match="not finite"):
        accuracy(colours(1e38), standardise=False, lr=1e30, epochs=2)


# Augmented, and images of another size than the encoder's


AUGMENTED = {"protocol": "augmented", "standardise": False, "size": 8, "resize": 10, "epochs": 5, "lr": 0.1}


def large(data, side=16):
    return Dataset(
        data.images.repeat_interleave(side // 4, 2).repeat_interleave(side // 4, 3), data.classes, data.labels
    )


def test_augmented_features_are_read_entirely_and_the_seed_decides():
    train, test = large(painted(balanced(90))), large(painted(balanced(60), seed=1))
    state = torch.get_rng_state()
    assert accuracy(train=train, test=test, **{**AUGMENTED, "epochs": 30}) == 100.0
    assert torch.equal(torch.get_rng_state(), state)
    hard = {kind: large(data) for kind, data in HARD.items()}
    assert accuracy(**hard, **AUGMENTED) == accuracy(**hard, **AUGMENTED)


def test_each_epoch_sees_each_image_anew_and_the_test_sees_its_centre():
    encoder, seen = watched()
    rows = torch.arange(16, dtype=torch.uint8)[:, None] * 15
    image = torch.stack([rows.expand(16, 16), rows.mT.expand(16, 16), torch.full((16, 16), 7, dtype=torch.uint8)])
    data = Dataset(image[None].repeat(4, 1, 1, 1), tuple("abc"), torch.tensor([0, 1, 2, 0]))
    evaluate_linear(encoder, data, data, spec(**{**AUGMENTED, "epochs": 3, "resize": 16}), **UNIT, device=CPU)
    *epochs, test = seen
    assert len(epochs) == 3 and all(batch.shape == (4, 3, 8, 8) for batch in seen)
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[0][0], epochs[0][1])
    torch.testing.assert_close(test, (data.images[:, :, 4:12, 4:12].float() / 255))
    directions = {bool(view[1, 0, -1] > view[1, 0, 0]) for batch in epochs for view in batch}
    assert directions == {True, False}  # mirrored, and not


def ragged(images, data):
    """Return a data set with the same labels and other images, of any sizes."""
    sizes = torch.tensor([image.shape[1:] for image in images])
    pixels = torch.cat([image.permute(1, 2, 0).flatten() for image in images])
    return Dataset(Ragged(pixels, sizes), data.classes, data.labels)


AS_THEY_ARE = {"protocol": "cached", "size": None, "resize": None}


@pytest.mark.parametrize("changes", [{}, {"protocol": "cached"}, AS_THEY_ARE], ids=["augmented", "cached", "whole"])
def test_images_of_different_sizes(changes):
    data = large(painted(balanced(30)))
    wide = [nn.functional.pad(im, (0, 4 * (i % 3)), mode="replicate") for i, im in enumerate(data.images)]
    mixed = ragged(wide, data)
    assert accuracy(train=mixed, test=mixed, **{**AUGMENTED, "epochs": 40, **changes}) == 100.0


def test_images_as_they_are_go_side_by_side_where_neighbours_are_of_one_size(monkeypatch):
    monkeypatch.setattr("cl_bench.evaluate.linear.BATCH", 5)
    encoder, seen = watched()
    data = large(painted(balanced(12)), 8)
    sides = [8, 8, 8, 8, 8, 8, 6, 6, 8, 5, 5, 5]
    images = [image[:, :side] for image, side in zip(data.images, sides, strict=True)]
    accuracy(encoder, ragged(images, data), data, **{**AUGMENTED, **AS_THEY_ARE, "epochs": 1})
    train = seen[:6]
    assert [tuple(x.shape) for x in train] == [
        (n, 3, side, 8) for n, side in ((5, 8), (1, 8), (2, 6), (1, 8), (1, 5), (2, 5))
    ]
    shown = [image for batch in train for image in batch]
    assert all(torch.equal(x, image / 255) for x, image in zip(shown, images, strict=True))


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("name", ["small_cnn", "resnet18"])
def test_no_image_is_too_small_for_an_encoder(name, padding):
    torch.manual_seed(0)
    images = [torch.randint(256, (3, h, w), dtype=torch.uint8) for h, w in ((1, 1), (2, 40), (3, 5), (17, 1))]
    tiny = ragged(images, Dataset(torch.zeros(0), tuple("ab"), torch.tensor([0, 1, 0, 1])))
    settings = {**AUGMENTED, **AS_THEY_ARE, "standardise": True, "epochs": 2}
    assert 0 <= accuracy(build_encoder(name, padding).eval(), tiny, tiny, **settings) <= 100


@pytest.mark.parametrize("changes", [{}, {"short_side": 48}], ids=["whole", "short side"])
def test_files_are_evaluated_as_they_are(tmp_path, changes):
    write_stl10(tmp_path, train=20, test=12)
    places = DataPaths(tmp_path, tmp_path / "cache")
    parts = {part: STL10Spec(name="stl10", split=part, **changes) for part in ("train", "test")}
    train, test = (load(of, places) for of in parts.values())
    side = changes.get("short_side", 96)
    assert isinstance(train.images, Ragged) and train.images[0].shape == (3, side, side)
    plan = spec(**parts, epochs=2)
    of_files = evaluate_linear(colours(), train, test, plan, **UNIT, device=CPU)
    in_memory = (dataclasses.replace(of, images=torch.stack([*of.images])) for of in (train, test))
    assert evaluate_linear(colours(), *in_memory, plan, **UNIT, device=CPU) == of_files


def test_the_centre_is_torchvision_s():
    from torchvision.transforms import v2

    encoder, seen = watched()
    images = torch.randint(256, (2, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = Dataset(images, tuple("ab"), torch.tensor([0, 1]))
    changes = {"size": 64, "resize": 70, "epochs": 1, "standardise": False}
    evaluate_linear(encoder, data, data, spec(**changes), **UNIT, device=CPU)
    theirs = v2.Compose([v2.Resize(70, antialias=True), v2.CenterCrop(64)])(images)
    torch.testing.assert_close(seen[0] * 255, theirs.float(), rtol=0, atol=1e-3)
