"""Profiles with one's own images: where roots lie, what is refused, the examples of the documentation, a whole run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ROOT, environment, tiny_profile, trained
from own_images import save, write_coco, write_folder, write_voc

from cl_bench.compute.loading import stored_pretrainings, stored_records
from cl_bench.data import DataPaths, Dataset, bind, load
from cl_bench.data.__main__ import work
from cl_bench.errors import SpecError
from cl_bench.spec import FolderSpec
from cl_bench.spec.profile import Profile
from cl_bench.spec.profile_files import load_profile
from cl_bench.store import Store

DOCUMENT = (ROOT / "docs" / "own-data.md").read_text()
SNIPPETS = re.findall(r"```toml\n(.*?)```", DOCUMENT + (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.fixture
def layouts(tmp_path: Path) -> Path:
    """Write what the documentation's examples are about."""
    for i, split in enumerate(("train", "test")):
        write_folder(tmp_path / "pets" / split, images=35, first=1000 * i)
        write_coco(tmp_path / "zoo", split, [f"{j}.png" for j in range(33)], "annotations/{}.json")
    write_voc(tmp_path / "farm", {"train": [f"a{j}.png" for j in range(33)], "test": ["b1.png", "b2.png"]})
    return tmp_path


def found(profile: Profile, root: Path | None = None) -> Profile:
    return profile.with_found(lambda spec: bind(spec, root))


@pytest.mark.parametrize("toml", SNIPPETS, ids=lambda text: text.splitlines()[0].lstrip("# ").partition(":")[0])
def test_the_examples_of_the_documentation_work(layouts, toml):
    if "huggingface" in toml:
        datasets = pytest.importorskip("datasets", reason="the extra huggingface is not installed")
        datasets.disable_progress_bars()
        column = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
        rows = {"image": [str(p) for p in sorted((layouts / "pets" / "train").rglob("*.png"))], "label": [0, 1] * 35}
        held = datasets.Dataset.from_dict(rows, features=column)
        datasets.DatasetDict(train=held, test=held).save_to_disk(str(layouts / "saved"))
    path = layouts / "mine.toml"
    path.write_text(toml)
    profile = found(load_profile(str(path)))
    own = [d for d in (profile.single_object.data, profile.multi_object.data) if d.name != "scenes"]
    assert len(own) == 1 and own[0].count in (33, 70)
    places = DataPaths(None, layouts / "cache")
    for part in (profile.linear, profile.detection):
        if part.train.name != "scenes":
            train, test = load(part.train, places), load(part.test, places)
            assert test.labelled_as(train).classes == train.classes and len(train) == own[0].count


@pytest.mark.parametrize("name", ["small-cnn", "resnet18"])
def test_the_examples_of_natural_images_take_their_layout(tmp_path, name):
    root = tmp_path / "images"
    for i, split in enumerate(("train", "test")):
        write_folder(root / "cifar10_jpg" / split, images=70, first=1000 * i)
    splits = {"trainval": [f"a{j}.jpg" for j in range(52)], "test": ["b1.jpg", "b2.jpg"]}
    write_voc(root / "VOCdevkit" / "VOC2007", splits)
    profile = found(load_profile(str(ROOT / "examples" / "natural-images" / f"{name}.toml"), data_root=root))
    assert profile.single_object.data.count == 140 and profile.detection.train.found.objects == 52


def test_a_root_is_looked_for_under_the_data_root_and_beside_the_profile(tmp_path, monkeypatch):
    (tmp_path / "profiles").mkdir()
    path = tmp_path / "profiles" / "mine.toml"
    path.write_text('base = "smoke"\n[linear]\ntrain = { name = "folder", root = "pets", split = "train" }\n')
    with path.open("a") as file:
        file.write('test = { name = "folder", root = "pets", split = "test" }\n')

    def root(*settings: str, data_root: Path | None = None) -> str | None:
        return load_profile(str(path), settings, data_root).linear.train.root

    beside, under = tmp_path / "profiles" / "pets", tmp_path / "data" / "pets"
    assert root() == str(beside) and root(data_root=tmp_path / "data") == str(under), "where it was looked for first"
    beside.mkdir()
    assert root(data_root=tmp_path / "data") == str(beside)
    under.mkdir(parents=True)
    assert root(data_root=tmp_path / "data") == str(under) and root() == str(beside)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert root("linear.train.root=data/pets") == str(under)
    assert root("linear.train.root='~/data/pets'") == str(under)
    assert root(f"linear.train.root='{under}'") == str(under)
    based = tmp_path / "based.toml"
    based.write_text('base = "profiles/mine.toml"\n')
    assert load_profile(str(based)).linear.train.root == str(beside), "beside the file that names it"


