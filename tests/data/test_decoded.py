"""The map of decoded images under garbage and on a full disk."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from decoded_coco import SHARDS, SPEC, N, check, folder, fresh, lines
from PIL import Image
from real_formats import Odd, write_coco, write_stl10

import cl_bench.data
from cl_bench.data import DataPaths, decoded, load, pictures, prepare, shards, verify
from cl_bench.data.dataset import Ragged
from cl_bench.errors import DataError
from cl_bench.spec import COCOSpec, STL10Spec
from cl_bench.store import StoreWarning


def test_images_are_decoded_once(places, decodings):
    prepare(SPEC, places)
    assert sorted(decodings) == list(range(N))
    check(fresh(places), places)
    assert len(decodings) == N
    assert lines(places) == SHARDS
    assert folder(places).name.startswith("coco-train2017-") and len(folder(places).name) == len("coco-train2017-") + 16


def test_a_whole_map_needs_neither_the_annotations_parsed_nor_a_lock(places, monkeypatch):
    prepare(SPEC, places)
    monkeypatch.setattr(cl_bench.data.COCO, "listing", None)
    monkeypatch.setattr(decoded, "locked", None)
    check(fresh(places), places)


def test_nothing_is_copied_into_memory(places):
    data = fresh(places)
    assert data.images[3].untyped_storage().nbytes() == (folder(places) / "images.bin").stat().st_size
    assert data.images[0].untyped_storage().data_ptr() == data.images[N - 1].untyped_storage().data_ptr()


def test_a_map_larger_than_the_memory_can_be_opened(tmp_path):
    path = tmp_path / "large"
    path.mkdir()
    with (path / "images.bin").open("wb") as file:
        file.truncate(1 << 42)  # sparse
    sizes, starts = torch.tensor([[1, 1], [1, 2]]), torch.tensor([0, (1 << 42) - 6])
    annotations = decoded.save({"sizes": sizes, "starts": starts})
    data = decoded.DecodedImages(path, "large")._data(
        {"left_out": [], "dropped_boxes": 0, "classes": ["x"]}, annotations
    )
    assert data.images[1].sum() == 0


def test_progress_is_told_of_every_image(places):
    told = []
    prepare(SPEC, places, lambda *what: told.append(what))
    assert told == [("coco train2017", i + 1, N) for i in range(N)]


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("manifest", ["whole", "gone"])
def test_a_damaged_shard_is_decoded_again(places, decodings, manifest):
    prepare(SPEC, places)
    decodings.clear()
    flip(folder(places) / "images.bin", 3 * 64 * 80 * 3 + 999)  # of the second shard
    if manifest == "gone":
        (folder(places) / "manifest.json").unlink()
    with pytest.warns(StoreWarning, match=r"images\.bin: 1 of \d shards are not what was written there; decoded again"):
        data = fresh(places)
    assert sorted(decodings) == [2, 3]
    check(data, places)
    decodings.clear()
    check(fresh(places), places)
    assert not decodings


def test_damage_that_left_no_trace_is_found_by_verify(places, decodings):
    prepare(SPEC, places)
    path = folder(places) / "images.bin"
    verify(SPEC, places)
    state = path.stat()
    flip(path, 5)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    decodings.clear()
    prepare(SPEC, places)
    assert not decodings
    with pytest.warns(StoreWarning, match="1 of"):
        verify(SPEC, places)
    check(fresh(places), places)


def test_a_touched_map_is_verified_once(places, decodings, monkeypatch):
    prepare(SPEC, places)
    (folder(places) / "images.bin").touch()
    read = []
    checksum = shards.checksum
    monkeypatch.setattr(decoded, "checksum", lambda *a: read.append(a) or checksum(*a))
    decodings.clear()
    for _ in range(3):
        check(fresh(places), places)
    assert len(read) == SHARDS
    assert not decodings


@pytest.mark.parametrize("change", ["truncated", "longer", "gone", "zeros"])
def test_a_map_of_another_size_is_put_right(places, change):
    prepare(SPEC, places)
    path = folder(places) / "images.bin"
    old = path.read_bytes()
    path.unlink()
    if change != "gone":
        path.write_bytes({"truncated": old[:-100], "longer": old + b"x", "zeros": bytes(len(old))}[change])
    if change == "longer":  # nothing of it is wrong
        check(fresh(places), places)
    else:
        with pytest.warns(StoreWarning, match="not what was written"):
            check(fresh(places), places)
    assert path.read_bytes() == old


def _but_the_time(content: bytes) -> object:
    if not content.startswith(b"{\n"):
        return content
    return {k: v for k, v in json.loads(content)["payload"].items() if k != "mtime_ns"}


GARBAGE = {"empty": b"", "half": None, "binary": bytes(range(256)) * 9, "zeros": bytes(999), "list": b"[1, 2]"}


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("name", ["manifest.json", "annotations.safetensors"])
def test_a_garbled_record_is_set_aside_and_written_anew(places, decodings, name, garbage):
    prepare(SPEC, places)
    path = folder(places) / name
    old = path.read_bytes()
    new = GARBAGE[garbage] if GARBAGE[garbage] is not None else old[: len(old) // 2]
    path.write_bytes(new)
    decodings.clear()
    with pytest.warns(StoreWarning, match=rf"{name}.*set aside"):
        check(fresh(places), places)
    assert not decodings, "the journal knows of the shards"
    assert _but_the_time(path.read_bytes()) == _but_the_time(old)
    (kept,) = (places.cache / "set_aside").iterdir()
    assert kept.read_bytes() == new


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_garbled_journal_costs_time_and_nothing_else(places, decodings, garbage):
    prepare(SPEC, places)
    path = folder(places) / "journal"
    path.write_bytes(GARBAGE[garbage] if GARBAGE[garbage] is not None else path.read_bytes()[:-60])
    check(fresh(places), places)
    (folder(places) / "manifest.json").unlink()
    decodings.clear()
    check(fresh(places), places)
    assert len(decodings) == N if garbage != "half" else 0 < len(decodings) < N
    (folder(places) / "manifest.json").unlink()
    decodings.clear()
    check(fresh(places), places)
    assert not decodings, "lines after a torn one are read"


def test_a_line_of_the_journal_that_was_tampered_with_counts_for_nothing(places, decodings):
    prepare(SPEC, places)
    (folder(places) / "manifest.json").unlink()
    path = folder(places) / "journal"
    path.write_bytes(path.read_bytes().replace(b" [0, 2,", b" [0, 3,") + b"\n00000000 \n00000000")
    decodings.clear()
    check(fresh(places), places)
    assert sorted(decodings) == [0, 1]


def test_a_disk_that_is_too_small_is_found_before_anything_is_decoded(places, decodings, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 1000))
    with pytest.raises(
        DataError, match=r"^coco train2017: needs 0\.000185 GB, has 1e-06 GB at /.*/cache/coco-train2017-"
    ):
        prepare(SPEC, places)
    assert not decodings
    monkeypatch.undo()
    prepare(SPEC, places)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 0))
    (folder(places) / "manifest.json").unlink()
    prepare(SPEC, places)  # the space is taken already


def test_space_that_cannot_be_had_is_found_before_anything_is_decoded(places, decodings, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"needs .* GB, has .* GB at .* \(No space left on device\)$"):
        prepare(SPEC, places)
    assert not decodings


def test_a_file_system_that_does_not_set_space_aside_will_do(places, monkeypatch):
    def unknown(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unknown)
    check(fresh(places), places)
    monkeypatch.delattr(os, "posix_fallocate")
    shutil.rmtree(places.cache)
    check(fresh(places), places)


def test_a_disk_that_fills_up_keeps_what_is_decoded(places, decodings, monkeypatch):
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 6:  # two shards, each with its line, and the data of a third
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"No space left on device; what is decoded is kept$"):
            prepare(SPEC, places)
    decodings.clear()
    check(fresh(places), places)
    assert 0 < len(decodings) <= N - 4


def test_the_machine_s_errors_are_not_taken_for_broken_images(places, monkeypatch):
    lenient = COCOSpec(name="coco", split="train2017", broken="leave_out")
    for error in (OSError(errno.EMFILE, "Too many open files", "x.jpg"), MemoryError()):
        monkeypatch.setattr(pictures.ImageFiles, "read", lambda *_, error=error: (_ for _ in ()).throw(error))
        with pytest.raises((DataError, MemoryError)):
            prepare(lenient, places)
    monkeypatch.undo()
    assert len(load(lenient, places)) == N


@pytest.mark.parametrize("error", [SyntaxError("broken PNG"), Image.DecompressionBombError("bomb"), IndexError()])
def test_whatever_pillow_stumbles_on_is_told_in_one_line(places, monkeypatch, error):
    read = pictures.ImageFiles.read
    monkeypatch.setattr(
        pictures.ImageFiles, "read", lambda s, i, j: (_ for _ in ()).throw(error) if i == 3 else read(s, i, j)
    )
    with pytest.raises(DataError, match=r"1 of 12 images: train2017/000000000030.jpg \(.+\); put them right") as said:
        prepare(SPEC, places)
    assert "\n" not in str(said.value)


def test_a_file_in_the_way_is_told_in_one_line(places):
    places.cache.parent.mkdir(exist_ok=True)
    places.cache.write_text("mine")
    with pytest.raises(DataError, match=r"coco train2017: .*cache") as error:
        prepare(SPEC, places)
    assert "\n" not in str(error.value) and places.cache.read_text() == "mine"


def test_a_map_that_can_only_be_read_is_read(places):
    prepare(SPEC, places)
    for path in (*folder(places).iterdir(), folder(places)):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        check(fresh(places), places)
    finally:
        folder(places).chmod(0o755)


def test_left_out_images_of_one_size_leave_a_gap_that_nobody_sees(tmp_path, monkeypatch):
    write_coco(tmp_path, images=9, odd=Odd(truncated={0, 3}))
    for path in (tmp_path / "coco/train2017").iterdir():
        if (int(path.stem) - 9) // 7 % 3:
            path.unlink()  # those of the other two shapes
    annotations = tmp_path / "coco/annotations/instances_train2017.json"
    content = json.loads(annotations.read_text())
    content["images"] = [i for i in content["images"] if (i["id"] - 9) // 7 % 3 == 0]
    kept = {i["id"] for i in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    annotations.write_text(json.dumps(content))
    spec = COCOSpec(name="coco", split="train2017", broken="leave_out")
    with pytest.warns(UserWarning, match="left out 2 of 3"):
        data = load(spec, DataPaths(tmp_path, tmp_path / "cache"))
    assert isinstance(data.images, Ragged) and len(data) == 1
    theirs = np.asarray(Image.open(tmp_path / "coco/train2017/000000000051.jpg"))
    assert np.array_equal(data.images[0].permute(1, 2, 0).numpy(), theirs)


def test_stl10_goes_on_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 1 << 20)
    write_stl10(tmp_path, train=2, test=2, unlabeled=120)
    spec, places = STL10Spec(name="stl10", split="unlabeled"), DataPaths(tmp_path, tmp_path / "cache")
    whole = torch.stack(list(load(spec, places).images))
    (path,) = places.cache.iterdir()
    (path / "manifest.json").unlink()
    journal = (path / "journal").read_bytes().split(b"\n")
    (path / "journal").write_bytes(b"\n".join(journal[:2]))
    read = []
    block = cl_bench.data.STL10._read
    monkeypatch.setattr(cl_bench.data.STL10, "_read", lambda self, *span: read.append(span) or block(self, *span))
    load.cache_clear()
    assert torch.equal(torch.stack(list(load(spec, places).images)), whole)
    assert sorted(read) == [(38, 76), (76, 114), (114, 120)]
