"""Specs of images to train or to evaluate on: the embedded scenes, published data sets, and images of one's own."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from cl_bench.errors import nearest
from cl_bench.spec.frozen import Count, DataKind, Frozen, Share, Side

GIB = 2**30
BYTES, MOST_GIB = 12, 64
"""Bytes that a pixel takes while scenes are drawn, and most memory that they may take in all."""


class ScenesSpec(Frozen):
    """Embedded scenes: ``images`` of them, ``size`` pixels square, drawn from ``seed``.

    ``background``: upper limit, in [0, 1], of the brightness of its corners. ``tint``: range of each channel of a
    digit's colour. ``height``: range of a digit's height, as a share of the scene; the kind's default where left out.
    ``digits`` and ``tints``: relation of the digits of one scene, which are drawn independently (``any``), all of one
    class or one colour (``same``), or all of different classes (``different``).
    """

    name: Literal["scenes"] = "scenes"
    kind: DataKind
    split: Literal["train", "test"]
    images: Count
    size: Annotated[Side, Field(ge=16)]
    seed: Annotated[int, Field(ge=0)] = 0
    background: Annotated[float, Field(ge=0, le=1)] = 0.15
    tint: tuple[Share, Share] = (0.55, 1.0)
    height: tuple[Share, Share] | None = None
    digits: Literal["any", "same", "different"] = "any"
    tints: Literal["any", "same"] = "any"

    @model_validator(mode="after")
    def _ordered(self) -> ScenesSpec:
        for name, pair in (("tint", self.tint), ("height", self.height)):
            if pair and pair[0] > pair[1]:
                raise ValueError(f"{name} must be low, high, got {pair}")
        if self.kind == "multi_object" and self.height and self.height[1] > 0.5:
            raise ValueError(
                f"height of multi_object scenes is at most 0.5, or four digits have no room, got {self.height}"
            )
        if (needed := self.images * self.size**2 * BYTES / GIB) > MOST_GIB:
            raise ValueError(
                f"{self.images:,} images of {self.size} x {self.size} pixels need {needed:,.0f} GiB of memory; "
                f"scenes may take {MOST_GIB}"
            )
        return self

    @property
    def count(self) -> int:
        """Number of images."""
        return self.images

    @property
    def label(self) -> str:
        """Kind, and the relation of a scene's digits where it is set, such as ``multi_object, same digits``."""
        shared = {"digits": self.digits, "tints": self.tints}
        return ", ".join([self.kind, *(f"{how} {what}" for what, how in shared.items() if how != "any")])

    def __str__(self) -> str:
        return f"{self.images:,} images"


class Found(Frozen):
    """Facts about a data set that was found.

    ``images``: how many a spec takes of it. ``classes``: names of those that its images or boxes have, none where there
    are neither; None: not looked up. ``objects``: boxes that can be used; None: not looked up, or there are none to
    have. ``size``: height and width of a usual image in pixels.
    """

    images: Annotated[int, Field(ge=0)]
    classes: tuple[str, ...] | None = None
    objects: Annotated[int, Field(ge=0)] | None = None
    size: tuple[Count, Count] | None = None


