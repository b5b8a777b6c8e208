"""Log-sum-exp of scaled similarities over all pairs of two sets: the only O(n^2) place.

Rows are worked through in blocks and recomputed in the backward pass, so memory stays O(n d).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK_ELEMENTS = 2**20  # similarities held at a time: 4 MB in float32, about one core's cache


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
        for g, rows in _blocks(x, y):
            s = _similarities(x, y, g, rows, scale, group)
            out[g, rows] = torch.logsumexp(s, dim=-1)
        ctx.save_for_backward(a, b, out)
        ctx.scale, ctx.group = scale, group
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError("pairwise.logsumexp has no second derivative: differentiate it without create_graph")
        a, b, out = ctx.saved_tensors
        x = _accumulating(a)
        y = x if b is None else _accumulating(b)
        need_rows, need_columns = ctx.needs_input_grad[0], b is not None and ctx.needs_input_grad[1]
        grad_x = torch.zeros_like(x)
        grad_y = torch.zeros_like(y) if need_columns else None
        # A row that saw nothing has out = -inf; +inf in its place makes every weight exp(s - inf) = 0.
        norm = torch.where(torch.isfinite(out), out, torch.inf)
        grad = grad.to(x.dtype)
        for g, rows in _blocks(x, y):
            s = _similarities(x, y, g, rows, ctx.scale, ctx.group)
            w = torch.exp(s - norm[g, rows, None]).mul_(grad[g, rows, None])
            if b is None:  # s_rc = s_cr: the weight of the pair as (column, row) comes with it
                w += torch.exp(s - norm[g, None, :]).mul_(grad[g, None, :])
            grad_x[g, rows] = w @ y[g]
            if grad_y is not None:
                grad_y[g] += w.mT @ x[g, rows]
        return (
            (grad_x * ctx.scale).to(a.dtype) if need_rows else None,
            (grad_y * ctx.scale).to(b.dtype) if grad_y is not None else None,
            None,
            None,
        )


def _accumulating(x: Tensor) -> Tensor:
    """Half precision is summed in float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _blocks(x: Tensor, y: Tensor) -> list[tuple[int, slice]]:
    G, n = x.shape[:2]
    step = max(1, BLOCK_ELEMENTS // max(1, y.shape[1]))
    return [(g, slice(start, min(n, start + step))) for g in range(G) for start in range(0, n, step)]


def _similarities(x: Tensor, y: Tensor, g: int, rows: slice, scale: float, group: int) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        s = x[g, rows] @ y[g].mT
    s *= scale
    if group == 1:
        torch.diagonal(s, offset=rows.start).fill_(-torch.inf)
    elif group:
        for r in range(rows.start // group, (rows.stop - 1) // group + 1):
            lo, hi = max(rows.start, r * group), min(rows.stop, (r + 1) * group)
            s[lo - rows.start : hi - rows.start, r * group : (r + 1) * group] = -torch.inf
    return s
