"""Log-sum-exp of scaled similarities over all pairs of vectors, the only computation that is O(n^2).

Similarities are computed in blocks of rows that fit in a core's cache, and again in the backward pass, so memory is
O(n d). Within one set, a pair from two blocks is computed once and used for both of its vectors: with many
blocks, forward and backward together cost two products of n x n x d, and n^2 exponentials (2 n^2 past SAFE_EXPONENT).
Processes that share a batch (``losses.distributed``) divide these blocks: a set is then that of all of them together.
Some GPUs take ``losses.fused`` instead, which holds no similarity in memory at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from cl_bench.losses import fused
from cl_bench.losses.checks import refuse_second_derivative
from cl_bench.losses.distributed import Alone, processes

BLOCK_ELEMENTS = 2**18  # similarities held at a time: 1 MB in float32, within a core's cache
GPU_BLOCK_ELEMENTS = 2**24  # 64 MB; on an H200 a fourth is slower by 60 %, and four times as much faster by 6 to 9 %
MIN_ROWS = 128  # with fewer rows a block, the matrix product dominates the time
SAFE_EXPONENT = 30.0  # exp(-2 * 30) is a normal float32, and exp(2 * 30) times a gradient, even a scaled one, finite


def logsumexp(x: Tensor, scale: float, group: int = 0, longest: float | None = None) -> Tensor:
    """Compute ``out[r] = log sum_c exp(scale * <x_r, x_c>)`` over the vectors c that are not excluded for r.

    Args:
        x: (..., n, D) vectors.
        scale: Factor on the similarity (1 / temperature).
        group: Length of runs of consecutive vectors that exclude each other: r skips c where
            ``r // group == c // group``. 1 skips the vector itself, 0 skips nothing.
        longest: Length that no vector exceeds, where it is known; otherwise it is measured, which makes the CPU wait
            for a GPU.

    Returns:
        (..., n), in at least float32; ``-inf`` for a vector for which all others are excluded.

    Raises:
        RuntimeError: If a second derivative is requested.
    """
    over = processes()
    whole = over.whole(_flat(x), 1)
    longest = _longest(whole) if longest is None else longest
    out = _log_sum_exp(whole, None, float(scale), int(group), abs(scale) * longest * longest, over)
    assert isinstance(out, Tensor)
    return over.own(out, 1).reshape(x.shape[:-1])


def logsumexp_between(
    x: Tensor, y: Tensor, scale: float, group: int = 0, longest: tuple[float, float] | None = None
) -> tuple[Tensor, Tensor]:
    """Compute ``log sum exp(scale * <x_r, y_c>)`` both ways: over c for each r, and over r for each c.

    Args:
        x: (..., n, D) vectors.
        y: (..., m, D) vectors.
        scale: Factor on the similarity, as in ``logsumexp``.
        group: Length of runs, as in ``logsumexp``: row r and column c exclude each other where
            ``r // group == c // group``.
        longest: Lengths that no vector of x and of y exceeds, as in ``logsumexp``.

    Returns:
        (..., n) for x and (..., m) for y.

    Raises:
        RuntimeError: If a second derivative is requested.
        ValueError: If x and y have different batch dimensions.
    """
    if x.shape[:-2] != y.shape[:-2]:
        raise ValueError(f"x and y must be of the same batches, got {tuple(x.shape)} and {tuple(y.shape)}")
    over = processes()
    whole_x, whole_y = over.whole(_flat(x), 1), over.whole(_flat(y), 1)
    longest_x, longest_y = longest or (_longest(whole_x), _longest(whole_y))
    bound = abs(scale) * longest_x * longest_y
    rows, columns = _log_sum_exp(whole_x, whole_y, float(scale), int(group), bound, over)
    return over.own(rows, 1).reshape(x.shape[:-1]), over.own(columns, 1).reshape(y.shape[:-1])


def common_shift(bound: float) -> float | None:
    """Return what to subtract from exponents, of which none exceeds ``bound``; None for each row's own maximum.

    Where every exponent is known to be small, one common shift works as well.
    """
    return bound if bound <= SAFE_EXPONENT else None


def _log_sum_exp(
    x: Tensor, y: Tensor | None, scale: float, group: int, bound: float, over: Alone
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute the log-sum-exp within one set or between two, by the fastest way that this device has."""
    shift = common_shift(bound)
    if over.size == 1 and fused.serves(x):
        return fused.logsumexp(x, y, scale, group, shift, fused.products())
    out: Tensor | tuple[Tensor, Tensor] = _LogSumExp.apply(x, y, scale, group, shift, over)
    return out


