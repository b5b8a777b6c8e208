"""Specs of images to train or to evaluate on: the embedded scenes, and data sets in files."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from cl_bench.spec.frozen import Count, DataKind, Frozen, Share


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
    size: Annotated[int, Field(ge=16)]
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


class FilesSpec(Frozen):
    """Images of a data set under ``--data-root``.

    ``short_side``: larger images are scaled down to it when they are decoded; None keeps every pixel. ``limit``: number
    of first images to use; None takes all. ``broken``: treatment of an image that cannot be decoded. ``source``: digest
    of the files under the data root, without images, which is set when they are found.
    """

    name: str
    kind: DataKind
    split: str
    short_side: Annotated[int, Field(ge=16)] | None = None
    limit: Count | None = None
    broken: Literal["refuse", "leave_out"] = "refuse"
    source: str = ""

    @property
    def label(self) -> str:
        """Kind of data."""
        return self.kind

    @property
    def published(self) -> int:
        """Number of images in the published split."""
        raise NotImplementedError

    @property
    def count(self) -> int:
        """Number of images, by the published sizes."""
        return min(self.published, self.limit or self.published)

    def __str__(self) -> str:
        first = "" if self.limit is None else f"the first {self.limit:,} of "
        return f"{first}{self.name} {self.split}"


class STL10Spec(FilesSpec):
    """STL-10 (Coates, Ng, Lee, AISTATS 2011): 96 x 96 pixels; ``train`` and ``test`` are labelled."""

    name: Literal["stl10"]
    split: Literal["train", "test", "unlabeled", "train+unlabeled"]
    kind: Literal["single_object"] = "single_object"

    @property
    def published(self) -> int:
        """Number of images in the published split."""
        return {"train": 5_000, "test": 8_000, "unlabeled": 100_000, "train+unlabeled": 105_000}[self.split]


class COCOSpec(FilesSpec):
    """COCO 2017 (Lin et al., ECCV 2014), with the boxes of its objects."""

    name: Literal["coco"]
    split: Literal["train2017", "val2017"]
    kind: Literal["multi_object"] = "multi_object"

    @property
    def published(self) -> int:
        """Number of images in the published split."""
        return {"train2017": 118_287, "val2017": 5_000}[self.split]


class VOCSpec(FilesSpec):
    """PASCAL VOC (Everingham et al., IJCV 2010), with the boxes of its objects and which of them are difficult."""

    name: Literal["voc"]
    split: Literal["trainval2007", "trainval2012", "trainval2007+2012", "test2007"]
    kind: Literal["multi_object"] = "multi_object"

    @property
    def published(self) -> int:
        """Number of images in the published split."""
        sizes = {"trainval2007": 5_011, "trainval2012": 11_540, "trainval2007+2012": 16_551, "test2007": 4_952}
        return sizes[self.split]


DATASETS: dict[str, type[ScenesSpec | STL10Spec | COCOSpec | VOCSpec]] = {
    "scenes": ScenesSpec,
    "stl10": STL10Spec,
    "coco": COCOSpec,
    "voc": VOCSpec,
}


def _dataset(value: Any) -> str:
    """Return the name of the data set in a table or a spec; without a name it is scenes."""
    return str(value.get("name", "scenes") if isinstance(value, dict) else getattr(value, "name", ""))


DataSpec = Annotated[
    Annotated[ScenesSpec, Tag("scenes")]
    | Annotated[STL10Spec, Tag("stl10")]
    | Annotated[COCOSpec, Tag("coco")]
    | Annotated[VOCSpec, Tag("voc")],
    Discriminator(_dataset),
]
