"""A folder of one's own images: its splits, labels and source, and files in it that are not well."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_images import EPS, SHAPE, bomb, fifo, picture, save, truncated, write_folder
from PIL import Image
from torchvision.datasets import ImageFolder

from cl_bench.data import DataPaths, bind, load, prepare
from cl_bench.errors import DataError, DataWarning
from cl_bench.spec import FolderSpec


def spec(root: Path, split: str = "train", **more: Any) -> FolderSpec:
    return FolderSpec(name="folder", root=str(root), split=split, **more)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i, split in enumerate(("train", "test")):
        write_folder(tmp_path / "pets" / split, first=1000 * i)
    return tmp_path / "pets"


@pytest.fixture
def places(tmp_path: Path) -> DataPaths:
    return DataPaths(None, tmp_path / "cache")


def test_images_and_labels_are_those_that_torchvision_reads(root, places):
    data, theirs = load(bind(spec(root), None), places), ImageFolder(str(root / "train"))
    assert data.classes == tuple(theirs.classes) == ("cat", "dog") and len(data) == len(theirs) == 12
    assert data.boxes is None and data.labels is not None and data.labels.dtype == torch.int64

    def all_of(pairs):
        return sorted((np.asarray(image).tobytes(), int(label)) for image, label in pairs)

    ours = zip((image.permute(1, 2, 0).numpy() for image in data.images), data.labels, strict=True)
    assert all_of(ours) == all_of(theirs)
    assert data.labels.tolist() != sorted(data.labels.tolist()), "a limit takes of every class"


def test_what_was_found_counts_the_images_that_are_there(root):
    assert bind(spec(root), None).found.model_dump() == {
        "images": 12,
        "classes": ("cat", "dog"),
        "objects": None,
        "size": SHAPE,
    }
    limited = bind(spec(root, limit=5), None)
    assert limited.count == 5 and limited.found.classes == ("cat", "dog")


def test_images_side_by_side_have_no_labels(tmp_path, places):
    for i in range(4):
        save(tmp_path / "flat" / "train" / f"{i}.jpg", i)
    bound = bind(spec(tmp_path / "flat"), None)
    assert bound.found.classes == () and load(bound, places).labels is None and len(load(bound, places)) == 4


def test_splits_are_drawn_by_name_where_no_folder_is_one(tmp_path, places):
    write_folder(tmp_path / "pets", images=100)
    train, test, both = (load(bind(spec(tmp_path / "pets", s), None), places) for s in ("train", "test", "all"))
    assert len(train) + len(test) == len(both) == 200 and 20 <= len(test) <= 60
    assert train.classes == test.classes == ("cat", "dog")
    pixels = [{image.numpy().tobytes() for image in data.images} for data in (train, test, both)]
    assert not pixels[0] & pixels[1] and pixels[0] | pixels[1] == pixels[2]
    save(tmp_path / "pets" / "cat" / "another.png", 999)
    again = load(bind(spec(tmp_path / "pets", "all"), None), places)
    assert len(again) == 201
    for split, before in (("train", pixels[0]), ("test", pixels[1])):
        now = {i.numpy().tobytes() for i in load(bind(spec(tmp_path / "pets", split), None), places).images}
        assert before <= now, "an image stays in its split whatever comes beside it"


def test_other_folders_are_splits_by_their_names(root):
    shutil.copytree(root / "test", root / "night")
    assert bind(spec(root, "night"), None).count == 12


@pytest.mark.parametrize(
    ("split", "said"),
    [("tets", r"no folder 'tets' in .*; did you mean 'test'\?; splits: test, train$"), ("all", "no folder 'all'")],
)
def test_a_split_that_is_not_there_is_named_with_the_nearest(root, split, said):
    with pytest.raises(DataError, match=said):
        bind(spec(root, split), None)


def test_a_source_is_what_is_there_and_not_where_or_when(root, tmp_path):
    bound = bind(spec(root), None)
    shutil.copytree(root, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    there = bind(spec(tmp_path / "elsewhere"), None)
    assert there.key == bound.key and there.source == bound.source and there != bound
    assert bind(spec(root, "test"), None).source != bound.source


CHANGES = {
    "an image comes": lambda p: save(p / "cat" / "new.png", 5),
    "an image goes": lambda p: (p / "cat" / "000.png").unlink(),
    "an image is renamed": lambda p: (p / "cat" / "000.png").rename(p / "cat" / "x.png"),
    "an image changes its class": lambda p: (p / "cat" / "000.png").rename(p / "dog" / "900.png"),
    "an image of the same size changes": lambda p: save(p / "dog" / "raw.bmp", 7),
    "a class is renamed": lambda p: (p / "cat").rename(p / "car"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_is_another_source(root, change, places):
    save(root / "train" / "dog" / "raw.bmp", 6)
    before = bind(spec(root), None)
    prepare(before, places)
    CHANGES[change](root / "train")
    assert bind(spec(root), None).source != before.source
    with pytest.raises(DataError, match="has changed"):
        prepare(before, places)


def test_what_is_no_image_by_its_name_is_passed_over(root):
    for name in ("notes.txt", "Thumbs.db", ".hidden.png", "cat/._000.png", "cat/labels.json"):
        (root / "train" / name).write_text("x")
    (root / "train" / ".git").mkdir()
    save(root / "train" / ".git" / "x.png", 1)
    (root / "train" / "empty").mkdir()
    assert bind(spec(root), None).found.classes == ("cat", "dog") and bind(spec(root), None).count == 12


@pytest.mark.parametrize("extension", ["JPG", "jpeg", "PNG", "webp", "bmp", "tif", "TIFF"])
def test_every_format_is_decoded_as_pillow_does(tmp_path, places, extension):
    path = save(tmp_path / "own" / "all" / f"a b.1.{extension}", 3)
    data = load(bind(spec(tmp_path / "own", "all"), None), places)
    assert np.array_equal(data.images[0].permute(1, 2, 0).numpy(), np.asarray(Image.open(path).convert("RGB")))


def test_links_are_followed_and_circles_are_not(root, tmp_path, places):
    pool = save(tmp_path / "pool" / "x.png", 77)
    (root / "train" / "dog" / "linked.png").symlink_to(pool)
    (root / "train" / "dog" / "round").symlink_to(root / "train" / "dog")
    assert len(load(bind(spec(root), None), places)) == 13


def broken(path: Path, how: str) -> None:
    """Put something at a path, whose extension is .png, that is no image which can be used."""
    contents = {
        "truncated": truncated(),
        "a bomb": bomb(),
        "EPS": EPS,
        "empty": b"",
        "text": b"hello",
        "GIF": None,
        "float": None,
    }
    if how == "a pipe":
        fifo(path)
    elif how == "a dead link":
        path.unlink()
        path.symlink_to("nowhere")
    elif how == "a circle":
        path.unlink()
        path.symlink_to(path)
    elif how == "GIF":
        picture(1).save(path, "GIF")
    elif how == "float":
        Image.fromarray(np.ones((4, 5), np.float32)).save(path, "TIFF")
    else:
        path.write_bytes(contents[how])


BROKEN = {
    "truncated": "truncated",
    "a bomb": r"2500000000 pixels",
    "EPS": "no image in a format that is decoded",
    "empty": "an empty file",
    "text": "no image in a format",
    "GIF": r"no image in a format that is decoded \(JPEG, PNG, WebP, BMP and TIFF\)",
    "float": "32 bits a pixel",
    "a pipe": "a pipe or a device, not a file",
    "a dead link": "No such file",
    "a circle": "symbolic links",
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_bad_file_is_named_in_a_line_in_seconds_or_left_out(root, places, how):
    bad = root / "train" / "cat" / "003.png"
    broken(bad, how)
    begun = time.monotonic()
    with pytest.raises(
        DataError, match=rf"cannot use 1 of 12 images: cat/003.png \(.*{BROKEN[how]}.*leave_out"
    ) as said:
        prepare(bind(spec(root), None), places)
    assert "\n" not in str(said.value) and "delete" not in str(said.value) and time.monotonic() - begun < 5
    lenient = bind(spec(root, broken="leave_out"), None)
    with pytest.warns(DataWarning, match="left out 1 of 12 images: cat/003"):
        data = load(lenient, places)
    assert len(data) == 11 and data.labels.tolist().count(0) == 5


@pytest.mark.parametrize("name", ["x.gif", "x.HEIC", "x.eps", "x.svg"])
def test_an_image_of_another_format_is_said_and_not_passed_over(root, places, name):
    (root / "train" / "cat" / name).write_bytes(EPS)
    with pytest.raises(
        DataError, match=rf"cat/{name} \(\.\w+ files are not decoded, JPEG, PNG, WebP, BMP and TIFF are"
    ):
        prepare(bind(spec(root), None), places)


def test_a_folder_without_images_says_so(tmp_path):
    (tmp_path / "none" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no images in .*none/train; expected JPEG, PNG"):
        bind(spec(tmp_path / "none"), None)
    save(tmp_path / "one" / "cat" / "x.png", 1)
    splits = [s for s in ("train", "test") if _fails(spec(tmp_path / "one", s))]
    assert len(splits) == 1
    with pytest.raises(DataError, match=f"no images of the drawn split {splits[0]} in"):
        bind(spec(tmp_path / "one", splits[0]), None)


def _fails(of: FolderSpec) -> bool:
    try:
        bind(of, None)
    except DataError:
        return True
    return False


def test_images_beside_the_classes_are_said(root):
    save(root / "train" / "loose.png", 1)
    said = r"1 of 13 images in .* lie beside the folders of the classes, such as loose.png"
    with pytest.raises(DataError, match=said):
        bind(spec(root), None)


def test_a_root_that_is_not_there_is_named_with_the_nearest(root):
    with pytest.raises(DataError, match=rf"root {root.parent}/pest: no such folder; did you mean 'pets'\?; a relative"):
        bind(spec(root.parent / "pest"), None)
    with pytest.raises(DataError, match="no folder"):
        bind(spec(save(root.parent / "file.png", 1)), None)


def test_a_folder_that_cannot_be_read_is_said(root):
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (root / "train" / "cat").chmod(0)
    try:
        with pytest.raises(DataError, match="Permission denied"):
            bind(spec(root), None)
    finally:
        (root / "train" / "cat").chmod(0o755)


def test_names_of_any_letters_are_names(tmp_path, places):
    for i, name in enumerate(("Käse ☃", "日本", "a'b\"c", "-rf")):
        save(tmp_path / "own" / "all" / name / f"{name} {i}.png", i)
    data = load(bind(spec(tmp_path / "own", "all"), None), places)
    assert data.classes == tuple(sorted(("Käse ☃", "日本", "a'b\"c", "-rf")))
