"""Where each value of a profile comes from, as its comments say: ``# printed``, ``# inherited: ...``, ``# ours``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import tomlkit
from tomlkit.container import Container
from tomlkit.items import AoT, Array, Table

from cl_bench.spec.profile_files import profile_file, profile_files

MARKS = ("printed", "inherited", "ours")
"""In the paper; from a recipe that the paper follows, or a data set as it is published; chosen here."""


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


def provenance(name: str, settings: Sequence[str] = ()) -> list[Origin]:
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
    return _of_table(tomlkit.parse(file.read_text(encoding="utf-8")), "")


def _of_table(table: Container | Table, prefix: str) -> Iterator[Origin]:
    """The values of a table and of those inside it; of a list of tables by their places, as ``known.1.claim``."""
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
            # The comment of a list over several lines stands behind its last line, or behind its first.
            value, _, first = written.partition("#") if isinstance(item, Array) else (written, "", "")
            yield Origin(key, value.strip(), *_mark(item.trivia.comment.lstrip("# ") or first.strip()))


def _mark(comment: str) -> tuple[str, str]:
    """The mark that a comment begins with, and the rest of it."""
    word, _, rest = comment.partition(" ")
    mark = word.rstrip(":;,")
    return (mark, rest) if mark in MARKS else ("", comment)
