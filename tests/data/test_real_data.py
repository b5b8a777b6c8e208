"""The whole main job on tiny data sets in the real formats: STL-10 and COCO pre-training, STL-10 and VOC evaluation."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, environment, trained
from real_formats import USUAL, write_all

pytestmark = pytest.mark.slow
PROFILE = ROOT / "tests" / "files" / "tiny-paper.toml"
LEVELS = {"instance", "dense"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every data set, with the oddities that the published ones have."""
    root = tmp_path_factory.mktemp("data")
    write_all(root, 26)
    return root


def job(store: Path, *more: str, suites: str = "suites/", root: Path | None = None) -> subprocess.CompletedProcess[str]:
    places = [f"--store={store}", *([] if root is None else [f"--data-root={root}"])]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", suites, f"--profile={PROFILE}", *places, *more]
    return subprocess.run(
        [*command, "--device=cpu"], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=900
    )


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run both schemes on every suite, and return the store and the terminal's output."""
    store = tmp_path_factory.mktemp("whole") / "store"
    result = job(store, "-vv", "--method=dense_index", "--method=instance", root=data)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    return store, result.stdout


def test_every_row_of_the_paper_is_there_in_the_paper_s_setting(done: tuple[Path, str]) -> None:
    store, said = done
    assert said.count("4 of 4 runs complete") == 6
    assert "Table 1: STL-10, instance scheme (ours: stl10)" in said
    assert "Table 3: COCO, dense scheme, disjoint views (ours: coco)" in said
    assert "VOC07 AP, %" in said and "full recipe*" in said  # the data sets are the paper's, epochs and limits are not
    assert "stl10 train to train, stl10 test to test" in " ".join(said.split())
    (records,) = (store / "report").glob("*/records.csv")
    with records.open() as file:
        records = list(csv.DictReader(file))
    assert {r["status"] for r in records} == {"complete"}
    assert len({r["key"] for r in records}) == 6 * 4 + 2
    for record in records:
        assert record["performance_dense"] == record["extra.voc07_ap"]
        assert 0 <= float(record["extra.coco_ap"]) <= 100 and 0 <= float(record["performance_instance"]) <= 100


def test_images_are_decoded_once_and_nothing_is_computed_twice(done: tuple[Path, str], data: Path) -> None:
    store, said = done
    assert "coco train2017: 24 images" in said.replace("\n", " ")
    maps = sorted(path.parent.name.rpartition("-")[0] for path in (store / "data").glob("*/manifest.json"))
    assert len(maps) == 8 and "voc-trainval2007+2012" in maps
    before = trained(store)
    again = job(store, "--method=dense_index", root=data, suites="suites/test_multi_object.py")
    assert again.returncode == 0 and "24 images" not in again.stdout
    assert trained(store) == before


def test_other_data_under_the_same_names_is_not_taken_for_the_same(done: tuple[Path, str], tmp_path: Path) -> None:
    store, _ = done
    write_all(tmp_path / "other", 25)
    planned = job(store, "--plan", root=tmp_path / "other", suites="suites/test_single_object.py")
    assert "6 encoders to compute" in " ".join(planned.stdout.split()), planned.stdout[-2000:]


def test_missing_data_is_said_in_a_line_a_set_before_anything_trains(tmp_path: Path) -> None:
    write_all(tmp_path / "data", 26)
    (tmp_path / "data" / "stl10_binary" / "unlabeled_X.bin").unlink()
    result = job(tmp_path / "store", root=tmp_path / "data", suites="suites/test_single_object.py")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("ERROR: ")]
    assert "unlabeled_X.bin" in line and "--download" in line
    assert not list((tmp_path / "store").glob("runs/*"))
    nowhere = job(tmp_path / "store", suites="suites/test_single_object.py")
    assert nowhere.returncode == pytest.ExitCode.USAGE_ERROR and "--data-root DIR" in nowhere.stderr
    # What this suite does not take is not asked for.
    write_all(tmp_path / "data", 26)
    (tmp_path / "data" / "coco" / "annotations" / "instances_train2017.json").unlink()
    planned = job(tmp_path / "store", "--plan", "-k", "nothing", root=tmp_path / "data")
    assert planned.returncode == pytest.ExitCode.NO_TESTS_COLLECTED
    model = job(tmp_path / "store", "-k", "info_nce-t1-", root=tmp_path / "data", suites="suites/test_single_object.py")
    assert model.returncode == 0, model.stdout[-3000:]


def test_a_broken_image_is_named_before_anything_trains_or_left_out_by_name(tmp_path: Path) -> None:
    write_all(tmp_path / "data", 26, USUAL._replace(truncated={3}))
    suite = "suites/test_multi_object.py"
    refused = job(tmp_path / "store", "-k", "info_nce-t1-", root=tmp_path / "data", suites=suite)
    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert "truncated" in refused.stderr and '"leave_out"' in refused.stderr
    assert not list((tmp_path / "store").glob("runs/*"))
    parts = ["multi_object.data", "multi_object.heldout", "detection.train", "detection.test"]
    leave_out = [f"--set={part}.broken=leave_out" for part in parts]
    left_out = job(tmp_path / "store", "-k", "info_nce-t1-", *leave_out, root=tmp_path / "data", suites=suite)
    assert left_out.returncode == 0, left_out.stdout[-3000:]
    assert "000000000030.jpg" in left_out.stdout


def test_a_plan_without_data_says_what_is_missing_and_how_long_it_takes(tmp_path: Path) -> None:
    result = job(tmp_path / "store", "--plan", "--method=instance", suites="suites/test_single_object.py")
    said = " ".join(result.stdout.split())
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr
    assert "6 encoders to compute, " in said and "as timed here" in said
    assert said.count("say where it is with --data-root DIR") >= 3
    assert "detection.lr 0.02 printed" in said
    assert not list((tmp_path / "store").glob("runs/*"))


def test_detectron2_is_a_backend_like_the_other(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed (docs/reproducing-the-paper.md says how)")
    one = "-k", "info_nce-t1-"
    suite = "suites/test_single_object.py"
    result = job(tmp_path / "store", *one, "-vv", "--detector=detectron2", root=data, suites=suite)
    assert result.returncode == 0, result.stdout[-3000:]
    status = next((tmp_path / "store").glob("runs/*/evals/detection-*.json"))
    assert json.loads(status.read_text())["payload"].keys() >= {"voc07_ap", "voc07_ap50", "coco_ap", "coco_ap50"}
    assert "(detectron2)" in result.stdout


def test_a_backend_that_is_not_there_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    result = job(tmp_path / "store", "--detector=detectron3")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR and "detection.detector" in result.stderr
    smoke = [sys.executable, "-m", "pytest", "suites/", "--detector=detectron2", f"--store={tmp_path / 'store'}"]
    result = subprocess.run(smoke, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR and "'finetune'" in result.stderr


def test_download_needs_a_place(tmp_path: Path) -> None:
    result = job(tmp_path / "store", "--download")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR and "--data-root DIR" in result.stderr
