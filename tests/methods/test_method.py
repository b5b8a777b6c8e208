"""Plugins: what the decorator and the class register, which options they take, how they fail."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from method_files import dense_views, optioned
from torch import nn
from torch.nn.functional import normalize

from cl_bench import LossTerms, Match, Method, matching
from cl_bench.encoders import ProjectionHead, build_encoder
from cl_bench.errors import Diverged, MethodError
from cl_bench.losses.terms import alignment, info_nce, uniformity
from cl_bench.methods.method import REGISTERED
from cl_bench.spec import AlignUniform, EncoderSpec, InfoNCE

HERE = str(Path(__file__))


pytestmark = pytest.mark.usefixtures("forget_methods")


def place_of(text):
    """Place of a line of this file, as ``file:line``."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return f"{HERE}:{next(i for i, line in enumerate(lines, 1) if line.strip() == text)}"


def attention(views, temperature):
    return Match(weights=(views.h1 @ views.h2.mT / temperature).softmax(-1))


# Registration


def test_the_decorator_registers_and_returns_the_function_itself():
    def strategy(views):
        """Match by index."""
        return Match.identity(views)

    assert matching("plain", level="instance")(strategy) is strategy
    method = REGISTERED["plain"]
    assert issubclass(method, Method) and method.__doc__ == "Match by index."
    assert (method.name, method.level, method.defaults()) == ("plain", "instance", {})
    assert method.origin == f"{HERE}:{strategy.__code__.co_firstlineno}"
    assert method().file == Path(HERE)


def test_a_subclass_registers_itself():
    class Mine(Method, name="mine"):
        """Its own."""

    assert REGISTERED["mine"] is Mine
    assert (Mine.name, Mine.level) == ("mine", "dense")
    assert Mine.origin == place_of('class Mine(Method, name="mine"):')


def test_two_methods_of_one_name_are_refused_and_both_places_named():
    first, _ = optioned("twice")
    with pytest.raises(MethodError, match="'twice'") as error:

        @matching("twice")
        def other(views):
            return Match.identity(views)

    assert first.origin in str(error.value) and place_of('@matching("twice")') in str(error.value)
    assert REGISTERED["twice"] is first
    assert issubclass(optioned("twice")[0], Method)  # the same lines again are the same method


def test_an_unknown_level_is_refused():
    with pytest.raises(MethodError, match=r"'odd'.*'instance' or 'dense'.*'cell'.*test_method\.py:\d+"):
        matching("odd", level="cell")(lambda views: None)
    assert "odd" not in REGISTERED


@pytest.mark.parametrize("name", ["", "all", "random_init", "a:b", "a,b", "a=b", "a/b", "a.py", "a b", "-a"])
def test_a_name_that_cannot_be_typed_is_refused(name):
    with pytest.raises(MethodError, match=rf"method '{name}': a name is made of .*\({HERE}:\d+\)"):
        matching(name)(lambda views: None)
    assert name not in REGISTERED


# Options


@pytest.mark.parametrize("default", [None, (1, 2), "nothing"])
def test_an_option_needs_a_plain_default(default):
    def none(views, *, k=None): ...
    def pair(views, *, k=(1, 2)): ...
    def nothing(views, *, k): ...

    strategy = {None: none, (1, 2): pair, "nothing": nothing}[default]
    with pytest.raises(MethodError, match=rf"'odd' \({HERE}:\d+\): option 'k' needs a"):
        matching("odd")(strategy)
    assert "odd" not in REGISTERED


# What a strategy returns


def strategy(name, body):
    matching(name)(body)
    return REGISTERED[name]()


def test_a_strategy_that_raises_is_reported_with_its_file_and_line():
    def raising(views):
        normalize(views.z1, dim=7)  # the line that fails, by way of torch

    with pytest.raises(MethodError, match="'raising'") as error:
        strategy("raising", raising).matches(dense_views())
    place = place_of("normalize(views.z1, dim=7)  # the line that fails, by way of torch")
    assert f"({place}): IndexError: " in str(error.value)
    assert "\n" not in str(error.value)
    assert isinstance(error.value.__cause__, IndexError)


def test_a_bare_exception_is_reported_too():
    def bare(views):
        raise KeyError

    with pytest.raises(MethodError, match=rf"'bare' \({HERE}:\d+\): KeyError$"):
        strategy("bare", bare).matches(dense_views())


@pytest.mark.parametrize("kind", [Diverged, MethodError])
def test_what_is_already_for_the_user_passes(kind):
    def speaking(views):
        raise kind("as it is")

    with pytest.raises(kind, match=r"^as it is$"):
        strategy("speaking", speaking).matches(dense_views())


@pytest.mark.parametrize("value", [None, torch.eye(4), (1, 2)])
def test_a_strategy_that_returns_no_match_is_reported(value):
    with pytest.raises(MethodError, match=rf"'odd' \({HERE}:\d+\) must return a Match, got {type(value).__name__}"):
        strategy("odd", lambda views: value).matches(dense_views())


