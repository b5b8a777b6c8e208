"""VOC's XML and JPEGs, against torchvision's reader."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from real_formats import Odd, write_voc
from torchvision.datasets import VOCDetection

from cl_bench.data import DataPaths, bind, load, prepare
from cl_bench.data.voc import CLASSES
from cl_bench.errors import DataError
from cl_bench.spec import VOCSpec

SPEC = VOCSpec(name="voc", split="trainval2007")


@pytest.fixture
def places(tmp_path: Path) -> DataPaths:
    for year, part in ((2007, "trainval"), (2007, "test"), (2012, "trainval")):
        write_voc(tmp_path / "data", year, part)
    return DataPaths(tmp_path / "data", tmp_path / "cache")


@pytest.mark.parametrize(
    ("split", "parts"),
    [
        ("trainval2007", [("2007", "trainval")]),
        ("test2007", [("2007", "test")]),
        ("trainval2007+2012", [("2007", "trainval"), ("2012", "trainval")]),
    ],
)
def test_images_and_boxes_are_those_that_torchvision_reads(places, split, parts):
    data = load(VOCSpec(name="voc", split=split), places)
    theirs = [pair for year, part in parts for pair in VOCDetection(str(places.root), year, part)]
    assert len(data) == len(theirs) == 12 * len(parts)
    for i, (image, tree) in enumerate(theirs):
        assert np.array_equal(data.images[i].permute(1, 2, 0).numpy(), np.asarray(image))
        wanted = []
        for o in tree["annotation"]["object"]:
            x1, y1, x2, y2 = (float(o["bndbox"][c]) for c in ("xmin", "ymin", "xmax", "ymax"))
            box = (x1 - 1, y1 - 1, min(x2, image.width), min(y2, image.height))
            if box[3] > box[1]:  # of those written, one lies below its image
                wanted.append((*box, CLASSES.index(o["name"]), o["difficult"] == "1"))
        ours = zip(data.boxes[i].tolist(), data.box_labels[i].tolist(), data.difficult[i].tolist(), strict=True)
        assert [(*box, label, hard) for box, label, hard in ours] == wanted
    assert data.boxes[4].shape == (0, 4) and data.difficult[4].shape == (0,)
    assert [int(d.sum()) for d in data.difficult[:12]] == [int(i == 6) for i in range(12)]
    assert all(d.dtype == torch.bool for d in data.difficult)
    assert data.classes == CLASSES and list(CLASSES) == sorted(CLASSES) and len(CLASSES) == 20
    manifests = [json.loads(p.read_text())["payload"] for p in places.cache.glob("*/manifest.json")]
    assert [m["dropped_boxes"] for m in manifests] == [len(parts)]


def test_an_id_of_two_years_is_two_images(places):
    both = load(VOCSpec(name="voc", split="trainval2007+2012"), places)
    parts = [load(VOCSpec(name="voc", split=f"trainval{year}"), places) for year in (2007, 2012)]
    listed = [(places.root / f"VOCdevkit/VOC{y}/ImageSets/Main/trainval.txt").read_text() for y in (2007, 2012)]
    assert listed[0] == listed[1]
    for i in range(12):
        assert torch.equal(both.images[i], parts[0].images[i]) and torch.equal(both.images[12 + i], parts[1].images[i])
    assert not all(torch.equal(both.images[i], both.images[12 + i]) for i in range(12))


def test_limit_takes_the_first_of_the_list(places):
    whole, some = load(SPEC, places), load(VOCSpec(name="voc", split="trainval2007", limit=2), places)
    assert len(some) == 2 and all(torch.equal(some.images[i], whole.images[i]) for i in range(2))


def test_corners_between_pixels_and_a_missing_flag_are_read(places):
    path = places.root / "VOCdevkit/VOC2007/Annotations/000001.xml"
    path.write_text(
        "<annotation><size><width>80</width><height>64</height></size><object><name>cow</name><part><name>head</name>"
        "<bndbox><xmin>1</xmin></bndbox></part><bndbox><xmin>1.5</xmin><ymin>45.70000076293945</ymin><xmax>9</xmax>"
        "<ymax> 50 </ymax></bndbox></object></annotation>"
    )
    data = load(SPEC, places)
    assert data.boxes[0].tolist() == [pytest.approx([0.5, 44.70000076293945, 9, 50])]
    assert data.difficult[0].tolist() == [False] and data.box_labels[0].tolist() == [CLASSES.index("cow")]


VANDALS = {
    r"no class 'hoarse'; did you mean 'horse'\?": ("<name>[a-z]*</name>", "<name>hoarse</name>"),
    "<object> has no <bndbox><xmax>": ("<xmax>.*?</xmax>", ""),
    "<annotation> has no <size><width>": ("<width>", "<broad>x</broad><width2>"),
    "mismatched tag": ("</annotation>", "</annotated>"),
    "no element found": ("</annotation>", ""),
    "could not convert string to float": ("<xmin>[^<]*", "<xmin>left"),
    "an image of 80 x 0 pixels": ("<height>64", "<height>0"),
}


@pytest.mark.parametrize("why", VANDALS)
def test_an_xml_that_is_not_voc_s_is_named_in_one_line(places, why):
    path = places.root / "VOCdevkit/VOC2007/Annotations/000001.xml"
    old, new = VANDALS[why]
    text = re.sub(old, new, path.read_text())
    path.write_text(text.replace("</width>", "</width2>") if "broad" in text else text)
    with pytest.raises(DataError, match=f"not in VOC's format: .*{why}") as error:
        prepare(SPEC, places)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "no ids"),
        ("000001\n000001\n", "an id is listed twice"),
        ("000001\n../x\n", "'../x' is not an id"),
        ("000001\n\0\n", r"'\\x00' is not an id"),
        ("000001\n777777\n", r"no .*VOCdevkit/VOC2007/Annotations/777777\.xml"),
    ],
)
def test_a_list_that_is_garbled_or_calls_for_what_is_not_there(places, content, why):
    (places.root / "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt").write_text(content)
    with pytest.raises(DataError, match=why) as error:
        bind(SPEC, places.root)
    assert "\n" not in str(error.value) and "--download" in str(error.value)


def test_an_image_that_is_broken_is_found_before_anything_trains(tmp_path):
    write_voc(tmp_path, odd=Odd(missing={1}, truncated={2}))
    with pytest.raises(
        DataError, match=r"cannot use 2 of 12 images: VOC2007/000003\.jpg \(No such .*VOC2007/000005\.jpg"
    ):
        prepare(SPEC, DataPaths(tmp_path, tmp_path / "cache"))
