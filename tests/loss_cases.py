"""Features and matches of small batches, and comparison with gradients, for tests of the losses."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import oracles
import torch
from hypothesis import strategies as st
from torch.nn.functional import normalize

from cl_bench.losses.types import Match

NEGATIVES = ("both_views", "cross_view", "ntxent")
SCOPES = ("same_index", "other_images", "all_pairs")
MATCHES = ("index_wise", "hard", "partial", "soft", "both_ways")
close = partial(torch.testing.assert_close, rtol=1e-7, atol=1e-7)
seeds = st.integers(0, 9999)
shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(2, 5))
temperatures = st.sampled_from([0.05, 0.2, 1.0, 10.0])


def vectors(*shape, seed=0, dtype=torch.float64):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normalize(x, dim=-1).to(dtype)


class Case(NamedTuple):
    """A match as it is given, and what the oracle is given in its place."""

    match: Match | tuple[Match, Match] | None
    forth: list
    back: list


def sparse_weights(B, P, seed):
    """Rows of several positives, of one, and of none."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.rand(B, P, P, generator=generator, dtype=torch.float64)
    w *= torch.rand(B, P, P, generator=generator) < 0.5
    rows = w.sum(-1, keepdim=True)
    return torch.where(rows > 0, w / rows, 0.0)


def case(kind, B, P, seed):
    generator = torch.Generator().manual_seed(seed)
    match = None
    if kind == "hard":
        index = torch.randint(P, (B, P), generator=generator)
        match = Match(index=index, valid=torch.rand(B, P, generator=generator) < 0.7)
        forth = [
            [[float(ok and q == k) for q in range(P)] for k, ok in zip(*image, strict=True)]
            for image in zip(index.tolist(), match.valid.tolist(), strict=True)
        ]
    elif kind == "soft":
        w = torch.randn(B, P, P, generator=generator, dtype=torch.float64).softmax(-1)
        match, forth = Match(weights=w), w.tolist()
    elif kind in ("partial", "both_ways"):
        w = sparse_weights(B, P, seed)
        match, forth = Match(weights=w), w.tolist()
    else:
        forth = oracles.identity(B, P)
    if kind == "both_ways":  # two matches that know nothing of each other
        w = sparse_weights(B, P, seed + 1)
        return Case((match, Match(weights=w)), forth, w.tolist())
    return Case(match, forth, oracles.reversed_weights(forth))


def with_gradient(f, *raw):
    """Value and gradients of f(unit vectors) with respect to the raw vectors.

    Through normalisation, because the formulas only promise to agree on the sphere.
    """
    raw = [x.detach().clone().requires_grad_() for x in raw]
    value = f(*(normalize(x, dim=-1) for x in raw))
    # A path of zeros to every leaf, where no anchor takes part.
    return value.detach(), torch.autograd.grad(value + sum(0 * x.sum() for x in raw), raw)


def assert_same(f, reference, *raw):
    value, grads = with_gradient(f, *raw)
    expected, references = with_gradient(reference, *raw)
    close(value, expected)
    for grad, reference_grad in zip(grads, references, strict=True):
        close(grad, reference_grad)


def degenerate(name):
    a, b = vectors(2, 1, 1, 4, seed=3)
    return {
        "one image of several cells": (vectors(1, 4, 4, seed=1), vectors(1, 4, 4, seed=2)),
        "one cell": (vectors(4, 1, 4, seed=1), vectors(4, 1, 4, seed=2)),
        "duplicates": (a.expand(3, 2, 4), a.expand(3, 2, 4)),
        "views antipodal": (a.expand(3, 2, 4), -a.expand(3, 2, 4)),
        "images antipodal": (torch.cat([a, -a]).expand(2, 2, 4), torch.cat([b, -b]).expand(2, 2, 4)),
    }[name]
