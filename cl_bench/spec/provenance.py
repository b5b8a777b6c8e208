"""Where each value of a profile comes from, as its comments say: ``# printed``, ``# inherited: ...``, ``# ours``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cl_bench.spec.profile import profile_file, profile_files

MARKS = ("printed", "inherited", "ours")
"""In the paper; from a recipe that the paper follows, or a data set as it is published; chosen here."""

_TABLE = re.compile(r"\[+\s*([\w.]+)\s*\]+")
_VALUE = re.compile(r"([\w.]+)\s*=\s*(.*)")


class Origin(NamedTuple):
    """A value of a profile and where it comes from.

    Attributes:
        key: As ``optimiser.lr``.
        value: As it is written; a list over several lines by its first.
        mark: ``printed``, ``inherited``, ``ours``, or ``set`` on the command line; nothing where the file does not say.
        why: The rest of the comment.
    """

    key: str
    value: str
    mark: str
    why: str


def origins(name: str, settings: Sequence[str] = ()) -> list[Origin]:
    """The values of a profile in its file's order; what it leaves to its base, or to defaults, comes after or not.

    Args:
        name: The profile's, or its file's.
        settings: ``key.path=value``, which come first.

    Raises:
        SpecError: No such profile, or a file that is not TOML.
    """
    found: dict[str, Origin] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        found[key.strip()] = Origin(key.strip(), value.strip(), "set", "on the command line")
    for file in profile_files(profile_file(name)):
        for origin in _written(file):
            found.setdefault(origin.key, origin)
    return [origin for key, origin in found.items() if key != "base"]


def _written(file: Path) -> Iterator[Origin]:
    table = ""
    for line in file.read_text(encoding="utf-8").splitlines():
        code, comment = _apart(line)
        if header := _TABLE.fullmatch(code):
            table = f"{header[1]}."
        elif assignment := _VALUE.fullmatch(code):
            word, _, rest = comment.partition(" ")
            mark, why = (word.rstrip(":;,"), rest) if word.rstrip(":;,") in MARKS else ("", comment)
            yield Origin(table + assignment[1], assignment[2], mark, why)


def _apart(line: str) -> tuple[str, str]:
    """What a line says and its comment; a # inside quotes begins none."""
    quote = ""
    for i, character in enumerate(line):
        if character in "\"'" and quote in ("", character):
            quote = "" if quote else character
        elif character == "#" and not quote:
            return line[:i].strip(), line[i + 1 :].strip()
    return line.strip(), ""
