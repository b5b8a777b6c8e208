"""Trainings that fail: divergence, too few images, plugins that raise or bring losses of their own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from trainings import AU, NCE, noise, train

from cl_bench import LossTerms, Match, Method
from cl_bench.errors import Diverged, MethodError
from cl_bench.losses.terms import alignment, uniformity
from cl_bench.methods.method import REGISTERED, matching

pytestmark = pytest.mark.usefixtures("forget_methods")


@pytest.mark.parametrize("objective", [NCE, AU], ids=lambda o: o.family)
@pytest.mark.parametrize("lr", [1e6, 1e10, 1e20, 1e35])
def test_a_rate_far_too_high_diverges(lr, objective):
    with pytest.raises(Diverged, match=r"step \d+ of 16|after 16 steps"):
        train(objective=objective, lr=lr, epochs=4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("when", "log_every", "told"), [(0, 1, r"step 0 of 4"), (3, 1, r"step 3 of 4"), (1, 100, r"of 4")]
)
def test_a_loss_that_is_not_finite_diverges(bad, when, log_every, told):
    class Broken(Method, name="p_broken"):
        calls = 0

        def match(self, views):
            return Match.identity(views)

        def loss(self, views, objective):
            terms = super().loss(views, objective)
            factor = bad if self.calls == when else 1.0
            self.calls += 1
            return LossTerms(terms.alignment * factor, terms.distribution)

    with pytest.raises(Diverged, match=told):
        train(Broken, log_every=log_every)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("features", "features not finite at step 37 of 52"),
        ("loss", "features not finite at step 38 of 52"),  # of a step that is not logged: it reaches the weights
        ("gradient", "features not finite at step 38 of 52"),
        ("match", r"p_once.*test_failures\.py:\d+\): ValueError: Match: weights .* must be finite"),
    ],
)
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_a_nan_once_in_fifty_steps_never_passes(where, told, optimiser):
    class Once(Method, name="p_once"):
        step = -1

        def now(self, part):
            return self.step == 37 and part == where

        def head(self, encoder, spec):
            inner, method = super().head(encoder, spec), self

            class Head(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.inner = inner

                def forward(self, x):
                    method.step += 1
                    return self.inner(x) * (math.nan if method.now("features") else 1.0)

            return Head()

        def match(self, views):
            B, P = views.z1.shape[:2]
            return Match(weights=torch.eye(P).expand(B, P, P) * (math.nan if self.now("match") else 1.0))

        def loss(self, views, objective):
            if self.now("gradient"):
                views.z1.register_hook(lambda gradient: gradient * math.nan)
            terms = super().loss(views, objective)
            return LossTerms(terms.alignment * (math.nan if self.now("loss") else 1.0), terms.distribution)

    with pytest.raises((Diverged, MethodError), match=told):
        train(Once, name=optimiser, epochs=13, log_every=50)


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="batch of 16 images at least, the data set has 15"):
        train(data=noise(15))
    assert len(train(data=noise(16)).history) == 1


def test_a_strategy_that_raises_stops_the_training():
    @matching("p_raising")
    def raising(views):
        raise RuntimeError("no")

    with pytest.raises(MethodError, match=r"p_raising.*test_failures\.py:\d+.*RuntimeError: no"):
        train(REGISTERED["p_raising"])


def test_a_method_with_its_own_loss_and_no_match_trains():
    class Own(Method, name="p_own", level="instance"):
        def loss(self, views, objective):
            z1, z2 = views.z1[:, 0], views.z2[:, 0]
            return LossTerms(alignment(z1, z2), uniformity(torch.cat([z1, z2])))

    done = train(Own)
    assert done.history[-1]["loss"] < 0
    assert math.isnan(done.matching_precision)
    assert done.decomposition_error < 1e-5  # its loss is not the objective's, and need not be


def test_a_method_with_its_own_loss_and_a_match_has_a_precision():
    class Both(Method, name="p_both"):
        def match(self, views):
            return Match.identity(views)

        def loss(self, views, objective):
            return LossTerms(alignment(views.z1, views.z2), uniformity(views.z1))

    done = train(Both)
    assert done.matching_precision == train().matching_precision
    assert done.decomposition_error == 0


def test_a_loss_of_a_plugin_that_raises_is_reported_as_the_plugin_s():
    class Raising(Method, name="p_own_raising"):
        def loss(self, views, objective):
            raise RuntimeError("no")

    with pytest.raises(MethodError, match=r"p_own_raising.*test_failures\.py:\d+.*RuntimeError: no"):
        train(Raising)


def test_a_loss_of_a_plugin_that_is_no_loss_is_reported_as_the_plugin_s():
    class Number(Method, name="p_number"):
        def loss(self, views, objective):
            return views.z1.sum()

    with pytest.raises(MethodError, match=r"p_number.*LossTerms.*Tensor"):
        train(Number)
