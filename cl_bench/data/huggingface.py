"""Data sets of the Hugging Face library ``datasets``, from a folder of ``save_to_disk`` or from its own cache."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch

from cl_bench.data.pictures import ImageFiles, Origin, sizes_of, usual_size
from cl_bench.data.source import Annotation, Boxes, Listing, Source, laid_out, place_of, scaled
from cl_bench.errors import DataError, first_line, nearest
from cl_bench.spec import Found, HuggingFaceSpec

if TYPE_CHECKING:
    import datasets

Named = tuple[tuple[str, ...], list[int]]
"""Names of the classes, and the places in it of some values."""


class HuggingFace(Source[HuggingFaceSpec]):
    """One split. Images are in the order of the sha256 of their row's number, so that a limit takes of every class."""

    @property
    def layout(self) -> tuple[str, ...]:
        """No paths, because the library knows them."""
        return ()

    @property
    def remedy(self) -> str:
        """Command that has the library download it."""
        return f"pytest suites/ --data-root DIR --download, or {self.by_hand}"

    @property
    def by_hand(self) -> str:
        """Command that downloads it into the library's cache."""
        call = f"load_dataset({self.spec.path!r}, {self.spec.subset!r}, split={self.spec.split!r})"
        return f'python -c "from datasets import load_dataset; {call}"'

    def fetch(self) -> None:
        """Download into the library's cache."""
        self._library().load_dataset(self.spec.path, self.spec.subset, split=self.spec.split)

    def inspect(self) -> list[Path]:
        """List no files, because ``digest`` reads the library's Arrow files itself."""
        return []

    def images(self) -> Iterable[tuple[str, Path]]:
        """List the files that lie beside the table."""
        import pyarrow.compute as pc

        name = self.spec.columns.image
        held = (
            self._table.select_columns([name]).cast_column(name, self._library().Image(decode=False)).data.column(name)
        )
        beside = pc.struct_field(held, "path").filter(pc.is_null(pc.struct_field(held, "bytes"))).to_pylist()
        return [(f"{i} {Path(path).name}", Path(path)) for i, path in enumerate(beside) if path]

    def digest(self) -> str:
        """Hash as any source does, and the columns, the rows and both ends of the Arrow files."""
        before = super().digest()
        table = self._table
        sha = hashlib.sha256(
            f"{before}\n{self.spec.kind}\n{self.spec.columns}\n{len(table)}\n{table.features}\n".encode()
        )
        for file in table.cache_files:
            path = Path(file["filename"])
            with path.open("rb") as opened:
                size = path.stat().st_size
                sha.update(f"{size}\n".encode() + opened.read(1 << 20))
                if size > 2 << 20:
                    opened.seek(-(1 << 20), 2)
                sha.update(opened.read())
        return sha.hexdigest()

    def found(self) -> Found:
        """Count images, objects and the classes that these have."""
        usual = usual_size(self._pictures)
        if self.spec.kind == "multi_object":
            objects = self._objects
            classes = () if objects is None else tuple(sorted({objects[0][o.label] for o in objects[1]}))
            return Found(
                images=len(self._taken), classes=classes, objects=len(objects[1]) if objects else 0, size=usual
            )
        labels = self._labels
        classes = () if labels is None else tuple(sorted({labels[0][label] for label in labels[1]}))
        return Found(images=len(self._taken), classes=classes, size=usual)

    def listing(self) -> Listing:
        """Read annotations; classes are in the order of the column's names, if it has names."""
        stated = sizes_of(self._pictures)
        decoded = scaled(stated, self.spec.short_side)
        labels = self._labels if self.spec.kind == "single_object" else None
        objects = self._objects if self.spec.kind == "multi_object" else None
        boxes: Boxes | None = laid_out(objects[1], stated, decoded, difficult=False) if objects else None
        return Listing(
            names=[f"row {i}" for i in self._taken],
            sizes=decoded,
            classes=labels[0] if labels else objects[0] if objects else (),
            read=ImageFiles(self._pictures, stated, decoded).read,
            labels=torch.tensor(labels[1]) if labels else None,
            boxes=boxes,
        )

    def _library(self) -> Any:
        if importlib.util.find_spec("datasets") is None:
            raise DataError(f"{self.what}: the library datasets is not installed: pip install 'cl-bench[huggingface]'")
        import datasets  # takes a second, which only these data sets are worth

        return datasets

    @cached_property
    def _table(self) -> datasets.Dataset:
        """Rows of the split.

        Raises:
            DataError: If it is not there, or has no column of images.
        """
        library, split = self._library(), self.spec.split
        place = self.spec.root or self.spec.path
        try:
            if self.spec.root is not None:
                held = library.load_from_disk(self.spec.root)
            else:
                with _offline():
                    held = library.load_dataset(self.spec.path, self.spec.subset, split=split)
        except Exception as error:  # of many kinds, as the hub, the file system and Arrow have them
            to_get = "" if self.spec.root is not None else f"; to get it: {self.remedy}"
            raise DataError(f"{self.what}: {place}: {first_line(error)}{to_get}") from None
        if isinstance(held, library.DatasetDict):
            if split not in held:
                known = sorted(held)
                raise DataError(
                    f"{self.what}: {place} has no split {split!r}{nearest(split, known)}; splits: {', '.join(known)}"
                )
            held = held[split]
        elif self.spec.root is not None and split not in (str(held.split), "all"):
            raise DataError(f"{self.what}: {place} holds one split, {held.split}; say split = '{held.split}' or 'all'")
        if not len(held):
            raise DataError(f"{self.what}: no images in {place}")
        name = self.spec.columns.image
        if not isinstance(held.features.get(name), library.Image):
            known = [column for column, feature in held.features.items() if isinstance(feature, library.Image)]
            why = f"is no column of images: {held.features[name]}" if name in held.features else "is no column"
            raise DataError(
                f"{self.what}: columns.image {name!r} {why}{nearest(name, known)}; of images are: "
                f"{', '.join(known) or 'none'}"
            )
        return held

    @cached_property
    def _taken(self) -> list[int]:
        """Rows, in order."""
        return sorted(range(len(self._table)), key=lambda i: place_of(str(i)))[: self.spec.limit]

    @cached_property
    def _pictures(self) -> _Pictures:
        name = self.spec.columns.image
        column = self._table.select_columns([name]).cast_column(name, self._library().Image(decode=False))
        return _Pictures(column, name, self._taken)

    def _column(self, name: str, default: str) -> bool:
        """Look for a column.

        Raises:
            DataError: If it is not there and the profile names it.
        """
        if name not in self._table.features and name != default:
            known = list(self._table.features)
            raise DataError(f"{self.what}: no column {name!r}{nearest(name, known)}; columns: {', '.join(known)}")
        return name in self._table.features

    @cached_property
    def _labels(self) -> Named | None:
        """Names of the classes and the label of each image; None where there are none."""
        name = self.spec.columns.label
        if not self._column(name, "label"):
            return None
        values = self._table.select_columns([name])[:][name]
        return self._named([values[i] for i in self._taken], self._table.features[name], name)

    @cached_property
    def _objects(self) -> tuple[tuple[str, ...], list[Annotation]] | None:
        """Names of the classes and the objects of all images; None where there are none."""
        name = self.spec.columns.objects
        if not self._column(name, "objects"):
            return None
        rows = self._table.select_columns([name])[:][name]
        boxes, categories = [], []
        for n, i in enumerate(self._taken):
            held = rows[i]
            pairs = [(one["bbox"], one["category"]) for one in held] if isinstance(held, list) else None
            try:
                for bbox, category in pairs or zip(held["bbox"], held["category"], strict=True) if held else ():
                    x, y, w, h = map(float, bbox)
                    boxes.append((n, (x, y, x + w, y + h)))
                    categories.append(category)
            except (KeyError, TypeError, ValueError) as error:
                expected = f"column {name!r}, row {i}: expected lists bbox of (x, y, width, height) and category"
                raise DataError(f"{self.what}: {expected}: {first_line(error)}") from None
        classes, labels = self._named(categories, _inner(self._table.features[name], "category"), name) or ((), [])
        found = [Annotation(n, corners, label) for (n, corners), label in zip(boxes, labels, strict=True)]
        return classes, found

    def _named(self, values: Sequence[Any], feature: Any, column: str) -> Named | None:
        """Replace values by their places among the names of their classes; None if all of them are missing.

        Raises:
            DataError: If some are missing.
        """
        names = getattr(feature, "names", None)
        lacking = sum(value is None or value == -1 for value in values)
        if values and lacking == len(values):
            return None
        if lacking or not all(isinstance(value, int | str) for value in values):
            why = f"{lacking:,} of {len(values):,} rows have none" if lacking else "its values are no classes"
            raise DataError(f"{self.what}: column {column!r}: {why}")
        if names is not None:
            return tuple(names), list(values)
        distinct = sorted(set(values))
        place = {value: i for i, value in enumerate(distinct)}
        return tuple(map(str, distinct)), [place[value] for value in values]


