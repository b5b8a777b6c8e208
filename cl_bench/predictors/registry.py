"""Search for predictors: built-in ones, those in files, and those behind entry points."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from cl_bench.errors import PredictorError
from cl_bench.methods.plugins import Kind, Plugins, source_of
from cl_bench.predictors.predictor import REGISTERED, Predictor
from cl_bench.spec import PredictorSpec

BUILT_IN = Path(__file__).resolve().parent / "built_in"

PREDICTORS: Kind[Predictor] = Kind(
    noun="predictor",
    mark='mark a function with @predictor("its name", better="low")',
    group="cl_bench.predictors",
    error=PredictorError,
    module=lambda found: found.module,
    registered=REGISTERED,
)


class Predictors(Plugins[Predictor]):
    """The built-in predictors, and those of other places and of installed packages; see ``Plugins``."""

    kind = PREDICTORS

    def __init__(self, places: Sequence[Path] = (), packages: Collection[str] | None = None) -> None:
        super().__init__((BUILT_IN, *places), packages)

    @property
    def built_in(self) -> list[Predictor]:
        """Return the predictors that come with cl-bench, in order of name."""
        return [self._held[name] for name in self.names if self._held[name].file.parent == BUILT_IN]

    def select(self, text: str, base: Path | None = None) -> list[Predictor]:
        """Find the predictors of ``--predictor``: ``name``, ``path/to/file.py:name``, or all of ``path/to/file.py``.

        Args:
            text: Value of the option.
            base: Folder that a relative path starts from; the working directory if None.

        Raises:
            PredictorError: If there is no such predictor or file, or two have that name; the message has the nearest
                right name, and the plugins that failed to load.
        """
        base = base or Path.cwd()
        as_file = re.fullmatch(r"(.*?\.py)(?::(.*))?", text)
        if not as_file or text in self.names:
            return [self.named(text, base)]
        return [self.named(name, base) for name in self.in_file(base / Path(as_file[1]).expanduser(), as_file[2] or "")]

    def spec_of(self, found: Predictor) -> PredictorSpec:
        """Return the identity of a predictor in a store, and the plugin to import for it; empty for a built-in one."""
        plugin = "" if found.file.parent == BUILT_IN else self.plugins[found.name]
        return PredictorSpec(name=found.name, source=source_of(found.file), better=found.better, plugin=plugin)
