"""Triton kernels of the log-sum-exp over all pairs within one set, and of its gradient.

They have never run on a card. Their values were checked on a CPU by Triton's interpreter (TRITON_INTERPRET=1, set
before this module is imported), and they compile for an H100.

Both compute every similarity anew, in tiles that never leave the chip, and each row's sum in one program, in the same
order every time. Against attention there are no values V, and the two gradients of attention, of queries and of keys,
are one: the pair (r, c) weighs f_r exp(s - l_r) + f_c exp(s - l_c) for both.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = 1.4426950408889634  # exp2 is the hardware's exponential
INTERPRETED = bool(triton.knobs.runtime.interpret)
TILES = [
    triton.Config({"ROWS": rows, "COLUMNS": columns}, num_warps=warps, num_stages=stages)
    for rows, columns, warps, stages in ((64, 64, 4, 2), (128, 64, 8, 2), (128, 128, 8, 2))
]


def _worth_trying(tiles: list[Any], tensors: dict[str, Any], **told: Any) -> list[Any]:
    """Return the smallest tile alone where tensor cores are of no use, because others then compile for a minute."""
    return tiles[:1] if told["PRECISION"] == "ieee" and tensors["x"].dtype == torch.float32 else tiles


def _tuned(kernel: Any) -> Any:
    """Choose the fastest tile for each size on a card; the interpreter takes the first."""
    if INTERPRETED:
        return kernel
    prune = {"early_config_prune": _worth_trying}
    return triton.autotune(TILES, key=["n", "D", "PRECISION"], prune_configs_by=prune)(kernel)


@triton.jit
def _tile(x, start, n, d, D: tl.constexpr, SIZE: tl.constexpr):
    index = start + tl.arange(0, SIZE)
    inside = (index[:, None] < n) & (d[None, :] < D)
    return index, tl.load(x + index[:, None] * D + d[None, :], mask=inside, other=0.0)


@triton.jit
def _scores(a, b, rows, columns, n, scale, GROUP: tl.constexpr, PRECISION: tl.constexpr):
    s = tl.dot(a, tl.trans(b), input_precision=PRECISION) * scale
    paired = columns[None, :] < n
    if GROUP > 0:
        paired = paired & ((rows // GROUP)[:, None] != (columns // GROUP)[None, :])
    return tl.where(paired, s, float("-inf"))


@_tuned
@triton.jit
def _values_kernel(
    x,
    out,
    n,
    scale,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    batch = tl.program_id(1).to(tl.int64)
    x += batch * n * D
    d = tl.arange(0, WIDTH)
    rows, a = _tile(x, tl.program_id(0) * ROWS, n, d, D, ROWS)
    peak = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, n, COLUMNS):
        columns, b = _tile(x, start, n, d, D, COLUMNS)
        s = _scores(a, b, rows, columns, n, scale, GROUP, PRECISION)
        higher = tl.maximum(peak, tl.max(s, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp2(peak - shift) + tl.sum(tl.exp2(s - shift[:, None]), 1)
        peak = higher
    found = tl.where(total > 0, peak + tl.log2(tl.where(total > 0, total, 1.0)), float("-inf"))
    tl.store(out + batch * n + rows, found, mask=rows < n)


@_tuned
@triton.jit
def _gradient_kernel(
    x,
    norm,
    factor,
    out,
    n,
    scale,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    batch = tl.program_id(1).to(tl.int64)
    x += batch * n * D
    norm += batch * n
    factor += batch * n
    d = tl.arange(0, WIDTH)
    rows, a = _tile(x, tl.program_id(0) * ROWS, n, d, D, ROWS)
    norm_r = tl.load(norm + rows, mask=rows < n, other=float("inf"))
    factor_r = tl.load(factor + rows, mask=rows < n, other=0.0)
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, n, COLUMNS):
        columns, b = _tile(x, start, n, d, D, COLUMNS)
        s = _scores(a, b, rows, columns, n, scale, GROUP, PRECISION)
        norm_c = tl.load(norm + columns, mask=columns < n, other=float("inf"))
        factor_c = tl.load(factor + columns, mask=columns < n, other=0.0)
        w = factor_r[:, None] * tl.exp2(s - norm_r[:, None]) + factor_c[None, :] * tl.exp2(s - norm_c[None, :])
        total = tl.dot(w.to(b.dtype), b, total, input_precision=PRECISION)
    tl.store(out + batch * n * D + rows[:, None] * D + d[None, :], total, mask=(rows[:, None] < n) & (d[None, :] < D))


def values(x: Tensor, scale: float, group: int) -> Tensor:
    """Compute ``pairwise.logsumexp`` of (..., n, D) vectors: (..., n) float32."""
    x = x.contiguous()
    out = torch.empty(x.shape[:-1], device=x.device)
    _launch(_values_kernel, x, (out,), scale, group)
    return out / LOG2_E


def gradient(x: Tensor, norm: Tensor, factor: Tensor, scale: float, group: int) -> Tensor:
    """Compute ``sum_c w_rc x_c`` with w = f_r exp(s - l_r) + f_c exp(s - l_c), (..., n, D) float32.

    Args:
        x: (..., n, D) vectors.
        norm: (..., n) float32, l: the log-sum-exp, ``inf`` for a vector without a pair.
        factor: (..., n) float32, f: the gradient of the loss with respect to l.
        scale: As in ``values``.
        group: As in ``values``.
    """
    x = x.contiguous()
    out = torch.empty(x.shape, device=x.device)
    _launch(_gradient_kernel, x, ((norm * LOG2_E).contiguous(), factor.contiguous(), out), scale, group)
    return out


def _launch(kernel: Any, x: Tensor, tensors: tuple[Tensor, ...], scale: float, group: int) -> None:
    n, width = x.shape[-2:]
    batches = x.shape[:-2].numel()
    tiles = {"ROWS": 64, "COLUMNS": 64} if INTERPRETED else {}
    kernel[lambda told: (triton.cdiv(n, told["ROWS"]), batches)](
        x,
        *tensors,
        n,
        scale * LOG2_E,
        D=width,
        WIDTH=max(16, triton.next_power_of_2(width)),
        GROUP=group,
        PRECISION="tf32" if torch.get_float32_matmul_precision() == "high" else "ieee",
        **tiles,
    )
