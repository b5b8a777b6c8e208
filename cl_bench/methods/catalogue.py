"""Catalogue of the methods: a table for the terminal, and ``python -m cl_bench.methods.catalogue > METHODS.md``."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cl_bench.errors import plain
from cl_bench.folders import PACKAGE
from cl_bench.methods.method import Method, Option
from cl_bench.methods.registry import BUILT_IN, Registry
from cl_bench.predictors.registry import Predictors
from cl_bench.spec.records import Level

HEADER = """\
# Methods

The built-in methods, by the names that `--method` takes; `--method all` stands for all of them. To write a method of
your own, see [docs/adding-a-method.md](docs/adding-a-method.md).

<!-- Written by `python -m cl_bench.methods.catalogue > METHODS.md` from the docstrings in methods/; edit those. -->
"""


@dataclass(frozen=True)
class Entry:
    """Description of a method, taken from its docstrings.

    Attributes:
        name: Name of the method on the command line.
        level: ``dense`` or ``instance``.
        title: First line of the module's docstring, with the citation.
        positive: First paragraph of the strategy's docstring, which defines the positive of a cell.
        source: Paragraph ``Source:`` of the docstring, with the departures; empty where there is none.
        options: Options and their defaults.
        meanings: Text of ``Args:`` on each option, by name.
        origin: ``file:line`` of the plugin.
    """

    name: str
    level: Level
    title: str
    positive: str
    source: str
    options: dict[str, Option]
    meanings: dict[str, str]
    origin: str

    @property
    def cited(self) -> str:
        """Citation: the title, or the source where there is no title."""
        return self.title or self.source


def describe(method: type[Method]) -> Entry:
    """Read the entry of a method from its docstring and that of its module."""
    module = inspect.cleandoc(sys.modules[method.__module__].__doc__ or "")
    own = inspect.cleandoc(method.__doc__ or "") if method.__doc__ != Method.__doc__ else ""
    paragraphs = [" ".join(p.split()) for p in own.split("\n\n")]
    sources = [p.removeprefix("Source: ") for p in paragraphs if p.startswith("Source: ")]
    return Entry(
        name=method.name,
        level=method.level,
        title=" ".join(module.split("\n\n")[0].split()),
        positive=paragraphs[0],
        source=sources[0] if sources else "",
        options=method.defaults(),
        meanings=_arguments(own),
        origin=method.origin,
    )


def entries(registry: Registry) -> list[Entry]:
    """Describe every method of a registry, in order of name."""
    return [describe(type(method)) for method in map(registry.resolve, registry.names)]


def methods_table(found: Iterable[Entry], broken: Iterable[str], base: Path) -> RenderableType:
    """Make a table for the terminal, and a line for each plugin that did not load; files relative to ``base``."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("method", no_wrap=True)
    table.add_column("level", no_wrap=True)
    table.add_column("options")
    table.add_column("source", ratio=1)
    table.add_column("file", overflow="fold")
    for entry in found:
        options = "\n".join(f"{name}={default}" for name, default in entry.options.items())
        table.add_row(entry.name, entry.level, *map(_text, (options, entry.cited, _relative(entry.origin, base))))
    return Group(table, *(Text(f"failed to load {line}") for line in broken))


def predictors_table(found: Predictors, base: Path) -> RenderableType:
    """Make a table for the terminal, and a line for each plugin that did not load; files relative to ``base``."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("predictor", "better", "level", "needs"):
        table.add_column(name, no_wrap=True)
    table.add_column("what it is", ratio=1)
    table.add_column("file", overflow="fold")
    for one in map(found.named, found.names):
        about = inspect.cleandoc(sys.modules[one.module].__doc__ or one.figure.__doc__ or "").split("\n\n")[0]
        told = _text(" ".join(about.split())), _text(_relative(one.origin, base))
        table.add_row(one.name, one.better, ", ".join(one.levels), ", ".join(one.needs), *told)
    return Group(table, *(Text(f"failed to load {line}") for line in found.broken))


def _text(said: str) -> Text:
    return Text(plain(said))


def markdown(found: Iterable[Entry]) -> str:
    """Return the text of METHODS.md: those of the methods found that come with cl-bench."""
    own = [entry for entry in found if Path(entry.origin).parent == BUILT_IN]
    return "\n".join([HEADER, *(line.replace("``", "`") for entry in own for line in _section(entry))])


def _section(entry: Entry) -> Iterator[str]:
    file = _relative(entry.origin, BUILT_IN.parent).rpartition(":")[0]
    yield f"## `{entry.name}`\n"
    yield f"{entry.title}\n"
    yield f"- **a {'cell' if entry.level == 'dense' else 'view'}'s positive**: {entry.positive}"
    yield f"- **level**: {entry.level}"
    for name, default in entry.options.items():
        meaning = entry.meanings.get(name, "")
        yield f"- **option** `{name}={default}`{': ' + meaning if meaning else ''}"
    if entry.source:
        yield f"- **source**: {entry.source}"
    yield f"- **file**: [{file}]({file})\n"


def _arguments(docstring: str) -> dict[str, str]:
    """Return the text on each argument in a google-style ``Args:`` section."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)*)", docstring, re.MULTILINE)
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _relative(origin: str, base: Path) -> str:
    """Return ``file:line`` as seen from ``base``, or from the folder that cl-bench is installed in."""
    file, _, line = origin.rpartition(":")
    path = Path(file)
    near = next((folder for folder in (base, PACKAGE.parent) if path.is_relative_to(folder)), None)
    return f"{path.relative_to(near) if near else path}:{line}"


if __name__ == "__main__":
    sys.stdout.write(markdown(entries(Registry())))
