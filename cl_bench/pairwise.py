"""Log-sum-exp of scaled similarities over all pairs of two sets: the only O(n^2) place.

Rows are worked through in blocks that stay in a core's cache and are recomputed in the backward pass, so memory is
O(n d) and a pair costs one exponential each way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

BLOCK_ELEMENTS = 2**18  # similarities held at a time: 1 MB in float32, within a core's cache
MIN_ROWS = 128  # with fewer rows a block, the matrix product is what takes the time
SAFE_EXPONENT = 40.0  # exp(-2 * 40) is a normal float32


def logsumexp(a: Tensor, b: Tensor | None, scale: float, group: int = 0) -> Tensor:
    """``out[r] = log sum_c exp(scale * <a_r, b_c>)`` over the columns c that row r may see.

    Args:
        a: (..., n, D) rows.
        b: (..., m, D) columns; None for the rows themselves, which takes one matrix product less.
        scale: Factor on the similarity (1 / temperature).
        group: Consecutive rows and columns in runs of this length do not see each other: row r skips column c where
            ``r // group == c // group``. 1 skips the row itself, 0 skips nothing.

    Returns:
        (..., n), in at least float32; ``-inf`` for a row that sees nothing.

    Raises:
        RuntimeError: A second derivative is asked for.
    """
    rows = a.flatten(0, -3) if a.ndim > 2 else a.unsqueeze(0)
    columns = None if b is None else (b.flatten(0, -3) if b.ndim > 2 else b.unsqueeze(0))
    out: Tensor = _LogSumExp.apply(rows, columns, float(scale), int(group))
    return out.reshape(a.shape[:-1])


class _LogSumExp(torch.autograd.Function):
    """Streaming log-sum-exp over (G, n, D) x (G, m, D); the gradient recomputes the similarities."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor | None, scale: float, group: int) -> Tensor:
        x = _accumulating(a)
        y = x if b is None else _accumulating(b)
        out = x.new_empty(x.shape[:2])
        # Where every exponent is known to be small, one shift for all serves as well as each row's own largest.
        bound = scale * float(_longest(x) * _longest(y)) if x.numel() and y.numel() else 0.0
        shift = bound if bound <= SAFE_EXPONENT else None
        with torch.autocast(x.device.type, enabled=False):
            for g, rows, s in _similarities(x, y, scale, shift, group):
                if shift is None:
                    out[g, rows] = torch.logsumexp(s, dim=-1)
                else:
                    out[g, rows] = s.exp_().sum(-1).log_().add_(shift)
        ctx.save_for_backward(a, b, out)
        ctx.scale, ctx.shift, ctx.group = scale, shift, group
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError("pairwise.logsumexp has no second derivative: differentiate it without create_graph")
        a, b, out = ctx.saved_tensors
        x = _accumulating(a)
        y = x if b is None else _accumulating(b)
        need_rows, need_columns = ctx.needs_input_grad[0], b is not None and ctx.needs_input_grad[1]
        grad_x = torch.empty_like(x)
        grad_y = torch.zeros_like(y) if need_columns else None
        # A row that saw nothing has out = -inf; +inf in its place makes each of its weights exp(s - inf) = 0.
        norm = torch.where(torch.isfinite(out), out, torch.inf)
        grad = grad.to(x.dtype)
        shift = ctx.shift
        # The gradient of the pair (r, c) is grad_r exp(s - out_r); where the columns are the rows it comes back as
        # (c, r), since s_rc = s_cr. With a common shift both share one exponential.
        factor = None if shift is None else grad * torch.exp(shift - norm)
        with torch.autocast(x.device.type, enabled=False):
            for g, rows, s in _similarities(x, y, ctx.scale, shift, ctx.group):
                if factor is not None:
                    w, f = s.exp_(), factor[g, rows, None]
                    w *= f if b is not None else f + factor[g]
                else:
                    w = torch.exp(s - norm[g, rows, None]).mul_(grad[g, rows, None])
                    if b is None:
                        w += torch.exp(s - norm[g]).mul_(grad[g])
                torch.mm(w, y[g], out=grad_x[g, rows])
                if grad_y is not None:
                    grad_y[g].addmm_(w.mT, x[g, rows])
        return (
            grad_x.mul_(ctx.scale).to(a.dtype) if need_rows else None,
            grad_y.mul_(ctx.scale).to(b.dtype) if grad_y is not None else None,
            None,
            None,
        )


def _accumulating(x: Tensor) -> Tensor:
    """Half precision is summed in float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _longest(x: Tensor) -> Tensor:
    longest: Tensor = torch.linalg.vector_norm(x, dim=-1).max()
    return longest


def _similarities(
    x: Tensor, y: Tensor, scale: float, shift: float | None, group: int
) -> Iterator[tuple[int, slice, Tensor]]:
    """Blocks of rows of ``scale * x y^T - shift`` with ``-inf`` where a pair does not see each other.

    Each block lives in the same buffer, for the caller to overwrite.
    """
    n, m = x.shape[1], y.shape[1]
    step = min(n, max(MIN_ROWS, BLOCK_ELEMENTS // max(1, m)))
    buffer = x.new_empty(step, m)
    offset = x.new_full((), -(shift or 0.0))
    for g in range(len(x)):
        for start in range(0, n, step):
            rows = slice(start, min(n, start + step))
            s = buffer[: rows.stop - rows.start]
            torch.addmm(offset, x[g, rows], y[g].mT, alpha=scale, out=s)
            if group == 1:
                torch.diagonal(s, offset=start).fill_(-torch.inf)
            elif group:
                for r in range(rows.start // group, (rows.stop - 1) // group + 1):
                    lo, hi = max(rows.start, r * group), min(rows.stop, (r + 1) * group)
                    s[lo - rows.start : hi - rows.start, r * group : (r + 1) * group] = -torch.inf
            yield g, rows, s
