"""Finding methods: in folders, in files and behind entry points, by name and with options."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path

from cl_bench.errors import MethodError, NameTakenError, first_line, nearest
from cl_bench.method import EVERY, REGISTERED, Method, Option
from cl_bench.spec import MethodSpec

BUILT_IN = Path(__file__).resolve().parent.parent / "methods"
ENTRY_POINTS = "cl_bench.methods"
"""Group of the entry points of installed packages; each names a module, or an object of one, that holds methods."""

_LOADED: dict[tuple[str, str], type[Method]] = {}
"""Every method that a registry of this process has loaded, by module and name: a module is imported once."""


class Registry:
    """The methods of some places and of the installed packages' entry points.

    A plugin that does not import is kept as a complaint, raised only when something it might have held is asked for.

    Args:
        places: Folders, each ``*.py`` of which is a plugin unless its name begins with ``_``; and single files.
        packages: Whose entry points to load; those of every installed package if None.

    Attributes:
        plugins: What is imported for a method, by the method's name: a file, or a package with its entry points.
    """

    def __init__(self, places: Sequence[Path] = (BUILT_IN,), packages: Collection[str] | None = None) -> None:
        self.places: tuple[Path, ...] = ()
        self.broken: list[str] = []
        self.taken: dict[str, NameTakenError] = {}
        self.plugins: dict[str, str] = {}
        self._methods: dict[str, type[Method]] = {}
        for point in sorted(entry_points(group=ENTRY_POINTS)):
            package = point.module.partition(".")[0]
            if packages is not None and package not in packages:
                continue
            self._load(f"entry point {point.name} = {point.value}", point.load)
            known = [*_LOADED.values(), *REGISTERED.values()]  # these where somebody imported the package before
            self._hold(package, (m for m in known if m.__module__.partition(".")[0] == package))
        for place in places:
            self._add(place.resolve())

    @classmethod
    def only(cls, plugin: str) -> Registry:
        """The methods of one of ``plugins``, for which nothing else is imported; none for an empty text."""
        file = Path(plugin)
        return cls([file], ()) if file.is_absolute() else cls((), (plugin,))

    def _add(self, place: Path) -> None:
        """Take in a folder or a file; one that is there already stays."""
        if place in self.places:
            return
        self.places += (place,)
        for file in [place] if place.suffix == ".py" else sorted({f.resolve() for f in place.glob("[!_.]*.py")}):
            self._load(str(file), partial(_import, file))
            self._hold(str(file), _methods_of(file))

    def _load(self, source: str, load: Callable[[], object]) -> None:
        """Import a plugin and note what it registers, which is nothing if it fails half-way.

        The environment stays as it was: what one plugin puts there would reach the worker processes of the others.
        """
        kept, environment = dict(REGISTERED), dict(os.environ)
        REGISTERED.clear()
        try:
            load()
            _LOADED.update({(method.__module__, method.name): method for method in REGISTERED.values()})
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may raise anything, pytest's Skipped too; the others must still load
            self.broken.append(f"{source}{_line_of(error, source)}: {first_line(error)}")
            if isinstance(error, NameTakenError):
                self.taken[error.name] = error
        finally:
            REGISTERED.clear()
            REGISTERED.update(kept)
            if dict(os.environ) != environment:
                os.environ.clear()
                os.environ.update(environment)

    def _hold(self, plugin: str, methods: Iterable[type[Method]]) -> None:
        for method in methods:
            other = self._methods.setdefault(method.name, method)
            self.plugins.setdefault(method.name, plugin)
            if other is not method:
                self.taken[method.name] = NameTakenError(method.name, other.origin, method.origin)

    @property
    def names(self) -> tuple[str, ...]:
        """Every method's name, sorted."""
        return tuple(sorted(self._methods))

    def select(self, text: str, base: Path | None = None) -> tuple[Method, ...]:
        """What ``--method`` asks for: every method there is for ``all``, else the one that ``resolve`` finds.

        Raises:
            MethodError: As ``resolve``; for ``all``, a plugin that did not load or two of one name.
        """
        if text.partition(":")[0] != EVERY:
            return (self.resolve(text, base),)
        if text != EVERY:
            raise MethodError(f"{EVERY!r} stands for every method with its default options, got {text!r}")
        if self.broken:
            raise MethodError("; ".join(f"failed to load {b}" for b in self.broken))
        return tuple(self.resolve(name) for name in self.names)

    def resolve(self, text: str, base: Path | None = None) -> Method:
        """The method of ``name[:key=value,...]`` or ``path/to/file.py[:name][:key=value,...]``.

        Args:
            text: What a person types. A file without a name stands for its only method.
            base: What a relative path starts from; the working directory if None.

        Raises:
            MethodError: No such method, file or option, or one name for two; the message has the nearest right one,
                and the plugins that failed to load.
        """
        base = base or Path.cwd()
        name, _, options = text.partition(":")
        as_file = re.fullmatch(r"(.*?\.py)(?::(.*))?", text)
        if as_file and name not in self._methods:  # whose options may end in .py
            rest = as_file[2] or ""
            name, _, options = ("", "", rest) if "=" in rest.partition(":")[0] else rest.partition(":")
            name = self._in_file(base / Path(as_file[1]).expanduser(), name)
        if name in self.taken:
            raise self.taken[name]
        if name not in self._methods:
            beside = f"; for the file of that name: --method ./{name}.py" if (base / f"{name}.py").is_file() else ""
            complaint = f"no method {name!r}{nearest(name, self.names)}{beside}; methods: {', '.join(self.names)}"
            raise MethodError("; ".join([complaint, *(f"failed to load {b}" for b in self.broken)]))
        return self._methods[name](**_options(name, options))

    def _in_file(self, file: Path, name: str) -> str:
        """The name of the method of that name in a file, or of its only one."""
        file = file.resolve()
        if not file.is_file():
            raise MethodError(f"no file {file}{nearest(file.name, [f.name for f in file.parent.glob('*.py')])}")
        self._add(file)
        held = {method.name: method for method in _methods_of(file)}
        if not held:
            failed = next((b for b in self.broken if b.startswith(f"{file}:")), None)
            raise MethodError(
                f"failed to load {failed}"
                if failed
                else f'{file} holds no method; mark a function with @matching("its name")'
            )
        if name not in held and (name or len(held) > 1):
            asked = f"{file} has no method {name!r}{nearest(name, list(held))}" if name else f"{file} holds several"
            one = "" if name else f"; name one, as {file.name}:{min(held)}"
            raise MethodError(f"{asked}; methods: {', '.join(sorted(held))}{one}")
        return name or next(iter(held))


def spec_of(method: Method) -> MethodSpec:
    """What identifies a method in a store: name, options that are not the default, level, and its source."""
    changed = {k: v for k, v in method.options.items() if v != method.defaults()[k]}
    return MethodSpec(
        name=method.name,
        options=tuple(sorted(changed.items())),
        level=method.level,
        source=hashlib.sha256(method.file.read_bytes()).hexdigest(),
    )


def _module_name(file: Path) -> str:
    return f"cl_bench_plugin_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"


def _methods_of(file: Path) -> list[type[Method]]:
    return [method for method in _LOADED.values() if method.__module__ == _module_name(file)]


def _import(file: Path) -> None:
    name = _module_name(file)
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _line_of(error: BaseException, file: str) -> str:
    """``:line`` of a file where an error happened, if it did there."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f":{error.lineno}"
    lines = []
    trace = error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == file:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f":{lines[-1]}" if lines else ""


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
