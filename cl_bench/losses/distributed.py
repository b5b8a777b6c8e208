"""Losses of a batch that several processes share: each passes its own images, and every loss is the whole batch's.

Each process computes the same scalar. Its gradient reaches the process's own features, where that of the whole batch in
one process would; gradients of parameters are therefore added up over the processes, not averaged. Features are
gathered once, n x d numbers, which are few beside an encoder's activations; a ring would take as many rounds as there
are processes. The n^2 pairs are divided: each process sums blocks over rows of its own, and sums are added up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


class Alone:
    """One process that has the whole batch.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
    """

    rank, size = 0, 1

    def total(self, x: Tensor) -> Tensor:
        """Add up a tensor over the processes, with gradient."""
        return x

    def logsumexp(self, x: Tensor) -> Tensor:
        """Compute the log-sum-exp of the numbers (n,) of all processes, with gradient."""
        return torch.logsumexp(x, 0)

    def whole(self, x: Tensor, dim: int = 0) -> Tensor:
        """Concatenate a tensor of all processes, in the order of their ranks; only the own part has a gradient."""
        return x

    def own(self, x: Tensor, dim: int = 0) -> Tensor:
        """Return this process's part of what ``whole`` concatenated."""
        return x

    def rows(self, n: int, mirrored: bool) -> tuple[int, int]:
        """Return the first and the last (exclusive) of the n rows whose pairs this process sums.

        Args:
            n: Number of rows.
            mirrored: Whether a row has only the pairs with later rows, so that the first rows have the most.
        """
        return 0, n

    def add_up(self, *sums: Tensor) -> None:
        """Add up contiguous tensors over the processes, in place."""

    def added_up(self, sums: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Add up tensors over the processes."""
        return sums

    def add_up_logarithms(self, *sums: Tensor) -> None:
        """Add up contiguous tensors that hold logarithms of sums, in place."""

    def all(self, flag: Tensor) -> Tensor:
        """Return whether a flag (a bool scalar) is True in every process."""
        return flag


class Together(Alone):
    """The processes of torch.distributed's default group, with equal parts of a batch."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def total(self, x: Tensor) -> Tensor:
        """Add up a tensor over the processes, with gradient."""
        out: Tensor = _Total.apply(x)
        return out

    def logsumexp(self, x: Tensor) -> Tensor:
        """Compute the log-sum-exp of the numbers (n,) of all processes, with gradient."""
        own = torch.logsumexp(x, 0)
        highest = own.detach().clone()
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        return self.total((own - highest).exp()).log() + highest

    def whole(self, x: Tensor, dim: int = 0) -> Tensor:
        """Concatenate a tensor of all processes, in the order of their ranks; only the own part has a gradient."""
        parts = self.each(x.detach())
        return torch.cat([*parts[: self.rank], x, *parts[self.rank + 1 :]], dim)

    def each(self, x: Tensor) -> list[Tensor]:
        """Return a tensor of every process, without gradient."""
        sent = x.contiguous()
        parts = [torch.empty_like(sent) for _ in range(self.size)]
        dist.all_gather(parts, sent)
        return parts

    def own(self, x: Tensor, dim: int = 0) -> Tensor:
        """Return this process's part of what ``whole`` concatenated."""
        return x.chunk(self.size, dim)[self.rank]

    def rows(self, n: int, mirrored: bool) -> tuple[int, int]:
        """Return the first and the last (exclusive) of the n rows whose pairs this process sums."""

        def bound(k: int) -> int:
            share = k / self.size
            return round(n * (1 - math.sqrt(1 - share) if mirrored else share))

        return bound(self.rank), bound(self.rank + 1)

    def add_up(self, *sums: Tensor) -> None:
        """Add up contiguous tensors over the processes, in place."""
        for x in sums:
            dist.all_reduce(x)

    def added_up(self, sums: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Add up tensors over the processes."""
        out = tuple(x.clone(memory_format=torch.contiguous_format) for x in sums)
        self.add_up(*out)
        return out

    def add_up_logarithms(self, *sums: Tensor) -> None:
        """Add up contiguous tensors that hold logarithms of sums, in place."""
        for x in sums:
            x.copy_(torch.logsumexp(torch.stack(self.each(x)), 0))

    def all(self, flag: Tensor) -> Tensor:
        """Return whether a flag (a bool scalar) is True in every process."""
        least = flag.to(torch.int32)
        dist.all_reduce(least, dist.ReduceOp.MIN)
        return least > 0


class _Total(torch.autograd.Function):
    """Sum over the processes, which all go on with the same scalar: the gradient of each addend is the sum's own."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        out = x.clone()
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0]


ALONE = Alone()
_processes: Alone = ALONE


def processes() -> Alone:
    """Return the processes that share the batch of the losses that are being computed."""
    return _processes


@contextmanager
def shared_by(those: Alone) -> Iterator[None]:
    """Make losses within the context those of the batch that these processes share."""
    global _processes
    before, _processes = _processes, those
    try:
        yield
    finally:
        _processes = before