@pytest.mark.parametrize("shape", [(3, 5), (2, 4), (4, 3)])
def test_a_match_of_another_shape_is_reported(shape):
    match = Match(index=torch.zeros(shape, dtype=torch.int64))
    with pytest.raises(MethodError, match=rf"'odd' .*\(B, P\) = \({shape[0]}, {shape[1]}\), not \(3, 4\)"):
        strategy("odd", lambda views: match).matches(dense_views())


def test_only_one_direction_of_another_shape_is_reported_too():
    views = dense_views()
    wrong = Match(index=torch.zeros(3, 5, dtype=torch.int64))
    with pytest.raises(MethodError, match="'odd'"):
        strategy("odd", lambda v: Match.identity(v) if v.z1 is views.z1 else wrong).matches(views)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (lambda v: Match(weights=torch.ones(3, 4, 4)), "each row of weights must sum to 1 or 0; row [0, 0] sums to 4"),
        (lambda v: Match(weights=torch.full((3, 4, 4), math.nan)), "weights (3, 4, 4) must be finite and non-negative"),
        (lambda v: Match(weights=-torch.eye(4).expand(3, 4, 4)), "weights (3, 4, 4) must be finite and non-negative"),
        (lambda v: Match(weights=torch.ones(3, 4, 5)), "weights must be (B, P, P), got (3, 4, 5)"),
        (lambda v: Match(index=torch.ones(3, 4)), "index must be (B, P) int64, got (3, 4) torch.float32"),
        (lambda v: Match(index=torch.full((3, 4), 4)), "index must lie in [0, 3], got 4 to 4"),
        (lambda v: Match(), "takes either weights= (B, P, P) or index= (B, P)"),
    ],
)
def test_a_match_the_checks_refuse_is_reported_with_the_plugin_s_line(form, said):
    def refused(views):
        nothing_wrong = views
        return form(nothing_wrong)  # the line that fails, by way of Match

    with pytest.raises(MethodError) as error:
        strategy("refused", refused).matches(dense_views())
    assert f"({HERE}:{form.__code__.co_firstlineno}): ValueError: Match" in str(error.value)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_match_that_carries_a_gradient_is_reported_with_the_plugin_s_line():
    def learned(views):
        with torch.enable_grad():
            return Match(weights=(views.z1 @ views.z2.mT).softmax(-1))  # with its gradient

    views = dense_views()
    views.z1.requires_grad_()
    place = place_of("return Match(weights=(views.z1 @ views.z2.mT).softmax(-1))  # with its gradient")
    with pytest.raises(MethodError, match="carry a gradient; matching is detached") as error:
        strategy("learned", learned).matches(views)
    assert f"({place}): " in str(error.value)


def test_a_match_on_another_device_is_reported():
    """The device ``meta`` holds no values, so that what builds a ``Match`` cannot look at them."""
    match = Match(index=torch.zeros(3, 4, dtype=torch.int64))
    object.__setattr__(match, "index", match.index.to("meta"))
    with pytest.raises(MethodError, match=r"'odd' .*: match is on meta, the views are on cpu"):
        strategy("odd", lambda v: match).matches(dense_views())


def test_a_strategy_sees_both_directions_and_no_gradient():
    seen = []

    def watching(views):
        seen.append((views, torch.is_grad_enabled()))
        return attention(views, 0.1)

    views = dense_views()
    forth, back = strategy("watching", watching).matches(views)
    assert [grad for _, grad in seen] == [False, False]
    assert seen[0][0] is views and seen[1][0].h1 is views.h2 and seen[1][0].xy2 is views.xy1
    assert torch.equal(forth.weights, attention(views, 0.1).weights)
    assert torch.equal(back.weights, attention(views.swapped(), 0.1).weights)


# The loss

OBJECTIVES = [
    InfoNCE(temperature=0.3),
    InfoNCE(temperature=0.3, negatives="ntxent", positive_in_denominator=False),
    AlignUniform(w_a=0.7, w_u=0.2, t=3.0, scope="all_pairs"),
    AlignUniform(w_a=0, w_u=1),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.config)
def test_the_loss_is_the_objective_s_under_the_strategy_s_matches(objective):
    views = dense_views()
    terms = strategy("soft", lambda views: attention(views, 0.1)).loss(views, objective)
    forth, back = attention(views, 0.1), attention(views.swapped(), 0.1)
    if isinstance(objective, InfoNCE):
        expected = info_nce(
            views.z1, views.z2, (forth, back), 0.3, objective.negatives, objective.positive_in_denominator
        )
        assert torch.equal(terms.alignment, expected.alignment)
        assert torch.equal(terms.distribution, expected.distribution)
        return
    L_a = (alignment(views.z1, views.z2, forth) + alignment(views.z2, views.z1, back)) / 2
    L_u = sum(uniformity(z, objective.t, objective.scope) for z in (views.z1, views.z2)) / 2
    torch.testing.assert_close(terms.alignment, objective.w_a * L_a)
    torch.testing.assert_close(terms.distribution, objective.w_u * L_u)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.config)
