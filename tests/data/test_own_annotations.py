"""One's own images in VOC's and COCO's formats: names, splits and ids of one's own, and what these formats allow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from own_images import SHAPE, coco, fifo, save, write_coco, write_voc, xml

from cl_bench.data import DataPaths, bind, load, prepare
from cl_bench.errors import DataError, DataWarning
from cl_bench.spec import COCOSpec, VOCSpec

IDS = ["farm.01.JPG", "b 2.png", "ünder.score_3.webp", "x-4.TIF"]
HEIGHT, WIDTH = SHAPE


def voc(root: Path, split: str = "day", **more: Any) -> VOCSpec:
    return VOCSpec(name="voc", root=str(root), split=split, **more)


def own_coco(root: Path, split: str = "day", **more: Any) -> COCOSpec:
    return COCOSpec(name="coco", root=str(root), split=split, **more)


@pytest.fixture
def places(tmp_path: Path) -> DataPaths:
    return DataPaths(None, tmp_path / "cache")


@pytest.fixture
def farm(tmp_path: Path) -> Path:
    """In VOC's format; without difficult, pose, truncated, depth, filename."""
    return write_voc(tmp_path / "farm", {"day": IDS, "night": IDS[:2]})


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """In COCO's; without height, width, iscrowd, area, id of annotations, info, licences."""
    return write_coco(tmp_path / "zoo", "day", ["sub/a.1.JPG", "b.png", "c.webp"])


def test_voc_takes_classes_splits_ids_and_extensions_of_one_s_own(farm, places):
    bound = bind(voc(farm), None)
    assert bound.found.model_dump() == {"images": 4, "classes": ("hen",), "objects": 4, "size": SHAPE}
    data = load(bound, places)
    assert data.classes == ("hen",) and len(data) == 4
    assert [b.tolist() for b in data.boxes] == [[[1, 2, 9, 12]]] * 4 and not torch.cat(data.difficult).any()
    assert bind(voc(farm, "night"), None).count == 2 and bind(voc(farm, limit=3), None).count == 3


def test_voc_draws_splits_where_there_are_no_lists(tmp_path, places):
    write_voc(tmp_path / "farm", {"x": [f"{i}.jpg" for i in range(40)]})
    shutil.rmtree(tmp_path / "farm" / "ImageSets")
    counts = [len(load(bind(voc(tmp_path / "farm", s), None), places)) for s in ("train", "test", "all")]
    assert counts[0] + counts[1] == counts[2] == 40 and 1 <= counts[1] <= 16
    with pytest.raises(DataError, match=r"no split 'tran'; did you mean 'train'\?"):
        bind(voc(tmp_path / "farm", "tran"), None)


def test_voc_takes_the_size_of_the_image_where_the_xml_has_none(farm, places):
    (farm / "Annotations" / "x-4.xml").write_text(xml([("cow", 2, 3, 99, 99)], shape=None))
    data = load(bind(voc(farm), None), places)
    assert data.classes == ("cow", "hen") and data.boxes[3].tolist() == [[1, 2, WIDTH, HEIGHT]]


def test_coco_takes_as_little_as_its_format_asks_for(zoo, places):
    bound = bind(own_coco(zoo), None)
    assert bound.found.model_dump() == {"images": 3, "classes": ("a fox", "hen"), "objects": 3, "size": SHAPE}
    data = load(bound, places)
    assert data.classes == ("a fox", "hen") and torch.cat(data.box_labels).tolist() == [0, 1, 0]
    assert [b.tolist() for b in data.boxes] == [[[1, 2, 9, 11]]] * 3 and data.images.sizes.tolist() == [[*SHAPE]] * 3


