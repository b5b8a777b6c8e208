"""Origin of each value of a profile, read from its comments: ``# printed``, ``# inherited: ...``, ``# ours``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import tomlkit
from tomlkit.container import Container
from tomlkit.items import AoT, Array, Table

from cl_bench.spec.profile_files import profile_file, profile_files

MARKS = ("printed", "inherited", "ours")
"""Origins: printed in the paper; inherited from a recipe that it follows or from a published data set; chosen here."""


class Origin(NamedTuple):
    """A value of a profile and its origin.

    Attributes:
        key: Dotted key, such as ``optimiser.lr``.
        value: Value as it is written; the first line of a list over several lines.
        mark: ``printed``, ``inherited``, ``ours``, or ``set`` on the command line; empty where the file does not say.
        why: Rest of the comment.
    """

    key: str
    value: str
    mark: str
    why: str


def provenance(name: str, settings: Sequence[str] = ()) -> list[Origin]:
    """Return the values of a profile in its file's order, then those of its bases; defaults are left out.

    Args:
        name: Name of the profile, or path of its file.
        settings: ``key.path=value`` settings, which come first.

    Raises:
        SpecError: If there is no such profile, or a file is not TOML.
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
    return _of_table(tomlkit.parse(file.read_text(encoding="utf-8")), "")


def _of_table(table: Container | Table, prefix: str) -> Iterator[Origin]:
    """Yield the values of a table and of tables inside it; keys in a list have its index, as in ``known.1.claim``."""
    for name, item in (table if isinstance(table, Container) else table.value).body:
        if name is None or item is None:  # a comment, or an empty line
            continue
        key = prefix + name.as_string().strip()
        if isinstance(item, Table):
            yield from _of_table(item, f"{key}.")
        elif isinstance(item, AoT):
            for place, one in enumerate(item.body):
                yield from _of_table(one, f"{key}.{place}.")
        else:
            written, *_ = item.as_string().splitlines()
            # The comment of a list over several lines is at the end of its last line, or of its first.
            value, _, first = written.partition("#") if isinstance(item, Array) else (written, "", "")
            yield Origin(key, value.strip(), *_mark(item.trivia.comment.lstrip("# ") or first.strip()))


def _mark(comment: str) -> tuple[str, str]:
    """Split a comment into the mark that it begins with, and the rest."""
    word, _, rest = comment.partition(" ")
    mark = word.rstrip(":;,")
    return (mark, rest) if mark in MARKS else ("", comment)