class _LogSumExp(torch.autograd.Function):
    """Streaming log-sum-exp over (G, n, D) and, where given, (G, m, D); the gradient recomputes the similarities.

    No exponent exceeds ``shift``, where it is given. One set is the case y = x, in which a block of rows holds only the
    columns from its own first row on. Its similarities with the columns past its last row are also added to these
    vectors as rows.
    """

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor | None, scale: float, group: int, shift: float | None, over: Alone
    ) -> Tensor | tuple[Tensor, Tensor]:
        x, y = _accumulating(a), None if b is None else _accumulating(b)
        start = -torch.inf if shift is None else 0.0
        out_x = x.new_full(x.shape[:2], start)
        out_y = out_x if y is None else y.new_full(y.shape[:2], start)
        with torch.autocast(x.device.type, enabled=False):
            for g, rows, _, other, s in _blocks(x, y, scale, shift, group, over):
                later = s[..., s.shape[-1] - (other.stop - other.start) :]
                if shift is None:
                    out_x[g, rows] = torch.logaddexp(out_x[g, rows], torch.logsumexp(s, -1))
                    if later.numel():
                        out_y[g, other] = torch.logaddexp(out_y[g, other], torch.logsumexp(later, -2))
                else:
                    s.exp_()
                    out_x[g, rows] += s.sum(-1)
                    if later.numel():
                        out_y[g, other] += later.sum(-2)
        outs = (out_x,) if y is None else (out_x, out_y)
        if shift is None:
            over.add_up_logarithms(*outs)
        else:
            over.add_up(*outs)
            for out in outs:
                out.log_().add_(shift)
        ctx.save_for_backward(a, b, *outs)
        ctx.scale, ctx.shift, ctx.group, ctx.over = scale, shift, group, over
        return out_x if y is None else (out_x, out_y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        refuse_second_derivative("pairwise.logsumexp")
        a, b, *outs = ctx.saved_tensors
        x, y = _accumulating(a), None if b is None else _accumulating(b)
        shift, over = ctx.shift, ctx.over
        grads = over.added_up(grads)  # each process has that of its own rows
        # A vector without any pair has out = -inf; +inf in its place makes each of its weights exp(s - inf) = 0.
        norms = [torch.where(out > -torch.inf, out, torch.inf) for out in outs]
        # The pair (r, c) has weight grad_r exp(s - out_r) + grad_c exp(s - out_c): one exponential with a common shift.
        factors = [
            grad.to(x.dtype) * (1.0 if shift is None else torch.exp(shift - norm))
            for grad, norm in zip(grads, norms, strict=True)
        ]
        (norm_x, f_x), (norm_y, f_y) = (norms[0], factors[0]), (norms[-1], factors[-1])
        against = x if y is None else y
        grad_x = torch.zeros_like(x)
        grad_y = grad_x if y is None else torch.zeros_like(y)
        with torch.autocast(x.device.type, enabled=False):
            for g, rows, columns, other, s in _blocks(x, y, ctx.scale, shift, ctx.group, over):
                if shift is None:
                    w = torch.exp(s - norm_x[g, rows, None]).mul_(f_x[g, rows, None])
                    w += torch.exp(s - norm_y[g, None, columns]).mul_(f_y[g, None, columns])
                else:
                    w = s.exp_().mul_(f_x[g, rows, None] + f_y[g, None, columns])
                later = w[..., w.shape[-1] - (other.stop - other.start) :]
                if ctx.needs_input_grad[0]:
                    _add_product(grad_x[g, rows], w, against[g, columns])
                if later.numel() and (y is None or ctx.needs_input_grad[1]):
                    _add_product(grad_y[g, other], later.mT, x[g, rows])
        over.add_up(*((grad_x,) if y is None else (grad_x, grad_y)))
        return (
            grad_x.mul_(ctx.scale).to(a.dtype) if ctx.needs_input_grad[0] else None,
            grad_y.mul_(ctx.scale).to(b.dtype) if b is not None and ctx.needs_input_grad[1] else None,
            None,
            None,
            None,
            None,
        )


def _flat(x: Tensor) -> Tensor:
    return x.flatten(0, -3) if x.ndim > 2 else x.unsqueeze(0)


def _accumulating(x: Tensor) -> Tensor:
    """Convert half precision to float32, in which it is summed."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _longest(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(_accumulating(x.detach()), dim=-1).max()) if x.numel() else 0.0


def _add_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Add ``a @ b`` to ``out`` in place, of one pair of matrices or of several."""
    if out.ndim == 2:
        out.addmm_(a, b)
    else:
        out.baddbmm_(a, b)


Part = int | slice
"""One of the G sets of vectors, or several at once."""


def _blocks(
    x: Tensor, y: Tensor | None, scale: float, shift: float | None, group: int, over: Alone
) -> Iterator[tuple[Part, slice, slice, slice, Tensor]]:
    """Yield this process's blocks of ``scale * x y^T - shift``, ``-inf`` for excluded pairs.

    Each is (g, rows, columns, other, block), with ``other`` the columns at the block's end to whose own sums the block
    must still be added. All blocks share one buffer, which the caller may overwrite. On a GPU, sets that fit in a block
    together are one: g is then a slice, and the block (sets, rows, columns).
    """
    against = x if y is None else y
    G, n, m = len(x), x.shape[1], against.shape[1]
    elements = GPU_BLOCK_ELEMENTS if x.is_cuda else BLOCK_ELEMENTS
    # A CPU multiplies them one by one in the same time, and its cache holds no more.
    together = min(G, elements // max(1, n * m)) if x.is_cuda else 1
    parts: Iterable[Part] = range(G)
    if together > 1:
        parts = [slice(start, min(G, start + together)) for start in range(0, G, together)]
        buffer = x.new_empty(together * n * m)
    else:
        buffer = x.new_empty(min(n * m, max(MIN_ROWS * m, elements)))
    offset = x.new_full((), -(shift or 0.0))
    paired = 0
    if group > 1:
        paired = -(-m // group) * group  # rows past these have no column in their run
        runs = torch.arange(min(n, paired), device=x.device) // group * group  # first column of each row's run
        within = torch.arange(group, device=x.device)
    begin, end = over.rows(n, y is None)
    for g in parts:
        start = begin
        while start < end:
            first = start if y is None else 0
            stop = end if isinstance(g, slice) else min(end, start + max(MIN_ROWS, elements // max(1, m - first)))
            rows, columns = slice(start, stop), slice(first, m)
            a, b = x[g, rows], against[g, columns].mT
            shape = (*a.shape[:-1], m - first)
            s = buffer[: math.prod(shape)].view(shape)
            if isinstance(g, slice):
                torch.baddbmm(offset, a, b, alpha=scale, out=s)
            else:
                torch.addmm(offset, a, b, alpha=scale, out=s)
            if group == 1:
                torch.diagonal(s, start - first, -2, -1).fill_(-torch.inf)
            elif start < paired:
                # A run that begins before the block, or ends past it, has its first or last column there instead.
                hidden = (runs[start:stop, None] + (within - first)).clamp_(0, m - first - 1)
                s[..., : len(hidden), :].scatter_(-1, hidden.expand(*s.shape[:-2], -1, -1), -torch.inf)
            yield g, rows, columns, slice(stop if y is None else 0, m), s
            start = stop
