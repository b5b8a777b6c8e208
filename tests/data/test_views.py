"""Views against torchvision image by image, and their geometry against what the pixels show."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from functools import partial
from itertools import permutations, product

import pytest
import torch
from helpers import ragged, rng, some
from hypothesis import example, given
from hypothesis import strategies as st
from PIL.Image import Resampling
from scipy.stats import ks_2samp, kstest
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.transforms.v2 import functional as tv

from cl_bench.data import colour as colours
from cl_bench.data import views
from cl_bench.data.colour import draw_colours
from cl_bench.data.views import Geometry, crop_boxes, draw, resized_crop, resized_crops, spread, two_views
from cl_bench.spec import AugmentSpec

POLICIES = ("overlapping", "disjoint")
STRENGTHS = ("brightness", "contrast", "saturation", "hue")
OFF = dict.fromkeys(STRENGTHS, 0.0)
PLAIN = {**OFF, "jitter": 0.0, "grayscale": 0.0, "mean": (0, 0, 0), "std": (1, 1, 1)}

close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
sides = st.integers(1, 40)
seeds = st.integers(0, 9999)


def bytes_of(B, H, W, seed=0):
    return torch.randint(256, (B, 3, H, W), generator=rng(seed), dtype=torch.uint8)


def colour(images, augment, generator):
    return colours.colour(images.clone(), draw_colours(len(images), augment, generator), augment)


def plain(**changes):
    return AugmentSpec(**{"size": 12, **PLAIN, **changes})


def any_boxes(B, H, W, seed=0):
    """Boxes of at least one pixel, anywhere, of any shape."""
    generator = rng(seed)

    def span(length):
        start = (torch.rand(B, generator=generator) * length).long()
        return start, start + 1 + (torch.rand(B, generator=generator) * (length - start)).long()

    (x1, x2), (y1, y2) = span(W), span(H)
    return torch.stack([x1, y1, x2, y2], 1), torch.rand(B, generator=generator) < 0.5


# Crops


@some(60)
@given(height=sides, width=sides, size=st.integers(1, 33), seed=seeds)
def test_resized_crop_is_torchvision_s_image_by_image(height, width, size, seed):
    images = torch.rand(4, 3, height, width, generator=rng(seed))
    boxes, flips = any_boxes(4, height, width, seed)
    for image, (x1, y1, x2, y2), flip, view in zip(
        images, boxes.tolist(), flips, resized_crop(images, boxes, flips, size), strict=True
    ):
        expected = tv.resized_crop(image, y1, x1, y2 - y1, x2 - x1, [size, size], antialias=True)
        close(view, tv.horizontal_flip(expected) if flip else expected)


@some(30)
@given(height=sides, width=sides, size=st.integers(1, 33), seed=seeds)
def test_no_pixel_outside_the_box_is_read(height, width, size, seed):
    images = torch.rand(4, 3, height, width, generator=rng(seed))
    boxes, flips = any_boxes(4, height, width, seed)
    loud = torch.full_like(images, 1e30)
    for image, other, (x1, y1, x2, y2) in zip(images, loud, boxes.tolist(), strict=True):
        other[:, y1:y2, x1:x2] = image[:, y1:y2, x1:x2]
    assert torch.equal(resized_crop(images, boxes, flips, size), resized_crop(loud, boxes, flips, size))


ODD = [(1, 2), (2, 1), (1, 3), (1, 17), (19, 1), (2, 2), (2, 3), (3, 5), (7, 4), (31, 33), (64, 9)]


@pytest.mark.parametrize("scale", [(0.01, 1.0), (0.2, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize(("height", "width"), ODD)
def test_disjoint_views_share_no_pixel(height, width, scale):
    n = 4000
    a, b = crop_boxes(n, height, width, plain(scale=scale), "disjoint", rng(height * 99 + width))
    for boxes in (a, b):
        assert boxes.shape == (n, 4) and boxes.dtype == torch.int64
        assert (boxes[:, :2] < boxes[:, 2:]).all()
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= torch.tensor([width, height])).all()
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp_min(0).prod(1)
    assert not shared.any()
    after = (a[:, None, :2] >= b[:, None, 2:]).squeeze(1)  # per axis: view 1 lies beyond view 2
    before = (b[:, None, :2] >= a[:, None, 2:]).squeeze(1)
    for axis, length in enumerate((width, height)):
        for side in (after, before):  # which side is whose, and along which axis, is random
            assert (side[:, axis].float().mean() > 0.2) == (length > 1)


@some(40)
@given(height=sides, width=sides, seed=seeds, scale=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)))
def test_disjoint_views_of_any_size_share_no_pixel(height, width, seed, scale):
    augment = plain(scale=sorted(scale), ratio=(0.2, 5))
    if height * width == 1:
        with pytest.raises(ValueError, match=r"two pixels.*1 x 1"):
            crop_boxes(3, height, width, augment, "disjoint", rng(seed))
        return
    a, b = crop_boxes(200, height, width, augment, "disjoint", rng(seed))
    painted = torch.zeros(200, height, width, dtype=torch.int64)
    for boxes in (a, b):
        for canvas, (x1, y1, x2, y2) in zip(painted, boxes.tolist(), strict=True):
            assert x1 < x2 and y1 < y2
            canvas[y1:y2, x1:x2] += 1
    assert painted.max() == 1


def test_an_image_of_one_pixel_has_no_two_disjoint_views():
    with pytest.raises(ValueError, match=r"two pixels.*1 x 1"):
        two_views(bytes_of(2, 1, 1), plain(), "disjoint", rng())
    (view, _), _ = two_views(bytes_of(2, 1, 1), plain(), "overlapping", rng())
    close(view, (bytes_of(2, 1, 1) / 255).expand(2, 3, 12, 12))


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (32, 32, (0.2, 1.0), (3 / 4, 4 / 3)),
        (32, 32, (0.08, 0.5), (0.5, 3.0)),
        (31, 47, (0.4, 1.0), (3 / 4, 4 / 3)),
        (20, 60, (0.3, 1.0), (3 / 4, 4 / 3)),  # some tries do not fit
        (40, 12, (0.5, 0.9), (0.9, 1.1)),  # few do
    ],
)
def test_overlapping_crops_are_distributed_as_torchvision_s(height, width, scale, ratio):
    n = 3000
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    drawn = [RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(n)]
    y, x, h, w = torch.tensor(drawn).unbind(1)
    for boxes in crop_boxes(n, height, width, plain(scale=scale, ratio=ratio), "overlapping", rng(1)):
        x1, y1, x2, y2 = boxes.unbind(1)
        mine = {"area": (x2 - x1) * (y2 - y1), "ratio": (x2 - x1) / (y2 - y1), "x": x1, "y": y1, "x2": x2, "y2": y2}
        theirs = {"area": w * h, "ratio": w / h, "x": x, "y": y, "x2": x + w, "y2": y + h}
        for name in mine:
            assert ks_2samp(mine[name], theirs[name], method="asymp").pvalue > 1e-3, name


@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (0.9, 1.1)])
def test_a_crop_that_never_fits_is_torchvision_s_central_one(ratio):
    for height, width in product(range(1, 25), repeat=2):
        if 3 * min(height, width) > max(height, width):
            continue
        image = torch.empty(3, height, width)
        y, x, h, w = RandomResizedCrop.get_params(image, [1.0, 1.0], list(ratio))
        boxes, _ = crop_boxes(2, height, width, plain(scale=(1, 1), ratio=ratio), "overlapping", rng())
        assert boxes.tolist() == [[x, y, x + w, y + h]] * 2


def test_the_two_views_of_an_image_and_the_images_of_a_batch_are_drawn_apart():
    a, b = crop_boxes(500, 64, 64, plain(), "overlapping", rng())
    assert len({tuple(box) for box in torch.cat([a, b]).tolist()}) > 950
    (_, g1), (_, g2) = two_views(bytes_of(400, 4, 4), plain(flip=0.5), "overlapping", rng())
    both = 2 * g1.flips + g2.flips
    assert (both.bincount(minlength=4) > 60).all()


@pytest.mark.parametrize(("flip", "low", "high"), [(0.0, 0, 0), (0.2, 0.15, 0.25), (1.0, 1, 1)])
def test_flip_is_a_probability(flip, low, high):
    for _, geometry in two_views(bytes_of(1500, 2, 2), plain(flip=flip), "overlapping", rng()):
        assert low <= geometry.flips.float().mean() <= high


@some(40)
@given(height=st.integers(2, 60), width=st.integers(2, 60), size=st.integers(1, 33), seed=seeds)
def test_a_cut_is_pil_s_to_the_last_bit_but_one(height, width, size, seed):
    images = ragged([(height, width), (width, height)], seed)
    boxes = torch.cat([any_boxes(1, height, width, seed)[0], any_boxes(1, width, height, seed)[0]])
    flips = torch.tensor([False, True])
    for image, box, flip, mine in zip(
        images, boxes.tolist(), flips.tolist(), resized_crops(list(images), boxes, flips, size), strict=True
    ):
        expected = pil_to_tensor(to_pil_image(image).crop(box).resize((size, size), Resampling.BILINEAR))
        assert mine.dtype == torch.uint8
        assert (mine.int() - (expected.flip(-1) if flip else expected).int()).abs().max() <= 1


@some(20)
@given(size=st.integers(1, 33), seed=seeds)
def test_a_cut_reads_no_pixel_outside_its_box(size, seed):
    images = list(ragged([(20, 30), (41, 17), (1, 9)], seed))
    boxes = torch.cat([any_boxes(1, *image.shape[1:], seed)[0] for image in images])
    others = [255 - image for image in images]
    for image, other, (x1, y1, x2, y2) in zip(images, others, boxes.tolist(), strict=True):
        other[:, y1:y2, x1:x2] = image[:, y1:y2, x1:x2]
    flips = torch.tensor([False, True, False])
    assert torch.equal(resized_crops(images, boxes, flips, size), resized_crops(others, boxes, flips, size))


@pytest.mark.parametrize("policy", POLICIES)
def test_images_of_one_size_give_the_same_views_in_a_tensor_and_in_a_list(policy):
    images = bytes_of(30, 40, 52)
    whole, apart = (two_views(x, plain(flip=0.5), policy, rng()) for x in (images, list(images)))
    for (a, g), (b, h) in zip(whole, apart, strict=True):
        assert torch.equal(g.boxes, h.boxes) and torch.equal(g.flips, h.flips)
        assert all(torch.equal(x, y) for x, y in zip(g.cells((3, 4)), h.cells((3, 4)), strict=True))
        assert (a - b).abs().max() < 1.01 / 255  # the list's crops are rounded to bytes


@pytest.mark.parametrize("policy", POLICIES)
def test_each_image_is_cropped_by_its_own_size(policy):
    sizes = [(9, 200), (200, 9), (60, 60), (33, 47)] * 50
    height, width = torch.tensor(sizes).unbind(1)
    both = crop_boxes(200, height, width, plain(), policy, rng())
    for k in range(4):
        for boxes, alone in zip(both, crop_boxes(200, *sizes[k], plain(), policy, rng()), strict=True):
            assert torch.equal(boxes[k::4], alone[k::4])


def test_an_image_of_one_pixel_among_others_is_refused():
    with pytest.raises(ValueError, match=r"two pixels.*1 x 1"):
        two_views(ragged([(5, 5), (1, 1)]), plain(), "disjoint", rng())


# Threads and blocks


@pytest.mark.parametrize("images", [bytes_of(11, 40, 30), ragged([(20 + i, 60 - i) for i in range(11)])], ids=type)
def test_neither_threads_nor_blocks_change_a_bit(images, monkeypatch):
    augment = AugmentSpec(size=16, flip=0.5, blur=0.5)
    seen = []
    try:
        for threads, block in ((1, views.BLOCK), (1, 3 * 40 * 30 * 2), (2, 3 * 40 * 30 * 2), (3, 1)):
            monkeypatch.setattr(views, "BLOCK", block)
            torch.set_num_threads(threads)
            seen.append(torch.cat([view for view, _ in two_views(images, augment, "overlapping", rng())]))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(seen[0], other) for other in seen[1:])


@pytest.mark.parametrize("threads", [1, 2])
def test_what_fails_in_a_thread_is_raised(threads):
    def work(rows):
        if rows.start == 6:
            raise ZeroDivisionError

    torch.set_num_threads(threads)
    try:
        with pytest.raises(ZeroDivisionError):
            spread(work, 10, 2)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)


# Colour


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


# Repeatability


@pytest.mark.parametrize("policy", POLICIES)
def test_a_generator_gives_the_same_bytes_and_moves_on(policy):
    augment, images, generator = AugmentSpec(size=8, flip=0.5), bytes_of(5, 9, 7), rng(3)
    first, again, later = (
        [(view, g.boxes, g.flips) for view, g in two_views(images, augment, policy, source)]
        for source in (generator, rng(3), generator)
    )
    for a, b, c in zip(first, again, later, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        assert not torch.equal(a[0], c[0])
    assert not torch.equal(first[0][0], first[1][0])


@pytest.mark.parametrize("policy", POLICIES)
def test_the_generator_advances_by_the_batch_alone(policy):
    def state(shape=(5, 9, 7), **changes):
        generator = rng()
        two_views(bytes_of(*shape), AugmentSpec(**{"size": 8, **changes}), policy, generator)
        return generator.get_state()

    usual = state()
    for changes in (PLAIN, {"flip": 1}, {**OFF, "jitter": 1, "hue": 0.5}, {"grayscale": 1}, {"scale": (1, 1)}):
        assert torch.equal(state(**changes), usual)
    assert torch.equal(state((5, 1, 30), size=9), usual)
    assert not torch.equal(state((6, 9, 7)), usual)
    generator = rng()
    two_views(ragged([(9, 7), (3, 4), (30, 2), (2, 9), (5, 5)]), AugmentSpec(size=8), policy, generator)
    assert torch.equal(generator.get_state(), usual)


def test_neither_the_images_nor_the_global_generator_are_touched():
    images, pixels = bytes_of(5, 9, 7), torch.rand(5, 3, 4, 4)
    kept, kept_pixels, state = images.clone(), pixels.clone(), torch.get_rng_state()
    two_views(images, AugmentSpec(size=8, flip=0.5), "disjoint", rng())
    colour(pixels, AugmentSpec(size=8, jitter=1, grayscale=1), rng())
    assert torch.equal(images, kept) and torch.equal(pixels, kept_pixels)
    assert torch.equal(torch.get_rng_state(), state)


# Geometry


def cell_centre(box, flip, height, width, grid, p):
    """Centre of cell p in [0, 1], by hand."""
    (x1, y1, x2, y2), (row, column) = box, divmod(p, grid[1])
    if flip:
        column = grid[1] - 1 - column
    return (x1 + (column + 0.5) * (x2 - x1) / grid[1]) / width, (y1 + (row + 0.5) * (y2 - y1) / grid[0]) / height


@some(30)
@given(height=sides, width=sides, grid=st.tuples(st.integers(1, 4), st.integers(1, 4)), seed=seeds)
def test_cells_are_the_loop_s(height, width, grid, seed):
    boxes, flips = any_boxes(5, height, width, seed)
    xy, size = Geometry(boxes.float(), flips, height, width).cells(grid)
    assert xy.shape == (5, grid[0] * grid[1], 2) and size.shape == (5, 2)
    for b, box in enumerate(boxes.tolist()):
        close(xy[b], torch.tensor([cell_centre(box, flips[b], height, width, grid, p) for p in range(xy.shape[1])]))
        close(size[b], torch.tensor([(box[2] - box[0]) / width / grid[1], (box[3] - box[1]) / height / grid[0]]))


def test_cells_of_images_of_different_sizes_are_each_image_s_own_and_so_are_those_of_a_part():
    sizes = [(11, 23), (40, 8), (23, 11)]
    boxes, flips = zip(*(any_boxes(1, *size, seed) for seed, size in enumerate(sizes)), strict=True)
    together = Geometry(torch.cat(boxes).float(), torch.cat(flips), *torch.tensor(sizes).unbind(1))
    apart = [Geometry(b.float(), f, *size) for b, f, size in zip(boxes, flips, sizes, strict=True)]
    for k, part in enumerate(zip(*(g.cells((2, 3)) for g in apart), strict=True)):
        assert torch.equal(together.cells((2, 3))[k], torch.cat(part))
        assert torch.equal(together[1:].cells((2, 3))[k], torch.cat(part[1:]))
        assert torch.equal(apart[0][:1].cells((2, 3))[k], part[0])


@some(20)
@given(grid=st.tuples(st.integers(1, 4), st.integers(1, 4)), seed=seeds)
def test_cells_tile_the_crop(grid, seed):
    boxes, flips = any_boxes(5, 11, 23, seed)
    xy, size = Geometry(boxes.float(), flips, 11, 23).cells(grid)
    unit = torch.tensor([23.0, 11.0])
    close((xy - size[:, None] / 2).amin(1), boxes[:, :2] / unit)
    close((xy + size[:, None] / 2).amax(1), boxes[:, 2:] / unit)
    steps = ((xy - boxes[:, None, :2] / unit) / size[:, None] - 0.5).round().long()
    for cells in steps:
        assert {tuple(c) for c in cells.tolist()} == set(product(range(grid[1]), range(grid[0])))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("height", "width", "size"), [(40, 90, 12), (33, 17, 24), (64, 64, 8)])
@pytest.mark.parametrize(("form", "rounding"), [("tensor", 0), ("list", 0.5)])
def test_a_cell_s_centre_is_the_place_the_view_shows_there(height, width, size, policy, form, rounding):
    B = 40
    images = torch.zeros(B, 3, height, width, dtype=torch.uint8)
    images[:, 0] = torch.arange(width)
    images[:, 1] = torch.arange(height)[:, None]
    unit = torch.tensor([width, height])
    seen = 0
    source = images if form == "tensor" else list(images)
    for view, geometry in two_views(source, plain(size=size, flip=0.5), policy, rng()):
        xy, step = geometry.cells((size, size))
        where, reach = xy * unit, (step * unit).clamp_min(1)[:, None]
        shown = (view[:, :2] * 255 + 0.5).flatten(2).mT
        # At the border of a crop the filter is cut off; inside it is symmetric, as nearly as it is sampled.
        lo, hi = where - reach >= geometry.boxes[:, None, :2], where + reach <= geometry.boxes[:, None, 2:]
        inside = (lo & hi).all(-1)
        seen += int(inside.sum())
        torch.testing.assert_close(shown[inside], where[inside], rtol=0, atol=0.1 + rounding)
        assert ((shown - where).abs() <= reach + rounding).all()
    assert seen > 0.3 * 2 * B * size**2


@pytest.mark.parametrize("grid", [(3, 4), (4, 3), (1, 6), (12, 2), (1, 1)])
def test_a_coarse_cell_lies_in_the_middle_of_its_fine_ones(grid):
    boxes, flips = any_boxes(6, 21, 34)
    geometry = Geometry(boxes.float(), flips, 21, 34)
    fine, coarse = (geometry.cells(g)[0].mT.unflatten(-1, g) for g in ((12, 12), grid))
    close(torch.nn.functional.avg_pool2d(fine, (12 // grid[0], 12 // grid[1])), coarse)
