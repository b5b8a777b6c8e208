"""CSV without formulas, which spreadsheets would run when they open it."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf|nan")


def harmless(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula: an apostrophe is put before a text that begins like one.

    Numbers stay what they are, also those that are written as texts. ``plain`` is the inverse.
    """
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def plain(text: str) -> str:
    """Return the text that ``harmless`` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def write_lines(file: IO[str], columns: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a table with its header; a cell that a line does not name stays empty."""
    writer = csv.DictWriter(file, [harmless(column) for column in columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows({harmless(name): harmless(value) for name, value in line.items()} for line in lines)
