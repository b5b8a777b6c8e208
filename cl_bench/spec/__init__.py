"""Specifications of a run and its results: specs, profiles, the provenance of their values, records, claims.

Specs are frozen, validated and hashable; a store identifies them by their key.
"""

from cl_bench.spec.datasets import (
    DATASETS,
    COCOSpec,
    DataSpec,
    FilesSpec,
    FolderSpec,
    Found,
    HuggingFaceSpec,
    ScenesSpec,
    STL10Spec,
    VOCSpec,
)
from cl_bench.spec.evaluation import DetectionSpec, Evaluation, LinearSpec, MeasureSpec, PredictorSpec
from cl_bench.spec.frozen import Count, DataKind, Frozen, NonNegative, Positive, Precision, Scope, Share
from cl_bench.spec.pretraining import (
    RECIPE,
    AlignUniform,
    AugmentSpec,
    EncoderName,
    EncoderSpec,
    InfoNCE,
    MethodSpec,
    Negatives,
    Objective,
    OptimiserSpec,
    Padding,
    PretrainSpec,
    RandomInit,
    ViewPolicy,
)
from cl_bench.spec.run import RunSpec

__all__ = [
    "DATASETS",
    "RECIPE",
    "AlignUniform",
    "AugmentSpec",
    "COCOSpec",
    "Count",
    "DataKind",
    "DataSpec",
    "DetectionSpec",
    "EncoderName",
    "EncoderSpec",
    "Evaluation",
    "FilesSpec",
    "FolderSpec",
    "Found",
    "Frozen",
    "HuggingFaceSpec",
    "InfoNCE",
    "LinearSpec",
    "MeasureSpec",
    "MethodSpec",
    "Negatives",
    "NonNegative",
    "Objective",
    "OptimiserSpec",
    "Padding",
    "Positive",
    "Precision",
    "PredictorSpec",
    "PretrainSpec",
    "RandomInit",
    "RunSpec",
    "STL10Spec",
    "ScenesSpec",
    "Scope",
    "Share",
    "VOCSpec",
    "ViewPolicy",
]
