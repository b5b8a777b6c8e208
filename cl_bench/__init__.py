"""pytest for contrastive representations.

The package exports the names that plugins import: ``matching``, ``Method``, ``DenseViews``, ``Match``, ``LossTerms``,
``predictor``, ``Seen`` and the losses; and the functions for a notebook: ``run``, ``load_records``, ``judge`` and
``load_encoder``, with ``Claim``, and ``Judgement``, ``Verdict``, ``IncompleteSweep`` and ``holm`` for what is judged.
Names are resolved on first use, so that the parts that need no torch (store, claims, report) do not load it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cl_bench.claims.judge import holm
    from cl_bench.claims.judgement import IncompleteSweep, Judgement, Verdict
    from cl_bench.losses.terms import alignment, info_nce, uniformity
    from cl_bench.losses.types import DenseViews, LossTerms, Match
    from cl_bench.methods.method import Method, matching
    from cl_bench.notebook.computing import run
    from cl_bench.notebook.encoders import load_encoder
    from cl_bench.notebook.judging import judge
    from cl_bench.notebook.loading import load_records
    from cl_bench.predictors import Seen, predictor
    from cl_bench.report.collection import Records
    from cl_bench.spec.claim import Claim
    from cl_bench.spec.records import Record

__version__ = "0.1.0"

_HOMES = {
    "holm": "cl_bench.claims.judge",
    "IncompleteSweep": "cl_bench.claims.judgement",
    "Judgement": "cl_bench.claims.judgement",
    "Verdict": "cl_bench.claims.judgement",
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
    "Claim": "cl_bench.spec.claim",
    "Record": "cl_bench.spec.records",
    "Records": "cl_bench.report.collection",
    "judge": "cl_bench.notebook.judging",
    "load_encoder": "cl_bench.notebook.encoders",
    "load_records": "cl_bench.notebook.loading",
    "run": "cl_bench.notebook.computing",
}

__all__ = [
    "Claim",
    "DenseViews",
    "IncompleteSweep",
    "Judgement",
    "LossTerms",
    "Match",
    "Method",
    "Record",
    "Records",
    "Seen",
    "Verdict",
    "alignment",
    "holm",
    "info_nce",
    "judge",
    "load_encoder",
    "load_records",
    "matching",
    "predictor",
    "run",
    "uniformity",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cl_bench' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
