"""Fixtures of the tests of decoded images."""

from __future__ import annotations

from pathlib import Path

import pytest
from decoded_coco import N
from real_formats import write_coco

from cl_bench.data import DataPaths, pictures, shards


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_coco(root, images=N)
    return root


@pytest.fixture
def places(tmp_path: Path, written: Path, monkeypatch: pytest.MonkeyPatch) -> DataPaths:
    monkeypatch.setattr(shards, "SHARD", 2 * 3 * 64 * 80)  # two images, for these are the smallest
    return DataPaths(written, tmp_path / "cache")


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every image that is decoded, in order of its beginning."""
    seen: list[int] = []
    read = pictures.ImageFiles.read
    monkeypatch.setattr(pictures.ImageFiles, "read", lambda self, i, last: seen.append(i) or read(self, i, last))
    return seen
