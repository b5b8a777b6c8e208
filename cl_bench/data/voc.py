"""PASCAL VOC with the boxes of its objects (Everingham et al., IJCV 2010)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException, ElementTree

from cl_bench.data.pictures import EXTENSIONS, OTHERS, ImageFiles, usual_size
from cl_bench.data.source import (
    Annotation,
    Listing,
    Source,
    inside,
    laid_out,
    part_of,
    place_of,
    scaled,
    size_of,
    unpacked,
    with_headers,
)
from cl_bench.errors import DataError, nearest
from cl_bench.spec import Found, VOCSpec

URL = "http://host.robots.ox.ac.uk/pascal/VOC"
ARCHIVES = {
    (2007, "trainval"): "voc2007/VOCtrainval_06-Nov-2007.tar",
    (2007, "test"): "voc2007/VOCtest_06-Nov-2007.tar",
    (2012, "trainval"): "voc2012/VOCtrainval_11-May-2012.tar",
}
CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
PARTS = {
    "trainval2007": ((2007, "trainval"),),
    "trainval2012": ((2012, "trainval"),),
    "trainval2007+2012": ((2007, "trainval"), (2012, "trainval")),
    "test2007": ((2007, "test"),),
}


LISTS, XML, JPEG = "ImageSets/Main", "Annotations", "JPEGImages"
DRAWN = ("train", "test", "all")
"""Splits of images of one's own that no list divides."""


class Parsed(NamedTuple):
    """Content of the XML files.

    Attributes:
        images: N files.
        stated: N heights and widths; None where the XML has none.
        objects: Each with the name of its class, whose label is not settled yet.
    """

    images: list[Path]
    stated: list[tuple[int, int] | None]
    objects: list[tuple[str, Annotation]]


