"""Knowledge of features about place, image and colour: closed forms, and loops that fit anew without each image."""

from __future__ import annotations

import oracles
import pytest
import torch
from helpers import PROBES, rng, some
from hypothesis import given
from hypothesis import strategies as st

from cl_bench.evaluate import probes as shortcuts
from cl_bench.evaluate.probes import held_out_predictions, probes, variance_shares

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 7))


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=rng(seed))


def features(N=40, P=4, C=16, *, place=0.0, image=0.0, own=0.0, seed=0):
    """Make unit vectors from a part for each place, a part for each image, and a part for each cell."""
    parts = noise(1, P, C, seed=seed), noise(N, 1, C, seed=seed + 1), noise(N, P, C, seed=seed + 2)
    return unit(place * parts[0] + image * parts[1] + own * parts[2] + torch.zeros(N, P, C))


def of(h, colours=None):
    return probes(h, noise(len(h), 3, seed=9) if colours is None else colours)


@pytest.mark.parametrize("P", [2, 4, 9])
def test_features_of_the_place_alone(P):
    found = of(features(P=P, place=1))
    assert tuple(found) == PROBES and all(type(v) is float for v in found.values())
    assert found == pytest.approx(
        {"position_share": 1, "image_share": 0, "colour_share": 0, "position_accuracy": 1, "position_chance": 1 / P}
    )


@pytest.mark.parametrize("P", [2, 4, 9])
def test_features_of_the_image_alone(P):
    found = of(features(P=P, image=1))
    assert (found["position_share"], found["image_share"]) == pytest.approx((0, 1), abs=1e-6)
    assert found["position_accuracy"] == pytest.approx(found["position_chance"]) == pytest.approx(1 / P)


def test_independent_noise_knows_nothing():
    found = of(features(N=2000, P=9, own=1))
    assert found["position_share"] == pytest.approx(1 / 2000, rel=0.3)
    assert found["image_share"] == pytest.approx(1 / 9, rel=0.05)
    assert found["colour_share"] < 0.01
    assert found["position_accuracy"] == pytest.approx(1 / 9, abs=0.02)


def test_constant_features_know_nothing():
    constant = unit(noise(1, 1, 16)).expand(20, 4, 16)
    for h in (constant, unit(constant + 1e-7 * noise(20, 4, 16))):
        found = of(h)
        assert (found["position_share"], found["image_share"]) == (0, 0)
        assert found["colour_share"] == pytest.approx(0, abs=1e-6)
    assert of(constant)["position_accuracy"] == pytest.approx(0.25)


def test_a_planted_colour_is_found():
    colours = noise(200, 3)
    basis = torch.linalg.qr(noise(16, 16)).Q
    planted = torch.cat([colours, 3 * torch.ones(200, 1)], 1) @ basis[:4]  # the constant keeps the norms alike
    for strength, low, high in ((0.0, 0.97, 1.0), (0.3, 0.8, 0.97), (3.0, 0.0, 0.7)):
        h = unit(planted[:, None] + strength * noise(200, 4, 16, seed=3))
        assert low <= of(h, colours)["colour_share"] <= high
    assert of(h, noise(200, 3, seed=5))["colour_share"] < 0.05
    assert of(h, torch.ones(200, 3))["colour_share"] == 0


def test_a_place_that_is_partly_known():
    shares, accuracies = zip(
        *(
            (found["position_share"], found["position_accuracy"])
            for found in (of(features(N=300, P=4, place=strength, own=1)) for strength in (0.1, 0.3, 1.0, 5.0))
        ),
        strict=True,
    )
    assert list(shares) == sorted(shares) and shares[0] < 0.05 and shares[-1] > 0.9
    assert list(accuracies) == sorted(accuracies) and 0.25 < accuracies[0] < 0.5 and accuracies[-1] > 0.99


