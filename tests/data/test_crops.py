"""Crops against torchvision and PIL, image by image, on the CPU and on a pretended GPU."""

from __future__ import annotations

import pytest
import torch
from helpers import ragged, rng, some
from hypothesis import example, given
from hypothesis import strategies as st
from PIL.Image import Resampling
from pretended_gpu import CPU, GPU, pretended_gpu
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.transforms.v2 import functional as tv
from view_cases import any_boxes, close, seeds, sides

from cl_bench.data import crops
from cl_bench.data.crops import resized_crop, resized_crops, spread


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


@some(40)
@given(height=st.integers(2, 60), width=st.integers(2, 60), size=st.integers(1, 33), seed=seeds)
@example(height=20, width=21, size=28, seed=392)  # differs by 2
def test_a_cut_is_pil_s_but_for_rounding(height, width, size, seed):
    """Both resize one side first and round, and then the other: each is within 1 of the exact value."""
    images = ragged([(height, width), (width, height)], seed)
    boxes = torch.cat([any_boxes(1, height, width, seed)[0], any_boxes(1, width, height, seed)[0]])
    flips = torch.tensor([False, True])
    for image, box, flip, mine in zip(
        images, boxes.tolist(), flips.tolist(), resized_crops(list(images), boxes, flips, size), strict=True
    ):
        expected = pil_to_tensor(to_pil_image(image).crop(box).resize((size, size), Resampling.BILINEAR))
        assert mine.dtype == torch.uint8
        expected = expected.flip(-1) if flip else expected
        exact = resized_crop(image[None].float(), torch.tensor([box]), torch.tensor([flip]), size)[0]
        assert (mine.int() - expected.int()).abs().max() <= 2
        assert (mine - exact).abs().max() < 1.1  # weights of 16 bits account for the rest


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


def cases(seed, *sizes):
    images = list(ragged([*sizes], seed))
    boxes = torch.cat([any_boxes(1, *image.shape[1:], seed + i)[0] for i, image in enumerate(images)])
    return images, boxes, torch.rand(len(images), generator=rng(seed)) < 0.5


@some(20)
@given(size=st.integers(1, 33), together=st.sampled_from([1, 3 * 41 * 30 * 2, 2**25]), seed=seeds)
def test_a_gpu_s_crops_are_the_cpu_s_to_the_last_bit_but_one(size, together, seed):
    images, boxes, flips = cases(seed, (20, 30), (41, 17), (1, 9), (30, 30), (7, 1))
    expected = resized_crops(images, boxes, flips, size)
    with pytest.MonkeyPatch.context() as patch, pretended_gpu():
        patch.setattr(crops, "GPU_NUMBERS", together)
        found = resized_crops(images, boxes, flips, size, GPU)
        assert found.device == GPU and found.dtype == torch.uint8
        found = found.to(CPU)
    assert (found.int() - expected.int()).abs().max() <= 1


def test_a_gpu_resizes_crops_without_waiting_and_reads_nothing_else(monkeypatch):
    images, boxes, flips = cases(3, (20, 30), (41, 17), (33, 9), (25, 25))
    copied = []
    real = crops.end_to_end
    monkeypatch.setattr(crops, "end_to_end", lambda *a, **b: copied.append(real(*a, **b)) or copied[-1])
    with pretended_gpu() as counts:
        resized_crops(images, boxes, flips, 8, GPU)
        assert counts.synchronisations.total() == 0
        few = counts.operations.total()
        counts.clear()
        resized_crops(images * 10, boxes.repeat(10, 1), flips.repeat(10), 8, GPU)
        assert counts.operations.total() == few < 100  # of images together, not of each
    sides = boxes[:, 2:] - boxes[:, :2]
    assert copied[0].numel() == 3 * int(sides.prod(1).sum()) and copied[0].dtype == torch.uint8


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
