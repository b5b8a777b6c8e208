"""The catalogue: where data sets are found, what is said where they are not, and ``python -m cl_bench.data``."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ROOT, environment, tiny_profile
from real_formats import write_all, write_coco, write_stl10, write_voc

import cl_bench.data.coco
import cl_bench.data.stl10
import cl_bench.data.voc
from cl_bench.data import DataPaths, bind, download, load, prepare, verify
from cl_bench.data.__main__ import TILE, main, tile
from cl_bench.errors import DataError, SpecError
from cl_bench.spec import COCOSpec, DataSpec, ScenesSpec, STL10Spec, VOCSpec
from cl_bench.spec.datasets import unbound

SCENES = ScenesSpec(kind="single_object", split="train", images=3, size=16)
SPECS: dict[str, Any] = {
    **{s: STL10Spec(name="stl10", split=s) for s in ("train", "test", "unlabeled", "train+unlabeled")},
    **{s: COCOSpec(name="coco", split=s) for s in ("train2017", "val2017")},
    **{s: VOCSpec(name="voc", split=s) for s in ("trainval2007", "trainval2012", "trainval2007+2012", "test2007")},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "a root"
    write_all(path, 12)
    return path


@pytest.mark.parametrize("split", SPECS)
def test_a_source_is_what_is_there_and_not_where_or_when(root, tmp_path, split):
    spec = SPECS[split]
    bound = bind(spec, root)
    assert re.fullmatch("[0-9a-f]{64}", bound.source)
    assert unbound(bound) == spec
    assert bound.found is not None and bound.found.images == bound.count == len(load(spec, DataPaths(root, tmp_path)))
    assert bind(bound, root) == bound
    shutil.copytree(root, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    assert bind(spec, tmp_path / "elsewhere") == bound


def test_each_split_is_a_source_of_its_own(root):
    assert len({bind(spec, root).source for spec in SPECS.values()}) == len(SPECS)


@pytest.mark.parametrize("split", SPECS)
def test_every_file_that_decides_the_annotations_counts(root, tmp_path, split):
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    before = bind(SPECS[split], copy).source
    listed = cl_bench.data.SOURCES[SPECS[split].name](SPECS[split], copy).inspect()
    for path in (listed[0], listed[-1]):
        old = path.read_bytes()
        blank = old.rstrip(b"\n") + b"\n\n" if path.suffix in (".txt", ".xml", ".json") else _changed(path, old)
        path.write_bytes(blank)
        assert bind(SPECS[split], copy).source != before, path
        path.write_bytes(old)
    assert bind(SPECS[split], copy).source == before


def _changed(path: Path, old: bytes) -> bytes:
    return bytes([old[0] ^ 1]) + old[1:] if path.name.endswith("X.bin") else old[::-1]


def test_both_ends_of_a_large_file_count(tmp_path):
    write_stl10(tmp_path, train=120, test=1, unlabeled=1)
    path = tmp_path / "stl10_binary" / "train_X.bin"
    old = bytearray(path.read_bytes())
    assert len(old) > 3 << 20
    seen = {bind(SPECS["train"], tmp_path).source}
    for at in (0, -1, 27648, -27648, (1 << 20) - 1):
        path.write_bytes(old[:at] + bytes([old[at] ^ 1]) + (old[at + 1 :] if at != -1 else b""))
        seen.add(bind(SPECS["train"], tmp_path).source)
    assert len(seen) == 6


def test_to_bind_opens_each_annotation_once_and_no_image(tmp_path):
    """``bind`` runs at the beginning of every run, so it takes seconds for all of VOC."""
    write_voc(tmp_path, images=1)
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    xml = (folder / "Annotations" / "000001.xml").read_bytes()
    for i in range(400):
        (folder / "Annotations" / f"{i:06d}.xml").write_bytes(xml)
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("".join(f"{i:06d}\n" for i in range(400)))
    files, watching = [], True
    sys.addaudithook(lambda event, given: files.append(given[0]) if watching and event == "open" else None)
    bind(SPECS["trainval2007"], tmp_path)
    watching = False  # Python keeps a hook
    read = [Path(file) for file in files if str(file).startswith(str(folder))]
    assert sum(file.suffix == ".xml" for file in read) == 400 and len(read) <= 403
    assert not any(file.suffix == ".jpg" for file in read)


def test_scenes_need_no_place(tmp_path):
    assert bind(SCENES, None) is SCENES
    places = DataPaths(None, tmp_path / "cache")
    prepare(SCENES, places)
    verify(SCENES, places)
    download(SCENES, tmp_path / "root")
    assert load(SCENES) is load(SCENES) and torch.equal(load(SCENES, places).images, load(SCENES).images)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("split", SPECS)
def test_without_a_root_it_is_said_how_to_name_one(split):
    for attempt in (lambda: bind(SPECS[split], None), lambda: load(SPECS[split])):
        with pytest.raises(
            DataError, match=rf"{re.escape(split)}: say where it is with --data-root DIR .*to get"
        ) as error:
            attempt()
        assert isinstance(error.value, SpecError) and "\n" not in str(error.value)


@pytest.mark.parametrize("split", SPECS)
def test_the_first_missing_file_is_named_with_the_layout_and_the_remedy(root, tmp_path, split):
    source = cl_bench.data.SOURCES[SPECS[split].name](SPECS[split], tmp_path / "my data")
    for part in source.layout:
        with pytest.raises(DataError) as error:
            bind(SPECS[split], tmp_path / "my data")
        said = str(error.value)
        assert said.startswith(f"{SPECS[split].name} {split}: no {tmp_path / 'my data' / part}; expected ")
        assert all(p in said for p in source.layout) and "\n" not in said
        command = "curl -fLO" if "coco" in said else f"pytest suites/ --data-root '{tmp_path}/my data' --download"
        assert command in said
        if (root / part).is_dir():
            shutil.copytree(root / part, tmp_path / "my data" / part)
        else:
            (tmp_path / "my data" / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / part, tmp_path / "my data" / part)
    assert bind(SPECS[split], tmp_path / "my data") == bind(SPECS[split], root)


@pytest.mark.parametrize("split", ["train", "val2017", "test2007"])
def test_a_root_that_is_off_by_one_directory_is_put_right(root, split):
    inner = Path(cl_bench.data.SOURCES[SPECS[split].name](SPECS[split], root).layout[0]).parts[0]
    for wrong in (root.parent, root / inner):
        with pytest.raises(DataError, match=f"did you mean --data-root '{re.escape(str(root))}'\\?$"):
            bind(SPECS[split], wrong)


def test_a_file_for_a_directory_and_a_directory_for_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"no .*file/stl10_binary/train_X\.bin"):
        bind(SPECS["train"], tmp_path / "file")
    write_stl10(tmp_path)
    (tmp_path / "stl10_binary" / "train_y.bin").unlink()
    (tmp_path / "stl10_binary" / "train_y.bin").mkdir()
    with pytest.raises(DataError, match=r"train_y.bin: Is a directory$"):
        bind(SPECS["train"], tmp_path)


@pytest.mark.parametrize("split", ["train", "val2017", "test2007"])
def test_data_that_changed_since_are_refused(root, tmp_path, split):
    copy, cache = tmp_path / "copy", tmp_path / "cache"
    shutil.copytree(root, copy)
    bound = bind(SPECS[split], copy)
    prepare(bound, DataPaths(copy, cache))
    path = cl_bench.data.SOURCES[bound.name](bound, copy).inspect()[-1]
    path.write_bytes(path.read_bytes() + b"\n")
    for attempt in (load, prepare):
        with pytest.raises(DataError, match=rf"{split}: {copy} has changed \(source {bound.source[:16]}, now"):
            attempt(bound, DataPaths(copy, cache))


def test_load_keeps_a_data_set_by_spec_and_place(root, tmp_path):
    places = DataPaths(root, tmp_path / "cache")
    data = load(bind(SPECS["test"], root), places)
    assert load(bind(SPECS["test"], root), DataPaths(root, tmp_path / "cache")) is data
    others = [SPECS["test"].model_copy(update=change) for change in ({"limit": 5}, {"short_side": 20}, {"limit": 6})]
    assert [len(load(spec, places)) for spec in others] == [5, 12, 6]
    names = {re.sub("-[0-9a-f]{16}$", "", p.name) for p in places.cache.iterdir()}
    assert names == {"stl10-test", "stl10-test-first5", "stl10-test-short20", "stl10-test-first6"}


def test_download_has_torchvision_do_it_where_something_is_missing(tmp_path, monkeypatch):
    asked = []

    def stl10(path: str, split: str, download: bool) -> None:
        asked.append((path, split, download))
        write_stl10(Path(path))

    def voc(path: str, year: str, part: str, download: bool) -> None:
        asked.append((path, year, part, download))
        write_voc(Path(path), int(year), part)

    monkeypatch.setattr("torchvision.datasets.STL10", stl10)
    monkeypatch.setattr("torchvision.datasets.VOCDetection", voc)
    for _ in range(2):
        download(SPECS["train"], tmp_path)
        download(SPECS["trainval2007+2012"], tmp_path)
    place = str(tmp_path)
    voc_calls = [(place, "2007", "trainval", True), (place, "2012", "trainval", True)]
    assert asked == [(place, "test", True), *voc_calls]
    (tmp_path / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000001.jpg").unlink()  # unpacked half way
    download(SPECS["trainval2007+2012"], tmp_path)
    assert asked[3:] == voc_calls


def test_torchvision_takes_the_arguments_it_is_given(tmp_path, monkeypatch):
    write_voc(tmp_path)
    monkeypatch.setattr("torchvision.datasets.voc.download_and_extract_archive", lambda *a, **k: None)
    cl_bench.data.voc.VOC(SPECS["trainval2007"], tmp_path).fetch()
    write_stl10(tmp_path)
    monkeypatch.setattr("torchvision.datasets.stl10.check_integrity", lambda *a: True)
    cl_bench.data.stl10.STL10(SPECS["train"], tmp_path).fetch()
    from torchvision.datasets import STL10
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    assert STL10.url == cl_bench.data.stl10.URL
    theirs = [DATASET_YEAR_DICT[year]["url"] for year in ("2007", "2007-test", "2012")]
    assert [url.rpartition("VOC/")[2] for url in theirs] == list(cl_bench.data.voc.ARCHIVES.values())


@pytest.mark.parametrize(
    "error", [OSError("<urlopen error\n unreachable>"), RuntimeError("File corrupted."), EOFError()]
)
def test_a_download_that_fails_says_how_to_do_it_by_hand(tmp_path, monkeypatch, error):
    monkeypatch.setattr("torchvision.datasets.STL10", lambda *a, **k: (_ for _ in ()).throw(error))
    with pytest.raises(
        DataError, match=rf"not downloaded to {tmp_path}: .*by hand: mkdir -p .*tar xzf stl10_bin"
    ) as said:
        download(SPECS["train"], tmp_path)
    assert "\n" not in str(said.value)


def test_coco_is_for_the_user_to_download(root, tmp_path):
    with pytest.raises(DataError, match="by hand: ") as error:
        download(SPECS["train2017"], tmp_path)
    for url in ("zips/train2017.zip", "annotations/annotations_trainval2017.zip"):
        assert f"http://images.cocodataset.org/{url} && unzip" in str(error.value)
    download(SPECS["train2017"], root)  # it is there: nothing to do


def test_limit_and_short_side_go_together(root, tmp_path):
    limited = COCOSpec(name="coco", split="val2017", limit=4, short_side=32)
    data = load(bind(limited, root), DataPaths(root, tmp_path / "cache"))
    assert len(data) == 4 and data.images.sizes.amin(1).tolist() == [32] * 4


def test_a_tile_keeps_its_aspect():
    wide = tile(torch.zeros(3, 20, 60, dtype=torch.uint8))
    assert wide.shape == (3, TILE, TILE)
    assert (wide[:, : TILE // 3] == 0).all() and (wide[:, TILE // 3 :] == 255).all()
    tall = tile(torch.full((3, 1000, 10), 7, dtype=torch.uint8))
    assert (tall[:, :, :1] == 7).all() and (tall[:, :, 1:] == 255).all()


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tiny_profile(tmp_path / "real.toml")
    text = [
        line
        for line in path.read_text().splitlines()
        if not re.match(r"(single|multi).*\.(data|heldout)\.|.*\.(train|test)\.", line)
    ]
    tables: dict[str, DataSpec] = {
        "single_object.data": SPECS["train+unlabeled"],
        "single_object.heldout": SPECS["test"],
        "multi_object.data": SPECS["train2017"],
        "multi_object.heldout": SPECS["val2017"],
        "linear.train": SPECS["train"],
        "linear.test": SPECS["test"],
        "detection.train": SPECS["trainval2007+2012"],
        "detection.test": SPECS["test2007"],
    }
    text += [f'{key} = {{ name = "{spec.name}", split = "{spec.split}" }}' for key, spec in tables.items()]
    path.write_text("\n".join(text))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object, status: int = 0) -> None:
    monkeypatch.setattr(sys, "argv", ["cl_bench.data", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == status


def test_prepare_and_verify_from_the_command_line(root, tmp_path, profile, monkeypatch, capsys):
    options = ("--profile", profile, "--data-root", root, "--store", tmp_path / "store")
    run(monkeypatch, *options, "--verify", status=1)
    said = capsys.readouterr().err
    assert re.search(r"python -m cl_bench.data: stl10 .*not decoded yet.* cl-bench data --prepare decodes it", said)
    run(monkeypatch, *options, "--prepare")
    names = ["stl10 train+unlabeled", "stl10 test", "coco train2017", "coco val2017", "stl10 train"]
    names += ["voc trainval2007+2012", "voc test2007"]
    assert capsys.readouterr().out.splitlines() == [f"{name}: decoded" for name in names]
    run(monkeypatch, *options, "--verify")
    assert capsys.readouterr().out.splitlines() == [f"{name}: whole" for name in names]
    assert (tmp_path / "store" / ".gitignore").exists()


def test_contact_sheets_of_images_of_any_size(root, tmp_path, profile, monkeypatch, capsys):
    options = ("--profile", profile, "--data-root", root, "--store", tmp_path / "store", "--out", tmp_path / "out")
    run(monkeypatch, *options)
    views = [f"{kind}-{policy}" for kind in ("single_object", "multi_object") for policy in ("overlapping", "disjoint")]
    names = {"detection", "linear", "single_object", "multi_object", *views}
    assert {p.stem for p in (tmp_path / "out").iterdir()} == names
    assert len(capsys.readouterr().out.splitlines()) == len(names)


def test_scenes_leave_no_store_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, "--prepare")
    assert "scenes are drawn" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_the_writers_run_from_the_command_line(tmp_path):
    script = ROOT / "tests" / "real_formats.py"
    command = [sys.executable, str(script)]
    surroundings = environment(PYTHONPATH=str(script.parent.parent))
    subprocess.run([*command, str(tmp_path / "data")], check=True, env=surroundings)
    for spec in SPECS.values():
        bind(spec, tmp_path / "data")
    assert subprocess.run(command, capture_output=True, env=surroundings).returncode == 1


def test_the_tiny_sets_can_be_written_where_some_are(tmp_path):
    write_coco(tmp_path)
    write_all(tmp_path, 3)
    assert len(load(SPECS["train2017"], DataPaths(tmp_path, tmp_path / "cache"))) == 3