@pytest.mark.parametrize("place", ["annotations/instances_{}.json", "{}.json", "{}/_annotations.coco.json"])
def test_coco_annotations_lie_where_tools_put_them(tmp_path, places, place):
    root = write_coco(tmp_path / "zoo", "day", ["a.png", "b.png"], place)
    assert len(load(bind(own_coco(root), None), places)) == 2
    (root / "day").rename(root / "pictures")
    (root / "pictures" / "_annotations.coco.json").exists() or (root / "images").symlink_to(root / "pictures")
    if not place.startswith("{}/"):
        assert bind(own_coco(root), None).count == 2


def test_a_source_is_what_is_there_and_not_where(farm, zoo, tmp_path):
    for of, root, image in ((voc, farm, "JPEGImages/b 2.png"), (own_coco, zoo, "day/b.png")):
        before = bind(of(root), None)
        copy = shutil.copytree(root, tmp_path / "copies" / root.name)
        assert bind(of(copy), None).key == before.key
        save(copy / image, 4711)
        assert bind(of(copy), None).source != before.source, "another image is another source"


ODD_BOXES = [("nan", 1, 5, 9), (9, 9, 2, 2), (99, 1, 120, 9)]


def test_boxes_that_are_none_are_left_out_and_said(farm, zoo, places):
    boxes = [("hen", 2, 3, 9, 12), *(("hen", *box) for box in ODD_BOXES)]
    (farm / "Annotations" / "b 2.xml").write_text(xml(boxes))
    odd = [[float("nan"), 1, 2, 2], [5, 5, -3, 2], [99, 1, 3, 3]]
    more = [{"image_id": 1, "bbox": box, "category_id": 6} for box in odd]
    path = zoo / "annotations" / "day.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "annotations": content["annotations"] + more}))
    for bound in (bind(voc(farm), None), bind(own_coco(zoo), None)):
        with pytest.warns(
            DataWarning, match=rf"{bound.name} day: left out 3 boxes without area .*reversed, or not num"
        ):
            data = load(bound, places)
        assert all(len(b) == 1 for b in data.boxes)


EXTERNAL = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
LAUGHS = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize("head", [EXTERNAL, LAUGHS, "<!DOCTYPE annotation>"])
def test_an_xml_with_a_document_type_is_refused(farm, head):
    path = farm / "Annotations" / "x-4.xml"
    path.write_text(head + path.read_text().replace("hen", "&b;" if "ENTITY b" in head else "hen"))
    with pytest.raises(DataError, match=r"x-4\.xml: not in VOC's format: it declares a document type or entities$"):
        bind(voc(farm), None)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../x", "..", r"C:\x", "sub/x", "a\tb"])
def test_an_id_that_leaves_the_folder_is_none(farm, name):
    path = farm / "ImageSets" / "Main" / "day.txt"
    path.write_text(f"x-4\n{name}\n")
    with pytest.raises(DataError, match=r"day\.txt: '.*' is not an id; expected the id of an image a line$"):
        bind(voc(farm), None)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/../../x.png", r"..\x.png", r"C:\x.png", "", "a\0"]
)
def test_a_file_name_that_leaves_the_folder_is_refused(zoo, name):
    (zoo / "annotations" / "day.json").write_text(json.dumps(coco(["b.png", name])))
    with pytest.raises(DataError, match=r"day\.json: not in COCO's format: .* leads out of the images' folder") as said:
        bind(own_coco(zoo), None)
    assert "\n" not in str(said.value) and "delete" not in str(said.value)


def test_a_published_file_name_that_leaves_the_folder_is_refused(tmp_path):
    folder = tmp_path / "coco"
    (folder / "val2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    content = coco(["../../x.jpg"])
    content["images"] = [i | {"height": 3, "width": 4} for i in content["images"]]
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"leads out of the images' folder.*; to get it anew, delete it and: "):
        bind(COCOSpec(name="coco", split="val2017"), tmp_path)


