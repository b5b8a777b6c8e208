"""Base class of immutable values with a key, and the types of their fields."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

DataKind = Literal["single_object", "multi_object"]
Scope = Literal["same_index", "other_images", "all_pairs"]
Precision = Literal["float32", "bfloat16"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Side = Annotated[int, Field(ge=8, le=10_000)]
"""Side of an image or a view in pixels; far beyond any network's, so that a slip of the finger is told at once."""
CANONICAL = {"canonical": True}
"""Context of a serialisation that leaves out where data lie and what was counted there."""


class Frozen(BaseModel):
    """An immutable value that rejects unknown fields and has a key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def canonical(self) -> dict[str, Any]:
        """Serialise all that decides a result, to JSON's types; the place of data does not decide."""
        return self.model_dump(mode="json", context=CANONICAL)

    @property
    def key(self) -> str:
        """Key of the value: sha256 of its canonical JSON form."""
        canonical = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
