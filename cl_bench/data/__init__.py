"""The catalogue: a DataSpec in, a Dataset out. One file a data set."""

from __future__ import annotations

from functools import lru_cache

from cl_bench.data.dataset import Dataset
from cl_bench.data.scenes import draw_scenes
from cl_bench.spec import DataSpec

__all__ = ["Dataset", "load"]


@lru_cache(maxsize=8)
def load(spec: DataSpec) -> Dataset:
    """The data set of a spec; the same spec gives the same bytes. Kept in memory for the next caller."""
    return draw_scenes(spec.kind, spec.split, spec.images, spec.size, spec.seed)
