"""Batches of a pre-training in order, two views each, with the position to continue from."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

import torch
from torch import Tensor

from cl_bench.data import Dataset
from cl_bench.data.dataset import take
from cl_bench.data.on_device import on_device
from cl_bench.data.views import Geometry, two_views
from cl_bench.losses.distributed import ALONE, Alone
from cl_bench.spec import OptimiserSpec, PretrainSpec

T = TypeVar("T")
PairOfViews = tuple[tuple[Tensor, Geometry], tuple[Tensor, Geometry]]
Place = dict[str, Any]  # next step, order of the images in the epoch, and the generator's state
Batches = Generator[tuple[int, PairOfViews, Place], None, None]

KEPT_VIEWS = 2**28  # most bytes of float32 views that are kept for the next encoder of a sweep
_kept: list[tuple[Dataset, tuple[object, ...], list[tuple[int, PairOfViews, Place]]]] = []  # of one data set at most


def pairs_of_views(
    spec: PretrainSpec, data: Dataset, device: torch.device, place: Place | None, over: Alone = ALONE
) -> Batches:
    """Yield each step with the two views of its batch and the position to continue from after it.

    Images of one size are copied to a GPU once, if they fit there, and their views are made from that copy. Views are
    made one batch ahead where that helps: on a GPU, and for images of different sizes that are read from a
    file. Close the generator to end the thread that makes them.

    The views depend on neither method nor objective, so the encoders of a sweep share them: if all of them fit in
    ``KEPT_VIEWS``, they are kept for the next encoder. Of processes that train one model together each makes the views
    of its part of the batch; they are those of one process.
    """
    plan = spec.optimiser
    same = (spec.stream, device, over.rank, over.size)
    if _kept and _kept[0][0] is data and _kept[0][1] == same:
        yield from _kept[0][2][place["step"] if place else 0 :]
        return
    _kept.clear()
    made: list[tuple[int, PairOfViews, Place]] = []
    fits = plan.epochs * len(data) * 2 * 3 * spec.augment.size**2 * 4 // over.size <= KEPT_VIEWS
    drawn = _drawn(spec, data, device, place, part_of_batch(plan, over))
    inline = device.type == "cpu" and isinstance(data.images, Tensor)
    with closing(drawn if inline else one_ahead(drawn)) as items:
        for item in items:
            if fits:
                made.append(item)
            yield item
    if fits and not place:
        _kept.append((data, same, made))


def first_place(data: Dataset) -> Place:
    """Return a position of the form of those that are yielded, before the first step."""
    return {"step": 0, "order": torch.arange(len(data)), "draws": torch.Generator().get_state()}


def one_ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """Yield the same items in the same order, each made in a thread while the previous one is used."""
    with ThreadPoolExecutor(1) as thread:
        end: list[T] = []
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item  # type: ignore[misc]


def part_of_batch(plan: OptimiserSpec, over: Alone) -> Tensor | None:
    """Return the places in a batch of this process's images, (B / N,) int64; None where it has all of them.

    Every chunk is divided, so that batch norm's statistics are those of the same images as in one process.
    """
    if over.size == 1:
        return None
    return torch.arange(plan.batch).view(-1, over.size, (plan.chunk or plan.batch) // over.size)[:, over.rank].flatten()


def _drawn(
    spec: PretrainSpec, data: Dataset, device: torch.device, place: Place | None, rows: Tensor | None
) -> Batches:
    plan, draws = spec.optimiser, torch.Generator().manual_seed(spec.seed)
    if place:
        draws.set_state(place["draws"].cpu())
    batches = len(data) // plan.batch
    order = place["order"].cpu() if place else None
    images = on_device(data.images, device)
    for step in range(place["step"] if place else 0, plan.epochs * batches):
        if order is None or step % batches == 0:
            order = torch.randperm(len(data), generator=draws)
        index = order[step % batches * plan.batch :][: plan.batch]
        pair = two_views(take(images, index), spec.augment, spec.views, draws, device, rows)
        yield step, pair, {"step": step + 1, "order": order, "draws": draws.get_state()}
