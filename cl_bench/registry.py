"""Finding methods: the plugins of ``methods/``, by name and with options."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from cl_bench.errors import MethodError, NameTakenError, nearest
from cl_bench.method import REGISTERED, Method, Option
from cl_bench.spec import MethodSpec

BUILT_IN = Path(__file__).resolve().parent.parent / "methods"


class Registry:
    """The methods of some folders; each ``*.py`` of them is a plugin.

    A plugin that does not import is kept as a complaint, raised only when something it might have held is asked for.
    """

    def __init__(self, folders: Sequence[Path] = (BUILT_IN,)) -> None:
        self.folders = tuple(dict.fromkeys(folder.resolve() for folder in folders))
        self.broken: list[str] = []
        self.taken: dict[str, NameTakenError] = {}
        for folder in self.folders:
            for file in sorted(folder.glob("*.py")):
                if not file.name.startswith("_"):
                    self._load(file)

    def _load(self, file: Path) -> None:
        name = f"cl_bench_plugin_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
        if name in sys.modules:
            return
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except NameTakenError as error:
            del sys.modules[name]
            self.taken[error.name] = error
        except Exception as error:  # a plugin may raise anything; the others must still load
            del sys.modules[name]
            self.broken.append(f"{file}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")

    @property
    def names(self) -> tuple[str, ...]:
        """Every method's name, sorted."""
        return tuple(sorted(name for name, method in REGISTERED.items() if self._holds(method)))

    def _holds(self, method: type[Method]) -> bool:
        return Path(method.origin.rpartition(":")[0]).resolve().parent in self.folders

    def resolve(self, text: str) -> Method:
        """The method of ``name`` or ``name:key=value,key=value``.

        Raises:
            MethodError: No such method or option; the message has the nearest right one, and the plugins that failed
                to load.
        """
        name, _, rest = text.partition(":")
        if name in self.taken:
            raise self.taken[name]
        if name not in self.names:
            complaint = f"no method {name!r}{nearest(name, self.names)}; methods: {', '.join(self.names)}"
            raise MethodError("; ".join([complaint, *(f"failed to load {b}" for b in self.broken)]))
        options: dict[str, Option] = {}
        for part in filter(None, rest.split(",")):
            key, equals, value = part.partition("=")
            if not equals:
                raise MethodError(f"method {name!r}: options are key=value, got {part!r}")
            options[key.strip()] = value.strip()
        return REGISTERED[name](**options)


def spec_of(method: Method) -> MethodSpec:
    """What identifies a method in a store: name, options that are not the default, level, and its source."""
    changed = {k: v for k, v in method.options.items() if v != method.defaults()[k]}
    return MethodSpec(
        name=method.name,
        options=tuple(sorted(changed.items())),
        level=method.level,
        source=hashlib.sha256(method.file.read_bytes()).hexdigest(),
    )