class VOC(Source[VOCSpec]):
    """VOC on disk: a list of ids, and an XML and an image for each; years have directories, because ids recur.

    One's own are ``Annotations/ID.xml``, ``JPEGImages/ID.EXTENSION`` and ``ImageSets/Main/SPLIT.txt`` under the root.
    Without lists ``train``, ``test`` and ``all`` are drawn, as those of a folder.
    """

    @property
    def layout(self) -> tuple[str, ...]:
        """Paths of lists, annotations and images of each year."""
        if self.spec.own:
            lists = (f"{LISTS}/{self.spec.split}.txt",) if self._divided else ()
            return (*lists, XML, JPEG)
        parts = PARTS[self.spec.split]
        inner = (f"{LISTS}/{{}}.txt", XML, JPEG)
        return tuple(f"VOCdevkit/VOC{year}/{path.format(part)}" for year, part in parts for path in inner)

    def inspect(self) -> list[Path]:
        """Return the lists and all XML files that they name."""
        if self.spec.own:
            lists = [self.root / LISTS / f"{self.spec.split}.txt"] if self._divided else []
        else:
            lists = [self._year(year) / LISTS / f"{part}.txt" for year, part in PARTS[self.spec.split]]
        return [*lists, *(path for path, _ in self._ids())]

    def images(self) -> list[tuple[str, Path]]:
        """List those of one's own."""
        return [(f"{JPEG}/{image.name}", image) for _, image in self._ids()] if self.spec.own else []

    def found(self) -> Found:
        """Count images, classes and objects; of a published split the images alone, without parsing."""
        if not self.spec.own:
            ids = list(self._ids())[: self.spec.limit]
            return Found(images=len(ids), classes=CLASSES, size=usual_size([image for _, image in ids]))
        parsed = self._parsed
        classes = tuple(sorted({name for name, _ in parsed.objects}))
        size = usual_size(parsed.images)
        return Found(images=len(parsed.images), classes=classes, objects=len(parsed.objects), size=size)

    def listing(self) -> Listing:
        """Read images in the order of the lists; classes of one's own are sorted by name."""
        parsed = self._parsed
        classes = tuple(sorted({name for name, _ in parsed.objects})) if self.spec.own else CLASSES
        number = {name: i for i, name in enumerate(classes)}
        found = [annotation._replace(label=number[name]) for name, annotation in parsed.objects]
        stated = with_headers(parsed.stated, parsed.images)
        decoded = scaled(stated, self.spec.short_side)
        own = self.spec.own
        return Listing(
            names=[image.name if own else f"{image.parts[-3]}/{image.name}" for image in parsed.images],
            sizes=decoded,
            classes=classes,
            read=ImageFiles(parsed.images, stated, decoded, as_stored=not own).read,
            boxes=laid_out(found, stated, decoded, difficult=True),
        )

    @cached_property
    def _parsed(self) -> Parsed:
        """Parsed annotations. VOC counts pixels from 1 and includes the last one, so x2 and y2 need no shift."""
        parsed = Parsed([], [], [])
        for i, (path, image) in enumerate(list(self._ids())[: self.spec.limit]):
            parsed.images.append(image)
            try:
                root: Element = ElementTree.parse(path, forbid_dtd=True).getroot()
                parsed.stated.append(self._size(root))
                for thing in root.findall("object"):
                    name = _text(thing, "name")
                    if not name or (not self.spec.own and name not in CLASSES):
                        raise ValueError(f"no class {name!r}{nearest(name, CLASSES)}")
                    x1, y1, x2, y2 = (float(_text(thing, f"bndbox/{c}")) for c in ("xmin", "ymin", "xmax", "ymax"))
                    difficult = bool(int(thing.findtext("difficult") or 0))
                    parsed.objects.append((name, Annotation(i, (x1 - 1, y1 - 1, x2, y2), 0, difficult)))
            except DefusedXmlException:
                raise self.garbled(path, "not in VOC's format: it declares a document type or entities") from None
            except (ParseError, ValueError, LookupError) as error:
                raise self.garbled(path, f"not in VOC's format: {error}") from None
        return parsed

    def _size(self, root: Element) -> tuple[int, int] | None:
        if self.spec.own and root.find("size") is None:
            return None
        return size_of(_text(root, "size/height"), _text(root, "size/width"))

    def complete(self) -> bool:
        """Return True if nothing is left to download, images included, since an archive may be unpacked in part."""
        return super().complete() and all(image.exists() for _, image in self._ids())

    @property
    def by_hand(self) -> str:
        """Commands that download the archive of each year from the data set's own server."""
        archives = (f"{URL}/{ARCHIVES[part]}" for part in PARTS[self.spec.split])
        return unpacked(self.root, *archives, unpack="tar xf")

    def fetch(self) -> None:
        """Download each year."""
        from torchvision import datasets  # slow to import, and only needed for a download

        for year, part in PARTS[self.spec.split]:
            datasets.VOCDetection(str(self.root), str(year), part, download=True)

    def _year(self, year: int) -> Path:
        return self.root / "VOCdevkit" / f"VOC{year}"

    @property
    def _divided(self) -> bool:
        """True if there are lists."""
        return (self.root / LISTS).is_dir()

    def _ids(self) -> Iterator[tuple[Path, Path]]:
        """Yield annotation and image of each id in the lists."""
        if not self.spec.own:
            for year, part in PARTS[self.spec.split]:
                for i in self._listed(self._year(year) / LISTS / f"{part}.txt"):
                    yield self._year(year) / XML / f"{i}.xml", self._year(year) / JPEG / f"{i}.jpg"
            return
        ids = self._listed(self.root / LISTS / f"{self.spec.split}.txt") if self._divided else self._drawn()
        by_stem = self._by_stem
        for i in ids:
            path, images = self.root / XML / f"{i}.xml", by_stem.get(i, [])
            if len(images) > 1:
                named = ", ".join(sorted(image.name for image in images))
                raise DataError(f"{self.what}: {path}: two images have its name: {named}")
            yield path, images[0] if images else self.root / JPEG / f"{i}.jpg"

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        """Images by their names without extension, which may have dots in them."""
        found = defaultdict(list)
        for path in (self.root / JPEG).iterdir():
            if path.suffix.lower() in EXTENSIONS | OTHERS and not path.name.startswith("."):
                found[path.stem].append(path)
        return found

    def _drawn(self) -> list[str]:
        """Draw the ids of a split, in the order of the sha256 of their names."""
        split = self.spec.split
        if split not in DRAWN:
            known = f"no {self.root / LISTS / split}.txt, and without such lists {', '.join(DRAWN)} are drawn"
            raise DataError(f"{self.what}: no split {split!r}{nearest(split, DRAWN)}; {known}")
        ids = [p.stem for p in (self.root / XML).iterdir() if p.suffix == ".xml" and not p.name.startswith(".")]
        ids = [i for i in ids if split == "all" or part_of(i) == split]
        if not ids:
            raise DataError(f"{self.what}: no XML files in {self.root / XML}, or none drawn for the split {split}")
        return sorted(ids, key=place_of)

    def _listed(self, path: Path) -> list[str]:
        ids = path.read_text(encoding="utf-8", errors="replace").split("\n")
        ids = [i.strip() for i in ids if i.strip()]
        odd = next((i for i in ids if not self._is_id(i)), None)
        if odd is not None or not ids or len(set(ids)) < len(ids):
            why = f"{odd[:40]!r} is not an id" if odd is not None else "an id is listed twice" if ids else "no ids"
            raise self.garbled(path, f"{why}; expected the id of an image a line")
        return ids

    def _is_id(self, text: str) -> bool:
        """Accept the ids of the published sets, or of one's own any file name that stays in its folder."""
        if not self.spec.own:
            return bool(re.fullmatch(r"[\w-]+", text, re.ASCII))
        try:
            return "/" not in inside(text) and text.isprintable()
        except ValueError:
            return False


def _text(element: Element, path: str) -> str:
    """Return the text of an element.

    Raises:
        ValueError: If there is no such element.
    """
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"<{element.tag}> has no <{path.replace('/', '><')}>")
    return text.strip()
