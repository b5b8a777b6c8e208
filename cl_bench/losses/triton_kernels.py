"""Triton kernels of the log-sum-exp over all pairs of vectors, and of its gradient: no similarity leaves the chip.

Both compute every similarity anew, in tiles, and each row's sum in one program, in the same order every time. Against
attention there are no values V, and the pair (r, c) weighs f_r exp(s - l_r) + f_c exp(s - l_c) in both gradients, that
of row r and that of column c. ``pairwise`` says when they are used.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = 1.4426950408889634  # exp2 is the hardware's exponential
INTERPRETED = bool(triton.knobs.runtime.interpret)


class Tile(NamedTuple):
    """Similarities that a program computes at a time, and how."""

    rows: int
    columns: int
    warps: int
    stages: int


VALUES_TILE = Tile(64, 64, 4, 3)
GRADIENT_TILES = {"float16": VALUES_TILE, "tf32": Tile(128, 64, 8, 2), "tf32x3": Tile(128, 64, 8, 2)}
"""Tiles that were fast on an H200, at n = 25,088 and d = 128, by the precision of products (benchmarks/README.md)."""


@triton.jit
def _tile(x, start, n, d, D: tl.constexpr, SIZE: tl.constexpr):
    index = start + tl.arange(0, SIZE)
    inside = (index[:, None] < n) & (d[None, :] < D)
    return index, tl.load(x + index[:, None] * D + d[None, :], mask=inside, other=0.0)


@triton.jit
def _own(x, y, n, m, D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    batch = tl.program_id(1).to(tl.int64)
    x += batch * n * D
    y += batch * m * D
    d = tl.arange(0, WIDTH)
    rows, a = _tile(x, tl.program_id(0) * ROWS, n, d, D, ROWS)
    return batch, y, d, rows, a


@triton.jit
def _scores(a, b, rows, columns, m, scale, shift, GROUP: tl.constexpr, PRECISION: tl.constexpr):
    s = tl.dot(a, tl.trans(b), input_precision=PRECISION) * scale - shift
    paired = columns[None, :] < m
    if GROUP > 0:
        paired = paired & ((rows // GROUP)[:, None] != (columns // GROUP)[None, :])
    return tl.where(paired, s, float("-inf"))


@triton.jit
def values_kernel(
    x,
    y,
    out,
    n,
    m,
    scale,
    shift,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    SHIFTED: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write ``values`` times log2(e), of the rows of one tile."""
    batch, y, d, rows, a = _own(x, y, n, m, D, WIDTH, ROWS)
    peak = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, m, COLUMNS):
        columns, b = _tile(y, start, m, d, D, COLUMNS)
        s = _scores(a, b, rows, columns, m, scale, shift, GROUP, PRECISION)
        if SHIFTED:
            total += tl.sum(tl.exp2(s), 1)
        else:
            higher = tl.maximum(peak, tl.max(s, 1))
            least = tl.where(higher == float("-inf"), 0.0, higher)
            total = total * tl.exp2(peak - least) + tl.sum(tl.exp2(s - least[:, None]), 1)
            peak = higher
    if SHIFTED:
        peak = tl.zeros((ROWS,), tl.float32)
    found = tl.where(total > 0, peak + shift + tl.log2(tl.where(total > 0, total, 1.0)), float("-inf"))
    tl.store(out + batch * n + rows, found, mask=rows < n)


