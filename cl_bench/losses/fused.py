"""Log-sum-exp over all pairs of vectors on a GPU, by ``triton_kernels`` in place of blocks.

They are used on cards on which they were measured to be faster (``benchmarks/gpu``), after a trial in this process, by
one process that has the whole batch. Products of float32 are three of TF32, which are nearly float32's own. Training
in bfloat16 rounds its projections to float16, an eighth of bfloat16's own rounding, and multiplies these exactly.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from cl_bench.errors import first_line
from cl_bench.losses.checks import refuse_second_derivative
from cl_bench.spec import Precision

Products = Literal["tf32x3", "float16"]
"""Precision in which similarities are multiplied; they are summed in float32."""

MEASURED = ((9, 0),)
"""Compute capabilities of the cards on which the kernels ran, on an H200, before their code was last tidied."""
WIDEST = 128
"""Largest number of features of a vector with which they ran."""
MOST_SETS = 2**16 - 1
"""Largest number of sets of vectors in one launch."""
LARGEST_WEIGHT = 2.0**14
"""Twice this is within float16, whose smallest values would otherwise lose a mean's weights, 1 / n^2 each."""
ROUNDING = {"tf32x3": (2e-4, 1e-4), "float16": (2e-4, 5e-3)}
"""Largest error of a log-sum-exp, absolute, and of its gradient, relative, in the trial."""

_products: ContextVar[Products] = ContextVar("_products", default="tf32x3")


@contextmanager
def in_halves(precision: Precision) -> Iterator[None]:
    """Multiply float16 within the context where the kernels are used, if a training's precision is bfloat16.

    Its vectors are ``rounded_to_half``.
    """
    token = _products.set("float16" if precision == "bfloat16" else _products.get())
    try:
        yield
    finally:
        _products.reset(token)


def rounded_to_half(x: Tensor) -> Tensor:
    """Round to the values of float16, as far as it reaches, in the dtype of ``x`` and with the gradient of ``x``."""
    values = x.detach()
    near = torch.where(values.abs() <= torch.finfo(torch.float16).max, values.half().to(x.dtype), values)
    return x + (near - values)  # exact: x and its rounding are neighbours


def products() -> Products:
    """Return the precision of products here."""
    return _products.get()


def serves(x: Tensor) -> bool:
    """Return whether the kernels are used for these (G, n, D) vectors; the first time, on each GPU, they are tried."""
    if not x.is_cuda or x.dtype != torch.float32 or x.shape[-1] > WIDEST or not 0 < len(x) <= MOST_SETS:
        return False
    return x.shape[1] > 0 and works_on(x.device, products())


@cache
def works_on(device: torch.device, products: Products) -> bool:
    """Return whether the kernels were measured on such a GPU and give the right numbers on this one.

    Where they do not, a warning says why: Triton needs a C compiler, for one.
    """
    if torch.cuda.get_device_capability(device) not in MEASURED:
        return False
    try:
        with torch.inference_mode(False):
            wrong = _wrong(device, products)
    except Exception as error:  # of Triton, its compiler or its driver: the blocks do without them
        wrong = first_line(error)
    if wrong:
        warnings.warn(f"the losses do without Triton's kernels on {device}: {wrong}", stacklevel=2)
    return not wrong


def _wrong(device: torch.device, products: Products) -> str:
    """Compare with all similarities in float64; return what is wrong, or nothing."""
    cpu = torch.device("cpu")
    draws = torch.Generator().manual_seed(0)
    x = rounded_to_half(torch.nn.functional.normalize(torch.randn(1, 150, 48, generator=draws, device=cpu), dim=-1))
    weights = torch.rand(1, 150, generator=draws, device=cpu)
    for scale, shift in ((5.0, 5.1), (50.0, None)):  # one shift for all, and each row's own maximum
        exact, tried = x.double().requires_grad_(), x.to(device).requires_grad_()
        with torch.enable_grad():
            runs = torch.arange(150, device=cpu) // 7
            s = (scale * exact @ exact.mT).masked_fill(runs[:, None] == runs, -torch.inf)
            expected = s.logsumexp(-1)
            found = logsumexp(tried, None, scale, 7, shift, products)
            assert isinstance(found, Tensor)
            gradients = [
                torch.autograd.grad((out * weights.to(out)).sum(), of)[0].cpu().double()
                for out, of in ((expected, exact), (found, tried))
            ]
        of_value = float((found.detach().cpu().double() - expected.detach()).abs().max())
        of_gradient = float((gradients[1] - gradients[0]).norm() / gradients[0].norm())
        allowed = ROUNDING[products]
        if not (of_value <= allowed[0] and of_gradient <= allowed[1]):
            return f"in a trial they were off by {of_value:.1g} in a value and {of_gradient:.1g} in a gradient"
    return ""


def logsumexp(
    x: Tensor, y: Tensor | None, scale: float, group: int, shift: float | None, products: Products
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute ``pairwise.logsumexp`` of (G, n, D) vectors, or ``logsumexp_between`` those and (G, m, D).

    No exponent exceeds ``shift``, where that is small enough for its double to be an exponent; otherwise it is None.
    """
    out: Tensor | tuple[Tensor, Tensor] = _LogSumExp.apply(x, y, scale, group, shift, products)
    return out


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor | None, scale: float, group: int, shift: float | None, products: Products
    ) -> Tensor | tuple[Tensor, Tensor]:
        from cl_bench.losses import triton_kernels as kernels

        dtype = torch.float16 if products == "float16" else a.dtype
        x, y = a.to(dtype), None if b is None else b.to(dtype)
        ctx.told = scale, group, shift, products
        ctx.scale, ctx.magnified = scale, products == "float16"
        out_x = kernels.values(x, x if y is None else y, *ctx.told)
        if y is None:
            ctx.save_for_backward(x, y, out_x)
            return out_x
        out_y = kernels.values(y, x, *ctx.told)
        ctx.save_for_backward(x, y, out_x, out_y)
        return out_x, out_y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        from cl_bench.losses import triton_kernels as kernels

        refuse_second_derivative("pairwise.logsumexp")
        x, y, *outs = ctx.saved_tensors
        unit: Tensor | float = 1.0
        if ctx.magnified:
            largest = torch.stack([grad.abs().max() for grad in grads]).max()
            unit = largest.clamp_min(1e-30) / LARGEST_WEIGHT
            grads = tuple(grad / unit for grad in grads)
        # A vector without any pair has out = -inf; +inf in its place makes each of its weights exp(s - inf) = 0.
        norms = [torch.where(out > -torch.inf, out, torch.inf) for out in outs]
        of = [*zip(norms, (grad.contiguous() for grad in grads), strict=True)]
        of_x, of_y = of[0], of[-1]
        grad_x = grad_y = None
        if ctx.needs_input_grad[0]:
            grad_x = kernels.gradient(x, x if y is None else y, of_x, of_y, *ctx.told).mul_(ctx.scale * unit)
        if y is not None and ctx.needs_input_grad[1]:
            grad_y = kernels.gradient(y, x, of_y, of_x, *ctx.told).mul_(ctx.scale * unit)
        return grad_x, grad_y, None, None, None, None
