"""Encoders that are trained in lock-step on the same views: each becomes what it becomes alone."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from trainings import AU, CPU, NCE, noise, resolve, spec_for, weights

from cl_bench import Match, Method
from cl_bench.errors import Diverged, MethodError
from cl_bench.spec import InfoNCE
from cl_bench.store import Store
from cl_bench.train import checkpoint, view_batches
from cl_bench.train.checkpoint import Checkpoint
from cl_bench.train.pretrain import in_lock_step, pretrain
from cl_bench.train.training import Training

pytestmark = pytest.mark.usefixtures("forget_methods")


class Dropping(Method, name="ls_dropping"):
    """A head and a match that draw from the global generator, as dropout does."""

    def head(self, encoder, spec):
        return nn.Sequential(nn.Dropout(0.2), super().head(encoder, spec))

    def match(self, views):
        torch.rand(3)
        return Match.identity(views)


def specs(plugin="dense_index", **changes):
    return [spec_for(plugin, objective, **changes) for objective in (NCE, AU, InfoNCE(temperature=1.0))]


def trainings(asked, plugin="dense_index", data=None, checkpoints=(None, None, None)):
    data = data or noise()
    return [Training(spec, resolve(plugin), data, CPU, kept) for spec, kept in zip(asked, checkpoints, strict=False)]


@pytest.fixture
def drawn(monkeypatch):
    """Return a list that grows by one for each batch whose views are drawn; none are kept for the next encoder."""
    calls = []
    real = view_batches.two_views
    monkeypatch.setattr(view_batches, "two_views", lambda *a: calls.append(1) or real(*a))
    monkeypatch.setattr(view_batches, "KEPT_VIEWS", 0)
    return calls


@pytest.mark.parametrize("plugin", ["dense_index", "instance", Dropping])
def test_each_becomes_what_it_becomes_alone_and_views_are_drawn_once(plugin, drawn):
    asked, data = specs(plugin, epochs=2), noise()
    alone = [pretrain(spec, resolve(plugin), data, CPU) for spec in asked]
    assert len(drawn) == 3 * 8
    drawn.clear()
    steps = []
    together = in_lock_step(trainings(asked, plugin, data), data, CPU, lambda *step: steps.append(step))
    assert len(drawn) == 8 and steps == [(n, 8) for n in range(1, 9)]
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(weights(one), weights(other)) and one.history == other.history
        assert one.matching_precision == other.matching_precision
    assert len({tuple(weights(one).tolist()) for one in together}) == 3


def test_the_global_generator_is_left_as_it_was():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    in_lock_step(trainings(specs()), noise(), CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_chunks_and_their_random_numbers_are_those_of_each(drawn):
    asked, data = specs(Dropping, chunk=8), noise()
    alone = [pretrain(spec, Dropping(), data, CPU) for spec in asked]
    for one, other in zip(alone, in_lock_step(trainings(asked, Dropping, data), data, CPU), strict=True):
        assert torch.equal(weights(one), weights(other))


@pytest.mark.parametrize("error", [Diverged, MethodError])
def test_one_that_fails_drops_out_and_the_others_go_on(error):
    class Fails(Method, name="ls_fails"):
        def match(self, views):
            return Match.identity(views)

        def loss(self, views, objective):
            calls.append(objective)
            if objective == AU and calls.count(AU) == 2:
                raise error("enough")
            return super().loss(views, objective)

    calls = []
    asked, data = specs(Fails), noise()
    first, second, third = in_lock_step(trainings(asked, Fails, data), data, CPU)
    assert isinstance(second, error) and "enough" in str(second)
    assert calls.count(AU) == 2
    for spec, found in ((asked[0], first), (asked[2], third)):
        assert torch.equal(weights(found), weights(pretrain(spec, Fails(), data, CPU)))


def test_where_all_fail_no_more_views_are_drawn(drawn):
    class Hopeless(Method, name="ls_hopeless"):
        def match(self, views):
            raise RuntimeError("boom")

    found = in_lock_step(trainings(specs(Hopeless), Hopeless), noise(), CPU)
    assert [type(one) for one in found] == [MethodError] * 3 and len(drawn) == 1


def test_an_error_that_is_not_an_encoders_own_ends_all():
    class NoRoom(Method, name="ls_no_room"):
        def match(self, views):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        in_lock_step(trainings(specs(NoRoom), NoRoom), noise(), CPU)


@pytest.mark.parametrize("plugin", ["dense_index", "fails"])
def test_a_training_is_out_of_memory_with_its_last_name(plugin):
    """Not when Python next looks for cycles, since the evaluations need the room."""

    class Fails(Method, name="ls_fails_too"):
        def match(self, views):
            raise RuntimeError("boom")

    gc.disable()
    try:
        (training,) = trainings(specs()[:1], Fails if plugin == "fails" else plugin)
        gone = weakref.ref(training)
        found = in_lock_step([training], noise(), CPU)
        assert len(found) == 1
        del training, found
        assert gone() is None
    finally:
        gc.enable()


def test_those_that_stopped_at_different_steps_go_on_together(tmp_path, monkeypatch, drawn):
    """The first has four steps behind it, the second none, and the third one."""
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    asked, data, store = specs(epochs=2), noise(), Store(tmp_path)
    runs = [store.run(spec.key) for spec in asked]
    for run in runs:
        run.path.mkdir(parents=True)

    def stop_after(most):
        def stop(step, steps):
            if step == most:
                raise KeyboardInterrupt

        return stop

    for at, most in ((0, 4), (2, 1)):
        with pytest.raises(KeyboardInterrupt):
            pretrain(asked[at], resolve("dense_index"), data, CPU, stop_after(most), Checkpoint(runs[at], CPU))
    drawn.clear()
    again = trainings(asked, data=data, checkpoints=[Checkpoint(run, CPU) for run in runs])
    assert [training.place["step"] for training in again] == [4, 0, 1]
    found = in_lock_step(again, data, CPU)
    assert len(drawn) == 8
    for spec, one in zip(asked, found, strict=True):
        assert torch.equal(weights(one), weights(pretrain(spec, resolve("dense_index"), data, CPU)))


@pytest.mark.parametrize("change", [{"seed": 1}, {"views": "disjoint"}, {"batch": 32}, {"epochs": 2}], ids=str)
def test_encoders_with_other_views_have_another_stream(change):
    assert spec_for().stream == spec_for(objective=AU, lr=0.5).stream != spec_for(**change).stream
