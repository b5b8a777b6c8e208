"""Detection: the encoder is in the detector, what is frozen stays, runs repeat, and it learns."""

import copy

import pytest
import torch
from torch import nn

from cl_bench.data.dataset import Dataset
from cl_bench.encoders import build_encoder
from cl_bench.errors import Diverged
from cl_bench.evaluate.detection import _fit, _truths, build_detector, evaluate_detection, load_backbone
from cl_bench.evaluate.torchvision_detector import TorchvisionDetector as Detector
from cl_bench.spec import DetectionSpec, ScenesSpec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CPU = torch.device("cpu")


def spec(**changes):
    data = {"kind": "multi_object", "images": 1, "size": 32}
    settings = {
        "train": ScenesSpec(split="train", **data),
        "test": ScenesSpec(split="test", **data),
        "protocol": "frozen",
        "iterations": 3,
        "batch": 4,
        "lr": 0.05,
        "warmup": 1,
        "anchors": (12.0,),
        "aspect_ratios": (1.0,),
        "roi_size": 4,
        "rpn_samples": 16,
        "roi_samples": 8,
        "proposals_train": 16,
        "proposals_test": 8,
    }
    return DetectionSpec(**{**settings, **changes})


def squares(images=8, size=32, seed=0):
    """One bright square an image, of two classes: red or green."""
    g = torch.Generator().manual_seed(seed)
    pixels = torch.full((images, 3, size, size), 30, dtype=torch.uint8)
    boxes, labels = [], []
    for image in pixels:
        x, y = torch.randint(0, size - 12, (2,), generator=g).tolist()
        label = int(torch.randint(2, (1,), generator=g))
        image[label, y : y + 12, x : x + 12] = 220
        boxes.append(torch.tensor([[x, y, x + 12, y + 12]], dtype=torch.float32))
        labels.append(torch.tensor([label]))
    return Dataset(pixels, ("red", "green"), boxes=tuple(boxes), box_labels=tuple(labels))


def encoder(name="small_cnn", seed=0):
    """With batch-norm statistics that are not the ones every new encoder has."""
    torch.manual_seed(seed)
    built = build_encoder(name)
    built(torch.randn(8, 3, 64, 64))
    return built.eval()


def detector(settings, source, classes=2):
    torch.manual_seed(settings.seed)
    return build_detector(source, classes, settings, MEAN, STD)


