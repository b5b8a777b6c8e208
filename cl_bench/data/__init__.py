"""Data sets: ``load`` returns the images of a spec; each data set has a module of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tarfile import TarError
from typing import Any

from cl_bench.data.coco import COCO
from cl_bench.data.dataset import Dataset, Images, Ragged
from cl_bench.data.decoded import DecodedImages, Progress
from cl_bench.data.folder import Folder
from cl_bench.data.huggingface import HuggingFace
from cl_bench.data.scenes import draw_scenes
from cl_bench.data.source import Source, name_of
from cl_bench.data.stl10 import STL10
from cl_bench.data.voc import VOC
from cl_bench.errors import DataError
from cl_bench.spec import DataSpec, FilesSpec, ScenesSpec

__all__ = ["DataPaths", "Dataset", "Images", "Ragged", "bind", "download", "load", "prepare", "verify"]

SOURCES: dict[str, type[Source[Any]]] = {
    "stl10": STL10,
    "coco": COCO,
    "voc": VOC,
    "folder": Folder,
    "huggingface": HuggingFace,
}


@dataclass(frozen=True)
class DataPaths:
    """Folders of a run's data: the root of the data sets, and the folder of their decoded images."""

    root: Path | None
    cache: Path

    @classmethod
    def of(cls, store: Path, root: str | Path | None) -> DataPaths:
        """Make the folders of a run, whose store also keeps the decoded images."""
        return cls(None if root is None else Path(root), store / "data")


def bind(spec: DataSpec, root: Path | None) -> DataSpec:
    """Return the spec with its ``source``, a digest of the files, and the facts counted there, in seconds.

    Scenes need neither.

    Raises:
        DataError: If the data set is missing or is not what it should be.
    """
    if isinstance(spec, ScenesSpec):
        return spec
    source = _source(spec, root)
    digest = source.digest()
    return spec.model_copy(update={"source": digest, "found": source.found()})


def prepare(spec: DataSpec, places: DataPaths, progress: Progress | None = None) -> None:
    """Decode what is not decoded yet, and call ``progress`` with the name, the images done and the images in all.

    Raises:
        DataError: In the cases of ``bind``, and if the data set differs from the spec's source, images cannot be
            decoded, or the disk is full.
    """
    if isinstance(spec, FilesSpec):
        _open(spec, places, progress)


def verify(spec: DataSpec, places: DataPaths, progress: Progress | None = None) -> None:
    """Check every decoded byte; damaged images are decoded again, with a warning.

    Raises:
        DataError: In the cases of ``prepare``, and if nothing is decoded yet.
    """
    if isinstance(spec, FilesSpec):
        _open(spec, places, progress, verify=True)


@lru_cache(maxsize=8)
def load(spec: DataSpec, places: DataPaths | None = None) -> Dataset:
    """Load the data set of a spec, decoding it if necessary; the same spec gives the same bytes.

    The data set is cached for the next call.

    Raises:
        DataError: In the cases of ``prepare``.
    """
    if isinstance(spec, ScenesSpec):
        return draw_scenes(spec)
    return _open(spec, places or DataPaths(None, Path()), None)


def download(spec: DataSpec, root: Path) -> None:
    """Download what is missing under the root by torchvision.

    Raises:
        DataError: If torchvision does not offer that data set, or fails; the message says how to do it by hand.
    """
    if isinstance(spec, ScenesSpec) or spec.root is not None:
        return
    source = _source(spec, root)
    if not source.complete():
        try:
            source.fetch()
        except (OSError, RuntimeError, EOFError, TarError) as error:
            why = " ".join(str(error).split())
            raise DataError(f"{source.what}: not downloaded to {root}: {why}; by hand: {source.by_hand}") from None
        source.digest()


def _source(spec: FilesSpec, root: Path | None) -> Source[Any]:
    if spec.root is not None:
        return SOURCES[spec.name](spec, Path(spec.root))
    source = SOURCES[spec.name](spec, root or Path("DIR"))
    if root is None and spec.published is not None:
        where = f"say where it is with --data-root DIR (expected there: {', '.join(source.layout)})"
        raise DataError(f"{source.what}: {where}; to get it: {source.remedy}")
    return source


def _open(spec: FilesSpec, places: DataPaths, progress: Progress | None, verify: bool = False) -> Dataset:
    source = _source(spec, places.root)
    digest = source.digest()
    if spec.source and spec.source != digest:
        was, now = spec.source[:16], digest[:16]
        there = spec.root or places.root
        raise DataError(f"{source.what}: {there} has changed (source {was}, now {now}): put the earlier data back")
    size = f"-short{spec.short_side}" if spec.short_side else ""
    first = f"-first{spec.limit}" if spec.limit else ""
    path = places.cache / f"{re.sub('[^A-Za-z0-9+_.-]', '-', name_of(spec))}{size}{first}-{digest[:16]}"
    if verify and not path.is_dir():
        raise DataError(
            f"{source.what}: not decoded yet: no {path}; cl-bench data --prepare decodes it, with the same --profile, "
            "--data-root and --store"
        )
    return DecodedImages(path, source.what, progress).open(source.listing, spec.broken == "leave_out", verify)
