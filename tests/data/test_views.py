"""Views against torchvision image by image, and their geometry against what the pixels show."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from helpers import ragged, rng, some
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop
from view_cases import OFF, PLAIN, POLICIES, bytes_of, close, colour, plain, seeds, sides

from cl_bench.data import views
from cl_bench.data.views import crop_boxes, two_views
from cl_bench.spec import AugmentSpec

# Crops


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


# Colour


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
