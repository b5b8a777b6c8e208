"""Search for plugins of any kind: in folders, in files and behind entry points. Each kind has a registry of its own."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from cl_bench.errors import NameTakenError, PluginError, first_line, line_in, nearest, no_file, plain


class Plugin(Protocol):
    """Attributes that every plugin has."""

    @property
    def name(self) -> str:
        """Name on the command line."""

    @property
    def origin(self) -> str:
        """Place of its definition, ``file:line``."""


P = TypeVar("P", bound=Plugin)


@dataclass(frozen=True)
class Kind(Generic[P]):
    """A kind of plugin.

    Attributes:
        noun: Name of the kind: ``method`` or ``predictor``.
        mark: Advice on how a file defines a plugin, for a file that has none.
        group: Group of the entry points of installed packages; each names a module, or an object of one, with plugins.
        error: Exception that is raised.
        module: Function that returns the name of the module of a plugin.
        registered: Plugins defined since the last load, by name; a registry moves them to ``loaded``.
        loaded: Plugins that any registry of this process has loaded, by module and name; a module is imported once.
    """

    noun: str
    mark: str
    group: str
    error: type[PluginError]
    module: Callable[[P], str]
    registered: dict[str, P]
    loaded: dict[tuple[str, str], P] = field(default_factory=dict)

    def __post_init__(self) -> None:
        KINDS.append(self)

    def known(self) -> list[P]:
        """Return all plugins of this process, including those of packages that were imported before."""
        return [*self.loaded.values(), *self.registered.values()]


KINDS: list[Kind[Any]] = []
"""All kinds; one file may hold plugins of several."""


class Plugins(Generic[P]):
    """The plugins of one kind in some places and behind the installed packages' entry points.

    If a plugin cannot be imported the error is kept, and raised only when something it may have held is requested.

    Args:
        places: Folders, each ``*.py`` of which is a plugin unless its name begins with ``_``; and single files.
        packages: Packages whose entry points are loaded; those of every installed package if None.

    Attributes:
        plugins: File, or package with entry points, that is imported for a plugin, by the plugin's name.
    """

    kind: ClassVar[Kind[Any]]

    def __init__(self, places: Sequence[Path], packages: Collection[str] | None = None) -> None:
        self.places: tuple[Path, ...] = ()
        self.broken: list[str] = []
        self.taken: dict[str, NameTakenError] = {}
        self.plugins: dict[str, str] = {}
        self._held: dict[str, P] = {}
        for point in sorted(entry_points(group=self.kind.group)):
            package = point.module.partition(".")[0]
            if packages is not None and package not in packages:
                continue
            self._load(f"entry point {point.name} = {point.value}", point.load)
            self._hold(package, (p for p in self.kind.known() if self.kind.module(p).partition(".")[0] == package))
        for place in places:
            self._add(place.resolve())

    @classmethod
    def only(cls, plugin: str) -> Self:
        """Load a single one of ``plugins``, a file or a package, and nothing else; no plugin for an empty text."""
        file = Path(plugin)
        return cls([file], ()) if file.is_absolute() else cls((), (plugin,))

    def _add(self, place: Path) -> None:
        """Load the plugins of a folder or a file, unless it is loaded already."""
        if place in self.places:
            return
        self.places += (place,)
        for file in [place] if place.suffix == ".py" else sorted({f.resolve() for f in place.glob("[!_.]*.py")}):
            self._load(str(file), partial(_import, file))
            self._hold(str(file), self._of(file))

    def _load(self, source: str, load: Callable[[], object]) -> None:
        """Import a plugin and keep what it registers, or nothing if it fails half-way.

        The environment variables are restored, because one plugin's would reach the worker processes of the others.
        """
        kept, environment = [dict(kind.registered) for kind in KINDS], dict(os.environ)
        for kind in KINDS:
            kind.registered.clear()
        try:
            load()
            for kind in KINDS:
                kind.loaded.update({(kind.module(p), p.name): p for p in kind.registered.values()})
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may raise anything, pytest's Skipped too; the others must still load
            line = line_in(error, source)
            self.broken.append(plain(f"{source}{f':{line}' if line else ''}: {first_line(error)}"))
            if isinstance(error, NameTakenError):
                self.taken[error.name] = error
        finally:
            for kind, before in zip(KINDS, kept, strict=True):
                kind.registered.clear()
                kind.registered.update(before)
            if dict(os.environ) != environment:
                os.environ.clear()
                os.environ.update(environment)

    def _hold(self, plugin: str, found: Iterable[P]) -> None:
        for one in found:
            other = self._held.setdefault(one.name, one)
            self.plugins.setdefault(one.name, plugin)
            if other is not one:
                self.taken[one.name] = NameTakenError(one.name, other.origin, one.origin, self.kind.noun)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all plugins, sorted."""
        return tuple(sorted(self._held))

    def named(self, name: str, base: Path | None = None) -> P:
        """Return the plugin of that name.

        Raises:
            PluginError: If there is none, or two; the message has the nearest right name, the file of that name under
                ``base`` (the working directory if None), and the plugins that failed to load.
        """
        if name in self.taken:
            raise self.taken[name]
        if name not in self._held:
            noun, option = self.kind.noun, f"--{self.kind.noun}"
            there = ((base or Path()) / f"{name}.py").is_file()
            beside = f"; for the file of that name: {option} ./{name}.py" if there else ""
            complaint = f"no {noun} {name!r}{nearest(name, self.names)}{beside}; {noun}s: {', '.join(self.names)}"
            raise self.kind.error("; ".join([complaint, *(f"failed to load {b}" for b in self.broken)]))
        return self._held[name]

    def in_file(self, file: Path, name: str = "") -> list[str]:
        """Return the names of the plugins in a file, or of the one with that name alone.

        Raises:
            PluginError: If there is no such file, or it has no plugin of that name, or none at all.
        """
        file = file.resolve()
        if not file.is_file():
            raise self.kind.error(no_file(file, [".py"]))
        self._add(file)
        held = [p.name for p in self._of(file)]
        if not held:
            failed = next((b for b in self.broken if b.startswith(f"{file}:")), None)
            raise self.kind.error(
                f"failed to load {failed}" if failed else f"{file} holds no {self.kind.noun}; {self.kind.mark}"
            )
        if name and name not in held:
            asked = f"{file} has no {self.kind.noun} {name!r}{nearest(name, held)}"
            raise self.kind.error(f"{asked}; {self.kind.noun}s: {', '.join(sorted(held))}")
        return [name] if name else held

    def _of(self, file: Path) -> list[P]:
        return list(dict.fromkeys(p for p in self.kind.known() if self.kind.module(p) == _module_name(file)))


def source_of(file: Path) -> str:
    """Return the sha256 of a plugin's file, which identifies its results."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


_IMPORTED: dict[str, str] = {}
"""The sha256 of each file that was imported, by the name of its module."""


def _module_name(file: Path) -> str:
    return f"cl_bench_plugin_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"


def _import(file: Path) -> None:
    """Import a file, or import it anew where it was edited since: a notebook's process outlives many versions.

    The bytes are compiled here, for a cached ``.pyc`` is taken for the file's where both changed within a second.
    """
    name, content = _module_name(file), file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if name in sys.modules and _IMPORTED.get(name) == digest:
        return
    for kind in KINDS:
        for key in [key for key in kind.loaded if key[0] == name]:
            del kind.loaded[key]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _IMPORTED[name] = digest
    try:
        exec(compile(content, str(file), "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
