"""Batches made ahead: in order, one at a time, in a thread that ends."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from helpers import ragged, rng, until

from cl_bench.data import Dataset
from cl_bench.methods.registry import Registry, spec_of
from cl_bench.spec import AugmentSpec, EncoderSpec, InfoNCE, OptimiserSpec, PretrainSpec, ScenesSpec
from cl_bench.train import view_batches
from cl_bench.train.view_batches import one_ahead, pairs_of_views

CPU = torch.device("cpu")
SPEC = PretrainSpec(
    method=spec_of(Registry().resolve("dense_index")),
    objective=InfoNCE(temperature=0.2),
    data=ScenesSpec(kind="single_object", split="train", images=20, size=16),
    views="overlapping",
    augment=AugmentSpec(size=16, flip=0.5, blur=0.5),
    encoder=EncoderSpec(name="small_cnn", hidden=16, projection=8),
    optimiser=OptimiserSpec(batch=8, epochs=3, lr=0.05),
    seed=0,
)
SIZES = [(16 + 5 * i, 90 - 3 * i) for i in range(20)]


@pytest.fixture(autouse=True)
def _nothing_kept_and_no_thread_left():
    view_batches._kept.clear()
    before = threading.active_count()
    yield
    until(lambda: threading.active_count() == before, 5, "threads end")


def batches(data, place=None):
    return pairs_of_views(SPEC, data, CPU, place)


def uniform():
    return Dataset(torch.randint(256, (20, 3, 24, 24), generator=rng(), dtype=torch.uint8), ())


def test_items_come_in_order_and_one_is_made_ahead():
    made = []

    def items():
        for k in range(5):
            made.append(k)
            yield k

    seen = []
    for k in one_ahead(items()):
        until(lambda k=k: len(made) == min(5, k + 2), 5, "the next is made")
        time.sleep(0.02)
        assert len(made) == min(5, k + 2)
        seen.append(k)
    assert seen == list(range(5)) and not list(one_ahead(iter(())))


def test_what_fails_in_the_thread_is_raised_where_its_item_is_asked_for():
    def items():
        yield 1
        raise RuntimeError("no such image")

    both = one_ahead(items())
    assert next(both) == 1
    with pytest.raises(RuntimeError, match="no such image"):
        next(both)


def test_items_are_made_in_another_thread_which_closing_ends():
    def items():
        while True:
            yield threading.current_thread()

    endless = one_ahead(items())
    maker = next(endless)
    assert maker is not threading.current_thread() and maker.is_alive()
    endless.close()
    assert not maker.is_alive()


@pytest.mark.parametrize(("data", "ahead"), [(uniform(), False), (Dataset(ragged(SIZES), ()), True)])
def test_only_what_is_read_from_files_of_all_sizes_is_made_ahead_on_a_cpu(data, ahead, monkeypatch):
    makers = []
    real = view_batches.two_views
    monkeypatch.setattr(view_batches, "two_views", lambda *a: makers.append(threading.current_thread()) or real(*a))
    assert [step for step, _, _ in batches(data)] == list(range(6))
    assert len(makers) == 6 and {maker is threading.current_thread() for maker in makers} == {not ahead}


@pytest.mark.parametrize("data", [uniform(), Dataset(ragged(SIZES), ())], ids=["uniform", "ragged"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_place_goes_on_with_the_views_that_were_to_come(data, steps, monkeypatch):
    monkeypatch.setattr(view_batches, "KEPT_VIEWS", 0)
    whole = list(batches(data))
    begun = batches(data)
    place = [next(begun) for _ in range(steps)][-1][2]
    begun.close()
    rest = list(batches(data, place))
    assert [step for step, _, _ in rest] == list(range(steps, 6))
    for (_, one, here), (_, other, there) in zip(whole[steps:], rest, strict=True):
        for (x, g), (y, h) in zip(one, other, strict=True):
            assert torch.equal(x, y) and torch.equal(g.boxes, h.boxes) and torch.equal(g.flips, h.flips)
        assert torch.equal(here["draws"], there["draws"]) and torch.equal(here["order"], there["order"])


def test_the_views_of_files_are_shared_by_the_encoders_of_a_sweep_too():
    data = Dataset(ragged(SIZES), ())
    first, again = list(batches(data)), list(batches(data))
    assert all(a is b for a, b in zip(first, again, strict=True))