def snapshot(module_or_tensors):
    tensors = module_or_tensors.state_dict() if isinstance(module_or_tensors, nn.Module) else module_or_tensors
    return {name: tensor.clone() for name, tensor in tensors.items()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("name", ["small_cnn", "resnet18"])
def test_every_tensor_of_the_encoder_is_loaded(name):
    source, other = encoder(name, seed=0), encoder(name, seed=1)
    built = Detector(other, 2, spec(), MEAN, STD)
    assert changed(source.state_dict(), built.backbone())
    load_backbone(built, source)
    assert built.backbone().keys() == source.state_dict().keys()
    assert not changed(source.state_dict(), built.backbone())
    # The names are those of the very tensors that compute, not of copies kept aside.
    own = {tensor.data_ptr() for tensor in [*built.parameters(), *built.buffers()]}
    assert all(tensor.data_ptr() in own for tensor in built.backbone().values())


def test_the_loader_names_what_is_dropped_renamed_or_of_another_shape():
    source = encoder()
    dropped = detector(spec(), source)
    dropped.roi_heads.box_head.last[1][1] = nn.Identity()
    with pytest.raises(ValueError, match=r"last\.1\.1\.running_var is not in the detector"):
        load_backbone(dropped, source)

    renamed = copy.deepcopy(source)
    renamed.trunk = nn.Sequential(renamed.trunk[0], nn.Sequential(renamed.trunk[1]), renamed.trunk[2])
    with pytest.raises(ValueError, match=r"trunk\.1\.0\.0\.weight is not in the detector") as error:
        load_backbone(detector(spec(), source), renamed)
    assert "trunk.1.0.weight is not in the encoder" in str(error.value)

    reshaped = copy.deepcopy(source)
    reshaped.last[1][0] = nn.Conv2d(128, 128, 1, bias=False)
    with pytest.raises(ValueError, match=r"last\.1\.0\.weight is .*\(128, 128, 1, 1\)"):
        load_backbone(detector(spec(), source), reshaped)


def test_the_loader_notices_a_tensor_that_did_not_arrive():
    source, built = encoder(seed=0), Detector(encoder(seed=1), 2, spec(), MEAN, STD)
    true_backbone = built.backbone

    def detached():
        return {**true_backbone(), "last.0.0.weight": true_backbone()["last.0.0.weight"].clone()}

    built.backbone = detached
    with pytest.raises(ValueError, match=r"last\.0\.0\.weight was not loaded"):
        load_backbone(built, source)


@pytest.mark.parametrize("name", ["small_cnn", "resnet18"])
def test_frozen_keeps_the_encoder_bit_for_bit(name):
    source, data = encoder(name), squares()
    built = detector(spec(), source)
    before = snapshot(built.state_dict())
    _fit(built, data.images, _truths("train", data), spec(), CPU)
    assert not changed(source.state_dict(), built.backbone())
    assert any(name.startswith("rpn.") for name in changed(before, built.state_dict()))
    assert any("box_predictor" in name for name in changed(before, built.state_dict()))


@pytest.mark.parametrize("name", ["small_cnn", "resnet18"])
def test_finetune_changes_every_tensor_of_the_encoder(name):
    source, data = encoder(name), squares()
    settings = spec(protocol="finetune")
    built = detector(settings, source)
    _fit(built, data.images, _truths("train", data), settings, CPU)
    assert changed(source.state_dict(), built.backbone()) == source.state_dict().keys()


def test_a_frozen_trunk_sees_every_training_image_once():
    data, settings = squares(), spec(iterations=6)
    built = detector(settings, encoder())
    seen = []
    built.trunk.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    _fit(built, data.images, _truths("train", data), settings, CPU)
    assert sum(seen) == len(data)


def test_cached_maps_give_the_loss_of_the_images():
    data, source = squares(), encoder()
    truths = _truths("train", data)
    built = detector(spec(), source).train()
    batch = torch.tensor([5, 0, 3])
    with torch.no_grad():
        cached = built.features(data.images)[batch]
    losses = []
    for maps in (cached, built.features(data.images[batch])):
        torch.manual_seed(0)
        losses.append(torch.stack(list(built.losses_of(maps, [(32, 32)] * 3, [truths[i] for i in batch]).values())))
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_the_scale_of_the_features_does_not_matter_to_a_frozen_detector(factor):
    """Batch norm before both heads: encoders that differ in nothing but the scale of their features start alike."""
    data, plain = squares(), encoder()
    scaled = copy.deepcopy(plain)
    with torch.no_grad():
        for norm in (scaled.trunk[2][1], scaled.last[1][1]):
            norm.weight.mul_(factor)
            norm.bias.mul_(factor)
        scaled.last[0][1].running_mean.mul_(factor)  # the last stage reads the scaled trunk: undo it in there
        scaled.last[0][1].running_var.mul_(factor**2)
        scaled.last[0][1].eps *= factor**2
    losses = []
    for source in (plain, scaled):
        built = detector(spec(), source).train()
        torch.manual_seed(0)
        parts = built.losses(data.images, _truths("train", data))
        assert len(parts) == 4
        losses.append(torch.stack(list(parts.values())))
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("protocol", ["frozen", "finetune"])
def test_the_same_arguments_give_the_same_bits_and_touch_nothing_outside(protocol):
    source, train, test = encoder(), squares(seed=1), squares(seed=2)
    settings = spec(protocol=protocol, iterations=8, lr=0.1)
    before, generator = snapshot(source), torch.get_rng_state()
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)  # what the caller did with the global generator is of no consequence
        state = torch.get_rng_state()
        results.append(evaluate_detection(source, train, test, settings, MEAN, STD, CPU))
        assert torch.equal(torch.get_rng_state(), state)
    torch.set_rng_state(generator)
    assert results[0] == results[1]
    assert set(results[0]) == {"coco_ap", "coco_ap50", "voc07_ap", "voc07_ap50", "halves"}
    assert not changed(before, source.state_dict())
    assert not source.training and all(p.requires_grad for p in source.parameters())


