"""pytest for contrastive representations.

The package exports the names that plugins import: ``matching``, ``Method``, ``DenseViews``, ``Match``, ``LossTerms``,
``predictor``, ``Seen`` and the losses.
Names are resolved on first use, so that the parts that need no torch (store, claims, report) do not load it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cl_bench.losses.terms import alignment, info_nce, uniformity
    from cl_bench.losses.types import DenseViews, LossTerms, Match
    from cl_bench.methods.method import Method, matching
    from cl_bench.predictors import Seen, predictor

__version__ = "0.1.0"

_HOMES = {
    "alignment": "cl_bench.losses.terms",
    "info_nce": "cl_bench.losses.terms",
    "uniformity": "cl_bench.losses.terms",
    "Method": "cl_bench.methods.method",
    "matching": "cl_bench.methods.method",
    "Seen": "cl_bench.predictors",
    "predictor": "cl_bench.predictors",
    "DenseViews": "cl_bench.losses.types",
    "LossTerms": "cl_bench.losses.types",
    "Match": "cl_bench.losses.types",
}

__all__ = [
    "DenseViews",
    "LossTerms",
    "Match",
    "Method",
    "Seen",
    "alignment",
    "info_nce",
    "matching",
    "predictor",
    "uniformity",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cl_bench' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
