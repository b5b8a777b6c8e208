"""Data sets of Hugging Face's library, built here and saved to disk; nothing is downloaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_images import EPS, bomb, picture, save

from cl_bench.data import DataPaths, bind, load, prepare
from cl_bench.errors import DataError, DataWarning
from cl_bench.spec import HuggingFaceSpec

datasets = pytest.importorskip("datasets", reason="the extra huggingface is not installed")
NAMES = ["dog", "ant", "cat"]
BOXES = {
    "bbox": datasets.List(datasets.List(datasets.Value("float32"))),
    "category": datasets.List(datasets.ClassLabel(names=["wheel", "door"])),
}


def rows(count: int, first: int) -> dict[str, list[Any]]:
    return {
        "image": [picture(first + i, (20 + i % 2, 28)) for i in range(count)],
        "label": [i % 3 for i in range(count)],
        "objects": [{"bbox": [[1, 2, 5, 6]] * (i % 3), "category": [i % 2] * (i % 3)} for i in range(count)],
    }


def table(count: int = 9, first: int = 0, **columns: Any) -> Any:
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES), "objects": BOXES}
    return datasets.Dataset.from_dict(rows(count, first), features=datasets.Features(features)).rename_columns(columns)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    datasets.disable_progress_bars()
    root = tmp_path_factory.mktemp("hub") / "saved"
    datasets.DatasetDict(train=table(), test=table(4, 50)).save_to_disk(str(root))
    return root


@pytest.fixture
def places(tmp_path: Path) -> DataPaths:
    return DataPaths(None, tmp_path / "cache")


def spec(root: Path, split: str = "train", **more: Any) -> HuggingFaceSpec:
    return HuggingFaceSpec(name="huggingface", root=str(root), split=split, **more)


def test_images_and_labels_are_those_that_the_library_reads(written, places):
    bound = bind(spec(written), None)
    assert bound.found.images == 9 and bound.found.classes == ("ant", "cat", "dog")
    data, theirs = load(bound, places), datasets.load_from_disk(str(written))["train"]
    assert data.classes == tuple(NAMES) and data.boxes is None

    def known(pairs):
        return sorted((np.asarray(image).tobytes(), int(label)) for image, label in pairs)

    ours = zip((image.permute(1, 2, 0).numpy() for image in data.images), data.labels, strict=True)
    assert known(ours) == known((row["image"], row["label"]) for row in theirs)
    assert bind(spec(written, "test", limit=3), None).count == 3


def test_objects_are_boxes_in_pixels(written, places):
    data = load(bind(spec(written, kind="multi_object"), None), places)
    assert data.classes == ("wheel", "door") and data.labels is None
    assert sorted(len(b) for b in data.boxes) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert torch.cat(data.boxes).unique(dim=0).tolist() == [[1, 2, 6, 8]]


def test_a_source_is_what_is_there_and_not_where(written, tmp_path):
    copy = shutil.copytree(written, tmp_path / "copy")
    before = bind(spec(written), None)
    assert bind(spec(copy), None).key == before.key
    assert bind(spec(written, kind="multi_object"), None).source != before.source
    shutil.rmtree(copy)
    datasets.DatasetDict(train=table(first=1), test=table(4, 50)).save_to_disk(str(copy))
    assert bind(spec(copy), None).source != before.source


def test_columns_may_have_other_names(tmp_path, places):
    table(image="img", label="fine").save_to_disk(str(tmp_path / "one"))
    named = spec(tmp_path / "one", "all", columns={"image": "img", "label": "fine"})
    assert load(bind(named, None), places).labels.tolist().count(0) == 3
    assert bind(spec(tmp_path / "one", "all", columns={"image": "img"}), None).found.classes == ()
    for columns, said in (
        ({}, r"columns.image 'image' is no column; .*of images are: img"),
        ({"image": "fine"}, r"columns.image 'fine' is no column of images: ClassLabel"),
        ({"image": "img", "label": "fin"}, r"no column 'fin'; did you mean 'fine'\?"),
    ):
        with pytest.raises(DataError, match=said):
            bind(spec(tmp_path / "one", "all", columns=columns), None)


def test_labels_may_be_names_or_numbers_and_lacking_ones_are_said(tmp_path, places):
    held = table().remove_columns("label")
    for values, classes in ((["b", "a", "b"] * 3, ("a", "b")), ([7, 70, 8] * 3, ("7", "8", "70"))):
        shutil.rmtree(tmp_path / "one", ignore_errors=True)
        held.add_column("label", values).save_to_disk(str(tmp_path / "one"))
        assert load(bind(spec(tmp_path / "one", "all"), None), places).classes == classes
    for values, said in (([None, "a", "a"] * 3, "3 of 9 rows have none"), ([0.5] * 9, "its values are no classes")):
        shutil.rmtree(tmp_path / "one")
        held.add_column("label", values).save_to_disk(str(tmp_path / "one"))
        with pytest.raises(DataError, match=rf"column 'label': {said}"):
            bind(spec(tmp_path / "one", "all"), None)


def of_images(values: list[Any]) -> Any:
    return datasets.Dataset.from_dict({"image": values}, features=datasets.Features({"image": datasets.Image()}))


def test_bad_images_are_named_by_their_rows(tmp_path, places):
    good = save(tmp_path / "x.png", 1).read_bytes()
    held = [{"bytes": b, "path": None} for b in (good, good, bomb(), EPS, b"")]
    of_images([*held, None]).save_to_disk(str(tmp_path / "one"))
    with pytest.raises(DataError, match=r"cannot use 4 of 6 images: row \d \(.*and 1 more") as said:
        prepare(bind(spec(tmp_path / "one", "all"), None), places)
    assert "\n" not in str(said.value)
    with pytest.warns(DataWarning, match="left out 4 of 6 images"):
        assert len(load(bind(spec(tmp_path / "one", "all", broken="leave_out"), None), places)) == 2


def test_images_may_lie_in_files_beside_the_table(tmp_path, places, monkeypatch):
    paths = [str(save(tmp_path / f"{i}.png", i)) for i in range(5)]
    held = of_images(paths)
    monkeypatch.setattr(datasets, "load_from_disk", lambda root: held)
    bound = bind(spec(tmp_path, "all"), None)
    data = load(bound, places)
    ours = {image.permute(1, 2, 0).numpy().tobytes() for image in data.images}
    assert ours == {np.asarray(picture(i)).tobytes() for i in range(5)}
    save(Path(paths[2]), 99)
    assert bind(spec(tmp_path, "all"), None).source != bound.source


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split": "trian"}, r"has no split 'trian'; did you mean 'train'\?; splits: test, train"),
        ({"root": "/nowhere/at/all"}, "root /nowhere/at/all: no such folder"),
        ({"root": None, "path": "nobody/nothing"}, r"nobody/nothing: .*; to get it: .*--download.*load_dataset"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(written, change, said):
    with pytest.raises(DataError, match=said) as error:
        bind(HuggingFaceSpec(name="huggingface", **{"root": str(written), "split": "train", **change}), None)
    assert "\n" not in str(error.value)


def test_a_root_or_a_path_and_not_both(written):
    for given in ({}, {"root": str(written), "path": "a/b"}):
        with pytest.raises(ValueError, match="and not both, got root"):
            HuggingFaceSpec(name="huggingface", split="train", **given)


def test_without_the_library_it_is_said_how_to_get_it(written, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'cl-bench\[huggingface\]'"):
        bind(spec(written), None)