def test_the_views_may_change_places(objective):
    method, views = strategy("soft", lambda views: attention(views, 0.1)), dense_views()
    here, there = method.loss(views, objective), method.loss(views.swapped(), objective)
    torch.testing.assert_close(here.alignment, there.alignment)
    torch.testing.assert_close(here.distribution, there.distribution)


def test_a_subclass_brings_its_own_head_and_loss():
    class Own(Method, name="own", level="instance"):
        @classmethod
        def defaults(cls):
            return {"factor": 2.0}

        def head(self, encoder, spec):
            return nn.Sequential(nn.Linear(encoder.channels, spec.projection))

        def loss(self, views, objective):
            return LossTerms(alignment=self.options["factor"] * views.z1.sum(), distribution=views.z2.sum())

    method, views = Own(factor="3"), dense_views()
    assert math.isclose(method.loss(views, OBJECTIVES[0]).total, 3 * views.z1.sum() + views.z2.sum())
    head = method.head(build_encoder("small_cnn"), EncoderSpec(name="small_cnn", hidden=9, projection=7))
    assert head(torch.zeros(2, 1, 128)).shape == (2, 1, 7)


def test_the_usual_head_follows_the_encoder_and_the_spec():
    spec = EncoderSpec(name="small_cnn", hidden=9, projection=7)
    head = strategy("plain", Match.identity).head(build_encoder("small_cnn"), spec)
    assert isinstance(head, ProjectionHead)
    assert [tuple(p.shape) for p in head.parameters()] == [(9, 128), (9,), (7, 9), (7,)]


def test_a_method_without_match_or_loss_says_so():
    class Empty(Method, name="empty"):
        pass

    with pytest.raises(MethodError, match=rf"'empty' must define match\(\) or loss\(\) \({HERE}:\d+\)"):
        Empty().loss(dense_views(), OBJECTIVES[0])


# A head and a loss of the plugin's own, told about as the plugin's


def own_method(**body):
    return type("Own", (Method,), {"__doc__": "Its own.", **body}, name="own", origin=f"{HERE}:1")()


class Doubling(nn.Module):
    def forward(self, features):
        return features.sum(0) @ torch.eye(2)  # wrong sizes


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (lambda self, encoder, spec: None, r"head\(\) must return a torch\.nn\.Module, got NoneType"),
        (lambda self, encoder, spec: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_head_that_cannot_be_built_is_reported(head, said):
    with pytest.raises(MethodError, match=rf"'own' \({HERE}:\d+\): {said}"):
        own_method(head=head).build_head(build_encoder("small_cnn"), EncoderSpec(name="small_cnn"))


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (nn.Flatten(), r"takes features \(3, 4, 6\) to \(B, P, D\) = \(3, 4, D\), got \(3, 24\)"),
        (nn.Flatten(0, 1), r"got \(12, 6\)"),
        (type("Twice", (nn.Module,), {"forward": lambda self, x: (x, x)})(), "got tuple"),
    ],
)
def test_a_head_whose_output_has_another_shape_is_reported(head, said):
    with pytest.raises(MethodError, match=rf"method 'own' \({HERE}:1\): the head .*{said}"):
        own_method().project(head, torch.zeros(3, 4, 6))


def test_a_head_that_raises_is_reported_with_its_line():
    place = place_of("return features.sum(0) @ torch.eye(2)  # wrong sizes")
    with pytest.raises(MethodError, match=rf"'own' \({place}\): RuntimeError: "):
        own_method().project(Doubling(), torch.zeros(3, 4, 6))


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda *_: 1 / 0, "ZeroDivisionError"),
        (lambda *_: 1.0, r"loss\(\) must return LossTerms, got float"),
        (lambda self, v, o: LossTerms(v.z1.sum(), v.z2.sum(0)), r"scalar tensors, got distribution \(4, 5\)"),
        (lambda self, v, o: LossTerms(1.0, v.z2.sum()), "scalar tensors, got alignment float"),
        (lambda self, v, o: LossTerms(v.h1.sum(), v.h2.sum()), r"must be differentiable with respect to views\.z1"),
    ],
)
def test_a_loss_that_makes_no_sense_is_reported(loss, said):
    views = dense_views()
    views.z1.requires_grad_()
    with pytest.raises(MethodError, match=rf"'own' \({HERE}:\d+\): .*{said}"):
        own_method(loss=loss).checked_loss(views, OBJECTIVES[0])


def test_projections_of_its_own_head_that_the_loss_refuses_are_reported():
    method = own_method(head=lambda *_: nn.Identity(), match=lambda self, views: Match.identity(views))
    views = replace(dense_views(), z1=2 * dense_views().z1)
    with pytest.raises(MethodError, match=rf"'own' \({HERE}:1\): ValueError: z1 must be unit-norm"):
        method.checked_loss(views, OBJECTIVES[0])
