"""Encoder and head on a batch: whole, or in chunks with the gradient of the whole (GradCache)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from cl_bench.encoders import cells, pooled, unit_and_norm, widened
from cl_bench.losses.fused import rounded_to_half
from cl_bench.losses.types import DenseViews
from cl_bench.methods.method import Method
from cl_bench.spec import Precision
from cl_bench.train.rng import random_state, set_random_state
from cl_bench.train.view_batches import PairOfViews

Network = Callable[[Tensor], Tensor]
"""Encoder, or its compiled form: (B, 3, H, W) -> (B, C, h, w)."""
State = tuple[torch.device, list[Tensor], list[Tensor]]  # device, states of the random generators, buffers


def forward(
    encoder: Network, head: nn.Module, method: Method, views: PairOfViews, precision: Precision = "float32"
) -> DenseViews:
    """Pass both views through encoder and head in one batch, and return them as a matching strategy sees them.

    With bfloat16 precision only encoder and head compute in bfloat16; their outputs are float32, of which the
    projections hold values of float16, so that a GPU can multiply halves without another error (``losses.fused``).
    """
    (x1, g1), (x2, g2) = views
    x = torch.cat([x1, x2]).contiguous(memory_format=torch.channels_last)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        feature_map = widened(encoder(x))
        features = pooled(feature_map) if method.level == "instance" else cells(feature_map)
        z = widened(method.project(head, features))
    z1, z2 = (rounded_to_half(z) if precision == "bfloat16" else z).chunk(2)
    grid = (1, 1) if method.level == "instance" else (feature_map.shape[2], feature_map.shape[3])
    h, norm = unit_and_norm(features.detach())
    (h1, h2), (norm1, norm2) = h.chunk(2), norm.chunk(2)
    (xy1, size1), (xy2, size2) = g1.cells(grid), g2.cells(grid)
    return DenseViews(z1, z2, h1, h2, norm1, norm2, xy1, xy2, size1, size2, grid)


class InChunks:
    """A step whose batch goes through encoder and head ``chunk`` images at a time, both views of an image together.

    ``forward`` keeps no activations; once the loss of the whole batch has been differentiated down to ``views.z1`` and
    ``views.z2``, ``backward`` passes each chunk again and feeds its part of that gradient back. Loss and gradients are
    the whole batch's. Batch norm's statistics are the chunk's: a chunk's second pass sees the random numbers and the
    buffers that its first saw, and leaves neither changed.

    Source: Gao et al., RepL4NLP 2021.
    """

    def __init__(self, whole: Callable[[PairOfViews], DenseViews], modules: Sequence[nn.Module], chunk: int) -> None:
        """Wrap ``whole``, a partial ``forward`` that uses ``modules``."""
        self._pass, self._modules, self._chunk = whole, modules, chunk
        self._seen: list[tuple[PairOfViews, State]] = []

    def forward(self, pair: PairOfViews) -> DenseViews:
        """Compute the views of the whole batch; ``z1`` and ``z2`` are leaves of the graph."""
        (x1, g1), (x2, g2) = pair
        parts = []
        self._seen = []
        for start in range(0, len(x1), self._chunk):
            rows = slice(start, start + self._chunk)
            part = (x1[rows], g1[rows]), (x2[rows], g2[rows])
            self._seen.append((part, self._state(x1.device)))
            with torch.no_grad():
                parts.append(self._pass(part))
        tensors = {n: torch.cat([vars(part)[n] for part in parts]) for n in vars(parts[0]) if n != "grid"}
        for z in ("z1", "z2"):
            tensors[z].requires_grad_()
        return DenseViews(**tensors, grid=parts[0].grid)

    def backward(self, views: DenseViews) -> None:
        """Add the gradient of the loss to the parameters, from ``views.z1.grad`` and ``views.z2.grad``."""
        after = self._state(views.z1.device)
        gradients = (torch.zeros_like(z) if z.grad is None else z.grad for z in (views.z1, views.z2))
        parts = zip(*(torch.split(gradient, self._chunk) for gradient in gradients), strict=True)
        for (pair, before), gradient in zip(self._seen, parts, strict=True):
            self._restore(before)
            again = self._pass(pair)
            torch.autograd.backward([again.z1, again.z2], gradient)
        self._restore(after)
        self._seen = []

    def _state(self, device: torch.device) -> State:
        return device, random_state(device), [buffer.clone() for m in self._modules for buffer in m.buffers()]

    def _restore(self, state: State) -> None:
        device, random, buffers = state
        set_random_state(random, device)
        for buffer, value in zip((b for m in self._modules for b in m.buffers()), buffers, strict=True):
            buffer.copy_(value)
