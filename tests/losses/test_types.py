"""Matches are checked when they are made, and read the same in either form and from either view."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields, replace
from itertools import product

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_bench.losses.types import DenseViews, LossTerms, Match

NAN, INF = float("nan"), float("inf")


def rows(*values, dtype=torch.float32):
    """Weights of one image."""
    return torch.tensor([values], dtype=dtype)


def dense_views(B=2, grid=(2, 3), D=4, C=5):
    P = grid[0] * grid[1]
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)

    return DenseViews(
        z1=draw(B, P, D),
        z2=draw(B, P, D),
        h1=draw(B, P, C),
        h2=draw(B, P, C),
        norm1=draw(B, P),
        norm2=draw(B, P),
        xy1=draw(B, P, 2),
        xy2=draw(B, P, 2),
        size1=draw(B, 2),
        size2=draw(B, 2),
        grid=grid,
    )


def index(*values):
    return torch.tensor(values)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({}, "weights.*index"),
        ({"valid": torch.ones(1, 2, dtype=torch.bool)}, "weights.*index"),
        ({"weights": rows([1.0]), "index": index([0])}, "weights.*index"),
        ({"weights": rows([1.0]), "valid": torch.ones(1, 1, dtype=torch.bool)}, "valid"),
        ({"weights": torch.eye(2)}, r"weights.*\(2, 2\)"),
        ({"weights": torch.ones(1, 1, 2, 2)}, r"weights.*\(1, 1, 2, 2\)"),
        ({"weights": torch.ones(1, 2, 3) / 3}, r"weights.*\(1, 2, 3\)"),
        ({"weights": torch.eye(2, dtype=torch.int64)[None]}, "weights.*int64"),
        ({"weights": torch.eye(2, dtype=torch.bool)[None]}, "weights.*bool"),
        ({"weights": torch.eye(2)[None].requires_grad_()}, "weights.*gradient"),
        ({"weights": torch.zeros(1, 2, 2, requires_grad=True).softmax(-1)}, "weights.*gradient"),
        ({"weights": rows([1.5, -0.5], [0.0, 1.0])}, "weights.*non-negative"),
        ({"weights": rows([-1.0, 1.0], [0.0, 1.0])}, "weights.*non-negative"),
        ({"weights": rows([NAN, 1.0], [0.0, 1.0])}, "weights.*finite"),
        ({"weights": rows([INF, 1.0], [0.0, 1.0])}, "weights.*finite"),
        ({"weights": rows([1.0, 0.0], [0.5, 0.4])}, r"weights.*\[0, 1\] sums to 0\.9"),
        ({"weights": rows([2.0, 0.0], [0.5, 0.5])}, r"weights.*\[0, 0\] sums to 2"),
        ({"weights": rows([1e-3, 0.0], [0.5, 0.5])}, r"weights.*\[0, 0\] sums to 0\.001"),
        ({"weights": rows([1.001, 0.0], [0.5, 0.5], dtype=torch.float64)}, r"weights.*\[0, 0\] sums to 1\.001"),
        ({"weights": rows([0.9, 0.0], [0.5, 0.5], dtype=torch.bfloat16)}, r"weights.*\[0, 0\] sums to 0\.89"),
        ({"index": index(0, 1)}, r"index.*\(2,\)"),
        ({"index": index([[0], [0]])}, r"index.*\(1, 2, 1\)"),
        ({"index": index([0, 1]).int()}, "index.*int32"),
        ({"index": index([0.0, 1.0])}, "index.*float32"),
        ({"index": index([0, 2])}, r"index.*\[0, 1\].*0 to 2"),
        ({"index": index([-1, 0])}, r"index.*\[0, 1\].*-1 to 0"),
        ({"index": index([0, 1]), "valid": torch.ones(2, 1, dtype=torch.bool)}, r"valid.*\(1, 2\).*\(2, 1\)"),
        ({"index": index([0, 1]), "valid": torch.ones(1, 2)}, "valid.*bool.*float32"),
    ],
)
def test_a_match_that_makes_no_sense_is_refused(given_, message):
    with pytest.raises(ValueError, match=message):
        Match(**given_)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rows_rounded_by_their_dtype_are_accepted(dtype):
    weights = torch.rand(3, 49, 49, generator=torch.Generator().manual_seed(0)).softmax(-1).to(dtype)
    assert Match(weights=weights).anchors.all()


def test_a_match_is_frozen():
    match = Match(index=index([0, 1]))
    with pytest.raises(FrozenInstanceError):
        match.index = index([1, 0])


def test_identity_pairs_equal_cells():
    views = dense_views()
    match = Match.identity(views)
    assert match.shape == (2, 6)
    assert match.anchors.all() and match.anchors.shape == (2, 6)
    assert torch.equal(match.dense(torch.float64), torch.eye(6, dtype=torch.float64).expand(2, 6, 6))


def test_the_two_forms_say_the_same():
    hard = Match(index=index([2, 0, 0], [1, 1, 2]), valid=torch.tensor([[True, False, True], [True, True, False]]))
    expected = torch.tensor([[[0, 0, 1], [0, 0, 0], [1, 0, 0]], [[0, 1, 0], [0, 1, 0], [0, 0, 0]]]).double()
    assert torch.equal(hard.dense(torch.float64), expected)
    soft = Match(weights=expected)
    assert hard.shape == soft.shape == (2, 3)
    assert torch.equal(hard.anchors, soft.anchors)
    assert torch.equal(hard.reversed().dense(torch.float32), soft.reversed().dense(torch.float32))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_dense_has_the_dtype_asked_for(dtype):
    for match in (Match(index=index([1, 0])), Match(weights=torch.eye(2)[None])):
        assert match.dense(dtype).dtype == dtype


def test_dense_leaves_the_match_alone():
    valid = torch.tensor([[True, False]])
    match = Match(index=index([1, 0]), valid=valid)
    match.dense(torch.float32).fill_(7)
    assert torch.equal(match.index, index([1, 0])) and torch.equal(match.anchors, torch.tensor([[True, False]]))


def test_the_reverse_of_identity_is_identity():
    match = Match.identity(dense_views())
    assert torch.equal(match.reversed().dense(torch.float32), match.dense(torch.float32))


@settings(max_examples=30, deadline=None)
@given(permutation=st.permutations(range(5)))
def test_the_reverse_of_a_permutation_is_its_inverse(permutation):
    forth = torch.tensor([permutation])
    back = Match(index=forth).reversed()
    assert torch.equal(back.dense(torch.float32), Match(index=forth.argsort(-1)).dense(torch.float32))
    assert torch.equal(back.reversed().dense(torch.float32), Match(index=forth).dense(torch.float32))


@settings(max_examples=50, deadline=None)
@given(B=st.integers(1, 3), P=st.integers(1, 5), keep=st.floats(0, 1), seed=st.integers(0, 999))
def test_the_reverse_agrees_with_loops_and_its_rows_sum_to_one(B, P, keep, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(B, P, P, generator=generator, dtype=torch.float64)
    weights *= torch.rand(B, P, P, generator=generator) < keep
    sums = weights.sum(-1, keepdim=True)
    weights = torch.where(sums > 0, weights / sums, 0.0)
    back = Match(weights=weights).reversed()
    expected = torch.tensor(oracles.reversed_weights(weights.tolist()), dtype=torch.float64)
    torch.testing.assert_close(back.dense(torch.float64), expected)
    received = (weights > 0).any(1)
    assert torch.equal(back.anchors, received)
    torch.testing.assert_close(back.dense(torch.float64).sum(-1), received.double())


@pytest.mark.parametrize(
    ("dtype", "small"),
    [(torch.float16, 2e-5), (torch.bfloat16, 1e-39), (torch.float32, 1e-40), (torch.float64, 1e-310)],
)
def test_the_reverse_of_a_vanishing_weight_still_sums_to_one(dtype, small):
    # What a sharp softmax leaves: a cell of view 2 that every anchor all but ignores.
    weights = rows([1.0, small], [1.0, small], dtype=dtype)
    assert (weights[..., 1] > 0).all()
    back = Match(weights=weights).reversed()
    torch.testing.assert_close(back.dense(torch.float64), torch.full((1, 2, 2), 0.5, dtype=torch.float64))


def test_swapping_the_views_twice_is_nothing():
    views = dense_views()
    once, twice = views.swapped(), views.swapped().swapped()
    for field in fields(DenseViews):
        assert getattr(twice, field.name) is getattr(views, field.name)
    for name in ("z", "h", "norm", "xy", "size"):
        assert getattr(once, f"{name}1") is getattr(views, f"{name}2")
        assert getattr(once, f"{name}2") is getattr(views, f"{name}1")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_cosines_and_distances_are_the_loop_s_from_view_1_to_view_2(dtype):
    views = dense_views()
    views = replace(views, h1=views.h1.to(dtype), h2=views.h2.to(dtype).requires_grad_())
    with torch.autocast("cpu", torch.bfloat16):
        cosine, distance = views.cosine(), views.distance()
    assert cosine.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) and not cosine.requires_grad
    projected = replace(views, z1=views.h1, z2=views.h2, h1=views.h2, h2=views.h2)
    assert torch.equal(projected.cosine("projection"), cosine) and not torch.equal(projected.cosine(), cosine)
    for b, p, q in product(range(2), range(6), range(6)):
        dot = sum(x * y for x, y in zip(views.h1[b, p].tolist(), views.h2[b, q].tolist(), strict=True))
        assert cosine[b, p, q].item() == pytest.approx(dot, abs=1e-6)
        apart = math.dist(views.xy1[b, p].tolist(), views.xy2[b, q].tolist())
        assert distance[b, p, q].item() == pytest.approx(apart, rel=1e-5)


def test_a_cell_is_at_no_distance_from_itself_on_a_grid_of_any_size():
    xy = torch.rand(2, 49, 2, generator=torch.Generator().manual_seed(0))
    views = replace(dense_views(), xy1=xy, xy2=xy)
    assert not views.distance().diagonal(dim1=1, dim2=2).any()


def test_cells_are_near_by_diagonals_of_the_larger_view_s_cell():
    xy = torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]]])
    sizes = torch.tensor([[0.03, 0.04], [0.3, 0.4]]), torch.tensor([[0.06, 0.08], [0.003, 0.004]])  # .05 and .1, .5
    views = replace(dense_views(), xy1=xy, xy2=xy + torch.tensor([0.0, 0.09]), size1=sizes[0], size2=sizes[1])
    for threshold, near in ((0.17, [False, False]), (0.19, [False, True]), (0.89, [False, True]), (0.91, [True, True])):
        assert views.near(threshold).flatten().tolist() == near
        assert torch.equal(views.swapped().near(threshold), views.near(threshold).mT)


def test_the_total_is_the_sum_of_the_terms():
    assert LossTerms(torch.tensor(-2.0), torch.tensor(5.0)).total == 3
