"""Image files: turned upright, brought to 8-bit RGB, opened as nothing but what they are taken for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from own_images import EPS, SHAPE, bomb, picture, save, truncated, write_voc, xml
from PIL import Image, ImageOps

from cl_bench.data import DataPaths, bind, load
from cl_bench.data.pictures import UNREADABLE, opened, rgb, sizes_of, upright, upright_size
from cl_bench.spec import FolderSpec, VOCSpec

TURNED = SHAPE[::-1]


def read(path: Path, stated: tuple[int, int], as_stored: bool = False) -> np.ndarray:
    with opened(path) as image:
        return np.asarray(upright(image, stated, as_stored))


def viewed(path: Path) -> np.ndarray:
    """Decode an image as a viewer shows it."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "tif"])
def test_a_camera_s_picture_is_turned_upright(tmp_path, turn, extension):
    path = save(tmp_path / "own" / "all" / f"x.{extension}", 1, turn=turn)
    shown = SHAPE if turn < 5 else TURNED
    with opened(path) as image:
        assert upright_size(image) == shown
    assert np.array_equal(read(path, shown), viewed(path)) and viewed(path).shape[:2] == shown
    bound = bind(FolderSpec(name="folder", root=str(tmp_path / "own"), split="all"), None)
    data = load(bound, DataPaths(None, tmp_path / "cache"))
    assert np.array_equal(data.images[0].permute(1, 2, 0).numpy(), viewed(path))


def test_the_annotated_size_tells_which_picture_boxes_are_in(tmp_path):
    path = save(tmp_path / "x.png", 1, turn=6)
    stored = np.asarray(picture(1))
    assert np.array_equal(read(path, TURNED), viewed(path)), "annotated as it is looked at"
    assert np.array_equal(read(path, SHAPE), stored), "annotated as it is stored"
    with pytest.raises(ValueError, match="20 x 28, but 28 x 21 in the annotations"):
        read(path, (21, 28))


@pytest.mark.parametrize("turn", [2, 3, 4, 6])
def test_where_the_size_does_not_tell_the_picture_was_looked_at_unless_it_is_published(tmp_path, turn):
    square = (16, 16) if turn == 6 else SHAPE
    path = save(tmp_path / "x.png", 1, square, turn=turn)
    assert np.array_equal(read(path, square), viewed(path))
    assert np.array_equal(read(path, square, as_stored=True), np.asarray(picture(1, square)))


@pytest.mark.parametrize(("shape", "shown"), [(TURNED, TURNED), (SHAPE, SHAPE), (None, TURNED)])
def test_boxes_of_a_turned_picture_lie_in_the_picture_that_was_annotated(tmp_path, shape, shown):
    write_voc(tmp_path / "own", {"all": ["x.png"]})
    save(tmp_path / "own" / "JPEGImages" / "x.png", 1, turn=6)
    (tmp_path / "own" / "Annotations" / "x.xml").write_text(xml([("hen", 1, 1, 999, 999)], shape))
    data = load(
        bind(VOCSpec(name="voc", root=str(tmp_path / "own"), split="all"), None), DataPaths(None, tmp_path / "cache")
    )
    assert data.images.sizes.tolist() == [[*shown]] and data.boxes[0].tolist() == [[0, 0, shown[1], shown[0]]]


def test_exif_that_is_garbled_takes_nothing_from_a_picture(tmp_path):
    path = tmp_path / "x.jpg"
    picture(1).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert read(path, SHAPE).shape == (*SHAPE, 3)
    exif = Image.Exif()
    exif[0x0112] = 99
    picture(1).save(path, exif=exif)
    assert read(path, SHAPE).shape == (*SHAPE, 3)


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_sixteen_bits_become_eight(tmp_path, extension):
    deep = (np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) * 100 % 65536).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / f"x.{extension}")
    assert np.array_equal(read(tmp_path / f"x.{extension}", SHAPE), np.repeat((deep >> 8)[..., None], 3, 2))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb_as_pillow_has_it(mode):
    image = picture(1).convert(mode)
    assert np.array_equal(np.asarray(rgb(image)), np.asarray(image.convert("RGB")))


def test_headers_tell_sizes_and_bad_ones_none(tmp_path):
    good = [save(tmp_path / f"{i}.png", i, (5 + i, 9)) for i in range(3)]
    found = sizes_of([*good, EPS, bomb(), b"", tmp_path / "none.png", "no image", tmp_path, truncated()])
    assert found.dtype == torch.int64
    torn = [*SHAPE]  # its header is whole
    assert found.tolist() == [[5, 9], [6, 9], [7, 9], *[[*UNREADABLE]] * 6, torn]


def test_no_program_is_started_for_a_file_in_disguise(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: started.append(a))
    (tmp_path / "x.jpg").write_bytes(EPS)
    with pytest.raises(ValueError, match="no image in a format that is decoded"):
        read(tmp_path / "x.jpg", (20, 20))
    assert not started
