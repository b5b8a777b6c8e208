"""Spec of one encoder and of all measurements on it."""

from __future__ import annotations

from cl_bench.spec.datasets import DataSpec
from cl_bench.spec.evaluation import DetectionSpec, LinearSpec, MeasureSpec, PredictorSpec
from cl_bench.spec.frozen import Frozen
from cl_bench.spec.pretraining import PretrainSpec
from cl_bench.spec.records import RANDOM_INIT


class RunSpec(Frozen):
    """One encoder of a sweep, with all measurements on it."""

    pretrain: PretrainSpec
    measure: MeasureSpec
    linear: LinearSpec
    detection: DetectionSpec
    predictors: tuple[PredictorSpec, ...] = ()

    @property
    def data_sets(self) -> set[DataSpec]:
        """Return all data sets that it uses."""
        trained = () if self.pretrain.objective.family == RANDOM_INIT else (self.pretrain.data,)
        downstream = (getattr(stage, part) for stage in (self.linear, self.detection) for part in ("train", "test"))
        return {*trained, self.measure.data, *downstream}

    @property
    def case(self) -> str:
        """Id on the command line, such as ``dense_index-info_nce-t0.1-s0``."""
        return self.pretrain.case
