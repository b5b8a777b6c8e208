"""Similarities of positives and negatives, against loops and closed forms."""

from __future__ import annotations

from itertools import pairwise

import oracles
import pytest
import torch
from helpers import KINDS, rng, some
from hypothesis import given
from hypothesis import strategies as st

from cl_bench.evaluate.similarities import BINS, OTHERS, overlap, similarity_histograms


def unit(*shape, seed=0):
    # In float64, so that no cosine falls on the other side of a bin's edge.
    return torch.nn.functional.normalize(torch.randn(shape, generator=rng(seed), dtype=torch.float64), dim=-1)


def only(cosine):
    """All pairs in one bin."""
    return [float(k == min(BINS - 1, int((cosine + 1) / 2 * BINS))) for k in range(BINS)]


@some(40)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(2, 5), st.integers(0, 1000))
def test_histograms_are_the_oracle_s_with_every_other_image(N, P, C, seed):
    """Up to OTHERS + 1 images, each is paired with each other one."""
    h1, h2 = unit(N, P, C, seed=seed), unit(N, P, C, seed=seed + 1)
    found = similarity_histograms(h1, h2)
    expected = oracles.similarities(h1, h2, BINS, lambda i: [j for j in range(N) if j != i])
    assert list(found) == list(expected)
    assert set(KINDS) - set(found) == {k for k, gone in (("same_image", P == 1), ("other_images", N == 1)) if gone}
    for kind, shares in found.items():
        assert shares == pytest.approx(expected[kind]) and sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("N", [2, 9, 10, 23, 64])
def test_of_many_images_each_is_paired_with_a_few_all_over_the_set(N):
    """Two images are paired if a cosine of 1, which theirs alone is, turns up."""

    def paired(i, j):
        one_hot = torch.eye(N)
        return similarity_histograms(one_hot[i].view(N, 1, 1), one_hot[j].view(N, 1, 1))["other_images"][-1] > 0

    for i in (0, N - 1):
        shifts = [(j - i) % N for j in range(i, i + N) if paired(i, j % N)]
        assert len(shifts) == min(OTHERS, N - 1) and shifts[0] == 1
        assert max(b - a for a, b in pairwise([*shifts, N])) <= -(-N // OTHERS)


def test_equal_opposite_and_orthogonal_features():
    e = torch.eye(4)
    same = e[0].expand(5, 3, 4)
    assert similarity_histograms(same, same) == {kind: only(1) for kind in KINDS}
    assert similarity_histograms(same, -same) == {kind: only(-1) for kind in KINDS}
    by_image, by_place = e[:4, None].expand(4, 3, 4), e[None, :3].expand(5, 3, 4)
    assert similarity_histograms(by_image, by_image) == {
        "positive": only(1),
        "same_image": only(1),
        "other_images": only(0),
    }
    of_places = similarity_histograms(by_place, by_place)
    assert (of_places["positive"], of_places["same_image"]) == (only(1), only(0))
    assert overlap(of_places["positive"], of_places["other_images"]) == pytest.approx(1 / 3)


def test_the_overlap_of_histograms():
    assert overlap(only(0), only(0)) == 1 and overlap(only(0), only(1)) == 0
    assert overlap([0.5, 0.5, 0.0], [0.2, 0.2, 0.6]) == pytest.approx(0.4)


def test_rounding_past_one_stays_in_the_last_bin():
    long = torch.full((2, 2, 1), 1.0 + 1e-6)
    assert similarity_histograms(long, long)["positive"] == only(1)
    assert similarity_histograms(long, -long)["positive"] == only(-1)
