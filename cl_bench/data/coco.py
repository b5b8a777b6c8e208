"""COCO 2017 with the boxes of its objects (Lin et al., ECCV 2014), and one's own images annotated so."""

from __future__ import annotations

import json
import mmap
from collections import Counter
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from cl_bench.data.pictures import ImageFiles, usual_size
from cl_bench.data.source import Annotation, Listing, Source, inside, laid_out, scaled, size_of, unpacked, with_headers
from cl_bench.errors import DataError
from cl_bench.spec import COCOSpec, Found

URL = "http://images.cocodataset.org"
LARGE = 32 << 20
"""Bytes of a published JSON from which on its images are counted without parsing it, which takes many seconds."""
ANNOTATIONS = (
    "annotations/instances_{}.json",
    "annotations/{}.json",
    "{}.json",
    "{}/_annotations.coco.json",
)
"""Places in which one's own annotations of a split are looked for."""
FOLDERS = ("{}", "images/{}", "images", ".")
"""Folders in which its images are looked for; the first that has the first image counts."""


class Parsed(NamedTuple):
    """Content of the JSON.

    Attributes:
        files: N names of images.
        stated: N heights and widths; None where the JSON has none.
        classes: In the order of the categories' ids.
        found: The objects.
    """

    files: list[str]
    stated: list[tuple[int, int] | None]
    classes: tuple[str, ...]
    found: list[Annotation]


class COCO(Source[COCOSpec]):
    """COCO on disk: a JSON file of all annotations, and a directory of images.

    One's own are looked for at several places: ``ANNOTATIONS``, ``FOLDERS``.
    """

    @property
    def layout(self) -> tuple[str, ...]:
        """Paths of annotations and images."""
        if self.spec.own:
            return (self._own_annotations,)
        return f"coco/annotations/instances_{self.spec.split}.json", f"coco/{self.spec.split}"

    @property
    def remedy(self) -> str:
        """Commands that download it by hand, since torchvision cannot download COCO."""
        return self.by_hand

    @property
    def by_hand(self) -> str:
        """Commands that download it from its own server, as on <https://cocodataset.org/#download>."""
        archives = f"{URL}/zips/{self.spec.split}.zip", f"{URL}/annotations/annotations_trainval2017.zip"
        return unpacked(self.root / "coco", *archives, unpack="unzip -qo")

    def fetch(self) -> None:
        """Raise an error, because the user has to download COCO."""
        raise DataError(f"{self.what}: torchvision does not download it; by hand: {self.by_hand}")

    def inspect(self) -> list[Path]:
        """Return the JSON file, after checking its two ends; parsing all of it would take half a minute."""
        path = self.root / self.layout[0]
        with path.open("rb") as file:
            head, size = file.read(64), path.stat().st_size
            file.seek(-min(size, 64), 2)
            tail = file.read()
        if not head.lstrip().startswith(b"{") or not tail.rstrip().endswith(b"}"):
            raise self.garbled(path, f"not a whole JSON object ({size:,} bytes)")
        return [path]

    def images(self) -> list[tuple[str, Path]]:
        """List those of one's own."""
        return [(name, self._folder / name) for name in self._parsed.files] if self.spec.own else []

    def found(self) -> Found:
        """Count images; of a large published file nothing more."""
        path = self.root / self.layout[0]
        if not self.spec.own and path.stat().st_size > LARGE:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                count = _occurrences(content, b'"file_name"')
            return Found(images=min(count, self.spec.limit or count))
        parsed = self._parsed
        size = usual_size([self._folder / name for name in parsed.files])
        return Found(images=len(parsed.files), classes=parsed.classes, objects=len(parsed.found), size=size)

    def listing(self) -> Listing:
        """Read the annotations: images by id, classes in the order of the categories' ids, without crowds."""
        parsed = self._parsed
        paths = [self._folder / name for name in parsed.files]
        stated = with_headers(parsed.stated, paths)
        decoded = scaled(stated, self.spec.short_side)
        return Listing(
            names=parsed.files if self.spec.own else [f"{self.spec.split}/{name}" for name in parsed.files],
            sizes=decoded,
            classes=parsed.classes,
            read=ImageFiles(paths, stated, decoded, as_stored=not self.spec.own).read,
            boxes=laid_out(parsed.found, stated, decoded, difficult=False),
        )

    @cached_property
    def _parsed(self) -> Parsed:
        """Parsed content of the JSON.

        Raises:
            DataError: If it is not in COCO's format.
        """
        path = self.root / self.layout[0]
        try:
            state = path.stat()
            return _parse(path, self.spec.limit, self.spec.own, (state.st_size, state.st_mtime_ns))
        except ValueError as error:
            raise self.garbled(path, str(error)) from None

    @property
    def _own_annotations(self) -> str:
        split = self.spec.split
        places = [place.format(split) for place in ANNOTATIONS]
        found = next((place for place in places if (self.root / place).exists()), None)
        if found is None:
            raise DataError(f"{self.what}: no {' or '.join(places)} in {self.root}")
        return found

    @cached_property
    def _folder(self) -> Path:
        """Folder of the images.

        Raises:
            DataError: If the first one listed lies nowhere.
        """
        if not self.spec.own:
            return self.root / self.layout[1]
        first, beside = self._parsed.files[0], (self.root / self._own_annotations).parent
        places = [*(self.root / place.format(self.spec.split) for place in FOLDERS), beside]
        found = next((place for place in places if (place / first).exists()), None)
        if found is None:
            known = ", ".join(str(place.relative_to(self.root)) for place in dict.fromkeys(places))
            raise DataError(f"{self.what}: the first image of the annotations, {first}, is not in {self.root}: {known}")
        return found


