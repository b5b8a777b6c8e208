"""Values and gradients of losses by Triton's kernels, run by Triton's interpreter on a CPU, as one line of JSON.

A process of its own, with ``TRITON_INTERPRET=1`` before triton is first imported: python tests/losses/interpreted.py
"""

from __future__ import annotations

import json
from unittest import mock

import torch
from torch.nn.functional import normalize

from cl_bench import info_nce, uniformity
from cl_bench.losses import fused, pairwise

SHAPES = [((61, 32), 0), ((130, 48), 7), ((2, 3, 70, 20), 1), ((64, 128), 1)]
"""Shape of the vectors and length of the runs that exclude each other: some that no tile divides."""
SCALES = (5.0, 20.0, 100.0)


def vectors(*shape):
    draws = torch.Generator().manual_seed(sum(shape))
    return fused.rounded_to_half(normalize(torch.randn(shape, generator=draws), dim=-1))


def both_ways(function, *leaves):
    """Largest difference of a value, and of a gradient relative to its norm, from blocks in float64."""
    found = []
    for by_kernels in (True, False):
        inputs = [x.detach().clone().to(torch.float32 if by_kernels else torch.float64) for x in leaves]
        inputs = [x.requires_grad_() for x in inputs]
        with mock.patch.object(fused, "serves", lambda x, here=by_kernels: here):
            out = function(*inputs)
            weights = torch.linspace(0.1, 1, out.numel()).view(out.shape)
            seen = torch.isfinite(out)
            total = (torch.where(seen, out, 0.0) * weights).sum()
            found.append((torch.where(seen, out, -99.0).detach().double(), torch.autograd.grad(total, inputs)))
    (value, gradients), (expected, references) = found
    of_gradients = [
        float((g.double() - r).norm() / r.norm().clamp_min(1e-30)) for g, r in zip(gradients, references, strict=True)
    ]
    return [float((value - expected).abs().max()), max(of_gradients)]


def within(scale, group):
    return lambda x: pairwise.logsumexp(x, scale, group)


def between(scale, group):
    return lambda x, y: torch.cat(pairwise.logsumexp_between(x, y, scale, group), -1)


def objective(negatives, positive):
    return lambda z1, z2: info_nce(z1, z2, None, 0.05, negatives, positive).total


def main():
    cases = {}
    for shape, group in SHAPES:
        for scale in SCALES:
            cases[f"within {shape}, {group}, {scale}"] = within(scale, group), vectors(*shape)
    for scale in SCALES:
        cases[f"between, {scale}"] = between(scale, 7), vectors(2, 70, 24), vectors(2, 33, 24)
    cases["no pair"] = within(5.0, 70), vectors(70, 16)
    for negatives in ("both_views", "cross_view", "ntxent"):
        for positive in (True, False):
            loss = objective(negatives, positive)
            cases[f"info_nce, {negatives}, {positive}"] = loss, vectors(5, 4, 16), vectors(5, 4, 16).flip(0)
    for scope in ("same_index", "other_images", "all_pairs"):
        cases[f"uniformity, {scope}"] = lambda z, s=scope: uniformity(z, 2.0, s), vectors(6, 4, 16)
    told = {}
    for products in ("tf32x3", "float16"):
        with fused.in_halves("bfloat16" if products == "float16" else "float32"):
            told[products] = {name: both_ways(*case) for name, case in cases.items()}
    trials = {products: fused._wrong(torch.device("cpu"), products) for products in told}
    print(json.dumps({"errors": told, "trials": trials}))


if __name__ == "__main__":
    main()