def test_trained_weights_repeat_bit_for_bit():
    data, source, states = squares(), encoder(), []
    for _ in range(2):
        built = detector(spec(), source)
        torch.manual_seed(0)
        _fit(built, data.images, _truths("train", data), spec(), CPU)
        states.append(snapshot(built))
    assert not changed(*states)


def test_it_finds_bright_squares():
    result = evaluate_detection(
        encoder(), squares(64, seed=1), squares(24, seed=2), spec(iterations=60, lr=0.1, batch=8), MEAN, STD, CPU
    )
    assert result["coco_ap50"] > 60


def test_halves_are_of_the_images_at_even_and_at_odd_places():
    train, test, trained = squares(64, seed=1), squares(24, seed=2), spec(iterations=30, lr=0.1, batch=8)
    found = evaluate_detection(encoder(), train, test, trained, MEAN, STD, CPU)["halves"]
    for start in (0, 1):
        some = slice(start, None, 2)
        half = Dataset(test.images[some], test.classes, boxes=test.boxes[some], box_labels=test.box_labels[some])
        alone = evaluate_detection(encoder(), train, half, trained, MEAN, STD, CPU)
        assert {name: values[start] for name, values in found.items()} == {k: alone[k] for k in alone if k != "halves"}
    lone = Dataset(test.images[:1], test.classes, boxes=test.boxes[:1], box_labels=test.box_labels[:1])
    found = evaluate_detection(encoder(), train, lone, trained, MEAN, STD, CPU)
    assert found["halves"] == {name: [value] for name, value in found.items() if name != "halves"}


def test_finetuning_memorises_a_few_images():
    data, settings = squares(), spec(protocol="finetune", iterations=40)
    source = encoder()
    built = detector(settings, source)
    losses = []
    of_images = built.losses

    def noted(*batch):
        found = of_images(*batch)
        losses.append(sum(found.values()).item())
        return found

    built.losses = noted
    torch.manual_seed(0)
    _fit(built, data.images, _truths("train", data), settings, CPU)
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_sides_that_are_no_multiple_of_the_stride():
    data = squares(size=34)
    result = evaluate_detection(encoder(), data, data, spec(), MEAN, STD, CPU)
    assert 0 <= result["coco_ap"] <= 100


def test_an_image_without_objects_trains():
    data = squares()
    none = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    data = Dataset(data.images, data.classes, None, (none[0], *data.boxes[1:]), (none[1], *data.box_labels[1:]))
    evaluate_detection(encoder(), data, data, spec(), MEAN, STD, CPU)


@pytest.mark.parametrize("protocol", ["frozen", "finetune"])
def test_nan_weights_and_a_far_too_high_rate_diverge(protocol):
    data, broken = squares(), encoder()
    with torch.no_grad():
        broken.trunk[0][0].weight[0] = float("nan")
    with pytest.raises(Diverged, match="step 1 of 3"):
        evaluate_detection(broken, data, data, spec(protocol=protocol), MEAN, STD, CPU)
    with pytest.raises(Diverged):
        evaluate_detection(encoder(), data, data, spec(protocol=protocol, lr=1e30, warmup=0), MEAN, STD, CPU)


def test_weights_that_the_last_step_broke_diverge():
    """No loss sees them; they would pass for a detector that finds nothing."""
    data, settings = squares(), spec(iterations=1)
    built = detector(settings, encoder())

    def spoil(done, total):
        built.rpn.head.cls_logits.bias.data.fill_(float("inf"))

    with pytest.raises(Diverged, match="a weight is not finite"):
        _fit(built, data.images, _truths("train", data), settings, CPU, spoil)


def test_progress_is_told_at_every_step():
    data, told = squares(), []
    evaluate_detection(encoder(), data, data, spec(), MEAN, STD, CPU, lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_data_without_boxes_or_of_other_classes_is_refused():
    data = squares()
    with pytest.raises(ValueError, match="train images have no boxes"):
        evaluate_detection(encoder(), Dataset(data.images, data.classes), data, spec(), MEAN, STD, CPU)
    other = Dataset(data.images, ("a", "b"), None, data.boxes, data.box_labels)
    with pytest.raises(ValueError, match="the class 'b' is not among those of the training images"):
        evaluate_detection(encoder(), data, other, spec(), MEAN, STD, CPU)
