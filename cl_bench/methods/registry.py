"""Search for methods in folders, in files and behind entry points, by name and with options."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from cl_bench.errors import MethodError
from cl_bench.folders import methods_folder
from cl_bench.methods.method import ALL, REGISTERED, Method, Option
from cl_bench.methods.plugins import Kind, Plugins, source_of
from cl_bench.spec import MethodSpec

BUILT_IN = methods_folder()
ENTRY_POINTS = "cl_bench.methods"

METHODS: Kind[type[Method]] = Kind(
    noun="method",
    mark='mark a function with @matching("its name")',
    group=ENTRY_POINTS,
    error=MethodError,
    module=lambda method: method.__module__,
    registered=REGISTERED,
)


class Registry(Plugins[type[Method]]):
    """The methods of some places and of the installed packages' entry points; see ``Plugins``."""

    kind = METHODS

    def __init__(self, places: Sequence[Path] = (BUILT_IN,), packages: Collection[str] | None = None) -> None:
        super().__init__(places, packages)

    def select(self, text: str, base: Path | None = None) -> tuple[Method, ...]:
        """Return the methods of ``--method``: every method for ``all``, else the one that ``resolve`` finds.

        Raises:
            MethodError: In the cases of ``resolve``; for ``all``, if a plugin did not load or two have one name.
        """
        if text.partition(":")[0] != ALL:
            return (self.resolve(text, base),)
        if text != ALL:
            raise MethodError(f"{ALL!r} stands for every method with its default options, got {text!r}")
        if self.broken:
            raise MethodError("; ".join(f"failed to load {b}" for b in self.broken))
        return tuple(self.resolve(name) for name in self.names)

    def resolve(self, text: str, base: Path | None = None) -> Method:
        """Find the method of ``name[:key=value,...]`` or ``path/to/file.py[:name][:key=value,...]``.

        Args:
            text: Value of the option. A file without a name stands for its only method.
            base: Folder that a relative path starts from; the working directory if None.

        Raises:
            MethodError: If there is no such method, file or option, or two methods have that name; the message has the
                nearest right name, and the plugins that failed to load.
        """
        base = base or Path.cwd()
        name, _, options = text.partition(":")
        as_file = re.fullmatch(r"(.*?\.py)(?::(.*))?", text)
        if as_file and name not in self.names:  # a known name's options may end in .py
            rest = as_file[2] or ""
            name, _, options = ("", "", rest) if "=" in rest.partition(":")[0] else rest.partition(":")
            name = self._one_in(base / Path(as_file[1]).expanduser(), name)
        return self.named(name, base)(**_options(name, options))

    def _one_in(self, file: Path, name: str) -> str:
        """Return the name of the method of that name in a file, or of its only method."""
        held = self.in_file(file, name)
        if len(held) > 1:
            told = f"name one, as {file.name}:{min(held)}"
            raise MethodError(f"{file.resolve()} holds several; methods: {', '.join(sorted(held))}; {told}")
        return held[0]


def spec_of(method: Method) -> MethodSpec:
    """Return the identity of a method in a store: name, options that are not the default, level, and its source."""
    changed = {k: v for k, v in method.options.items() if v != method.defaults()[k]}
    return MethodSpec(
        name=method.name,
        options=tuple(sorted(changed.items())),
        level=method.level,
        source=source_of(method.file),
    )


def _options(name: str, text: str) -> dict[str, Option]:
    options: dict[str, Option] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise MethodError(f"method {name!r}: options are key=value, got {part!r}")
        if key.strip() in options:
            raise MethodError(f"method {name!r}: option {key.strip()!r} is given twice")
        options[key.strip()] = value.strip()
    return options