class _Pictures(Sequence[Origin]):
    """The images of some rows, each read when it is asked for."""

    def __init__(self, column: datasets.Dataset, name: str, taken: Sequence[int]) -> None:
        self._column, self._name, self._taken = column, name, taken

    def __len__(self) -> int:
        return len(self._taken)

    @overload
    def __getitem__(self, index: int) -> Origin: ...
    @overload
    def __getitem__(self, index: slice) -> _Pictures: ...
    def __getitem__(self, index: int | slice) -> Origin | _Pictures:
        if isinstance(index, slice):
            return _Pictures(self._column, self._name, self._taken[index])
        held = self._column[self._taken[index]][self._name]
        if held is None:
            return "no image in this row"
        return held["bytes"] if held["bytes"] is not None else Path(held["path"] or "")


def _inner(feature: Any, name: str) -> Any:
    """Return the feature of a field, however lists and structs are nested."""
    while hasattr(feature, "feature"):
        feature = feature.feature
    if isinstance(feature, dict):
        held: Any = feature.get(name)
        while hasattr(held, "feature"):
            held = held.feature
        return held
    return None


@contextmanager
def _offline() -> Iterator[None]:
    """Have the library look at its cache alone, because the user decides on downloads."""
    import datasets.config
    import huggingface_hub.constants

    places = (datasets.config, "HF_HUB_OFFLINE"), (huggingface_hub.constants, "HF_HUB_OFFLINE")
    before = [getattr(module, name) for module, name in places]
    try:
        for module, name in places:
            setattr(module, name, True)
        yield
    finally:
        for (module, name), value in zip(places, before, strict=True):
            setattr(module, name, value)