class FilesSpec(Frozen):
    """Images that lie in files: of a published data set under ``--data-root``, or one's own at ``root``.

    ``short_side``: larger images are scaled down to it when they are decoded; None keeps every pixel. ``limit``: number
    of first images to use; None takes all. ``broken``: treatment of an image that cannot be decoded. ``source``: digest
    of the files, which is set when they are found. ``root``: folder of one's own images, looked for under
    ``--data-root``, then beside the profile. ``found``: facts counted there. Neither ``root`` nor ``found`` is part of
    the key, because ``source`` is.
    """

    name: str
    kind: DataKind
    split: str
    short_side: Annotated[Side, Field(ge=16)] | None = None
    limit: Count | None = None
    broken: Literal["refuse", "leave_out"] = "refuse"
    source: str = ""
    root: Annotated[str, Field(min_length=1)] | None = None
    found: Found | None = None

    @field_validator("split")
    @classmethod
    def _a_name(cls, split: str) -> str:
        if not split.strip() or re.search(r"[/\\\0\n]", split) or split.startswith("."):
            raise ValueError(f"a split is a name, without slashes and not beginning with a dot, got {split!r}")
        return split

    @model_serializer(mode="wrap")
    def _told(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Serialise the fields, without place and counts if these are not set or the canonical form is asked for."""
        told: dict[str, Any] = handler(self)
        canonical = bool(info.context and info.context.get("canonical"))
        for name in ("root", "path", "found"):
            if canonical or told.get(name) is None:
                told.pop(name, None)
        return told

    @property
    def label(self) -> str:
        """Kind of data."""
        return self.kind

    @property
    def own(self) -> bool:
        """True for images of one's own, False for a published data set."""
        return self.root is not None

    @property
    def published(self) -> int | None:
        """Number of images in the published split; None for images of one's own."""
        return None

    @property
    def known_count(self) -> int | None:
        """Number of images, counted if they were found, else as published; None if they were not found."""
        if self.found is not None:
            return self.found.images
        return None if self.published is None else min(self.published, self.limit or self.published)

    @property
    def count(self) -> int:
        """Number of images, counted if they were found, else as published.

        Raises:
            ValueError: If images of one's own were not found yet.
        """
        if (count := self.known_count) is None:
            raise ValueError(f"{self.name} {self.split} was not found, so its images are not counted")
        return count

    def __str__(self) -> str:
        first = "" if self.limit is None else f"the first {self.limit:,} of "
        return f"{first}{self.name} {self.split}"


class STL10Spec(FilesSpec):
    """STL-10 (Coates, Ng, Lee, AISTATS 2011): 96 x 96 pixels; ``train`` and ``test`` are labelled."""

    name: Literal["stl10"]
    split: Literal["train", "test", "unlabeled", "train+unlabeled"]
    kind: Literal["single_object"] = "single_object"
    root: None = None

    @property
    def published(self) -> int:
        """Number of images in the published split."""
        return {"train": 5_000, "test": 8_000, "unlabeled": 100_000, "train+unlabeled": 105_000}[self.split]


COCO_SPLITS = {"train2017": 118_287, "val2017": 5_000}
VOC_SPLITS = {"trainval2007": 5_011, "trainval2012": 11_540, "trainval2007+2012": 16_551, "test2007": 4_952}


class COCOSpec(FilesSpec):
    """COCO 2017 (Lin et al., ECCV 2014), with the boxes of its objects; with a ``root``, any images annotated so."""

    name: Literal["coco"]
    kind: Literal["multi_object"] = "multi_object"

    @model_validator(mode="after")
    def _known(self) -> COCOSpec:
        _published_or_own(self, COCO_SPLITS)
        return self

    @property
    def published(self) -> int | None:
        """Number of images in the published split; None for images of one's own."""
        return None if self.own else COCO_SPLITS[self.split]


class VOCSpec(FilesSpec):
    """PASCAL VOC (Everingham et al., IJCV 2010), with the boxes of its objects and which of them are difficult.

    With a ``root``, any images annotated so.
    """

    name: Literal["voc"]
    kind: Literal["multi_object"] = "multi_object"

    @model_validator(mode="after")
    def _known(self) -> VOCSpec:
        _published_or_own(self, VOC_SPLITS)
        return self

    @property
    def published(self) -> int | None:
        """Number of images in the published split; None for images of one's own."""
        return None if self.own else VOC_SPLITS[self.split]


class FolderSpec(FilesSpec):
    """Images in a folder; where they lie in folders of their own by class, these are their labels.

    ``multi_object`` images have no boxes: encoders are pre-trained on them and no more.
    """

    name: Literal["folder"]
    kind: DataKind = "single_object"
    root: Annotated[str, Field(min_length=1)]


class Columns(Frozen):
    """Names of the columns with the image, its class, and its boxes.

    Of the last each is a struct of lists: ``bbox``, (x, y, width, height) in pixels, and ``category``.
    """

    image: str = "image"
    label: str = "label"
    objects: str = "objects"


class HuggingFaceSpec(FilesSpec):
    """A data set of the Hugging Face library ``datasets``: a folder of ``save_to_disk``, or a name of the hub's.

    ``path``: the name of the hub's, where there is no ``root``. ``subset``: which of its configurations. ``columns``:
    their names there.
    """

    name: Literal["huggingface"]
    kind: DataKind = "single_object"
    path: str | None = None
    subset: str | None = None
    columns: Columns = Columns()

    @model_validator(mode="after")
    def _one_place(self) -> HuggingFaceSpec:
        if (self.root is None) == (self.path is None):
            raise ValueError(
                "takes root = 'a folder of save_to_disk' or path = 'a name of the hub', and not both, "
                f"got root {self.root!r} and path {self.path!r}"
            )
        return self

    @property
    def own(self) -> bool:
        """True, because none is published here."""
        return True


def _published_or_own(spec: FilesSpec, published: dict[str, int]) -> None:
    if spec.root is None and spec.split not in published:
        raise ValueError(
            f"{spec.name} has no split {spec.split!r}{nearest(spec.split, list(published))}; published splits: "
            f"{', '.join(published)}; for images of your own name their folder: root = '...'"
        )


DATASETS: dict[str, type[ScenesSpec | STL10Spec | COCOSpec | VOCSpec | FolderSpec | HuggingFaceSpec]] = {
    "scenes": ScenesSpec,
    "stl10": STL10Spec,
    "coco": COCOSpec,
    "voc": VOCSpec,
    "folder": FolderSpec,
    "huggingface": HuggingFaceSpec,
}


def _dataset(value: Any) -> str:
    """Return the name of the data set in a table or a spec; without a name it is scenes."""
    return str(value.get("name", "scenes") if isinstance(value, dict) else getattr(value, "name", ""))


DataSpec = Annotated[
    Annotated[ScenesSpec, Tag("scenes")]
    | Annotated[STL10Spec, Tag("stl10")]
    | Annotated[COCOSpec, Tag("coco")]
    | Annotated[VOCSpec, Tag("voc")]
    | Annotated[FolderSpec, Tag("folder")]
    | Annotated[HuggingFaceSpec, Tag("huggingface")],
    Discriminator(_dataset),
]


def unbound(spec: DataSpec) -> DataSpec:
    """Return the spec without the facts found out about its files."""
    return spec if isinstance(spec, ScenesSpec) else spec.model_copy(update={"source": "", "found": None})
