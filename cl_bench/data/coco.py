"""COCO 2017 with the boxes of its objects (Lin et al., ECCV 2014)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from cl_bench.data.source import Annotation, ImageFiles, Listing, Source, laid_out, scaled, size_of, unpacked
from cl_bench.errors import DataError
from cl_bench.spec import COCOSpec

URL = "http://images.cocodataset.org"


class COCO(Source[COCOSpec]):
    """COCO on disk: a JSON file of all annotations, and a directory of images."""

    @property
    def layout(self) -> tuple[str, ...]:
        """Paths of annotations and images."""
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

    def listing(self) -> Listing:
        """Read the annotations: images by id, classes in the order of the categories' ids, without crowds."""
        path = self.root / self.layout[0]
        entry: Any = None
        try:
            content = json.loads(path.read_bytes())
            categories = {}
            for entry in sorted(content["categories"], key=lambda c: c["id"]):
                categories[entry["id"]] = str(entry["name"])
            entry = None
            labels = {category: i for i, category in enumerate(categories)}
            images = sorted(content["images"], key=lambda i: i["id"])
            if not images:
                raise ValueError("no images")
            kept = images[: self.spec.limit]
            sizes, files = [], []
            for entry in kept:
                sizes.append(size_of(entry["height"], entry["width"]))
                files.append(str(entry["file_name"]))
            entry = None
            known, index = {i["id"] for i in images}, {i["id"]: n for n, i in enumerate(kept)}
            if len(known) < len(images):
                raise ValueError("two images have one id")
            found = []
            for entry in content["annotations"]:
                if entry["image_id"] not in known:
                    raise ValueError("it is of no image")
                if entry["image_id"] in index and not entry["iscrowd"]:
                    x, y, w, h = map(float, entry["bbox"])
                    found.append(
                        Annotation(index[entry["image_id"]], (x, y, x + w, y + h), labels[entry["category_id"]])
                    )
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            about = f" at {str(entry)[:100]}" if entry is not None else ""
            why = f"not in COCO's format: {type(error).__name__} {str(error)[:100]}{about}"
            raise self.garbled(path, " ".join(why.split())) from None
        stated = torch.tensor(sizes)
        decoded = scaled(stated, self.spec.short_side)
        folder = self.root / self.layout[1]
        return Listing(
            names=[f"{self.spec.split}/{name}" for name in files],
            sizes=decoded,
            classes=tuple(categories.values()),
            read=ImageFiles([folder / name for name in files], stated, decoded).read,
            boxes=laid_out(found, stated, decoded, difficult=False),
        )
