"""Losses of a batch that 2 or 4 processes share: value and gradients of one process with the whole batch."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from processes import together

from cl_bench.encoders import unit
from cl_bench.losses import pairwise
from cl_bench.losses.distributed import ALONE, Alone, shared_by
from cl_bench.losses.terms import alignment, info_nce, uniformity
from cl_bench.losses.types import DenseViews
from cl_bench.methods.checking import OBJECTIVES, name_of
from cl_bench.methods.method import Method
from cl_bench.methods.registry import Registry
from cl_bench.spec import AlignUniform, InfoNCE

METHODS = ("dense_index", "dense_cosine", "dense_emd", "dense_geometric", "dense_setsim", "dense_vicregl", "instance")
COLD = tuple(o.model_copy(update={"temperature": 0.01} if isinstance(o, InfoNCE) else {"t": 40.0}) for o in OBJECTIVES)
"""The same objectives with exponents past ``SAFE_EXPONENT``."""
SIZES = (2, pytest.param(4, marks=pytest.mark.slow))
B, P, D, C = 8, 4, 5, 6


class Case(NamedTuple):
    method: str
    objective: InfoNCE | AlignUniform
    how: str = ""

    def __str__(self) -> str:
        return f"{self.method}-{name_of(self.objective)}{self.how}"


CASES = [
    *(Case(method, objective) for method in METHODS for objective in OBJECTIVES),
    *(Case("dense_geometric", objective, ", cold") for objective in COLD),
]


def views_for(method: str, dtype: torch.dtype) -> DenseViews:
    """Return views of B images; those of a cell, and unmatched cells, differ from image to image."""
    draws = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draws, dtype=torch.float64).to(dtype)

    cells, grid = (1, (1, 1)) if method == "instance" else (P, (2, 2))
    z, h = ([unit(drawn(B, cells, n)) for _ in range(2)] for n in (D, C))
    norms = [drawn(B, cells).abs() for _ in range(2)]
    places = [drawn(B, cells, 2).sigmoid() for _ in range(2)]
    sizes = [drawn(B, 2).sigmoid() / 2 for _ in range(2)]
    return DenseViews(*z, *h, *norms, *places, *sizes, grid)


def part_of(views: DenseViews, over: Alone) -> DenseViews:
    own = {name: over.own(x).clone() for name, x in vars(views).items() if isinstance(x, torch.Tensor)}
    for z in ("z1", "z2"):
        own[z].requires_grad_()
    return DenseViews(**own, grid=views.grid)


@cache
def named(method: str) -> Method:
    return Registry().resolve(method)


def loss_and_gradients(case: Case, dtype: torch.dtype, over: Alone) -> list[torch.Tensor]:
    views = part_of(views_for(case.method, dtype), over)
    with shared_by(over):
        terms = named(case.method).loss(views, case.objective)
    gradients = torch.autograd.grad(terms.total, [views.z1, views.z2])
    return [terms.alignment.detach(), terms.distribution.detach(), *gradients]


def sums_of_blocks(over: Alone) -> dict[str, Any]:
    """Count the pairs whose similarity this process computes, forward and backward, and the most held at a time."""
    counted: list[int] = []
    blocks = pairwise._blocks

    def counting(*arguments: Any) -> Any:
        for block in blocks(*arguments):
            counted.append(block[-1].numel())
            yield block

    pairwise._blocks, pairwise.MIN_ROWS, pairwise.BLOCK_ELEMENTS = counting, 1, 256
    z = over.own(unit(torch.randn(256, D, generator=torch.Generator().manual_seed(0)))).requires_grad_()
    with shared_by(over):
        pairwise.logsumexp(z, 2.0, 1).sum().backward()
        one_set, most = sum(counted), max(counted)
        counted.clear()
        sum(out.sum() for out in pairwise.logsumexp_between(z, z.flip(0), 2.0)).backward()
    return {"one set": one_set, "two sets": sum(counted), "most": most}


def everything(over: Alone) -> dict[str, Any]:
    """Compute every case, in a process of its own."""
    found: dict[str, Any] = {
        f"{case}-{dtype}": loss_and_gradients(case, dtype, over)
        for case in CASES
        for dtype in (torch.float64, torch.float32)
    }
    images = views_for("dense_index", torch.float64)
    own = part_of(images, over)
    with shared_by(over):
        found["by index"] = [
            alignment(own.z1, own.z2).detach(),
            info_nce(own.z1, own.z2).total.detach(),
            uniformity(own.z1).detach(),
        ]
        found["one image of one cell each"] = info_nce(images.z1[over.rank, :1], images.z2[over.rank, :1]).total
    found["blocks"] = sums_of_blocks(over)
    return found


@pytest.fixture(scope="module", params=SIZES)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what each process found, of so many."""
    folder: Path = tmp_path_factory.mktemp("processes")
    return together(request.param, everything, folder)


def joined(parts: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """Return the terms, which every process has, and the gradients of all images."""
    for part in parts[1:]:
        torch.testing.assert_close(part[:2], parts[0][:2], rtol=0, atol=0)
    return [*parts[0][:2], *(torch.cat(gradients) for gradients in zip(*(part[2:] for part in parts), strict=True))]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_loss_and_gradients_are_those_of_one_process(shared, case, dtype):
    found = joined([one[f"{case}-{dtype}"] for one in shared])
    expected = loss_and_gradients(case, dtype, ALONE)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6 * (30 if case.how else 1)  # float32 rounds an exponent of 100
    for mine, reference in zip(found, expected, strict=True):
        assert float((mine - reference).abs().max()) <= tolerance * max(1, float(reference.abs().max()))
    assert float(expected[2].abs().max()) > 1e-3  # there is a gradient to compare


def test_losses_without_a_match_are_those_of_the_whole_batch(shared):
    whole = views_for("dense_index", torch.float64)
    expected = [alignment(whole.z1, whole.z2), info_nce(whole.z1, whole.z2).total, uniformity(whole.z1)]
    for one in shared:
        torch.testing.assert_close(one["by index"], expected, rtol=1e-12, atol=0)


def test_negatives_may_all_lie_in_other_processes(shared):
    whole, n = views_for("dense_index", torch.float64), len(shared)
    expected = info_nce(whole.z1[:n, :1], whole.z2[:n, :1]).total
    for one in shared:
        torch.testing.assert_close(one["one image of one cell each"], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("sets", ["one set", "two sets"])
def test_the_pairs_are_divided_evenly_and_held_a_block_at_a_time(shared, sets, monkeypatch):
    for name in ("_blocks", "MIN_ROWS", "BLOCK_ELEMENTS"):
        monkeypatch.setattr(pairwise, name, getattr(pairwise, name))  # put back what the count changes
    alone = sums_of_blocks(ALONE)
    counts = [one["blocks"][sets] for one in shared]
    assert max(counts) < 1.15 * alone[sets] / len(shared)
    assert sum(counts) < 1.05 * alone[sets]
    assert max(one["blocks"]["most"] for one in shared) <= alone["most"]


def test_alone_is_what_it_is_outside_of_a_shared_batch():
    with shared_by(ALONE):
        inside = info_nce(*(unit(torch.ones(2, 3)),) * 2).total
    assert inside.equal(info_nce(*(unit(torch.ones(2, 3)),) * 2).total)
