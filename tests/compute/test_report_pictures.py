"""Pictures of data, views and matches, read off the pixels."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import dense_row, tiny
from PIL import Image

from cl_bench.compute.pictures import GAP, PAIRS, RIGHT, SAMPLES, TILE, VIEW, WRONG, pictures
from cl_bench.compute.runner import compute
from cl_bench.methods.registry import BUILT_IN, Registry, spec_of
from cl_bench.spec import RunSpec
from cl_bench.spec.profile import Row
from cl_bench.store import Store

pytestmark = pytest.mark.usefixtures("forget_methods")


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def near(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(image - np.array(colour)).sum(-1) < 90).sum())


def drawn(
    folder: Path, method: str, views: str = "overlapping", **changes: object
) -> list[tuple[str, str, np.ndarray]]:
    registry = Registry([BUILT_IN])
    row = Row(spec_of(registry.resolve(method)), "single_object", views)  # type: ignore[arg-type]
    spec = tiny(folder, **changes).sweep(row)[0]
    found = pictures([spec], Store(folder / "store"), registry, None)
    return [(one.group, one.caption, pixels(one.content)) for one in found]


def test_samples_and_matches_of_a_dense_method(tmp_path: Path) -> None:
    (samples, said, sheet), (matched, told, pairs) = drawn(tmp_path, "dense_geometric")
    assert (samples, matched) == ("Images and their two views", "Matched cells")
    assert sheet.shape == (3 * (TILE + 4), SAMPLES * (TILE + 4), 3) and sheet.std() > 20
    assert pairs.shape == (PAIRS * (VIEW + 8) - 8, 2 * VIEW + GAP, 3)
    assert "single-object data, overlapping views" in said and said.endswith("each above its views")
    assert told.startswith("dense_geometric, single-object data, overlapping views, an untrained encoder")


def test_green_are_matches_of_the_same_place_and_red_those_of_another(tmp_path: Path) -> None:
    """Views that share no pixel match nothing by geometry, and only wrong cells by index."""
    (_, (*_, index)) = drawn(tmp_path, "dense_index", "disjoint")
    between = index[:, VIEW + 4 : VIEW + GAP - 4]
    assert near(between, WRONG) > 100 and near(between, RIGHT) == 0
    (_, (*_, geometric)) = drawn(tmp_path, "dense_index")
    assert near(geometric[:, VIEW + 4 : VIEW + GAP - 4], RIGHT) > 30


def test_an_encoder_of_the_store_is_taken_and_named(tmp_path: Path) -> None:
    spec = tiny(tmp_path).sweep(dense_row(source=spec_of(Registry().resolve("dense_index")).source))[0]
    store, registry = Store(tmp_path / "store"), Registry()
    compute(spec, store, registry, torch.device("cpu"))
    before = sorted(path.name for path in store.run(spec.pretrain.key).path.rglob("*"))
    (_, matched) = pictures([spec], store, registry, None)
    assert f"encoder {spec.case}:" in matched.caption
    assert sorted(path.name for path in store.run(spec.pretrain.key).path.rglob("*")) == before


def test_of_rows_that_share_data_samples_are_drawn_once_and_instance_methods_match_no_cells(tmp_path: Path) -> None:
    registry = Registry([BUILT_IN])
    profile = tiny(tmp_path)
    specs: list[RunSpec] = [
        profile.sweep(Row(spec_of(registry.resolve(name)), "single_object", "overlapping"))[0]
        for name in ("dense_index", "instance", "dense_cosine")
    ]
    found = pictures(specs, Store(tmp_path / "store"), registry, None)
    assert [one.group for one in found] == ["Images and their two views", "Matched cells", "Matched cells"]
    assert [one.caption.partition(",")[0] for one in found[1:]] == ["dense_index", "dense_cosine"]


def test_what_fails_is_left_out(tmp_path: Path) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text(
        'from cl_bench import matching\n\n@matching("broken")\ndef broken(views):\n    raise RuntimeError("no")\n'
    )
    registry = Registry([BUILT_IN])
    spec = tiny(tmp_path).sweep(Row(spec_of(registry.resolve(str(plugin))), "single_object", "overlapping"))[0]
    assert [one.group for one in pictures([spec], Store(tmp_path / "store"), registry, None)] == [
        "Images and their two views"
    ]
    unknown = pictures([spec], Store(tmp_path / "store"), Registry([BUILT_IN]), None)
    assert [one.group for one in unknown] == ["Images and their two views"]
