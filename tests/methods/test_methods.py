"""The built-in matching strategies against loops from the papers, and on views whose match is known."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import matching_oracles as oracles
import pytest
import torch
from helpers import some
from hypothesis import given
from hypothesis import strategies as st
from matching_batches import (
    agree,
    draw,
    every_precision,
    every_strategy,
    grids,
    images,
    match,
    oracle,
    same,
    seeds,
    weights,
)

from cl_bench.errors import MethodError
from cl_bench.losses.types import DenseViews
from cl_bench.methods.registry import Registry

"""Height and width of the source images, in pixels."""


# Against the loops


@every_precision
@some(40)
@given(B=images, grid=grids, C=st.integers(3, 8), seed=seeds)
def test_cosine_is_the_loop_s(dtype, B, grid, C, seed):
    batch = draw(B, grid, C, seed)
    expected = oracle(oracles.dense_cosine, *batch.features)
    result = match("dense_cosine", batch.views(dtype))
    assert result.index.tolist() == expected and result.anchors.all()


@every_precision
@some(60)
@given(
    B=images,
    grid=grids,
    C=st.integers(1, 8),
    seed=seeds,
    epsilon=st.sampled_from([0.005, 0.02, 0.05, 0.5, 20.0]),
    iterations=st.sampled_from([1, 2, 3, 9, 50]),
)
@pytest.mark.slow
def test_emd_is_the_loop_s(dtype, B, grid, C, seed, epsilon, iterations):
    batch = draw(B, grid, C, seed)
    expected = oracles.sinkhorn(*batch.features, epsilon, iterations)
    options = f"dense_emd:epsilon={epsilon},iterations={iterations}"
    # A cosine is right to 1e-7 or so in float32, which epsilon divides and each iteration may add to.
    tolerance = 1e-9 if dtype == torch.float64 else min(0.02, 1e-6 * (1 + 4 / epsilon))
    agree(weights(options, batch.views(dtype)), expected, tolerance)
    assert torch.equal(weights(options + ",plan=soft", batch.views(dtype)), weights(options, batch.views(dtype)))
    if all(clear(row) for plan in expected for row in plan):
        hard = match(options + ",plan=hard", batch.views(dtype))
        assert hard.index.tolist() == [[row.index(max(row)) for row in plan] for plan in expected]


def clear(row):
    """Return True if rounding does not decide which entry is the largest."""
    return len(row) == 1 or sorted(row)[-1] - sorted(row)[-2] > 0.05


@every_precision
@some(60)
@given(
    B=images,
    grid=grids,
    C=st.integers(2, 8),
    seed=seeds,
    threshold=st.sampled_from([0.0, 0.1, 0.4, 0.7, 1.0]),
    similarity=st.sampled_from([-1.0, -0.3, 0.0, 0.2, 0.6]),
    geometry=st.sampled_from([0.0, 0.5, 1.5]),
)
def test_setsim_is_the_loop_s(dtype, B, grid, C, seed, threshold, similarity, geometry):
    batch = draw(B, grid, C, seed)
    # Attention 0, at the darkest cell, and a threshold of 0 are equal on purpose.
    rule = [threshold if threshold else -1.0, similarity if similarity > -1 else -1.1, geometry]
    expected = oracle(oracles.dense_setsim, *batch.features, *batch.places, *rule)
    options = f"dense_setsim:threshold={threshold},similarity={similarity},geometry={geometry}"
    agree(weights(options, batch.views(dtype)), expected)
    if (threshold, similarity, geometry) == (0.7, 0.2, 0.0):
        agree(weights("dense_setsim", batch.views(dtype)), expected)


@every_precision
@pytest.mark.parametrize("nearest", [False, True])
@some(40)
@given(B=images, grid=grids, seed=seeds, threshold=st.sampled_from([0.2, 0.7, 1.5, 9.0]))
def test_geometric_is_the_loop_s(dtype, nearest, B, grid, seed, threshold):
    batch = draw(B, grid, seed=seed)
    expected = oracle(oracles.dense_geometric, *batch.places, threshold, nearest)
    agree(weights(f"dense_geometric:threshold={threshold},nearest={nearest}", batch.views(dtype)), expected)
    if threshold == 0.7 and not nearest:
        agree(weights("dense_geometric", batch.views(dtype)), expected)


@every_precision
@some(60)
@given(
    B=images,
    grid=grids,
    C=st.integers(3, 8),
    seed=seeds,
    gamma=st.sampled_from([1e-9, 0.1, 20 / 49, 0.5, 0.8, 1.0]),
    features=st.sampled_from(["backbone", "projection"]),
    every=st.booleans(),
)
def test_vicregl_is_the_loop_s(dtype, B, grid, C, seed, gamma, features, every):
    batch, projected = draw(B, grid, C, seed), draw(B, grid, C, seed + 1)
    views = replace(batch.views(dtype), z1=projected.views(dtype).h1, z2=projected.views(dtype).h2)
    compared = (projected if features == "projection" else batch).features
    expected = oracle(oracles.dense_vicregl, *compared, *batch.places, gamma, 1 if every else gamma)
    agree(weights(f"dense_vicregl:gamma={gamma},features={features},all_features={every}", views), expected)
    if (gamma, features, every) == (20 / 49, "backbone", False):
        agree(weights("dense_vicregl", views), expected)


def test_vicregl_keeps_twenty_of_forty_nine_pairs_of_each_kind():
    kept = weights("dense_vicregl", draw(8, (7, 7), 16).views()) > 0
    assert (kept.sum((1, 2)) <= 40).all() and (kept.any(-1).sum(1) >= 20).all()
    assert kept.sum() > 8 * 30  # few cells are nearest by both


DEFAULTS = {
    "dense_cosine": {},
    "dense_emd": {"epsilon": 0.05, "iterations": 50, "plan": "soft"},
    "dense_setsim": {"threshold": 0.7, "similarity": 0.2, "geometry": 0},
    "dense_geometric": {"threshold": 0.7, "nearest": False},
    "dense_vicregl": {"gamma": 20 / 49, "features": "backbone", "all_features": False},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_options_have_the_values_in_print(name):
    assert Registry().resolve(name).options == DEFAULTS[name]


# Views whose match is known


def test_transport_shares_out_what_everybody_is_most_similar_to():
    # Cell 0 of view 2 is the most similar to both cells; only one of them can have it.
    f1, f2 = [[1.0, 0.0], [0.8, 0.6]], [[1.0, 0.1], [0.0, 1.0]]
    batch = replace(draw(1, (1, 2)), f1=torch.tensor([f1]).double(), f2=torch.tensor([f2]).double())
    assert match("dense_cosine", batch.views()).index.tolist() == [[0, 0]]
    assert match("dense_emd:plan=hard", batch.views()).index.tolist() == [[0, 1]]
    assert oracles.assignment(f1, f2)[0] == [0, 1]


def test_sets_by_hand():
    # Brightness 4, 2, 3.9, 1: scaled 1, .2, .95, 0 as squares; view 2 has two bright cells, one unlike the first.
    f1 = torch.tensor([[[4.0, 0.0], [0.0, 2.0], [0.0, 3.9], [1.0, 0.0]]])
    f2 = torch.tensor([[[0.0, 1.0], [5.0, 0.0], [3.0, 4.0], [1.0, 0.0]]])
    batch = replace(draw(1, (2, 2)), f1=f1.double(), f2=f2.double())
    half, none = [0, 0.5, 0.5, 0], [0.0] * 4
    agree(weights("dense_setsim", batch.views()), [[half, none, [0, 0, 1.0, 0], none]])
    agree(weights("dense_setsim:similarity=0.61", batch.views()), [[[0, 1.0, 0, 0], none, [0, 0, 1.0, 0], none]])


# Optimal transport


@some(15)
@given(P=st.integers(1, 8), seed=seeds)
def test_the_plan_becomes_the_exact_one_as_epsilon_vanishes(P, seed):
    batch = draw(1, (1, P), C=4, seed=seed)
    a, b = batch.f1[0].tolist(), batch.f2[0].tolist()
    index, least, margin = oracles.assignment(a, b)
    cost = 1 - torch.tensor(oracles.cosines(a, b), dtype=torch.float64)
    dearer, slacks = [], []
    for epsilon in (0.3, 0.03, 0.003):
        options = f"dense_emd:epsilon={epsilon},iterations=1000"
        plan = weights(options, batch.views())[0]
        # Between uniform marginals entropies lie between log P and 2 log P; mass that columns lack could cost 2.
        slack = 2 * float((plan.sum(0) - 1).abs().mean()) + 1e-9
        most = epsilon * math.log(P) + slack
        slacks.append(slack)
        dearer.append(float((plan * cost).sum()) / P - least)
        assert -slack <= dearer[-1] <= most
        # A plan is a mixture of one-to-one matches (Birkhoff), all but the cheapest of which cost the margin more.
        astray = most / margin + P * slack
        assert 1 - plan[range(P), index].min() <= astray
        if astray < 0.5:
            assert match(options + ",plan=hard", batch.views()).index.tolist() == [index]
    assert dearer[2] <= dearer[1] + sum(slacks) and dearer[1] <= dearer[0] + sum(slacks)


@every_precision
@pytest.mark.parametrize("epsilon", [1e-4, 0.005, 0.05, 1.0, 100.0])
def test_rows_sum_to_one_after_any_number_of_iterations_and_columns_after_many(epsilon, dtype):
    views = draw(3, (4, 4), C=6).views(dtype)
    off = []
    for iterations in (1, 5, 50, 500):
        plan = weights(f"dense_emd:epsilon={epsilon},iterations={iterations}", views)
        torch.testing.assert_close(plan.sum(-1), torch.ones(3, 16).double(), rtol=0, atol=1e-6)
        off.append(float((plan.sum(-2) - 1).abs().max()))
    assert off == sorted(off, reverse=True) or max(off) < 1e-5
    if epsilon >= 0.05:
        assert off[-1] < 1e-3 and (off[0] > 1e-2 or epsilon >= 1)


HARD_TO_BALANCE = {
    "opposed": lambda f: f.sign().abs() + torch.where(torch.arange(f.shape[1]) % 3 == 0, 0, -2)[:, None] + 0.01 * f,
    "crowded": lambda f: 1 + 0.01 * f,
    "one_dimension": lambda f: f[..., :1] * torch.linspace(-1, 1, f.shape[-1]),
    "dead": lambda f: f * (torch.arange(f.shape[1]) % 2)[:, None],
    "equal": torch.ones_like,
}


@pytest.mark.parametrize("kind", HARD_TO_BALANCE)
@pytest.mark.parametrize(("epsilon", "iterations"), [(0.005, 500), (0.005, 40), (0.05, 50)])
def test_transport_of_features_that_are_hard_to_balance_is_the_loop_s(kind, epsilon, iterations):
    batch = draw(2, (2, 3), C=5)
    batch = replace(batch, f1=HARD_TO_BALANCE[kind](batch.f1), f2=HARD_TO_BALANCE[kind](batch.f2).roll(1, 1))
    views = batch.views()
    dead = torch.full((5,), 5**-0.5, dtype=torch.float64)  # what ``unit`` makes of nothing
    h1, h2 = (torch.where((h == 0).all(-1, keepdim=True), dead, h) for h in (views.h1, views.h2))
    views = replace(views, h1=h1, h2=h2)
    expected = oracles.sinkhorn(h1.tolist(), h2.tolist(), epsilon, iterations)
    options = f"dense_emd:epsilon={epsilon},iterations={iterations}"
    agree(weights(options, views), expected, 1e-8)
    agree(weights(options, replace(views, h1=h1.float(), h2=h2.float())), expected, 1e-3)


# What every strategy promises


@every_strategy
@every_precision
def test_images_do_not_see_each_other(text, dtype):
    batch = draw(6, (3, 3), C=16)
    # Transport takes another course beside an image like this one.
    batch.f1[5], batch.f2[5] = batch.f1[5].sign(), -batch.f2[5].sign().roll(1, 0)
    views = batch.views(dtype)
    together = weights(text, views)
    for i in range(6):
        parts = {f.name: getattr(views, f.name) for f in fields(DenseViews)}
        alone = DenseViews(**{k: v[i : i + 1] if isinstance(v, torch.Tensor) else v for k, v in parts.items()})
        torch.testing.assert_close(weights(text, alone), together[i : i + 1], rtol=0, atol=2e-5)


@every_strategy
@every_precision
def test_the_same_views_give_the_same_bits_and_are_left_alone(text, dtype):
    views = draw(4, (3, 3), C=16).views(dtype)
    kept = {f.name: getattr(views, f.name) for f in fields(DenseViews)}
    copies = {k: v.clone() for k, v in kept.items() if isinstance(v, torch.Tensor)}
    assert torch.equal(weights(text, views), weights(text, views))
    assert all(torch.equal(kept[k], v) for k, v in copies.items())


@every_strategy
def test_no_gradient_goes_through_a_match(text):
    views = draw(3, (3, 3)).views()
    views = replace(views, h1=views.h1.requires_grad_(), h2=views.h2.requires_grad_())
    for form in (match(text, views).weights, match(text, views).index):
        assert form is None or not form.requires_grad


@every_strategy
def test_autocast_and_half_precision_features_change_nothing_but_rounding(text):
    views = draw(3, (3, 3), C=32).views(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(weights(text, views), weights(text, views)) and match(text, views).anchors.any()
        under = weights(text, views)
    assert torch.equal(under, weights(text, views))
    rounded = replace(views, h1=views.h1.bfloat16(), h2=views.h2.bfloat16())
    widened = replace(views, h1=rounded.h1.float(), h2=rounded.h2.float())
    assert torch.equal(weights(text, rounded), weights(text, widened))


@pytest.mark.parametrize("text", ["dense_setsim", "dense_setsim:geometry=0.5", "dense_geometric"])
@some(20)
@given(B=images, grid=grids, seed=seeds)
def test_a_symmetric_rule_pairs_the_same_cells_from_either_view(text, B, grid, seed):
    views = draw(B, grid, seed=seed).views()
    assert torch.equal(weights(text, views) > 0, (weights(text, views.swapped()) > 0).mT)


@every_strategy
@pytest.mark.parametrize(("B", "grid"), [(1, (1, 1)), (1, (3, 3)), (5, (1, 1))])
def test_one_cell_or_one_image_is_enough(text, B, grid):
    batch = same(draw(B, grid, C=24))
    result = weights(text, batch.views(torch.float32))
    assert result.shape == (B, math.prod(grid), math.prod(grid))
    if grid == (1, 1):
        assert torch.equal(result, torch.ones(B, 1, 1).double())


DEAD = {
    "dense_cosine": [1.0, 0, 0, 0],
    "dense_emd": [0.25] * 4,
    "dense_emd:plan=hard": [1.0, 0, 0, 0],
    "dense_setsim": [0.25] * 4,
}


@pytest.mark.parametrize("text", DEAD)
def test_dead_cells_are_all_alike(text):
    batch = draw(3, (2, 2), C=9)
    views = batch.views(torch.float32)
    nothing = torch.full_like(views.h1, 1 / 3)
    zero = torch.zeros_like(views.norm1)
    views = replace(views, h1=nothing, h2=nothing, norm1=zero, norm2=zero)
    agree(weights(text, views), [[DEAD[text]] * 4] * 3)


def test_a_dead_cell_is_not_attended():
    batch = same(draw(4, (3, 3), C=16))
    batch.f1[:, 4] = 0
    assert not weights("dense_setsim", batch.views())[:, 4].any()
    assert not weights("dense_setsim", batch.views())[:, :, 4].any()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_attention_does_not_depend_on_the_features_scale(scale):
    views = draw(4, (3, 3), C=16).views(torch.float32)
    scaled = replace(views, norm1=views.norm1 * scale, norm2=views.norm2 * scale)
    assert torch.equal(weights("dense_setsim", views), weights("dense_setsim", scaled))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dense_emd:epsilon=0", r"epsilon must be positive and finite, got 0\.0"),
        ("dense_emd:epsilon=-1", r"epsilon must be positive and finite, got -1\.0"),
        ("dense_emd:epsilon=inf", "epsilon must be positive and finite, got inf"),
        ("dense_emd:iterations=0", "iterations must be at least 1, got 0"),
        ("dense_emd:plan=sfot", "plan must be soft or hard, got 'sfot'"),
        ("dense_setsim:threshold=1.1", r"threshold must lie in \[0, 1\], got 1\.1"),
        ("dense_setsim:threshold=-0.1", r"threshold must lie in \[0, 1\], got -0\.1"),
        ("dense_setsim:similarity=2", r"similarity must lie in \[-1, 1\], got 2\.0"),
        ("dense_setsim:geometry=-0.1", r"geometry must be at least 0, got -0\.1"),
        ("dense_geometric:threshold=0", r"threshold must be above 0, got 0\.0"),
        ("dense_vicregl:gamma=0", r"gamma must lie in \(0, 1\], got 0\.0"),
        ("dense_vicregl:gamma=1.01", r"gamma must lie in \(0, 1\], got 1\.01"),
        ("dense_vicregl:features=projections", "features must be backbone or projection, got 'projections'"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_in_one_line(text, message):
    views = draw().views()
    with pytest.raises(ValueError, match=f"^{text.partition(':')[0]}: {message}$"):
        match(text, views)
    with pytest.raises(MethodError, match=rf"{text.partition(':')[0]}\.py:\d+\): .*{message}$"):
        Registry().resolve(text).matches(views)


# On a network
