"""Parts about the log-sum-exp's candidates: are they right, and which is the fastest?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any
from unittest import mock

import torch
from kernels import KERNELS, PRECISIONS, products_in, used
from losses import CELLS, D, features, step
from timing import medians
from torch import Tensor
from torch.nn.functional import normalize

from cl_bench import uniformity
from cl_bench.errors import first_line
from cl_bench.losses import fused, pairwise
from cl_bench.losses.checks import gathering
from gpu.running import Setting

SCALE = 20.0  # temperature .05, where precision matters most
SHAPES = {"odd": ((301, 48), 7, SCALE), "NT-Xent": ((256, 128), 1, SCALE), "sets": ((5, 70, 20), 0, SCALE)}
LARGE = {"odd": ((301, 64), 7, SCALE), "COCO": ((25_088, D), 1, SCALE)}
MORE = {"cold": ((301, D), 7, 100.0), "sets": ((4, 768, D), 1, SCALE)}
"""Shape of the vectors, length of the runs that exclude each other, and scale: some that no tile divides. On a card all
candidates get the large ones, and those that are not compiled anew for each get more."""
SETTINGS = {"STL-10": (6144, 4), "COCO": (25_088, CELLS)}
"""Vectors in a batch's two views, and cells an image."""
WRONG = {"float32": (1e-4, 1e-4), "tf32": (5e-2, 2e-2), "float16": (5e-2, 2e-2)}
"""Errors of the log-sum-exp and its gradient beyond which a kernel is wrong, not imprecise: its time is not taken."""
TILES = (
    (64, 32, 4, 3), (64, 64, 4, 2), (64, 64, 4, 3), (64, 128, 4, 2), (64, 128, 4, 3), (128, 32, 8, 3), (128, 64, 8, 2),
    (128, 64, 8, 3), (128, 64, 4, 3), (128, 128, 8, 2), (128, 128, 8, 3),
)  # fmt: skip
"""Rows, columns, warps and stages of a program."""
ON_CPU = {
    "triton": "on a CPU Triton's interpreter runs it, whose time says nothing",
    "flex": "torch gives it no gradient on a CPU",
}


def errors(
    kernel: str, precision: str, shape: tuple[int, ...], group: int, scale: float, device: torch.device
) -> dict[str, float]:
    """Compare a kernel with the whole matrix in float64, with unequal gradients of its outputs.

    Returns:
        ``value``: the largest absolute error of a log-sum-exp. ``gradient``: the norm of its error, relative; left out
        on a CPU for ``flex``, which has none there.
    """
    draws = torch.Generator().manual_seed(0)
    x = normalize(torch.randn(shape, generator=draws, dtype=torch.float64), dim=-1).to(device)
    weights = torch.rand(shape[:-1], generator=draws, dtype=torch.float64).to(device) / x[..., 0].numel()
    backward = kernel != "flex" or device.type == "cuda"
    expected, gradient = _exact(x, weights, scale, group)
    with products_in(precision) as dtype:
        inputs = x.float().requires_grad_(backward)
        found = KERNELS[kernel](inputs, scale, group, dtype)
        out = {"value": (found.detach().double() - expected).abs().max().item()}
        if backward:
            (theirs,) = torch.autograd.grad((found * weights.to(found.dtype)).sum(), inputs)
            out["gradient"] = float((theirs.double() - gradient).norm() / gradient.norm())
    return out