@some(40)
@given(SHAPES, st.integers(0, 1000))
def test_all_are_shares_and_the_variances_are_the_oracle_s(shape, seed):
    h = unit(noise(*shape, seed=seed))
    found = of(h, noise(shape[0], 3, seed=seed + 1))
    assert all(0 <= v <= 1 for v in found.values())
    if float((h - h[0, 0]).abs().max()) > 1e-3:
        assert (found["position_share"], found["image_share"]) == pytest.approx(oracles.variance_shares(h), abs=1e-6)


@some(30)
@given(SHAPES, st.integers(0, 1000), st.sampled_from([1e-3, 0.1]))
def test_predictions_are_those_of_a_fit_without_the_image(shape, seed, ridge):
    shape = (shape[0] + 1, *shape[1:])
    x, y = noise(*shape, seed=seed), noise(*shape[:2], 3, seed=seed + 1).double()
    kept = shortcuts.RIDGE
    shortcuts.RIDGE = ridge
    try:
        found = held_out_predictions(x, y)
    finally:
        shortcuts.RIDGE = kept
    assert found == pytest.approx(oracles.held_out_predictions(x, y, ridge), rel=1e-6, abs=1e-7)


def test_accuracy_and_colour_share_are_the_oracle_s_predictions_summed_up():
    h, colours = features(N=30, P=3, place=0.3, image=1, own=1), noise(30, 3)
    h = unit(h + 0.2 * torch.nn.functional.pad(colours, (0, 13))[:, None])
    places = torch.eye(3).expand(30, 3, 3)
    scores = oracles.held_out_predictions(h, places, shortcuts.RIDGE)
    seen = oracles.held_out_predictions(h, colours[:, None].expand(30, 3, 3), shortcuts.RIDGE)
    right = [float(scores[i, p].argmax() == p) for i in range(30) for p in range(3)]
    wrong = sum(float((seen[i, p] - colours[i]).square().sum()) for i in range(30) for p in range(3))
    spread = 3 * sum(float((colour - colours.mean(0)).square().sum()) for colour in colours)
    found = of(h, colours)
    assert found["position_accuracy"] == pytest.approx(sum(right) / 90) and 1 / 3 < sum(right) / 90 < 1
    assert found["colour_share"] == pytest.approx(1 - wrong / spread, rel=1e-5) and found["colour_share"] > 0.1


def test_the_order_of_images_and_of_cells_and_a_rotation_do_not_matter():
    h, colours = features(N=25, P=5, place=0.3, image=0.5, own=1), noise(25, 3)
    found = of(h, colours)
    images, places = torch.randperm(25, generator=rng(1)), torch.randperm(5, generator=rng(2))
    rotation = torch.linalg.qr(noise(16, 16)).Q
    for same in (of(h[images], colours[images]), of(h[:, places], colours), of(h @ rotation, 3 - 2 * colours)):
        assert same == pytest.approx(found, rel=1e-4)


def test_every_image_twice_has_the_same_variances():
    h = features(N=12, P=3, place=0.3, image=0.5, own=1)
    torch.testing.assert_close(variance_shares(h.repeat(2, 1, 1)), variance_shares(h))


@pytest.mark.parametrize("P", [1, 4])
def test_one_image_leaves_nothing_to_fit_to(P):
    found = of(features(N=1, P=P, own=1))
    assert found["position_accuracy"] == found["position_chance"] == 1 / P
    assert found["colour_share"] == found["image_share"] == 0


def test_one_cell_has_no_place():
    found = of(features(N=20, P=1, own=1))
    assert (found["position_share"], found["image_share"]) == pytest.approx((0, 1))
    assert found["position_accuracy"] == found["position_chance"] == 1


def test_more_directions_than_cells_overfit_nothing():
    """The read-outs are of images that were not fitted to: noise of 64 dimensions in 24 cells tells nothing."""
    found = of(features(N=8, P=3, C=64, own=1))
    assert found["colour_share"] < 0.3 and found["position_accuracy"] < 0.7
