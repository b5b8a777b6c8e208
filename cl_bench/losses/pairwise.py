"""Log-sum-exp of scaled similarities over all pairs of vectors, the only computation that is O(n^2).

Similarities are computed in blocks of rows that fit in a core's cache, and again in the backward pass, so memory is
O(n d). Within one set, a pair from two blocks is computed once and used for both of its vectors: with many
blocks, forward and backward together cost two products of n x n x d, and n^2 exponentials (2 n^2 past SAFE_EXPONENT).
Processes that share a batch (``losses.distributed``) divide these blocks: a set is then that of all of them together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cl_bench.losses.distributed import Alone, processes

BLOCK_ELEMENTS = 2**18  # similarities held at a time: 1 MB in float32, within a core's cache
GPU_BLOCK_ELEMENTS = 2**22  # 16 MB, within the cache of a large GPU; calculated, not measured
MIN_ROWS = 128  # with fewer rows a block, the matrix product dominates the time
SAFE_EXPONENT = 30.0  # exp(-2 * 30) is a normal float32, and exp(2 * 30) times a gradient, even a scaled one, finite


def logsumexp(x: Tensor, scale: float, group: int = 0) -> Tensor:
    """Compute ``out[r] = log sum_c exp(scale * <x_r, x_c>)`` over the vectors c that are not excluded for r.

    Args:
        x: (..., n, D) vectors.
        scale: Factor on the similarity (1 / temperature).
        group: Length of runs of consecutive vectors that exclude each other: r skips c where
            ``r // group == c // group``. 1 skips the vector itself, 0 skips nothing.

    Returns:
        (..., n), in at least float32; ``-inf`` for a vector for which all others are excluded.

    Raises:
        RuntimeError: If a second derivative is requested.
    """
    over = processes()
    out: Tensor = _LogSumExp.apply(over.whole(_flat(x), 1), None, float(scale), int(group), over)
    return over.own(out, 1).reshape(x.shape[:-1])


def logsumexp_between(x: Tensor, y: Tensor, scale: float, group: int = 0) -> tuple[Tensor, Tensor]:
    """Compute ``log sum exp(scale * <x_r, y_c>)`` both ways: over c for each r, and over r for each c.

    Args:
        x: (..., n, D) vectors.
        y: (..., m, D) vectors.
        scale: Factor on the similarity, as in ``logsumexp``.
        group: Length of runs, as in ``logsumexp``: row r and column c exclude each other where
            ``r // group == c // group``.

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
    rows, columns = _LogSumExp.apply(whole_x, whole_y, float(scale), int(group), over)
    return over.own(rows, 1).reshape(x.shape[:-1]), over.own(columns, 1).reshape(y.shape[:-1])


class _LogSumExp(torch.autograd.Function):
    """Streaming log-sum-exp over (G, n, D) and, where given, (G, m, D); the gradient recomputes the similarities.

    One set is the case y = x, in which a block of rows holds only the columns from its own first row on. Its
    similarities with the columns past its last row are also added to these vectors as rows.
    """

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor | None, scale: float, group: int, over: Alone
    ) -> Tensor | tuple[Tensor, Tensor]:
        x, y = _accumulating(a), None if b is None else _accumulating(b)
        # Where every exponent is known to be small, one common shift works as well as each row's own maximum.
        bound = abs(scale) * _longest(x) * _longest(x if y is None else y)
        shift = bound if bound <= SAFE_EXPONENT else None
        start = -torch.inf if shift is None else 0.0
        out_x = x.new_full(x.shape[:2], start)
        out_y = out_x if y is None else y.new_full(y.shape[:2], start)
        with torch.autocast(x.device.type, enabled=False):
            for g, rows, columns, other, s in _blocks(x, y, scale, shift, group, over):
                if shift is None:
                    out_x[g, rows] = torch.logaddexp(out_x[g, rows], torch.logsumexp(s, 1))
                    mirrored = torch.logsumexp(s[:, other.start - columns.start :], 0)
                    out_y[g, other] = torch.logaddexp(out_y[g, other], mirrored)
                else:
                    s.exp_()
                    out_x[g, rows] += s.sum(1)
                    out_y[g, other] += s[:, other.start - columns.start :].sum(0)
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
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError("pairwise.logsumexp has no second derivative: differentiate it without create_graph")
        a, b, *outs = ctx.saved_tensors
        x, y = _accumulating(a), None if b is None else _accumulating(b)
        shift, over = ctx.shift, ctx.over
        grads = over.added_up(grads)  # each process has that of its own rows
        # A vector without any pair has out = -inf; +inf in its place makes each of its weights exp(s - inf) = 0.
        norms = [torch.where(torch.isfinite(out), out, torch.inf) for out in outs]
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
                    w += torch.exp(s - norm_y[g, columns]).mul_(f_y[g, columns])
                else:
                    w = s.exp_().mul_(f_x[g, rows, None] + f_y[g, columns])
                if ctx.needs_input_grad[0]:
                    grad_x[g, rows].addmm_(w, against[g, columns])
                if y is None or ctx.needs_input_grad[1]:
                    grad_y[g, other].addmm_(w[:, other.start - columns.start :].mT, x[g, rows])
        over.add_up(*((grad_x,) if y is None else (grad_x, grad_y)))
        return (
            grad_x.mul_(ctx.scale).to(a.dtype) if ctx.needs_input_grad[0] else None,
            grad_y.mul_(ctx.scale).to(b.dtype) if b is not None and ctx.needs_input_grad[1] else None,
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
    return float(torch.linalg.vector_norm(x, dim=-1).max()) if x.numel() else 0.0


def _blocks(
    x: Tensor, y: Tensor | None, scale: float, shift: float | None, group: int, over: Alone
) -> Iterator[tuple[int, slice, slice, slice, Tensor]]:
    """Yield this process's blocks of ``scale * x y^T - shift``, ``-inf`` for excluded pairs.

    Each is (g, rows, columns, other, block), with ``other`` the columns at the block's end to whose own sums the block
    must still be added. All blocks share one buffer, which the caller may overwrite.
    """
    against = x if y is None else y
    n, m = x.shape[1], against.shape[1]
    elements = GPU_BLOCK_ELEMENTS if x.is_cuda else BLOCK_ELEMENTS
    buffer = x.new_empty(min(n * m, max(MIN_ROWS * m, elements)))
    offset = x.new_full((), -(shift or 0.0))
    begin, end = over.rows(n, y is None)
    for g in range(len(x)):
        start = begin
        while start < end:
            first = start if y is None else 0
            stop = min(end, start + max(MIN_ROWS, elements // max(1, m - first)))
            rows, columns = slice(start, stop), slice(first, m)
            s = buffer[: (stop - start) * (m - first)].view(stop - start, m - first)
            torch.addmm(offset, x[g, rows], against[g, columns].mT, alpha=scale, out=s)
            if group == 1:
                torch.diagonal(s, offset=start - first).fill_(-torch.inf)
            elif group:
                for r in range(start // group, (stop - 1) // group + 1):
                    lo, hi = max(start, r * group), min(stop, (r + 1) * group)
                    s[lo - start : hi - start, max(0, r * group - first) : (r + 1) * group - first] = -torch.inf
            yield g, rows, columns, slice(stop if y is None else 0, m), s
            start = stop