def _exact(x: Tensor, weights: Tensor, scale: float, group: int) -> tuple[Tensor, Tensor]:
    """Compute the log-sum-exp and the gradient of its weighted sum in float64, 1,024 rows at a time."""
    x = x.clone().requires_grad_()
    columns = torch.arange(x.shape[-2], device=x.device)
    values, gradient = [], torch.zeros_like(x)
    for rows in columns.split(1024):
        s = scale * x[..., rows, :] @ x.mT
        if group:
            s = s.masked_fill(rows[:, None] // group == columns // group, -torch.inf)
        out = s.logsumexp(-1)
        gradient += torch.autograd.grad((out * weights[..., rows]).sum(), x)[0]
        values.append(out.detach())
    return torch.cat(values, -1), gradient


def kernel_values(setting: Setting) -> dict[str, Any]:
    """Compare every candidate with float64, by precision and shape, at temperature .05.

    Returns:
        By candidate and precision: its errors, ``ok`` where they are rounding, and the ``reason`` where it cannot run.
    """
    found: dict[str, Any] = {}
    for kernel in KERNELS:
        on_card = LARGE if kernel in ("full", "flex") else LARGE | MORE
        shapes = SHAPES if setting.device.type == "cpu" else on_card
        for precision in PRECISIONS:
            told: dict[str, Any] = {"errors": {}}
            found[f"{kernel}, {precision}"] = told
            try:
                for name, (shape, group, scale) in shapes.items():
                    told["errors"][name] = errors(kernel, precision, shape, group, scale, setting.device)
            except Exception as error:  # a candidate that cannot run here is told of beside the others
                told.update(ok=False, reason=first_line(error))
                continue
            of_value, of_gradient = WRONG[precision]
            told["ok"] = all(
                e["value"] < of_value and e.get("gradient", 0) < of_gradient for e in told["errors"].values()
            )
            if not told["ok"]:
                told["reason"] = f"errors beyond {of_value:g} of a value or {of_gradient:g} of a gradient"
    return found


def kernel_choices(setting: Setting, data: str) -> dict[str, Any]:
    """Time forward + backward of whole losses by every candidate that is right, beside lightly's and the full matrix.

    Returns:
        By loss: median seconds of each way, and their ratios to ``blocks, float32``; what was left out, and why.
    """
    told = setting.result("kernel values") or {"blocks, float32": {"ok": True}}
    left_out = {name: entry["reason"] for name, entry in told.items() if not entry["ok"]}
    if setting.device.type == "cpu":
        left_out |= {name: ON_CPU[name.split(",")[0]] for name in told if name.split(",")[0] in ON_CPU}
    if find_spec("lightly") is None:
        left_out["lightly"] = "lightly is missing: pip install lightly"
    usable = [name for name in told if name not in left_out]
    n, cells = SETTINGS[data]
    if setting.tiny:
        n = 8 * cells
    z = features(n, cells, setting.device)
    found: dict[str, Any] = {"n": n, "d": D, "left_out": left_out}
    for loss, run in LOSSES.items():
        ways = {name: (lambda name=name, run=run: _by(name, run, z)) for name in usable}
        if loss == "NT-Xent":
            peers = [peer for peer in ("full_matrix", "lightly") if peer not in left_out]
            ways |= {peer: (lambda peer=peer: step(peer, z)) for peer in peers}
            ways |= {f"{peer}, tf32": (lambda peer=peer: _in_tf32(peer, z)) for peer in peers}
        with gathering(setting.device):  # as in training, where the losses' checks make nobody wait
            found[loss] = _timed(ways, 1 if setting.tiny else 10)
    return found


def tiles(setting: Setting) -> dict[str, Any]:
    """Time Triton's two kernels by tile and precision, and cl-bench's blocks by the size of a block.

    Returns:
        By data set: seconds of forward and of backward by precision and tile, with the reason of those that cannot run;
        and of both by size of a block, in float32.
    """
    from cl_bench.losses import triton_kernels as triton

    found: dict[str, Any] = {}
    for data, (n, cells) in SETTINGS.items():
        x = torch.cat([part.flatten(0, 1) for part in features(8 * cells if setting.tiny else n, cells)]).detach()
        x = normalize(x, dim=-1).to(setting.device)[None]
        norm, factor = torch.full(x.shape[:2], 12.0, device=x.device), torch.ones(x.shape[:2], device=x.device)
        told: dict[str, Any] = {}
        for precision in ("float16", "tf32", "tf32x3"):
            if setting.device.type == "cpu":
                break
            y = x.half() if precision == "float16" else x
            ways = {}
            for tile in TILES:
                for way in ("forward", "backward"):
                    ways[f"{way}, {precision}, {'x'.join(map(str, tile))}"] = partial(
                        _launched, triton, way, y, norm, factor, precision, tile
                    )
            told[precision] = _timed(ways, 5, None)
        by_size = {}
        for power in range(18, 28, 1 if setting.device.type == "cuda" else 4):
            by_size[f"blocks of 2^{power}"] = partial(_in_blocks, x[0].clone().requires_grad_(), 2**power)
        found[data] = {"n": x.shape[1], **told, "blocks": _timed(by_size, 1 if setting.tiny else 5, None)}
    return found


def _launched(
    triton: Any, way: str, x: Tensor, norm: Tensor, factor: Tensor, precision: str, tile: tuple[int, ...]
) -> None:
    told = (5.0, 1, 5.0, precision, triton.Tile(*tile))
    if way == "forward":
        triton.values(x, x, *told)
    else:
        triton.gradient(x, x, (norm, factor), (norm, factor), *told)


def _in_blocks(x: Tensor, elements: int) -> None:
    by_size = mock.patch.object(pairwise, "GPU_BLOCK_ELEMENTS", elements)
    with by_size, mock.patch.object(fused, "serves", lambda x: False):
        pairwise.logsumexp(x, 5.0, 1, 1.0).sum().backward()  # type: ignore[no-untyped-call]  # not in torch's stubs


def _nt_xent(z: tuple[Tensor, Tensor]) -> object:
    return step("streaming", z)


def _in_tf32(peer: str, z: tuple[Tensor, Tensor]) -> None:
    with products_in("tf32"):
        step(peer, z)


def _uniformity(z: tuple[Tensor, Tensor]) -> object:
    both = torch.stack([uniformity(normalize(part, dim=-1), 2.0) for part in z])
    return torch.autograd.grad(both.sum(), z)


LOSSES = {"NT-Xent": _nt_xent, "L_u": _uniformity}
"""Forward and backward of each loss, from the head's outputs. InfoNCE with the negatives of both views is NT-Xent with
longer runs left out."""


def _by(name: str, run: Callable[[tuple[Tensor, Tensor]], object], z: tuple[Tensor, Tensor]) -> None:
    kernel, precision = name.split(", ")
    with used(kernel, precision):
        run(z)


def _timed(ways: dict[str, Callable[[], object]], rounds: int, ours: str | None = "blocks, float32") -> dict[str, Any]:
    """Time ways side by side, with ratios to ``ours``; one that cannot run is left out with its reason."""
    able, reasons = {}, {}
    for name, run in ways.items():
        try:
            run()
            able[name] = run
        except Exception as error:  # of memory, or of a compiler; the others are timed
            reasons[name] = first_line(error)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    if ours in reasons:
        raise RuntimeError(f"{ours}: {reasons[ours]}")
    seconds = medians(able, rounds)
    ratios = {name: s / seconds[ours] for name, s in seconds.items()} if ours else {}
    return {"seconds": seconds, "ratios": ratios, "left_out": reasons}
