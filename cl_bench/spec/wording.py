"""Wording of a profile's validation errors in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from pydantic import BaseModel, ValidationError

from cl_bench.errors import nearest
from cl_bench.spec.datasets import DATASETS


def complaint(error: ValidationError, model: type[BaseModel]) -> str:
    """Return pydantic's first complaint in plain words."""
    # A misspelt key gives two errors, unknown and missing: report the unknown one, with the key that was meant.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    # pydantic puts the name of the data set into the path, which is no key of the profile.
    path = [part for i, part in enumerate(first["loc"]) if not (i and part in DATASETS)]
    where = ".".join(str(part) for part in path)
    # A value that a profile sets once for both kinds of data gives two errors.
    others = {(e["loc"][-1:], e["type"], repr(e["input"])) for e in error.errors()}
    rest = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
    if first["type"] == "extra_forbidden":
        fields = _fields_at(model, first["loc"][:-1])
        return f"unknown key {where!r}{nearest(str(path[-1]), fields)}{rest}"
    if first["type"] == "union_tag_invalid":
        given = first["input"]
        name = given.get("name") if isinstance(given, dict) else given
        known = f"data sets: {', '.join(DATASETS)}, as {{ name = 'stl10', split = 'train' }}"
        return f"{where}: no data set {name!r}{nearest(str(name), list(DATASETS))}; {known}{rest}"
    if first["type"] == "missing":
        hint = "; base = 'smoke' takes what a profile does not say from there" if len(path) == 1 else ""
        return f"{where} is missing{rest}{hint}"
    if first["type"] == "value_error":  # about a whole table; the message already has the value
        said = f"{first['msg'].removeprefix('Value error, ')}{rest}"
        return f"{where}: {said}" if where else said
    return f"{where}: {first['msg']}, got {first['input']!r}{rest}"


def _fields_at(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    for part in path:
        if part in DATASETS:
            model = DATASETS[str(part)]
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        for inner in (annotation, *get_args(annotation)):  # a table, a list of tables, or an optional table
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                model = inner
    return list(model.model_fields)
