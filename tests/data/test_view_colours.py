"""Colours of views: jitter, blur, grayscale and normalisation, against torchvision."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from functools import partial
from itertools import permutations

import pytest
import torch
from helpers import rng, some
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import kstest
from torchvision.transforms.v2 import functional as tv
from view_cases import OFF, PLAIN, STRENGTHS, bytes_of, close, colour, plain, seeds

from cl_bench.data import colour as colours
from cl_bench.data.colour import draw_colours
from cl_bench.data.views import draw, two_views
from cl_bench.spec import AugmentSpec


@pytest.mark.parametrize(("name", "factors"), [(n, (0.0, 0.3, 1.0, 1.7)) for n in STRENGTHS[:3]] + [("hue", None)])
def test_an_operation_is_torchvision_s_image_by_image(name, factors):
    factors = torch.tensor(factors or (-0.5, -0.21, 0.0, 0.1, 0.5))
    images = torch.rand(len(factors), 3, 5, 7, generator=rng())
    images[:, :, 0] = images[:, :1, 0]  # gray: no hue
    images[:, :, 1, :3] = torch.eye(3)  # pure: corners of the hue circle
    images[:, :, 2] = images[:, :, 2].round()  # black, white, and two channels that tie for the peak
    result = getattr(colours, f"_{name}")(images.clone(), factors[:, None, None, None])
    for image, factor, mine in zip(images, factors.tolist(), result, strict=True):
        close(mine, getattr(tv, f"adjust_{name}")(image, factor))


@pytest.fixture
def plan(monkeypatch):
    """Plan(augment, n, seed): each image's operations and factors in order, from a run whose operations do nothing."""

    def make(augment, n, seed=0):
        log = defaultdict(list)

        def note(name, x, factor):
            for image, value in zip(x[:, 0, 0, 0].tolist(), factor.flatten().tolist(), strict=True):
                log[int(image)].append((name, value))
            return x

        with monkeypatch.context() as patch:
            for name in STRENGTHS:
                patch.setattr(colours, f"_{name}", partial(note, name))
            colour(torch.arange(n)[:, None, None, None].expand(n, 3, 1, 1).float(), augment, rng(seed))
        return [log[i] for i in range(n)]

    return make


def test_colour_is_torchvision_s_operations_in_the_order_drawn(plan):
    augment = AugmentSpec(size=8, hue=0.3, saturation=0.9, jitter=0.7, grayscale=0.3)
    images = torch.rand(80, 3, 5, 6, generator=rng())
    grays = 0
    for image, steps, mine in zip(images, plan(augment, 80), colour(images, augment, rng()), strict=True):
        for name, factor in steps:
            image = getattr(tv, f"adjust_{name}")(image, factor)
        expected = [tv.normalize(x, augment.mean, augment.std) for x in (image, tv.rgb_to_grayscale(image, 3))]
        gray = (mine - expected[1]).abs().max() < (mine - expected[0]).abs().max()
        close(mine, expected[int(gray)])
        grays += int(gray)
    assert 12 <= grays <= 36


def test_each_image_has_its_own_order_and_factors(plan):
    plans = plan(AugmentSpec(size=8, jitter=1.0), 500)
    assert {tuple(name for name, _ in steps) for steps in plans} == set(permutations(STRENGTHS))
    for name in STRENGTHS:
        assert len({dict(steps)[name] for steps in plans}) > 490


@pytest.mark.parametrize("strength", [0.4, 1.5])
@pytest.mark.parametrize("name", STRENGTHS)
def test_factors_fill_torchvision_s_range_and_a_strength_of_zero_does_nothing(plan, name, strength):
    strength = strength / 4 if name == "hue" else strength
    plans = plan(AugmentSpec(**{"size": 8, **OFF, "jitter": 1.0, name: strength}), 1000)
    assert all([n for n, _ in steps] == [name] for steps in plans)
    factors = torch.tensor([factor for ((_, factor),) in plans])
    low, high = (-strength, strength) if name == "hue" else (max(0.0, 1 - strength), 1 + strength)
    assert low - 1e-6 <= factors.min() < low + 0.02 * (high - low)
    assert high - 0.02 * (high - low) < factors.max() <= high + 1e-6
    assert abs(factors.mean() - (low + high) / 2) < 0.05 * (high - low)


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.3, 0.25, 0.35), (1.0, 1, 1)])
def test_jitter_and_grayscale_are_probabilities(plan, probability, low, high):
    jittered = [bool(steps) for steps in plan(AugmentSpec(size=8, jitter=probability), 2000)]
    assert low <= sum(jittered) / 2000 <= high
    images = torch.rand(2000, 3, 1, 1, generator=rng())
    out = colour(images, plain(grayscale=probability), rng())
    gray = (out == out[:, :1]).all(1).flatten()
    assert low <= gray.float().mean() <= high
    assert torch.equal(out[~gray], images[~gray])
    close(out[gray], tv.rgb_to_grayscale(images[gray], 3))


