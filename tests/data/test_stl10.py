"""STL-10 in its binary files, against torchvision's reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from real_formats import STL_CLASSES, write_stl10
from torchvision.datasets import STL10

from cl_bench.data import DataPaths, bind, load
from cl_bench.errors import DataError
from cl_bench.spec import STL10Spec

SPLITS = ("train", "test", "unlabeled", "train+unlabeled")


@pytest.fixture
def places(tmp_path: Path) -> DataPaths:
    write_stl10(tmp_path / "data", train=30, test=20, unlabeled=300)  # more than one block at a time
    return DataPaths(tmp_path / "data", tmp_path / "cache")


@pytest.mark.parametrize("split", SPLITS)
def test_images_and_labels_are_those_that_torchvision_reads(places, split, monkeypatch):
    monkeypatch.setattr(STL10, "_check_integrity", lambda self: True)
    data, theirs = load(STL10Spec(name="stl10", split=split), places), STL10(str(places.root), split)
    images = torch.stack(list(data.images))
    assert images.dtype == torch.uint8 and np.array_equal(images.numpy(), theirs.data)
    assert data.classes == tuple(theirs.classes) == STL_CLASSES
    if "unlabeled" in split:
        assert data.labels is None
    else:
        assert data.labels.dtype == torch.int64 and data.labels.tolist() == theirs.labels.tolist()
        assert len(set(data.labels.tolist())) > 5
    assert data.boxes is None and data.box_labels is None and data.difficult is None


@pytest.mark.parametrize("split", ["test", "train+unlabeled"])
def test_limit_takes_the_first(places, split):
    whole, some = (
        load(STL10Spec(name="stl10", split=split), places),
        load(STL10Spec(name="stl10", split=split, limit=7), places),
    )
    assert len(some) == 7 and all(map(torch.equal, some.images, whole.images))
    assert (some.labels is None) == (whole.labels is None)
    assert some.labels is None or torch.equal(some.labels, whole.labels[:7])
    assert len(load(STL10Spec(name="stl10", split=split, limit=9_999), places)) == len(whole)


def test_smaller_images_are_scaled_as_pillow_does_and_larger_ones_never(places):
    whole = load(STL10Spec(name="stl10", split="train"), places).images
    small = load(STL10Spec(name="stl10", split="train", short_side=32), places).images
    assert small.sizes.tolist() == [[32, 32]] * 30
    for ours, image in zip(small, whole, strict=True):
        theirs = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((32, 32), Image.Resampling.BILINEAR)
        assert np.abs(ours.permute(1, 2, 0).numpy().astype(int) - np.asarray(theirs)).max() <= 1
    large = load(STL10Spec(name="stl10", split="train", short_side=200), places).images
    assert len(large) == len(whole) and all(map(torch.equal, large, whole))


VANDALS = {
    "train_X.bin": (lambda old: old[:-1], r"829,439 bytes are no whole number of images of 27,648"),
    "train_y.bin": (lambda old: old + b"\x01", "31 labels for the 30 images"),
    "class_names.txt": (lambda old: b"cat\n" * 10, "names of 10 classes"),
}


@pytest.mark.parametrize("name", VANDALS)
def test_a_file_that_is_not_what_it_should_be_is_named(places, name):
    change, why = VANDALS[name]
    path = places.root / "stl10_binary" / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=why) as error:
        bind(STL10Spec(name="stl10", split="train"), places.root)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("label", [0, 11])
def test_labels_are_1_to_10(places, label):
    path = places.root / "stl10_binary" / "test_y.bin"
    path.write_bytes(bytes([label]) + path.read_bytes()[1:])
    with pytest.raises(DataError, match="a label outside 1 to 10"):
        bind(STL10Spec(name="stl10", split="test"), places.root)
    bind(STL10Spec(name="stl10", split="unlabeled"), places.root)  # has none


def test_an_empty_file_is_no_data_set(places):
    (places.root / "stl10_binary" / "unlabeled_X.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"unlabeled_X\.bin: 0 bytes"):
        bind(STL10Spec(name="stl10", split="unlabeled"), places.root)
