"""Detection by MoCo's recipe: images of any size at several scales, everything trained, interrupted or not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from test_detection import CPU, MEAN, STD, changed, detector, encoder, snapshot, spec, squares
from torch import nn
from torchvision.ops import MultiScaleRoIAlign

from cl_bench.data.dataset import Dataset, Ragged
from cl_bench.evaluate import detection
from cl_bench.evaluate.average_precision import Truth
from cl_bench.evaluate.detection import _as_seen, _detect, _fit, _groups, _rate, _truths, evaluate_detection
from cl_bench.evaluate.torchvision_detector import MAP, _Pool
from cl_bench.spec.profile_files import load_profile
from cl_bench.store import Store
from cl_bench.train.checkpoint import Checkpoint

RECIPE = {
    "protocol": "finetune",
    "short_sides": (32, 40, 48),
    "test_short_side": 40,
    "flip": 0.5,
    "weight_decay_norm": 0.0,
    "warmup_start": 0.001,
    "precise_norm": 2,
    "roi_aligned": True,
    "roi_sampling": 0,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
}


def recipe(**changes):
    return spec(**{**RECIPE, **changes})


def ragged(data: Dataset, widths: tuple[int, ...] = (32, 36, 44)) -> Dataset:
    """Return the same objects in images of different widths."""
    images = [nn.functional.pad(im, (0, widths[i % len(widths)] - im.shape[-1])) for i, im in enumerate(data.images)]
    pixels = torch.cat([image.permute(1, 2, 0).flatten() for image in images])
    return dataclasses.replace(data, images=Ragged(pixels, torch.tensor([image.shape[1:] for image in images])))


@pytest.mark.slow
def test_it_finds_bright_squares_in_images_of_different_sizes():
    train, test = ragged(squares(48, seed=1)), ragged(squares(16, seed=2))
    result = evaluate_detection(encoder(), train, test, recipe(iterations=60, batch=8), MEAN, STD, CPU)
    assert result["voc07_ap50"] > 60 and result["coco_ap50"] > 60


def test_boxes_follow_the_image_when_it_is_resized_and_mirrored():
    image = torch.zeros(3, 20, 40, dtype=torch.uint8)
    image[:, 4:8, 10:30] = 255
    truth = Truth(torch.tensor([[10.0, 4.0, 30.0, 8.0]]), torch.tensor([0]))
    draws, seen_sizes, mirrored = torch.Generator().manual_seed(0), set(), set()
    for _ in range(40):
        seen, (boxes, labels, _) = _as_seen(image, truth, recipe(short_sides=(40, 60), flip=0.5), draws)
        seen_sizes.add(tuple(seen.shape))
        (x1, y1, x2, y2) = boxes[0].round().int().tolist()
        inside = seen[:, y1:y2, x1:x2].float()
        assert inside[:, 2:-2, 2:-2].min() > 250 and labels.tolist() == [0]
        outside = seen.clone()
        outside[:, max(0, y1 - 3) : y2 + 3, max(0, x1 - 3) : x2 + 3] = 0
        assert outside.max() < 5
        mirrored.add(bool(seen[0, :, : seen.shape[-1] // 2].sum() > seen[0, :, seen.shape[-1] // 2 :].sum()))
    assert seen_sizes == {(3, 40, 80), (3, 60, 120)}
    off_centre = image.roll(5, -1)
    sides = {bool(_as_seen(off_centre, truth, recipe(flip=f), draws)[0][0].argmax(-1).max() > 20) for f in (0.0, 1.0)}
    assert len(sides) == 2 or len(mirrored) == 2


def test_the_long_side_has_the_last_word():
    image, truth = torch.zeros(3, 20, 100, dtype=torch.uint8), Truth(torch.zeros(0, 4), torch.zeros(0).long())
    seen, _ = _as_seen(image, truth, recipe(short_sides=(40,), long_side=150, flip=0), torch.Generator())
    assert seen.shape == (3, 30, 150)


def test_what_is_found_is_told_in_the_image_s_own_pixels():
    data = ragged(squares(4))
    built = detector(recipe(test_short_side=64), encoder())
    asked = []

    def everything(images):
        asked.extend(tuple(image.shape[1:]) for image in images)
        whole = [torch.tensor([[0.0, 0.0, im.shape[-1], im.shape[-2]]]) for im in images]
        return [detection.Detections(box, torch.tensor([0]), torch.tensor([1.0])) for box in whole]

    built.detect = everything
    found = _detect(built, data.images, recipe(test_short_side=64))
    assert asked == [(64, 64), (64, 72), (64, 88), (64, 64)]
    for (boxes, _, _), (h, w) in zip(found, data.images.sizes.tolist(), strict=True):
        torch.testing.assert_close(boxes, torch.tensor([[0.0, 0.0, w, h]]))


def test_padding_changes_nothing_that_an_image_shows():
    """The features of an image's own cells, where its border's influence does not reach."""
    built = detector(recipe(), encoder())
    small, large = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8).unbind()
    with torch.no_grad():
        alone = built.eval().features([small])
        beside = built.features([small, torch.cat([large, large], 2)])
    assert beside.shape[-1] == 2 * alone.shape[-1]
    reach = 6
    torch.testing.assert_close(beside[:1, :, :, : alone.shape[-1] - reach], alone[..., :-reach])


def test_the_spec_s_mean_and_std_are_used_and_the_pre_training_s_where_it_names_none():
    assert detector(recipe(), encoder()).mean.flatten().tolist() == [0.5] * 3
    plain = detector(spec(), encoder())
    torch.testing.assert_close(plain.mean.flatten(), torch.tensor(MEAN))
    torch.testing.assert_close(plain.std.flatten(), torch.tensor(STD))


def test_only_batch_norm_goes_without_weight_decay():
    built = detector(recipe(), encoder("resnet18"))
    others, norms = _groups(built, recipe())
    assert norms["weight_decay"] == 0.0 and "weight_decay" not in others
    kinds = {id(p): type(m) for m in built.modules() for p in m.parameters(recurse=False)}
    assert {kinds[id(p)] for p in norms["params"]} == {nn.BatchNorm2d}
    assert nn.BatchNorm2d not in {kinds[id(p)] for p in others["params"]}
    assert len(others["params"]) + len(norms["params"]) == len(list(built.parameters()))
    assert len(_groups(built, spec())) == 1


def test_the_papers_rate_is_detectron2_s():
    plan = load_profile("paper").detection
    measured = {
        0: 2e-5,
        1: 0.0002198,
        50: 0.01001,
        99: 0.0198002,
        100: 0.02,
        17_999: 0.02,
        18_000: 2e-3,
        21_999: 2e-3,
        22_000: 2e-4,
    }
    for step, rate in measured.items():  # as its WarmupMultiStepLR gives them
        assert plan.lr * _rate(step, plan) == pytest.approx(rate, rel=1e-4)


@pytest.mark.parametrize("sampling", [0, 2])
def test_the_pooler_is_torchvision_s_but_for_the_half_pixel_shift(sampling):
    torch.manual_seed(0)
    maps, boxes = (
        torch.randn(2, 4, 8, 8),
        [torch.tensor([[3.0, 5.0, 40.0, 60.0]]), torch.tensor([[0.0, 0.0, 64.0, 64.0]])],
    )
    theirs = MultiScaleRoIAlign([MAP], 4, sampling or -1)({MAP: maps}, boxes, [(64, 64)] * 2)
    plain = _Pool(8, spec(roi_size=4, roi_sampling=sampling))({MAP: maps}, boxes, [(64, 64)] * 2)
    torch.testing.assert_close(plain, theirs, rtol=0, atol=0)
    aligned = _Pool(8, spec(roi_size=4, roi_sampling=sampling, roi_aligned=True))
    shifted = [box + 4 for box in boxes]  # half a cell of 8 pixels
    torch.testing.assert_close(aligned({MAP: maps}, shifted, []), plain)


def test_precise_statistics_are_those_of_all_batches_together_under_the_trained_weights():
    """Batches of different sizes: images differ in width, and so does the number of boxes that are sampled."""
    data, settings = ragged(squares(8)), recipe(precise_norm=3, batch=3, iterations=2)
    built = detector(settings, encoder())
    norms = [m for m in built.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    seen = {norm: [] for norm in norms}
    for norm in norms:
        norm.register_forward_pre_hook(lambda norm, inputs: seen[norm].append(inputs[0].detach().double()))
    torch.manual_seed(0)
    _fit(built, data.images, _truths("train", data), settings, CPU)
    sizes = set()
    for norm in norms:
        batches = [x.transpose(0, 1).flatten(1) for x in seen[norm][-settings.precise_norm :]]
        sizes.add(len({x.shape[1] for x in batches}))
        together = torch.cat(batches, 1)
        torch.testing.assert_close(norm.running_mean.double(), together.mean(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var.double(), together.var(1, correction=0), rtol=1e-4, atol=1e-6)
        averaged = torch.stack([x.var(1) for x in batches]).mean(0)
        assert (averaged - norm.running_var).abs().max() > 1e-3 * norm.running_var.max()  # not what fvcore once did
    assert max(sizes) > 1
    assert [norm.momentum for norm in norms] == momenta and not any(norm._forward_hooks for norm in norms)


def test_training_images_without_objects_are_left_out():
    data = squares(4)
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    boxes, labels = (none[0], *data.boxes[1:]), (none[1], *data.box_labels[1:])
    bare = dataclasses.replace(data, boxes=boxes, box_labels=labels)
    built, settings = detector(recipe(), encoder()), recipe(iterations=4, batch=3)
    seen = []
    losses = built.losses
    built.losses = lambda images, truths: (seen.extend(len(t.boxes) for t in truths), losses(images, truths))[1]
    _fit(built, bare.images, _truths("train", bare), settings, CPU)
    assert len(seen) == 3 * (4 + settings.precise_norm) and set(seen) == {1}
    nothing = dataclasses.replace(data, boxes=(none[0],) * 4, box_labels=(none[1],) * 4)
    with pytest.raises(ValueError, match="none of the 4 train images has an object"):
        evaluate_detection(encoder(), nothing, data, settings, MEAN, STD, CPU)


def test_difficult_objects_are_trained_on_and_do_not_count():
    train, test = squares(8, seed=1), squares(8, seed=2)
    hard = tuple(torch.tensor([i > 3]) for i in range(8))
    settings = recipe(iterations=4)
    plain = evaluate_detection(encoder(), train, test, settings, MEAN, STD, CPU)
    marked = dataclasses.replace(train, difficult=hard)
    assert evaluate_detection(encoder(), marked, test, settings, MEAN, STD, CPU) == plain
    assert _truths("test", dataclasses.replace(test, difficult=hard))[5].difficult.tolist() == [True]


@pytest.mark.slow
def test_in_half_precision_boxes_are_float32_and_learning_goes_on():
    """In bfloat16 a box at 450 pixels would be rounded to the next even one."""
    data = squares(4, 512)
    built = detector(recipe(precision="bfloat16", short_sides=(512,)), encoder()).train()
    seen = {}

    def note(heads, proposals, targets):
        seen.update(proposals=[p.dtype for p in proposals], truth=[t["boxes"].dtype for t in targets])
        return select(proposals, targets)

    select = built.roi_heads.select_training_samples
    built.roi_heads.select_training_samples = lambda proposals, targets: note(None, proposals, targets)
    maps = []
    built.trunk[0][0].register_forward_hook(lambda module, inputs, output: maps.append(output.dtype))
    losses = built.losses([*data.images], _truths("train", data))
    assert set(maps) == {torch.bfloat16} and set(seen["proposals"] + seen["truth"]) == {torch.float32}
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    exact = detector(recipe(short_sides=(512,)), encoder()).eval()
    with torch.no_grad():
        assert built.eval().features([*data.images]).dtype == torch.float32
        torch.testing.assert_close(built.features([*data.images]), exact.features([*data.images]), rtol=0.1, atol=0.3)


@pytest.mark.slow
def test_half_precision_trains():
    settings = recipe(iterations=60, batch=8, precision="bfloat16")
    result = evaluate_detection(encoder(), squares(48, seed=1), squares(16, seed=2), settings, MEAN, STD, CPU)
    assert result["voc07_ap50"] > 40


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("settings", [recipe(iterations=6), spec(iterations=6)], ids=["finetune", "frozen"])
def test_an_interrupted_training_ends_in_the_same_bits(
    settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, source = ragged(squares(8)) if settings.short_sides else squares(8), encoder()
    monkeypatch.setattr("cl_bench.train.checkpoint.SECONDS_BETWEEN", 0.0)

    def trained(checkpoint=None, on_step=None):
        built = detector(settings, source)
        torch.manual_seed(settings.seed)
        _fit(built, data.images, _truths("train", data), settings, CPU, on_step, checkpoint)
        return snapshot(built)

    def stop(done, total):
        if done == 4:
            raise Interrupted

    whole = trained()
    run = Store(tmp_path).run("0" * 64)
    with pytest.raises(Interrupted):
        trained(Checkpoint(run, CPU, "detection"), stop)
    steps = []
    again = trained(Checkpoint(run, CPU, "detection"), lambda done, total: steps.append(done))
    assert steps == [5, 6] and not changed(whole, again)
