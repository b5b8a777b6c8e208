"""The data sets of a session: which of them are there, and getting those ready that are needed."""

from __future__ import annotations

from collections.abc import Iterable

from cl_bench.data import DataPaths, bind, download, prepare
from cl_bench.data.decoded import Progress
from cl_bench.errors import DataError
from cl_bench.spec import DataSpec


class DatasetLocator:
    """Looks data sets up, once each.

    A data set that is not there is noted: not every suite takes every one of a profile.

    Args:
        places: Where.
        fetch: Whether to download what is missing.
    """

    def __init__(self, places: DataPaths, fetch: bool = False) -> None:
        self.places = places
        self.missing: dict[DataSpec, str] = {}
        self._fetch = fetch

    def found(self, spec: DataSpec) -> DataSpec:
        """The spec with what was found in its ``source``; unchanged where nothing was."""
        try:
            return self._bound(spec)
        except DataError as error:
            self.missing[spec] = str(error)
            return spec

    def prepare(self, specs: Iterable[DataSpec], progress: Progress | None = None) -> None:
        """Decode what is not decoded yet.

        Raises:
            DataError: Some are not there, one line each; or as ``data.prepare``.
        """
        wanted = sorted(set(specs), key=lambda spec: spec.key)
        if lines := dict.fromkeys(self.missing[spec] for spec in wanted if spec in self.missing):
            raise DataError("\n".join(lines))
        for spec in wanted:
            prepare(spec, self.places, progress)

    def _bound(self, spec: DataSpec) -> DataSpec:
        try:
            return bind(spec, self.places.root)
        except DataError:
            if not self._fetch or self.places.root is None:
                raise
        download(spec, self.places.root)
        return bind(spec, self.places.root)
