"""A folder of one's own images: classes are the folders that they lie in, as torchvision's ``ImageFolder`` has them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import torch

from cl_bench.data.pictures import EXTENSIONS, OTHERS, TAKEN, ImageFiles, sizes_of, usual_size
from cl_bench.data.source import Listing, Source, part_of, place_of, scaled
from cl_bench.errors import DataError, nearest
from cl_bench.spec import FolderSpec, Found

SPLITS = ("train", "test", "val", "valid", "validation", "dev")
"""Names of folders that are splits, so that there are no others to be drawn."""
DRAWN = ("train", "test", "all")
"""Splits of a root that has no folder of that name."""


class Folder(Source[FolderSpec]):
    """``ROOT/SPLIT/CLASS/*.jpg``, or ``ROOT/CLASS/*.jpg``, whose splits are drawn; without classes, no labels.

    Drawn splits: of each image the sha256 of its name relative to the root tells where it belongs, so that it stays
    there whatever comes or goes beside it: four fifths are ``train``, the rest ``test``; ``all`` is both. Images are in
    the order of that sha256, so that a limit takes of every class.
    """

    @property
    def layout(self) -> tuple[str, ...]:
        """No paths, because a split need not have a folder."""
        return ()

    @property
    def by_hand(self) -> str:
        """Hint to put images there, because they are the user's."""
        return "put images there"

    def fetch(self) -> None:
        """Left to the user."""
        raise DataError(f"{self.what}: images of your own cannot be downloaded")

    def inspect(self) -> list[Path]:
        """List no annotations, because folders are all there is; refuse what is not well laid out."""
        _ = self._listed
        return []

    def images(self) -> list[tuple[str, Path]]:
        """List all images, with their classes."""
        return sorted(self._listed)

    def found(self) -> Found:
        """Count images and classes."""
        taken = self._taken
        return Found(images=len(taken), classes=self._classes, size=usual_size([path for _, path in taken]))

    def listing(self) -> Listing:
        """Read sizes and labels; classes are sorted by name."""
        names, paths = zip(*self._taken, strict=True)
        stated = sizes_of(paths)
        decoded = scaled(stated, self.spec.short_side)
        classes = self._classes
        number = {name: i for i, name in enumerate(classes)}
        labels = torch.tensor([number[_class_of(name)] for name in names]) if classes else None
        return Listing(
            names=names,
            sizes=decoded,
            classes=classes,
            read=ImageFiles(paths, stated, decoded).read,
            labels=labels,
        )

    @cached_property
    def _folder(self) -> tuple[Path, str]:
        """Folder of the images, and which of these are taken, one of ``DRAWN``.

        Raises:
            DataError: If there is no such split.
        """
        split = self.spec.split
        if (self.root / split).is_dir():
            return self.root / split, "all"
        there = sorted(p.name for p in self.root.iterdir() if p.is_dir() and not p.name.startswith("."))
        splits = [name for name in there if name.lower() in SPLITS]
        if split in DRAWN and not splits:
            return self.root, split
        known = splits or [*DRAWN, *there[:5]]
        drawn = "" if splits else f"; {', '.join(DRAWN)} are drawn; any other split is a folder there"
        raise DataError(
            f"{self.what}: no folder {split!r} in {self.root}{nearest(split, known)}; "
            f"splits: {', '.join(known if splits else there[:5]) or 'none'}{drawn}"
        )

    @cached_property
    def _all(self) -> list[tuple[str, Path]]:
        """Every image by its name relative to the folder, of all drawn splits."""
        return list(_images(self._folder[0], ()))

    @cached_property
    def _listed(self) -> list[tuple[str, Path]]:
        """Images of the split.

        Raises:
            DataError: If there is none, or some lie in folders by class and some do not.
        """
        folder, part = self._folder
        found = [image for image in self._all if part == "all" or part_of(image[0]) == part]
        if not found:
            few = f" of the drawn split {part}" if self._all else ""
            raise DataError(f"{self.what}: no images{few} in {folder}; expected {TAKEN} files")
        loose = [name for name, _ in found if "/" not in name]
        if loose and len(loose) < len(found):
            raise DataError(
                f"{self.what}: {len(loose):,} of {len(found):,} images in {folder} lie beside the folders of the "
                f"classes, such as {loose[0]}: put each into the folder of a class, or all images side by side, "
                "without labels"
            )
        return found

    @cached_property
    def _taken(self) -> list[tuple[str, Path]]:
        return sorted(self._listed, key=lambda image: place_of(image[0]))[: self.spec.limit]

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        """Classes of the images that are taken; none if images lie side by side."""
        return tuple(sorted({_class_of(name) for name, _ in self._taken if "/" in name}))


def _class_of(name: str) -> str:
    return name.partition("/")[0]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _images(folder: Path, within: tuple[tuple[int, int], ...], prefix: str = "") -> Iterator[tuple[str, Path]]:
    """Yield files that are images by their names, at any depth; links are followed, but not in circles."""
    state = folder.stat()
    here = state.st_dev, state.st_ino
    if here in within:
        return
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                yield from _images(Path(entry.path), (*within, here), f"{prefix}{entry.name}/")
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS | OTHERS:  # noqa: PTH122 - far faster on 10^6
                yield f"{prefix}{entry.name}", Path(entry.path)
