"""Built-in matching strategies on views whose match is known: identical, shifted, flipped, disjoint, planted."""

from __future__ import annotations

import math
from dataclasses import replace

import matching_oracles as oracles
import pytest
import torch
from helpers import rng, some
from hypothesis import given
from hypothesis import strategies as st
from matching_batches import Batch, agree, disjoint, draw, every_precision, match, same, seeds, weights


@every_precision
@pytest.mark.parametrize("grid", [(7, 7), (3, 3), (2, 5), (1, 1)])
@pytest.mark.parametrize(
    "text", ["dense_cosine", "dense_emd:plan=hard", "dense_geometric:nearest=true", "dense_vicregl:gamma=1"]
)
def test_a_cell_of_identical_views_matches_itself(text, grid, dtype):
    views = same(draw(4, grid, C=24)).views(dtype)
    assert torch.equal(weights(text, views), torch.eye(math.prod(grid), dtype=torch.float64).expand(4, -1, -1))


@every_precision
def test_the_sets_and_the_soft_plan_of_identical_views_hold_the_cell_itself(dtype):
    views = same(draw(4, (4, 4), C=24)).views(dtype)
    assert torch.equal(weights("dense_emd", views).argmax(-1), torch.arange(16).expand(4, 16))
    for text in ("dense_setsim", "dense_geometric", "dense_vicregl"):
        own = weights(text, views).diagonal(dim1=1, dim2=2)
        assert torch.equal(own > 0, match(text, views).anchors) and (own > 0).any(1).all()


SHIFTS = [(0, 0), (1, 0), (0, 1), (-1, 0), (2, -1), (-3, -3), (4, 0), (0, -5)]


def shifted(columns, rows, flips=(False, False), grid=(4, 4)):
    """View 2 is view 1 moved by whole square cells, either mirrored; and which cell of it each sees, -1 for none."""
    H, W = grid
    batch = draw(3, grid, C=24)
    first = torch.tensor([[8.0, 8.0, 8.0 + 8 * W, 8.0 + 8 * H]]).double().expand(3, 4)
    move = torch.tensor([columns, rows, columns, rows]) * 8
    mirrored = [torch.full((3,), flip) for flip in flips]
    batch = replace(batch, boxes1=first, boxes2=first + move, flips1=mirrored[0], flips2=mirrored[1], image=(96, 96))
    seen = []
    for r in range(H):
        for c in range(W):
            c_image = W - 1 - c if flips[0] else c
            r2, c2 = r - rows, c_image - columns
            inside = 0 <= r2 < H and 0 <= c2 < W
            seen.append(r2 * W + (W - 1 - c2 if flips[1] else c2) if inside else -1)
    shown = torch.tensor(seen)
    f2 = batch.f2.clone()
    f2[:, shown[shown >= 0]] = batch.f1[:, shown >= 0]
    return replace(batch, f2=f2), shown


def one_hot(shown):
    """(P, P) of a known match."""
    return torch.stack([torch.arange(len(shown)) == q for q in shown]).double()


@every_precision
@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("columns", "rows"), SHIFTS)
def test_cells_that_see_the_same_place_match_and_others_match_nothing(columns, rows, flips, dtype):
    batch, shown = shifted(columns, rows, flips)
    views, expected = batch.views(dtype), one_hot(shown).expand(3, -1, -1)
    for text in ("dense_geometric", "dense_geometric:nearest=true"):
        assert torch.equal(weights(text, views), expected)
        assert torch.equal(weights(text, views.swapped()), expected.mT)
    overlap = int((shown >= 0).sum())
    if overlap:
        text = f"dense_vicregl:gamma={overlap / len(shown)}"
        assert torch.equal(weights(text, views), expected)
        assert torch.equal(weights(text, views.swapped()), expected.mT)


def test_a_wider_threshold_takes_the_neighbours_in():
    batch, shown = shifted(0, 0, grid=(3, 3))
    expected = one_hot(shown)
    for p in range(9):
        around = [q for q in range(9) if abs(p // 3 - q // 3) + abs(p % 3 - q % 3) <= 1]
        expected[p, around] = 1 / len(around)
    agree(weights("dense_geometric:threshold=0.72", batch.views())[0], expected.tolist())


@pytest.mark.parametrize("text", ["dense_geometric", "dense_geometric:nearest=true"])
def test_the_larger_of_the_two_cells_measures_nearness_image_by_image(text):
    # One cell each, centres 8 pixels apart: near for cells of 16 pixels in either view, not for cells of 8 in both.
    boxes1 = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 8], [4, 4, 20, 20]])
    boxes2 = torch.tensor([[8.0, 0, 16, 8], [4, -4, 20, 12], [16, 8, 24, 16]])
    flips = torch.zeros(3, dtype=torch.bool)
    features = torch.ones(3, 1, 2)
    batch = Batch(features, features, boxes1, boxes2, flips, flips, (1, 1), (64, 64))
    assert match(text, batch.views()).anchors.tolist() == [[False], [True], [True]]
    assert match(text, batch.views().swapped()).anchors.tolist() == [[False], [True], [True]]


