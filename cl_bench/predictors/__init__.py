"""Predictors: label-free figures of an encoder that might tell how it does downstream."""

from cl_bench.predictors.predictor import Predictor, Seen, predictor

__all__ = ["Predictor", "Seen", "predictor"]