TWICE = [{"id": 5, "name": "fox"}, {"id": 5, "name": "hen"}, {"id": 6, "name": "cow"}]
WRONG_COCO = {
    "category id 5 twice: 'fox' and 'hen'": {"categories": TWICE},
    "two categories are named 'hen'": {"categories": [{"id": 5, "name": "hen"}, {"id": 6, "name": "hen"}]},
    "an image of 50000 x 50000 pixels": {"images": [{"id": 0, "file_name": "b.png", "width": 50000, "height": 50000}]},
    "no images": {"images": [], "annotations": []},
    "there is no category of id 7 at ": {"annotations": [{"image_id": 1, "bbox": [1, 1, 2, 2], "category_id": 7}]},
    "'bbox'": {"annotations": [{"image_id": 1, "category_id": 6}]},
    "a box is four numbers, got None at ": {"annotations": [{"image_id": 1, "bbox": None, "category_id": 6}]},
}


@pytest.mark.parametrize("why", WRONG_COCO)
def test_a_json_that_is_wrong_is_named_and_nobody_is_told_to_delete_it(zoo, why):
    path = zoo / "annotations" / "day.json"
    path.write_text(json.dumps(coco(["b.png", "c.webp"], **WRONG_COCO[why])))
    with pytest.raises(DataError, match=rf"{path}: not in COCO's format: .*{why}") as said:
        bind(own_coco(zoo), None)
    assert "\n" not in str(said.value) and "delete" not in str(said.value) and "download" not in str(said.value)


def test_what_is_missing_is_named_without_a_download(farm, zoo, tmp_path):
    with pytest.raises(DataError, match=r"no .*ImageSets/Main/noon\.txt; expected") as said:
        bind(voc(farm, "noon"), None)
    assert "download" not in str(said.value)
    with pytest.raises(DataError, match=r"no annotations/instances_noon.json or .* in .*zoo"):
        bind(own_coco(zoo, "noon"), None)
    shutil.rmtree(zoo / "day")
    with pytest.raises(DataError, match=r"the first image of the annotations, sub/a.1.JPG, is not in"):
        bind(own_coco(zoo), None)
    with pytest.raises(DataError, match=r"root .*farn: no such folder; did you mean 'farm'\?"):
        bind(voc(tmp_path / "farn"), None)


@pytest.mark.parametrize("name", ["Annotations/x-4.xml", "ImageSets/Main/day.txt"])
def test_a_pipe_in_the_place_of_an_annotation_is_not_waited_for(farm, name):
    fifo(farm / name)
    with pytest.raises(DataError, match=rf"{name}: a pipe or a device, not a file"):
        bind(voc(farm), None)


def test_a_pipe_in_the_place_of_a_json_is_not_waited_for(zoo):
    fifo(zoo / "annotations" / "day.json")
    with pytest.raises(DataError, match=r"day\.json: a pipe or a device"):
        bind(own_coco(zoo), None)


def test_images_that_are_missing_or_ambiguous_are_named(farm, places):
    (farm / "JPEGImages" / "x-4.TIF").unlink()
    with pytest.raises(DataError, match=r"cannot use 1 of 4 images: x-4.jpg \(No such file"):
        prepare(bind(voc(farm), None), places)
    for extension in ("png", "bmp"):
        save(farm / "JPEGImages" / f"x-4.{extension}", 1)
    with pytest.raises(DataError, match=r"x-4\.xml: two images have its name: x-4\.bmp, x-4\.png"):
        bind(voc(farm), None)


@pytest.mark.parametrize(("of", "split"), [(VOCSpec, "train"), (COCOSpec, "train")])
def test_a_split_of_one_s_own_needs_a_root(of, split):
    with pytest.raises(ValueError, match=r"has no split 'train'; did you mean .*for images of your own .*root = "):
        of(name=of.__name__[:-4].lower(), split=split)


@pytest.mark.parametrize("split", ["../x", "a/b", "", ".", "a\nb"])
def test_a_split_is_a_name(split):
    with pytest.raises(ValueError, match="a split is a name"):
        voc(Path("x"), split)
