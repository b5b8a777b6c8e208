"""COCO's JSON and JPEGs, against torchvision's reader, pycocotools and Pillow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from real_formats import COCO_IDS, USUAL, Odd, write_coco
from torchvision.datasets import CocoDetection

from cl_bench.data import DataPaths, Ragged, bind, load, prepare
from cl_bench.errors import DataError, DataWarning
from cl_bench.spec import COCOSpec

SPEC = COCOSpec(name="coco", split="train2017")


@pytest.fixture
def places(tmp_path: Path) -> DataPaths:
    write_coco(tmp_path / "data", odd=USUAL._replace(cmyk={8}))
    return DataPaths(tmp_path / "data", tmp_path / "cache")


def annotations(places: DataPaths) -> Path:
    return places.root / "coco" / "annotations" / "instances_train2017.json"


def published(places: DataPaths, capsys: pytest.CaptureFixture[str]) -> CocoDetection:
    theirs = CocoDetection(str(places.root / "coco" / "train2017"), str(annotations(places)))
    capsys.readouterr()
    return theirs


def test_images_and_boxes_are_those_that_torchvision_reads(places, capsys):
    data, theirs = load(SPEC, places), published(places, capsys)
    assert isinstance(data.images, Ragged) and len(data) == len(theirs) == 12
    crowds = 0
    for i, (image, objects) in enumerate(theirs):
        assert np.array_equal(data.images[i].permute(1, 2, 0).numpy(), np.asarray(image))
        height, width = data.images.sizes[i].tolist()
        wanted = set()
        for o in objects:
            (x, y, w, h), crowds = o["bbox"], crowds + o["iscrowd"]
            box = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
            if not o["iscrowd"] and box[2] > box[0] and box[3] > box[1]:
                wanted.add((*box, COCO_IDS.index(o["category_id"])))
        ours = zip(data.boxes[i].tolist(), data.box_labels[i].tolist(), strict=True)
        assert {(*box, label) for box, label in ours} == wanted
        assert len(data.boxes[i]) == len(wanted)
        assert data.boxes[i].dtype == torch.float32 and data.box_labels[i].dtype == torch.int64
    assert crowds == 1
    assert data.classes == tuple(f"thing {i}" for i in COCO_IDS) and len(data.classes) == 80
    assert data.boxes[4].shape == (0, 4), "an image without objects stays"
    assert data.boxes[5][:, 2].max() == 72, "a box that reaches out of its image ends with it"
    assert data.labels is None and data.difficult is None


def test_the_boxes_without_area_are_counted(places):
    load(SPEC, places)
    (manifest,) = places.cache.glob("*/manifest.json")
    assert json.loads(manifest.read_text())["payload"]["dropped_boxes"] == 2


def test_short_side_scales_images_as_pillow_does_and_boxes_with_them(places, capsys):
    whole, data = load(SPEC, places), load(COCOSpec(name="coco", split="train2017", short_side=48), places)
    assert data.images.sizes[:3].tolist() == [[48, 60], [60, 48], [48, 48]]
    for i, (image, _) in enumerate(published(places, capsys)):
        height, width = data.images.sizes[i].tolist()
        theirs = image.resize((width, height), Image.Resampling.BILINEAR)
        assert np.array_equal(data.images[i].permute(1, 2, 0).numpy(), np.asarray(theirs))
        ratio = (data.images.sizes[i] / whole.images.sizes[i]).flip(0).repeat(2)
        assert torch.allclose(data.boxes[i], whole.boxes[i] * ratio)
    kept = load(COCOSpec(name="coco", split="train2017", short_side=72), places)
    assert torch.equal(kept.images.sizes, whole.images.sizes), "smaller images are not enlarged"


def test_limit_takes_the_first_by_id(places):
    whole, some = load(SPEC, places), load(COCOSpec(name="coco", split="train2017", limit=3), places)
    assert len(some) == 3 and all(torch.equal(some.images[i], whole.images[i]) for i in range(3))
    assert all(torch.equal(a, b) for a, b in zip(some.boxes, whole.boxes, strict=False))


def test_limit_takes_the_first(places):
    some = load(COCOSpec(name="coco", split="train2017", limit=1), places)
    assert some.images.sizes.tolist() == [[64, 80]]
    assert torch.equal(some.images[0], load(SPEC, places).images[0])


BROKEN = Odd(truncated={0}, missing={1, 6}, misstated={3})


def test_all_broken_images_are_counted_and_three_named(tmp_path):
    write_coco(tmp_path / "data", odd=BROKEN)
    with pytest.raises(DataError) as error:
        prepare(SPEC, DataPaths(tmp_path / "data", tmp_path / "cache"))
    said = str(error.value)
    assert said.startswith("coco train2017: cannot use 4 of 12 images: train2017/000000000009.jpg (")
    assert "truncated" in said and "train2017/000000000016.jpg (No such file or directory)" in said
    assert "(80 x 64, but 80 x 65 in the annotations) and 1 more" in said or "and 1 more; " in said
    assert 'broken = "leave_out"' in said and "\n" not in said


def test_a_wrong_size_in_the_json_is_named(tmp_path):
    write_coco(tmp_path / "data", odd=Odd(misstated={3}))
    with pytest.raises(
        DataError, match=r"1 of 12 images: train2017/000000000030.jpg \(80 x 64, but 80 x 65 in the ann"
    ):
        prepare(SPEC, DataPaths(tmp_path / "data", tmp_path / "cache"))


def test_what_is_broken_is_left_out_by_name_where_that_is_wanted(tmp_path, recwarn):
    write_coco(tmp_path / "sound", odd=Odd())
    sound = load(SPEC, DataPaths(tmp_path / "sound", tmp_path / "cache"))
    write_coco(tmp_path / "data", odd=BROKEN)
    places, lenient = (
        DataPaths(tmp_path / "data", tmp_path / "cache"),
        COCOSpec(name="coco", split="train2017", broken="leave_out"),
    )
    assert not recwarn.list
    with pytest.warns(DataWarning, match="left out 4 of 12 images: train2017/000000000009.jpg"):
        data = load(lenient, places)
    kept = [2, 4, 5, 7, 8, 9, 10, 11]
    assert len(data) == 8 and len(data.boxes) == 8
    for ours, theirs in enumerate(kept):
        assert torch.equal(data.images[ours], sound.images[theirs])
        assert torch.equal(data.boxes[ours], sound.boxes[theirs])
    (path,) = (p for p in places.cache.glob("*/manifest.json") if "000000000009" in p.read_text())
    left_out = json.loads(path.read_text())["payload"]["left_out"]
    assert list(left_out) == [f"train2017/{7 * i + 9:012d}.jpg" for i in (0, 1, 3, 6)]
    with pytest.raises(DataError, match="cannot use 4 of 12"):
        prepare(SPEC, places)
    with pytest.warns(DataWarning):
        prepare(lenient, places)  # a refusal has not spoilt the map


def test_an_image_that_was_put_right_is_taken_up(tmp_path):
    write_coco(tmp_path / "data", odd=Odd(truncated={0}))
    places = DataPaths(tmp_path / "data", tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(DataError, match="cannot use 1 of 12"):
            prepare(SPEC, places)
    write_coco(tmp_path / "data", odd=Odd())
    assert len(load(SPEC, places)) == 12


def test_nothing_is_left_where_all_images_are_broken(tmp_path):
    write_coco(tmp_path / "data", odd=Odd(missing=range(12)))
    with pytest.raises(DataError, match="cannot use 12 of 12 images"):
        prepare(
            COCOSpec(name="coco", split="train2017", broken="leave_out"),
            DataPaths(tmp_path / "data", tmp_path / "cache"),
        )


def test_a_download_that_was_cut_short_is_found_at_once(places):
    path = annotations(places)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"instances_train2017\.json: not a whole JSON object .*curl") as error:
        bind(SPEC, places.root)
    assert "\n" not in str(error.value)


VANDALS = {
    "no images": lambda c: c | {"images": []},
    "'images'": lambda c: {k: v for k, v in c.items() if k != "images"},
    "'height'": lambda c: c | {"images": [{"id": 1, "file_name": "x", "width": 3}]},
    "'bbox'": lambda c: c | {"annotations": [{"image_id": 9, "iscrowd": 0, "category_id": 1}]},
    "there is no image of id 5 at ": lambda c: c | {"annotations": [{"image_id": 5, "iscrowd": 0, "category_id": 1}]},
    "2 images have the id 9": lambda c: c | {"images": c["images"] * 2},
    "there is no category of id 12 at ": lambda c: (
        c | {"annotations": [{"image_id": 9, "bbox": [1] * 4, "iscrowd": 0, "category_id": 12}]}
    ),
    "a box is four numbers, got .1, 1, 1. at ": lambda c: (
        c | {"annotations": [{"image_id": 9, "bbox": [1] * 3, "iscrowd": 0, "category_id": 1}]}
    ),
    "an image of 3 x -1": lambda c: c | {"images": [{"id": 1, "file_name": "x", "width": 3, "height": -1}]},
    "an image of 3 x 81790": lambda c: c | {"images": [{"id": 1, "file_name": "x", "width": 3, "height": 99**20}]},
    "not of its types": lambda c: {"images": 3, "categories": 4},
}


@pytest.mark.parametrize("why", VANDALS)
def test_a_json_that_is_not_coco_s_is_named_in_one_line(places, why):
    path = annotations(places)
    path.write_text(json.dumps(VANDALS[why](json.loads(path.read_text()))))
    with pytest.raises(DataError, match=f"not in COCO's format: .*{why}") as error:
        prepare(SPEC, places)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_box_that_is_no_number_has_no_area(places):
    path = annotations(places)
    content = json.loads(path.read_text())
    nowhere = [[float("nan"), 1, 2, 3], [1, 1, float("nan"), 3], [5, 5, -3, 2]]
    content["annotations"] = [{"image_id": 9, "bbox": b, "iscrowd": 0, "category_id": 1} for b in nowhere]
    content["annotations"].append({"image_id": 9, "bbox": [1, 2, float("inf"), 5], "iscrowd": 0, "category_id": 1})
    path.write_text(json.dumps(content))
    assert load(SPEC, places).boxes[0].tolist() == [[1, 2, 80, 7]]