def with_pets(layouts: Path, *settings: str, **tables: str) -> Profile:
    lines = ['base = "smoke"', "optimiser.batch = 32", "optimiser.warmup = 0"]
    lines += [
        f'{key.replace("__", ".")} = {{ name = "folder", root = "pets", {value} }}' for key, value in tables.items()
    ]
    (layouts / "mine.toml").write_text("\n".join(lines))
    return load_profile(str(layouts / "mine.toml"), settings)


TRAIN, TEST = 'split = "train"', 'split = "test"'


def test_counts_are_those_of_the_images_that_are_there(layouts):
    profile = with_pets(layouts, single_object__data=TRAIN, single_object__heldout=TEST)
    with pytest.raises(ValueError, match="folder train was not found"):
        _ = profile.single_object.data.count
    assert found(profile).single_object.data.count == 70
    few = with_pets(layouts, "optimiser.batch=71", single_object__data=TRAIN)
    with pytest.raises(SpecError, match=r"^profile mine: single_object.data has 70 images, fewer than a batch of 71$"):
        found(few)
    with pytest.raises(SpecError, match=r"single_object.data.limit is 20, fewer than a batch of 32"):
        found(with_pets(layouts, single_object__data=f"{TRAIN}, limit = 20"))


def flat(layouts: Path) -> None:
    shutil.rmtree(layouts / "pets" / "train")
    for i in range(3):
        save(layouts / "pets" / "train" / f"{i}.png", i)


def only_cats(layouts: Path) -> None:
    shutil.rmtree(layouts / "pets" / "train" / "dog")


def other_pets(layouts: Path) -> None:
    for name in ("emu", "yak"):
        save(layouts / "pets" / "test" / name / "x.png", 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flat, "linear: takes labelled images, and folder train has no labels: its images lie in no folders by class"),
        (only_cats, "linear: takes two classes or more, and folder train has one: 'cat'"),
        (other_pets, "linear: folder test has classes that folder train has no image of: 'emu', 'yak'"),
    ],
)
def test_what_cannot_be_learnt_is_said_before_anything_trains(layouts, change, said):
    change(layouts)
    with pytest.raises(SpecError) as error:
        found(with_pets(layouts, linear__train=TRAIN, linear__test=TEST))
    assert str(error.value) == f"profile mine: {said}"


def test_detection_without_objects_is_said(layouts):
    write_voc(layouts / "farm", {"train": ["c.png"]}, boxes=())
    table = '{{ name = "voc", root = "farm", split = "{}" }}'
    lines = ['base = "smoke"', *(f"detection.{p} = {table.format(p)}" for p in ("train", "test"))]
    (layouts / "mine.toml").write_text("\n".join(lines))
    with pytest.raises(SpecError, match="detection: takes images with objects, and voc train has none in 1 images"):
        found(load_profile(str(layouts / "mine.toml")))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            'detection.train = { name = "folder", root = "pets", kind = "multi_object", split = "train" }',
            "of the same data",
        ),
        ('linear.train = { name = "folder", split = "train" }', "linear.train.root is missing"),
        ('linear.train = { name = "folder", root = "pets", split = "train", labels = 3 }', "unknown key"),
        ('linear.train = { name = "foldr", root = "pets", split = "train" }', "did you mean 'folder'"),
        ('multi_object.data = { name = "folder", root = "pets", split = "train" }', "which is single_object"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused_by_name(tmp_path, table, said):
    (tmp_path / "mine.toml").write_text(f'base = "smoke"\n{table}\n')
    with pytest.raises(SpecError, match=said) as error:
        load_profile(str(tmp_path / "mine.toml"))
    assert "\n" not in str(error.value)


def test_labels_go_by_the_names_of_classes():
    images = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    train = Dataset(images, ("ant", "bee", "cat"), labels=torch.tensor([0, 1, 2]))
    test = Dataset(images, ("bee", "cat", "dog"), labels=torch.tensor([0, 1, 0]))
    assert test.labelled_as(train).labels.tolist() == [1, 2, 1] and test.labelled_as(train).classes == train.classes
    assert train.labelled_as(train) is train
    with pytest.raises(ValueError, match="the class 'ant' is not among those of the training images"):
        train.labelled_as(test)
    boxes = (torch.zeros(2, 4), torch.zeros(0, 4))
    boxed = Dataset(images[:2], ("bee", "dog"), boxes=boxes, box_labels=(torch.tensor([0, 0]), torch.tensor([]).long()))
    assert [b.tolist() for b in boxed.labelled_as(train).box_labels] == [[1, 1], []]
    with pytest.raises(ValueError, match="the class 'dog'"):
        Dataset(images[:1], ("bee", "dog"), boxes=boxes[:1], box_labels=(torch.tensor([0, 1]),)).labelled_as(train)


def test_where_images_lie_is_no_part_of_a_key(layouts):
    spec = FolderSpec(name="folder", root="/a", split="train")
    assert spec.key == FolderSpec(name="folder", root="/b", split="train").key
    assert FolderSpec.model_validate(spec.model_dump(mode="json")) == spec, "a worker is told where"
    bound = bind(FolderSpec(name="folder", root=str(layouts / "pets"), split="train"), None)
    assert FolderSpec.model_validate(bound.model_dump(mode="json")) == bound and str(layouts) not in str(
        bound.canonical()
    )


def job(profile: Path, store: Path, *more: str) -> subprocess.CompletedProcess[str]:
    options = [f"--profile={profile}", f"--store={store}", "--device=cpu", "--jobs=1", *more]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "suites/test_single_object.py", *options]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)