def test_jitter_grayscale_flip_and_crop_know_nothing_of_each_other(plan):
    augment = AugmentSpec(**{**PLAIN, "size": 8, "jitter": 0.5, "brightness": 0.4, "grayscale": 0.5})
    jittered = torch.tensor([bool(steps) for steps in plan(augment, 2000)])
    out = colour(torch.rand(2000, 3, 1, 1, generator=rng()), augment, rng())
    gray = (out == out[:, :1]).all(1).flatten()
    assert abs((jittered & gray).float().mean() - 0.25) < 0.04


@some(20)
@given(
    largest=st.floats(0.1, 4),
    height=st.integers(2, 40),
    width=st.integers(2, 40),
    seed=seeds,
)
def test_blur_is_torchvision_s_image_by_image(largest, height, width, seed):
    images = torch.rand(4, 3, height, width, generator=rng(seed))
    sigmas = 0.05 + torch.rand(4, generator=rng(seed)) * (largest - 0.05)
    radius = min(math.ceil(3 * largest), height - 1, width - 1)
    for image, sigma, mine in zip(images, sigmas.tolist(), colours.blur(images, sigmas, largest), strict=True):
        close(mine, tv.gaussian_blur(image, [2 * radius + 1] * 2, [sigma] * 2))


def test_blur_is_a_probability_with_a_sigma_of_its_own_and_moves_no_other_draw():
    n, augment = 3000, AugmentSpec(size=8, blur=0.3, blur_sigma=(0.5, 1.5))
    without, drawn = draw_colours(n, AugmentSpec(size=8), rng()), draw_colours(n, augment, rng())
    assert not without.sigmas.any()
    for name in ("factors", "order", "gray"):
        assert torch.equal(getattr(without, name), getattr(drawn, name))
    sigmas = drawn.sigmas[drawn.sigmas > 0]
    assert 0.27 < len(sigmas) / n < 0.33
    assert kstest(sigmas, "uniform", (0.5, 1.0)).pvalue > 1e-3
    other = draw(n, 9, 9, augment, "overlapping", rng())
    assert not torch.equal(other[0].colours.sigmas, other[1].colours.sigmas)
    still = draw(n, 9, 9, AugmentSpec(size=8), "overlapping", rng())
    assert torch.equal(still[0].boxes, other[0].boxes) and torch.equal(still[1].boxes, other[1].boxes)


def test_the_blurred_are_those_that_were_drawn_after_gray_and_jitter():
    augment = AugmentSpec(size=16, blur=0.5)
    images = torch.rand(60, 3, 16, 16, generator=rng())
    drawn = draw_colours(60, augment, rng())
    sharp = replace(drawn, sigmas=torch.zeros(60))
    one, other = (colours.colour(images.clone(), d, augment) for d in (drawn, sharp))
    for mine, expected, sigma in zip(one, other, drawn.sigmas.tolist(), strict=True):
        close(mine, tv.gaussian_blur(expected, [13, 13], [sigma] * 2) if sigma else expected)


@some(50)
@given(
    st.lists(
        st.floats(-6, 12, width=32, exclude_min=True, exclude_max=True, allow_subnormal=False),
        min_size=1,
        max_size=40,
    )
)
@example([-1e-37, -1e-9, 5.9999995, 6.0, 11.999999, -5.9999995, 0.0])
def test_turns_are_the_remainder_to_the_bit(values):
    x = torch.tensor(values)
    assert torch.equal(colours._turns(x.clone()), x % 6)


def test_views_are_normalised_by_channel():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    images = bytes_of(3, 9, 7)
    raw, normalised = (two_views(images, plain(**c), "overlapping", rng()) for c in ({}, {"mean": mean, "std": std}))
    for (a, _), (b, _) in zip(raw, normalised, strict=True):
        assert b.dtype == torch.float32 and b.shape == (3, 3, 12, 12)
        assert a.min() >= 0 and a.max() <= 1 + 1e-6
        close(b, tv.normalize(a, mean, std))
