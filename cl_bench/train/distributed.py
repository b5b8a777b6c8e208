"""Training of one model by several processes, each with its part of every batch, to the numbers of one process.

All start from the same weights and the same random numbers, add up their gradients and take the same step, so that
weights stay equal without being sent. It is the arithmetic of DistributedDataParallel with gradients in one piece: an
all-reduce of the parameters after a step's backward passes, which asks nothing of a plugin's head or of chunks.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import batch_norm
from torch.overrides import TorchFunctionMode

from cl_bench.losses.distributed import Alone, Together, shared_by
from cl_bench.losses.types import DenseViews, LossTerms
from cl_bench.methods.method import Method
from cl_bench.spec import AlignUniform, InfoNCE
from cl_bench.train.checkpoint import Checkpoint, State
from cl_bench.train.view_batches import PairOfViews


def join(rank: int, size: int, meeting: Path, device: torch.device) -> Together:
    """Meet the other processes of a model on this machine, over NCCL on GPUs and gloo on a CPU.

    Args:
        rank: Number of this process.
        size: Number of processes.
        meeting: File, the same for all of them and new, through which they find each other.
        device: Device of this process.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    own = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if own is not None:  # a host's name need not lead to the host
        os.environ.setdefault("GLOO_SOCKET_IFNAME", own)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, f"file://{meeting}", rank=rank, world_size=size)
    return Together()


def resumed(checkpoint: Checkpoint | None, like: State, device: torch.device, over: Alone) -> State | None:
    """Return the state to continue from, of the form of ``like``; the others read it once the first finds it sound."""
    state = checkpoint.load(like) if checkpoint and over.rank == 0 else None
    sound = bool(over.all(torch.tensor(over.rank > 0 or state is not None, device=device)))
    return checkpoint.load(like) if checkpoint and over.rank and sound else state


def synchronised(through: Callable[[PairOfViews], DenseViews], over: Alone) -> Callable[[PairOfViews], DenseViews]:
    """Return a forward pass whose batch norm takes its statistics over the images of all processes."""
    if not isinstance(over, Together):
        return through
    mode = _SynchronisedBatchNorm(over)

    def run(pair: PairOfViews) -> DenseViews:
        with mode:
            return through(pair)

    return run


def loss_of(method: Method, views: DenseViews, objective: InfoNCE | AlignUniform, over: Alone) -> LossTerms:
    """Compute the loss of the whole batch from a process's part of it.

    The built-in losses divide the work. A plugin's own loss, which may compare any images with any, gets the whole
    batch in every process; with chunks its images are in another order than in one process.
    """
    if type(method).loss is not Method.loss:
        return method.checked_loss(whole_views(views, over), objective)
    with shared_by(over):
        return method.checked_loss(views, objective)


def whole_views(views: DenseViews, over: Alone) -> DenseViews:
    """Return the views of all processes; only the own ``z1`` and ``z2`` have a gradient."""
    if over.size == 1:
        return views
    tensors = {name: over.whole(x) for name, x in vars(views).items() if name != "grid"}
    return DenseViews(**tensors, grid=views.grid)


def add_gradients(parameters: Sequence[torch.nn.Parameter], over: Alone) -> None:
    """Add up the gradients of the processes, in one piece for each type of number."""
    if over.size == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    for dtype in dict.fromkeys(g.dtype for g in gradients):
        some = [g for g in gradients if g.dtype == dtype]
        flat = torch.cat([g.flatten() for g in some])
        over.add_up(flat)
        for gradient, summed in zip(some, torch.split(flat, [g.numel() for g in some]), strict=True):
            gradient.copy_(summed.view_as(gradient))


class _SynchronisedBatchNorm(TorchFunctionMode):
    """Batch norm in training, whichever module calls it, over the images of all processes."""

    def __init__(self, over: Together) -> None:
        super().__init__()
        self._over = over

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is batch_norm:
            return self._normalised(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _normalised(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        out: Tensor
        if input.is_cuda:  # what nn.SyncBatchNorm calls, which takes no CPU tensor
            from torch.nn.modules._functions import SyncBatchNorm

            to = weight, bias, running_mean, running_var, eps, momentum, dist.group.WORLD, self._over.size
            out = SyncBatchNorm.apply(input, *to)
        else:
            out = _BatchNorm.apply(input, weight, bias, running_mean, running_var, momentum, eps, self._over)
        return out


class _BatchNorm(torch.autograd.Function):
    """Batch norm of (B, C, ...) over the equal parts of several processes, summed in at least float32."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
        over: Together,
    ) -> Tensor:
        wide = _wide(x)
        dims, shape = _other_dims(x)
        each = torch.stack(over.each(torch.stack(torch.var_mean(wide, dims, correction=0))))  # (N, 2, C)
        mean = each[:, 1].mean(0)
        variance = each[:, 0].mean(0) + each[:, 1].var(0, correction=0)
        count = over.size * x.numel() // x.shape[1]
        for running, now in ((running_mean, mean), (running_var, variance * count / max(1, count - 1))):
            if running is not None:
                running.lerp_(now.to(running.dtype), momentum)
        inverse = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.over, ctx.count, ctx.biased = over, count, bias is not None
        scale = inverse if weight is None else inverse * weight
        out = (wide - mean.view(shape)).mul_(scale.view(shape))
        return (out if bias is None else out.add_(bias.view(shape))).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        grad = _wide(grads[0])
        dims, shape = _other_dims(x)
        normal = (_wide(x) - mean.view(shape)).mul_(inverse.view(shape))
        own = torch.stack([grad.sum(dims), (grad * normal).sum(dims)])  # (2, C)
        (all_of_it,) = ctx.over.added_up((own,))
        by_shift, by_scale = (all_of_it / ctx.count).unbind()
        scale = inverse if weight is None else inverse * weight
        grad_x = (grad - by_shift.view(shape) - normal.mul_(by_scale.view(shape))).mul_(scale.view(shape))
        grad_weight = None if weight is None else own[1].to(weight.dtype)
        grad_bias = own[0].to(x.dtype if weight is None else weight.dtype) if ctx.biased else None
        return grad_x.to(x.dtype), grad_weight, grad_bias, None, None, None, None, None


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _other_dims(x: Tensor) -> tuple[list[int], list[int]]:
    """Return all dims of (B, C, ...) but C, and the shape in which (C,) is broadcast over them."""
    return [d for d in range(x.ndim) if d != 1], [1, -1, *[1] * (x.ndim - 2)]
