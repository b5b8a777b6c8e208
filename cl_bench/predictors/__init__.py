"""Predictors: label-free figures of an encoder that may predict its downstream performance."""

from cl_bench.predictors.predictor import Predictor, Seen, predictor

__all__ = ["Predictor", "Seen", "predictor"]
