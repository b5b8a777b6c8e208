"""Scenes: the same bytes from the same seed, digits kept apart, boxes around the ink."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
import torch
from helpers import drawn_scenes
from sklearn.datasets import load_digits

from cl_bench.data import load
from cl_bench.data import scenes as module
from cl_bench.spec import ScenesSpec

KINDS = ("single_object", "multi_object")
SIZES = (16, 17, 33, 48)


def digest(data):
    tensors = [data.images]
    tensors += [data.labels] if data.labels is not None else [*data.boxes, *data.box_labels]
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors)).hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_bytes_and_another_gives_others(kind):
    first = digest(drawn_scenes(kind, "train", 8, 24, seed=3))
    assert first == digest(drawn_scenes(kind, "train", 8, 24, seed=3))
    others = [digest(drawn_scenes(kind, split, 8, 24, seed)) for split, seed in (("train", 4), ("test", 3))]
    assert len({first, *others}) == 3


def test_a_fresh_process_draws_the_same_bytes():
    code = "from test_scenes import *; print(*(digest(drawn_scenes(k, 'test', 5, 21, 7)) for k in KINDS))"
    env = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    fresh = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert fresh.stdout.split() == [digest(drawn_scenes(k, "test", 5, 21, 7)) for k in KINDS]


def test_the_global_generators_are_neither_read_nor_touched():
    first = digest(drawn_scenes("multi_object", "train", 4, 24, 0))
    state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    assert digest(drawn_scenes("multi_object", "train", 4, 24, 0)) == first
    assert (np.random.get_state()[1] == state).all() and torch.equal(torch.get_rng_state(), torch_state)  # noqa: NPY002


def test_fewer_scenes_are_the_first_of_more():
    few, many = (drawn_scenes("multi_object", "train", n, 24, 0) for n in (3, 9))
    assert torch.equal(few.images, many.images[:3])
    assert all(torch.equal(a, b) for a, b in zip(few.boxes, many.boxes, strict=False))


def test_train_and_test_split_the_handwritten_digits():
    bunch = load_digits()
    drawn = {split: module._digits(split) for split in ("train", "test")}
    seen = {split: {d.tobytes() for d in digits} for split, (digits, _) in drawn.items()}
    assert not seen["train"] & seen["test"]
    assert seen["train"] | seen["test"] == {d.astype(np.float32).tobytes() for d in bunch.images / 16}
    assert 0.6 < len(seen["train"]) / len(bunch.images) < 0.8
    labels = {d.astype(np.float32).tobytes(): t for d, t in zip(bunch.images / 16, bunch.target, strict=True)}
    for digits, targets in drawn.values():
        assert [labels[d.tobytes()] for d in digits] == targets.tolist()
        assert set(targets) == set(range(10))


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_draws_its_digits_from_its_split_alone(kind, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "_digits", lambda split, digits=module._digits: asked.append(split) or digits(split))
    for split in ("train", "test"):
        drawn_scenes(kind, split, 2, 16, 0)
    assert asked == ["train", "test"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_images_are_bytes_of_the_size_asked_for(kind, size):
    data = drawn_scenes(kind, "train", 6, size, 0)
    assert data.images.dtype == torch.uint8 and data.images.shape == (6, 3, size, size)
    assert data.images.is_contiguous() and len(data) == 6
    assert data.classes == tuple("0123456789")
    assert len({image.numpy().tobytes() for image in data.images}) == 6
    assert (data.images.flatten(1).amax(1) > 100).all()


def test_single_object_scenes_are_labelled_with_all_classes():
    data = drawn_scenes("single_object", "test", 400, 16, 0)
    assert data.boxes is None and data.box_labels is None
    assert data.labels.shape == (400,) and data.labels.dtype == torch.int64
    assert (data.labels.bincount(minlength=10) > 15).all()


def test_the_label_is_the_digit_s(monkeypatch):
    marked = np.stack([np.full((8, 8), 0.3 + 0.07 * k, np.float32) for k in range(10)])
    monkeypatch.setattr(module, "_digits", lambda split: (marked, np.arange(10)))
    data = drawn_scenes("single_object", "train", 200, 16, 0, background=0)
    ink = data.images.amax((1, 2, 3)).double() / 255
    # Ink is class-wise opacity times a tint of at most 1; the mean tint is the same for all classes.
    means = [float(ink[data.labels == k].mean()) for k in range(10)]
    assert np.corrcoef(means, marked[:, 0, 0])[0, 1] > 0.95
    assert all((ink[data.labels == k] <= marked[k, 0, 0] + 1e-6).all() for k in range(10))


@pytest.mark.parametrize("size", SIZES)
def test_multi_object_scenes_hold_two_to_four_digits_that_do_not_overlap(size):
    data = drawn_scenes("multi_object", "train", 60, size, 0)
    assert data.labels is None
    assert {len(b) for b in data.boxes} == {2, 3, 4}
    for boxes, labels in zip(data.boxes, data.box_labels, strict=True):
        assert boxes.dtype == torch.float32 and labels.dtype == torch.int64
        assert boxes.shape == (len(labels), 4)
        assert ((labels >= 0) & (labels < 10)).all()
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= size).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 1).all() and (boxes == boxes.round()).all()
        for (x1, y1, x2, y2), (u1, v1, u2, v2) in combinations(boxes.tolist(), 2):
            assert x2 <= u1 or u2 <= x1 or y2 <= v1 or v2 <= y1


@pytest.mark.parametrize("size", SIZES)
def test_boxes_are_tight_around_the_ink(size):
    """On black, ink of opacity a and a tint in [.55, 1] shines between .55 a and a; a box holds what is above .2."""
    data = drawn_scenes("multi_object", "train", 60, size, 1, background=0)
    for image, boxes in zip(data.images.amax(1), data.boxes, strict=True):
        outside = image.clone()
        for x1, y1, x2, y2 in boxes.long().tolist():
            inside = image[y1:y2, x1:x2]
            for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
                assert edge.max() >= int(0.2 * 0.55 * 255)
            outside[y1:y2, x1:x2] = 0
        assert outside.max() <= 0.2 * 255 + 1


@pytest.mark.parametrize("kind", KINDS)
def test_backgrounds_are_dim_and_smooth(kind, monkeypatch):
    monkeypatch.setattr(module, "_paste", lambda *_: (0.0, 0.0, 1.0, 1.0))
    images = drawn_scenes(kind, "train", 40, 31, 0).images.float() / 255
    assert images.max() <= 0.15 and images.amax((1, 2, 3)).std() > 0
    for axis in (2, 3):
        assert images.diff(dim=axis).abs().max() <= 0.15 / 30 + 2 / 255
    assert images.mean((2, 3)).std(0).min() > 0.01  # each scene its own colour


def test_load_keeps_a_data_set_by_its_spec():
    spec = {"kind": "multi_object", "split": "test", "images": 3, "size": 19, "seed": 5}
    data = load(ScenesSpec(**spec))
    assert load(ScenesSpec(**spec)) is data
    assert digest(data) == digest(drawn_scenes(**spec))
    for change in ({"kind": "single_object"}, {"split": "train"}, {"images": 4}, {"size": 20}, {"seed": 6}):
        other = load(ScenesSpec(**{**spec, **change}))
        assert digest(other) == digest(drawn_scenes(**{**spec, **change})) != digest(data)


@pytest.mark.parametrize("digits", ["same", "different"])
def test_digits_of_a_scene_are_of_one_class_or_of_different_ones_and_nothing_else_changes(digits):
    usual, other = (drawn_scenes("multi_object", "train", 60, 48, 3, digits=d) for d in ("any", digits))
    held = {len(labels.unique()) == (1 if digits == "same" else len(labels)) for labels in other.box_labels}
    assert held == {True} and any(1 < len(labels.unique()) < len(labels) for labels in usual.box_labels)
    assert torch.cat(other.box_labels).bincount(minlength=10).min() > 5
    # DataPaths, sizes, backgrounds and tints stay: where neither digit has ink, the pixels are the same.
    for a, b, boxes, others in zip(usual.images, other.images, usual.boxes, other.boxes, strict=True):
        assert len(boxes) == len(others)
        outside = torch.ones(48, 48, dtype=torch.bool)
        for x1, y1, x2, y2 in torch.cat([boxes, others]).long().tolist():
            outside[max(0, y1 - 4) : y2 + 4, max(0, x1 - 4) : x2 + 4] = False
        assert torch.equal(a[:, outside], b[:, outside])


def test_tints_of_a_scene_are_one_colour_and_nothing_else_changes(monkeypatch):
    pasted = []
    plain = module._paste
    monkeypatch.setattr(module, "_paste", lambda *given: pasted.append(given[2].tolist()) or plain(*given))
    usual, same = (drawn_scenes("multi_object", "train", 30, 24, 3, tints=t) for t in ("any", "same"))
    half, counts = len(pasted) // 2, [len(boxes) for boxes in same.boxes]
    groups = torch.tensor(pasted[half:]).split(counts)
    assert all((group == group[0]).all() for group in groups) and len({tuple(g[0].tolist()) for g in groups}) == 30
    assert len({tuple(tint) for tint in pasted[:half]}) == half
    assert all(torch.equal(a, b) for a, b in zip(usual.boxes, same.boxes, strict=True))


def test_brightness_tint_and_height_follow_the_spec():
    bright = drawn_scenes("single_object", "train", 40, 32, background=0.9, tint=(0.2, 0.2), height=(0.25, 0.25))
    assert bright.images.float().mean() > 2 * drawn_scenes("single_object", "train", 40, 32).images.float().mean() * 0.9
    black = drawn_scenes("multi_object", "train", 40, 48, background=0, tint=(0.4, 0.4), height=(0.25, 0.25))
    assert black.images.max() == int(0.4 * 255)
    assert all(((boxes[:, 2:] - boxes[:, :2]) <= 12).all() for boxes in black.boxes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tint": (0.9, 0.5)}, "tint must be low, high, got (0.9, 0.5)"),
        ({"height": (0.4, 0.3)}, "height must be low, high, got (0.4, 0.3)"),
        ({"height": (0.4, 0.6)}, "height of multi_object scenes is at most 0.5"),
    ],
)
def test_scenes_that_make_no_sense_are_refused(change, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        ScenesSpec(kind="multi_object", split="train", images=4, size=32, **change)
