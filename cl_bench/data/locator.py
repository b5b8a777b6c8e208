"""Data sets of a session: finding them, and decoding those that are needed."""

from __future__ import annotations

from collections.abc import Iterable

from cl_bench.data import DataPaths, bind, download, prepare
from cl_bench.data.decoded import Progress
from cl_bench.errors import DataError
from cl_bench.spec import DataSpec


class DatasetLocator:
    """Lookup of data sets, once each.

    A missing data set is only noted, because not every suite uses every data set of a profile.

    Args:
        places: Folders to look in.
        fetch: True to download what is missing.
    """

    def __init__(self, places: DataPaths, fetch: bool = False) -> None:
        self.places = places
        self.missing: dict[DataSpec, str] = {}
        self._fetch = fetch

    def found(self, spec: DataSpec) -> DataSpec:
        """Return the spec with the ``source`` of the data set that was found; unchanged if there is none."""
        try:
            return self._bound(spec)
        except DataError as error:
            self.missing[spec] = str(error)
            return spec

    def prepare(self, specs: Iterable[DataSpec], progress: Progress | None = None) -> None:
        """Decode what is not decoded yet.

        Raises:
            DataError: If some are missing, with a line for each; or in the cases of ``data.prepare``.
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
