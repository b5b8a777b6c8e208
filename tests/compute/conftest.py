"""Fixtures of the tests of the runner."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from one_encoder import specs, work

from cl_bench.compute.record import load_record
from cl_bench.spec import RunSpec
from cl_bench.spec.records import Record
from cl_bench.store import Run, Store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSpec, Path, Record]:
    """Return a spec, a store in which it was computed, and its record."""
    folder = tmp_path_factory.mktemp("made")
    _, spec = specs(folder)
    store = Store(folder / "store")
    assert load_record(spec, store) is None
    assert work(spec, store)
    record = load_record(spec, store)
    assert record is not None
    return spec, store.root, record


@pytest.fixture
def kept(made: tuple[RunSpec, Path, Record], tmp_path: Path) -> tuple[RunSpec, Store, Run]:
    """Return a copy of the store that a test may damage."""
    spec, root, _ = made
    shutil.copytree(root, tmp_path / "store")
    store = Store(tmp_path / "store")
    return spec, store, store.run(spec.pretrain.key)
