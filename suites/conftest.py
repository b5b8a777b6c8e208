"""The suites' own fixtures, which no fixture of the same name in a project around them takes the place of."""

from cl_bench.plugin.fixtures import case, claim, method, predictor

__all__ = ["case", "claim", "method", "predictor"]