def gaps(batch):
    """Distance between the two boxes and the larger of their cells' diagonals, both (B,) in source coordinates."""
    sides = torch.tensor([*batch.image[::-1]] * 2)
    one, two = batch.boxes1 / sides, batch.boxes2 / sides
    gap = torch.maximum(one[:, :2] - two[:, 2:], two[:, :2] - one[:, 2:]).clamp_min(0).norm(dim=-1)
    columns_and_rows = torch.tensor(batch.grid[::-1])
    return gap, torch.maximum(*(((box[:, 2:] - box[:, :2]) / columns_and_rows).norm(dim=-1) for box in (one, two)))


@pytest.mark.parametrize("text", ["dense_geometric", "dense_geometric:nearest=true"])
@pytest.mark.parametrize("grid", [(7, 7), (3, 3), (2, 4)])
def test_disjoint_views_have_positives_only_across_a_near_border(text, grid):
    batch = disjoint(600, grid)
    matched = match(text, batch.views()).anchors.any(1)
    gap, diagonal = gaps(batch)
    far = gap >= 0.7 * diagonal
    assert not matched[far].any() and far.sum() > 100
    assert 10 < matched.sum() < 300  # the border is crossed, but seldom


@pytest.mark.parametrize(
    ("box1", "box2", "pairs"),
    [
        ((0, 0, 32, 32), (32, 0, 64, 32), {}),  # 8 x 8 pixels a cell: 8 / 11.31 = 0.707
        ((0, 0, 16, 32), (16, 0, 32, 32), {3: [0], 7: [4], 11: [8], 15: [12]}),  # 4 x 8: 4 / 8.94 = 0.447
        ((0, 0, 32, 16), (32, 0, 64, 16), {}),  # 8 x 4: 8 / 8.94 = 0.894
        ((0, 0, 32, 32), (32, 0, 48, 16), {3: [0, 4], 7: [8, 12]}),  # a small beside a large: 6.32 / 11.31 = 0.559
        ((0, 0, 32, 32), (34, 0, 50, 16), {}),  # 2 pixels further: 8.25 / 11.31 = 0.729
    ],
)
def test_positives_across_the_border_of_views_that_touch(box1, box2, pairs):
    boxes = [torch.tensor([box], dtype=torch.float64) for box in (box1, box2)]
    unflipped = torch.zeros(1, dtype=torch.bool)
    batch = Batch(torch.ones(1, 16, 2), torch.ones(1, 16, 2), *boxes, unflipped, unflipped, (4, 4), (64, 64))
    expected = torch.zeros(1, 16, 16, dtype=torch.float64)
    for p, found in pairs.items():
        expected[0, p, found] = 1 / len(found)
    agree(weights("dense_geometric", batch.views()), expected.tolist())


@some(30)
@given(permutation=st.permutations(range(12)), seed=seeds, noise=st.floats(0, 0.3))
def test_planted_features_are_found_wherever_they_went(permutation, seed, noise):
    batch = draw(2, (3, 4), C=64, seed=seed)
    disturbed = batch.f1 + noise * torch.randn(batch.f1.shape, generator=rng(seed)) * batch.f1.std(-1, keepdim=True)
    batch = replace(batch, f2=disturbed[:, permutation])
    expected = torch.tensor(permutation).argsort().expand(2, 12)
    for text in ("dense_cosine", "dense_emd", "dense_emd:plan=hard", "dense_vicregl:gamma=1"):
        found = weights(text, batch.views())
        if text == "dense_vicregl:gamma=1":  # beside the nearest in place
            assert (found.gather(-1, expected.unsqueeze(-1)) > 0).all()
        else:
            assert torch.equal(found.argmax(-1), expected)
    for a, b, index in zip(*batch.features, expected.tolist(), strict=True):
        assert oracles.assignment(a, b)[0] == index