@triton.jit
def gradient_kernel(
    x,
    y,
    norm_x,
    factor_x,
    norm_y,
    factor_y,
    out,
    n,
    m,
    scale,
    shift,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    SHIFTED: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write ``gradient``, of the rows of one tile."""
    batch, y, d, rows, a = _own(x, y, n, m, D, WIDTH, ROWS)
    factor_r = tl.load(factor_x + batch * n + rows, mask=rows < n, other=0.0)
    norm_r = tl.load(norm_x + batch * n + rows, mask=rows < n, other=float("inf"))
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, m, COLUMNS):
        columns, b = _tile(y, start, m, d, D, COLUMNS)
        s = _scores(a, b, rows, columns, m, scale, shift, GROUP, PRECISION)
        factor_c = tl.load(factor_y + batch * m + columns, mask=columns < m, other=0.0)
        if SHIFTED:
            w = tl.exp2(s) * (factor_r[:, None] + factor_c[None, :])
        else:
            norm_c = tl.load(norm_y + batch * m + columns, mask=columns < m, other=float("inf"))
            w = factor_r[:, None] * tl.exp2(s - norm_r[:, None]) + factor_c[None, :] * tl.exp2(s - norm_c[None, :])
        total = tl.dot(w.to(b.dtype), b, total, input_precision=PRECISION)
    tl.store(out + batch * n * D + rows[:, None] * D + d[None, :], total, mask=(rows[:, None] < n) & (d[None, :] < D))


def values(
    x: Tensor, y: Tensor, scale: float, group: int, shift: float | None, precision: str, tile: Tile = VALUES_TILE
) -> Tensor:
    """Compute ``log sum_c exp(scale * <x_r, y_c>)`` over the columns c that are not excluded for the row r.

    Args:
        x: (G, n, D) vectors of the rows.
        y: (G, m, D) vectors of the columns, of the same dtype.
        scale: Factor on the similarity.
        group: Length of runs: r and c exclude each other where ``r // group == c // group``; 0 excludes nothing.
        shift: What no exponent exceeds, if it is so small that its double can be an exponent; None otherwise.
        precision: Of products: ``float16`` of such vectors; of float32 ``tf32``, or ``tf32x3`` for three of them, which
            are nearly float32.
        tile: Similarities that a program computes at a time.

    Returns:
        (G, n) float32; ``-inf`` for a row without columns.
    """
    out = torch.empty(x.shape[:2], device=x.device)
    _launch(values_kernel, x, y, (), out, scale, group, shift, precision, tile)
    return out.div_(LOG2_E)


def gradient(
    x: Tensor,
    y: Tensor,
    of_rows: tuple[Tensor, Tensor],
    of_columns: tuple[Tensor, Tensor],
    scale: float,
    group: int,
    shift: float | None,
    precision: str,
    tile: Tile | None = None,
) -> Tensor:
    """Compute ``sum_c w_rc y_c`` with w = f_r exp(s - l_r) + f_c exp(s - l_c), (G, n, D) float32.

    Args:
        x: As in ``values``.
        y: As in ``values``.
        of_rows: l and f, each (G, n) float32: the log-sum-exp, ``inf`` for a vector without a pair, and the gradient of
            the loss with respect to it.
        of_columns: The same of the columns, each (G, m).
        scale: As in ``values``.
        group: As in ``values``.
        shift: As in ``values``.
        precision: As in ``values``.
        tile: As in ``values``; that of ``GRADIENT_TILES`` by default.
    """
    weights = []
    for norm, factor in (of_rows, of_columns):
        if shift is None:
            weights += [(norm * LOG2_E).contiguous(), factor.contiguous()]
        else:  # one exponential will do: f exp(s - l) = exp(s - shift) f exp(shift - l)
            weights += [norm, (factor * torch.exp(shift - norm)).contiguous()]
    out = torch.empty(x.shape, device=x.device)
    _launch(
        gradient_kernel, x, y, tuple(weights), out, scale, group, shift, precision, tile or GRADIENT_TILES[precision]
    )
    return out


def _launch(
    kernel: Any,
    x: Tensor,
    y: Tensor,
    weights: tuple[Tensor, ...],
    out: Tensor,
    scale: float,
    group: int,
    shift: float | None,
    precision: str,
    tile: Tile,
) -> None:
    G, n, width = x.shape
    kernel[(triton.cdiv(n, tile.rows), G)](
        x.contiguous(),
        y.contiguous(),
        *weights,
        out,
        n,
        y.shape[1],
        scale * LOG2_E,
        (shift or 0.0) * LOG2_E,
        D=width,
        WIDTH=max(16, triton.next_power_of_2(width)),
        GROUP=group,
        SHIFTED=shift is not None,
        PRECISION=precision if x.dtype == torch.float32 else "ieee",
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        **({} if INTERPRETED else {"num_warps": tile.warps, "num_stages": tile.stages}),
    )