def whole(tmp_path: Path) -> Path:
    """Write a profile of one's own images alone, in a folder of its own with them."""
    home = tmp_path / "home"
    for i, split in enumerate(("train", "test")):
        write_folder(home / "pets" / split, images=20, first=1000 * i)
    boxes = [("hen", 2, 2, 14, 14), ("cow", 10, 5, 27, 19)]
    write_voc(home / "farm", {"train": [f"a.{j}.png" for j in range(8)], "test": ["b1.png", "b2.png"]}, boxes)
    path = tiny_profile(home / "mine.toml")
    tables: dict[str, Any] = {
        "single_object.data": ("folder", "pets", "train"),
        "single_object.heldout": ("folder", "pets", "test"),
        "linear.train": ("folder", "pets", "train"),
        "linear.test": ("folder", "pets", "test"),
        "detection.train": ("voc", "farm", "train"),
        "detection.test": ("voc", "farm", "test"),
    }
    kept = [x for x in path.read_text().splitlines() if not x.startswith(tuple(f"{key}." for key in tables))]
    kept += [f'{key} = {{ name = "{n}", root = "{r}", split = "{s}" }}' for key, (n, r, s) in tables.items()]
    path.write_text("\n".join(kept))
    tomllib.loads(path.read_text())
    return path


def test_images_of_one_s_own_are_prepared_verified_and_shown(tmp_path, capsys):
    path = whole(tmp_path)
    given = {"profile": str(path), "data_root": None, "store": tmp_path / "store", "out": tmp_path / "sheets"}
    for step, outcome in (("prepare", "decoded"), ("verify", "whole")):
        steps = {"prepare": False, "verify": False, step: True}
        assert work(Namespace(**given, **steps), "x") == 0
        names = ["folder train", "folder test", "voc train", "voc test"]
        assert capsys.readouterr().out.splitlines() == [f"{name}: {outcome}" for name in names]
    assert work(Namespace(**given, prepare=False, verify=False), "x") == 0
    assert {"linear.png", "detection.png", "single_object.png"} <= {p.name for p in (tmp_path / "sheets").iterdir()}


@pytest.mark.slow
def test_the_whole_way_on_images_of_one_s_own_wherever_they_lie(tmp_path):
    path, store = whole(tmp_path), tmp_path / "store"
    first = job(path, store, "-k", "info_nce-t1-")
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-2000:]
    assert "folder train: 40 images" in first.stdout
    before = trained(store)
    moved = shutil.move(path.parent, tmp_path / "elsewhere")
    again = job(Path(moved) / "mine.toml", store, "-k", "info_nce-t1-")
    assert again.returncode == 0 and trained(store) == before, again.stdout[-3000:] + again.stderr[-2000:]
    (spec,) = stored_pretrainings(Store(store))
    assert spec.data.root == str(tmp_path / "home" / "pets") and spec.data.count == 40
    ((_, record),), missing = stored_records(Store(store), None, list)
    assert record.status == "complete" and not missing, "what is stored can be read without the profile"
    ((_, same),), missing = stored_records(Store(store), load_profile(str(Path(moved) / "mine.toml")), list)
    assert same == record and len(missing) == 3, "and with it, wherever the images lie now"
