"""Method plugins for tests, as text and as functions, and views to apply them to."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from cl_bench import DenseViews, Match, matching
from cl_bench.methods.method import REGISTERED

OPTIONS = ", *, epsilon: float = 0.5, steps: int = 3, hard: bool = False, rule: str = 'a'"
HEADER = "from cl_bench import DenseViews, LossTerms, Match, Method, matching\n"


def strategy(name, options="", body="return Match.identity(views)"):
    return f"""
        @matching({name!r})
        def {name}(views: DenseViews{options}) -> Match:
            {body}
        """


def dense_views(B=3, P=4, D=5, C=6, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    z1, z2, h1, h2 = (normalize(draw(B, P, k) - 0.5, dim=-1) for k in (D, D, C, C))
    shapes = ((B, P), (B, P), (B, P, 2), (B, P, 2), (B, 2), (B, 2))
    return DenseViews(z1, z2, h1, h2, *(draw(*shape) for shape in shapes), grid=(2, P // 2))


def optioned(name="optioned"):
    @matching(name)
    def strategy(
        views: DenseViews, *, epsilon: float = 0.5, steps: int = 3, hard: bool = False, rule: str = "a"
    ) -> Match:
        """Do nothing with the options."""
        seen.append((epsilon, steps, hard, rule))
        return Match.identity(views)

    seen = []
    return REGISTERED[name], seen