@lru_cache(maxsize=4)
def _parse(path: Path, limit: int | None, own: bool, state: tuple[int, int]) -> Parsed:
    """Parse a JSON file for the first ``limit`` images; ``state`` changes with the file.

    Raises:
        ValueError: If it is not in COCO's format.
    """
    entry: Any = None
    try:
        content = json.loads(path.read_bytes())
        categories: dict[Any, str] = {}
        for entry in sorted(content["categories"], key=lambda c: c["id"]):
            number, name = entry["id"], entry["name"]
            if not isinstance(name, str | int) or not str(name).strip():
                raise ValueError(f"a category's name is {name!r}")
            if number in categories:
                raise ValueError(f"category id {number} twice: {categories[number]!r} and {name!r}")
            if str(name) in categories.values():
                raise ValueError(f"two categories are named {name!r}")
            categories[number] = str(name)
        entry = None
        labels = {category: i for i, category in enumerate(categories)}
        images = sorted(content["images"], key=lambda i: i["id"])
        if not images:
            raise ValueError("no images")
        kept = images[:limit]
        stated: list[tuple[int, int] | None] = []
        files = []
        for entry in kept:
            without = own and entry.get("height") is None and entry.get("width") is None
            stated.append(None if without else size_of(entry["height"], entry["width"]))
            files.append(inside(str(entry["file_name"])))
        entry = None
        known, index = {i["id"] for i in images}, {i["id"]: n for n, i in enumerate(kept)}
        if len(known) < len(images):
            twice, count = Counter(i["id"] for i in images).most_common(1)[0]
            raise ValueError(f"{count} images have the id {twice}")
        found = []
        for entry in content.get("annotations", []) if own else content["annotations"]:
            if entry["image_id"] not in known:
                raise ValueError(f"there is no image of id {entry['image_id']}")
            if entry["image_id"] in index and not (entry.get("iscrowd") if own else entry["iscrowd"]):
                if not isinstance(box := entry["bbox"], list) or len(box) != 4:
                    raise ValueError(f"a box is four numbers, got {box!r}")
                x, y, w, h = map(float, box)
                if (category := entry["category_id"]) not in labels:
                    raise ValueError(f"there is no category of id {category}")
                found.append(Annotation(index[entry["image_id"]], (x, y, x + w, y + h), labels[category]))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        about = f" at {str(entry)[:100]}" if entry is not None else ""
        why = f"not in COCO's format: {_wrong(error)[:100]}{about}"
        raise ValueError(" ".join(why.split())) from None
    return Parsed(files, stated, tuple(categories.values()), found)


def _wrong(error: Exception) -> str:
    """Say what is wrong with an annotation, in words that need no knowledge of Python."""
    if isinstance(error, KeyError):
        return f"no {error.args[0]!r}"
    if isinstance(error, ValueError):
        return str(error)
    return "nested too deeply" if isinstance(error, RecursionError) else f"not of its types ({error})"


def _occurrences(content: mmap.mmap, what: bytes) -> int:
    """Count how often some bytes occur."""
    count, at = 0, content.find(what)
    while at >= 0:
        count, at = count + 1, content.find(what, at + len(what))
    return count
