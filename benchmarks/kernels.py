"""Candidates for the log-sum-exp over all pairs of vectors on a GPU.

``blocks`` and ``triton`` are cl-bench's: every device has blocks, and cards on which they were measured take Triton's
kernels (``losses.fused``). ``full`` and ``flex`` were measured beside them, and the package has neither. Each takes the
arguments of ``pairwise.logsumexp`` and the dtype in which matrices are multiplied, and ``used`` puts it in its place in
every loss. The gradient has the dtype of the vectors. ``longest`` is of use to ``blocks`` and ``triton`` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from cl_bench.losses import fused, pairwise
from cl_bench.losses.fused import LARGEST_WEIGHT

LogSumExp = Callable[..., Tensor]
STREAMING = pairwise.logsumexp
PRECISIONS = ("float32", "tf32", "float16")
"""Precisions of the inputs of matrix products. The products are summed in float32, and so are the exponentials."""
COMPILED = 64
"""Sizes and precisions that a function is compiled for; torch's limit of 8 would make it run the others uncompiled."""


class _Symmetric(torch.autograd.Function):
    """A log-sum-exp within one set, from a function for its values and one for its gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: float, group: int, dtype: torch.dtype, values: Any, gradient: Any
    ) -> Tensor:
        lowered = x.to(dtype)
        out: Tensor = values(lowered, scale, group)
        ctx.save_for_backward(lowered, out)
        ctx.scale, ctx.group, ctx.dtype, ctx.gradient = scale, group, x.dtype, gradient
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, out = ctx.saved_tensors
        norm = torch.where(torch.isfinite(out), out, torch.inf)  # a vector without a pair has no weights
        unit = grad.abs().max().clamp_min(1e-30) / LARGEST_WEIGHT
        of_x = ctx.gradient(x, norm, (grad / unit).contiguous(), ctx.scale, ctx.group)
        return (of_x * (ctx.scale * unit)).to(ctx.dtype), None, None, None, None, None


class _Lowered(torch.autograd.Function):
    """Conversion to another dtype, in which the gradient comes back ``factor`` times as large."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype, factor: float) -> Tensor:
        ctx.dtype, ctx.factor = x.dtype, factor
        return x.to(dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad.to(ctx.dtype) / ctx.factor, None, None


class _Magnified(torch.autograd.Function):
    """The same values, whose gradient goes on ``factor`` times as large."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return out.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad * ctx.factor, None


def _excluded(n: int, group: int, device: torch.device) -> Tensor:
    run = torch.arange(n, device=device) // group
    return run[:, None] == run


def _full_values(x: Tensor, scale: float, group: int) -> Tensor:
    s = scale * (x @ x.mT).float()
    if group:
        s = s.masked_fill(_excluded(x.shape[-2], group, x.device), -torch.inf)
    return s.logsumexp(-1)


def _full_gradient(x: Tensor, norm: Tensor, factor: Tensor, scale: float, group: int) -> Tensor:
    s = scale * (x @ x.mT).float()
    weights = factor[..., :, None] * torch.exp(s - norm[..., :, None])
    weights = weights + factor[..., None, :] * torch.exp(s - norm[..., None, :])
    if group:
        weights = weights.masked_fill(_excluded(x.shape[-2], group, x.device), 0.0)
    return (weights.to(x.dtype) @ x).float()


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    torch._dynamo.config.recompile_limit = COMPILED
    return torch.compile(function, dynamic=False)


def blocks(x: Tensor, scale: float, group: int, dtype: torch.dtype, longest: float | None = None) -> Tensor:
    """Compute ``pairwise.logsumexp`` in blocks, of float32: a dtype of half precision only rounds the vectors."""
    with mock.patch.object(fused, "serves", lambda x: False):
        return STREAMING(x.to(dtype).to(x.dtype), scale, group, longest)


def full(x: Tensor, scale: float, group: int, dtype: torch.dtype, longest: float | None = None) -> Tensor:
    """Compute the log-sum-exp from the whole matrix by ``torch.compile``; eagerly on a CPU.

    The n x n similarities in float32 are 2.5 GB at n = 25,088, with their weights 5 GB.
    """
    values, gradient = (_compiled(f) if x.is_cuda else f for f in (_full_values, _full_gradient))
    out: Tensor = _Symmetric.apply(x, float(scale), int(group), dtype, values, gradient)
    return out


def flex(x: Tensor, scale: float, group: int, dtype: torch.dtype, longest: float | None = None) -> Tensor:
    """Compute the log-sum-exp as that of ``flex_attention``.

    On a CPU torch gives it no gradient. Attention's values are of no use here; they are as narrow as the kernel takes
    them. Its gradient is magnified by 64 n, for the weights of a mean are lost in float16.
    """
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    def of_other_runs(score: Tensor, b: Tensor, h: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return torch.where(row // group == column // group, -torch.inf, score)

    run = _compiled(flex_attention) if x.is_cuda else flex_attention
    factor = 64.0 * x.shape[-2]
    lowered = _Lowered.apply(x, dtype, factor)
    vectors = (lowered if x.ndim == 3 else lowered.unsqueeze(0)).unsqueeze(1)
    _, aux = run(
        vectors,
        vectors,
        vectors[..., :16].detach(),
        score_mod=of_other_runs if group else None,
        scale=float(scale),
        return_aux=AuxRequest(lse=True),
    )
    out: Tensor = _Magnified.apply(aux.lse.reshape(x.shape[:-1]).float(), factor)
    return out


def triton(x: Tensor, scale: float, group: int, dtype: torch.dtype, longest: float | None = None) -> Tensor:
    """Compute the log-sum-exp by ``fused``, without a matrix in memory and without attention's values.

    Products of float32 are three of TF32 there, and one where TF32 is asked for.
    """
    in_float32 = "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    bound = (pairwise._longest(x) if longest is None else longest) ** 2 * abs(scale)
    sets = x if x.ndim == 3 else x[None]
    products: Any = in_float32 if dtype == torch.float32 else "float16"
    out = fused.logsumexp(sets, None, float(scale), int(group), pairwise.common_shift(bound), products)
    assert isinstance(out, Tensor)
    return out.view(x.shape[:-1])


KERNELS: dict[str, LogSumExp] = {"blocks": blocks, "full": full, "flex": flex, "triton": triton}
"""Candidates by name. ``triton`` is last: a fault of it may leave the process without a working card."""


@contextmanager
def products_in(precision: str) -> Iterator[torch.dtype]:
    """Multiply matrices of float32 in TF32 or not within the context; yield the dtype to convert them to."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield getattr(torch, "float32" if precision == "tf32" else precision)
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def used(kernel: str, precision: str) -> Iterator[None]:
    """Compute every loss by that kernel within the context, with matrices multiplied in that precision."""
    with products_in(precision) as dtype:

        def logsumexp(x: Tensor, scale: float, group: int = 0, longest: float | None = None) -> Tensor:
            return KERNELS[kernel](x, scale, group, dtype, longest)

        with mock.patch.object(pairwise, "logsumexp", logsumexp):
            yield
