"""PASCAL VOC with the boxes of its objects (Everingham et al., IJCV 2010)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import torch

from cl_bench.data.source import Annotation, ImageFiles, Listing, Source, laid_out, scaled, size_of, unpacked
from cl_bench.errors import nearest
from cl_bench.spec import VOCSpec

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


class VOC(Source[VOCSpec]):
    """VOC on disk: a list of ids, and an XML and an image for each; years have directories, because ids recur."""

    @property
    def layout(self) -> tuple[str, ...]:
        """Paths of lists, annotations and images of each year."""
        parts = PARTS[self.spec.split]
        inside = ("ImageSets/Main/{}.txt", "Annotations", "JPEGImages")
        return tuple(f"VOCdevkit/VOC{year}/{path.format(part)}" for year, part in parts for path in inside)

    def inspect(self) -> list[Path]:
        """Return the lists and all XML files that they name."""
        lists = [self._year(year) / "ImageSets" / "Main" / f"{part}.txt" for year, part in PARTS[self.spec.split]]
        return [*lists, *(path for path, _ in self._ids())]

    def listing(self) -> Listing:
        """Read images in the order of the lists.

        VOC counts pixels from 1 and includes the last one, so x2 and y2 need no shift.
        """
        sizes, found, images = [], [], []
        for i, (path, image) in enumerate(list(self._ids())[: self.spec.limit]):
            images.append(image)
            try:
                root = ElementTree.parse(path).getroot()
                sizes.append(size_of(_text(root, "size/height"), _text(root, "size/width")))
                for thing in root.findall("object"):
                    name = _text(thing, "name")
                    if name not in CLASSES:
                        raise ValueError(f"no class {name!r}{nearest(name, CLASSES)}")
                    x1, y1, x2, y2 = (float(_text(thing, f"bndbox/{c}")) for c in ("xmin", "ymin", "xmax", "ymax"))
                    difficult = bool(int(thing.findtext("difficult") or 0))
                    found.append(Annotation(i, (x1 - 1, y1 - 1, x2, y2), CLASSES.index(name), difficult))
            except (ElementTree.ParseError, ValueError, LookupError) as error:
                raise self.garbled(path, f"not in VOC's format: {error}") from None
        stated = torch.tensor(sizes)
        decoded = scaled(stated, self.spec.short_side)
        return Listing(
            names=[f"{image.parts[-3]}/{image.name}" for image in images],
            sizes=decoded,
            classes=CLASSES,
            read=ImageFiles(images, stated, decoded).read,
            boxes=laid_out(found, stated, decoded, difficult=True),
        )

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

    def _ids(self) -> Iterator[tuple[Path, Path]]:
        """Yield annotation and image of each id in the lists."""
        for year, part in PARTS[self.spec.split]:
            listed = self._year(year) / "ImageSets" / "Main" / f"{part}.txt"
            ids = listed.read_text(encoding="utf-8", errors="replace").split("\n")
            ids = [i.strip() for i in ids if i.strip()]
            odd = next((i for i in ids if not re.fullmatch(r"[\w-]+", i, re.ASCII)), None)
            if odd is not None or not ids or len(set(ids)) < len(ids):
                why = f"{odd[:40]!r} is no id" if odd is not None else "an id is listed twice" if ids else "no ids"
                raise self.garbled(listed, f"{why}; expected the id of an image a line")
            for i in ids:
                yield self._year(year) / "Annotations" / f"{i}.xml", self._year(year) / "JPEGImages" / f"{i}.jpg"


def _text(element: ElementTree.Element, path: str) -> str:
    """Return the text of an element.

    Raises:
        ValueError: If there is no such element.
    """
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"<{element.tag}> has no <{path.replace('/', '><')}>")
    return text.strip()
