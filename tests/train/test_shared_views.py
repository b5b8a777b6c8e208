"""Views that the encoders of a sweep share."""

from __future__ import annotations

import pytest
import torch
from trainings import AU, noise, train, weights

from cl_bench.train import view_batches

pytestmark = pytest.mark.usefixtures("forget_methods")


@pytest.fixture
def drawn(monkeypatch):
    """Return a list that grows by one for each batch whose views are drawn."""
    calls = []
    real = view_batches.two_views
    monkeypatch.setattr(view_batches, "two_views", lambda *a: calls.append(1) or real(*a))
    return calls


def test_the_encoders_of_a_sweep_share_their_views_and_are_what_they_would_be_alone(drawn):
    alone = train(objective=AU), train("instance")
    drawn.clear()
    data = noise()
    train(data=data)
    assert len(drawn) == 4
    shared = train(data=data, objective=AU), train("instance", data=data)
    assert len(drawn) == 4
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(weights(one), weights(other)) and one.history == other.history


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"views": "disjoint"}, {"augment": {"hue": 0.2}}, {"batch": 32}, {"epochs": 2}, {}], ids=str
)
def test_other_data_or_views_are_drawn_anew(change, drawn):
    alone = train(**change)
    data = noise()
    train(data=data)
    drawn.clear()
    after = train(data=data if change else noise(), **change)
    assert drawn and torch.equal(weights(after), weights(alone))


def test_views_that_do_not_fit_are_drawn_each_time(monkeypatch, drawn):
    data = noise()
    monkeypatch.setattr(view_batches, "KEPT_VIEWS", 64 * 2 * 3 * 16 * 16 * 4 - 1)
    assert torch.equal(weights(train(data=data)), weights(train(data=data)))
    assert len(drawn) == 8


def test_a_run_that_ends_early_keeps_no_part_of_its_views(drawn):
    data = noise()

    def stop(step, steps):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(data=data, on_step=stop)
    train(data=data)
    assert len(drawn) == 1 + 4
