"""Images of one size are kept on a GPU, if they fit, and give the views that the CPU's copy gives."""

import pytest
import torch
from helpers import ragged, rng
from pretended_gpu import CPU, GPU, pretended_gpu

from cl_bench.data import on_device as module
from cl_bench.data.dataset import Ragged, take
from cl_bench.data.on_device import on_device
from cl_bench.data.views import two_views
from cl_bench.spec import AugmentSpec

AUGMENT = AugmentSpec(size=16, flip=0.5)


@pytest.fixture(autouse=True)
def _nothing_held():
    module._held.clear()
    yield
    module._held.clear()


def pictures(seed=0):
    return torch.randint(256, (6, 3, 20, 24), generator=rng(seed), dtype=torch.uint8)


def as_ragged(images, gap=0):
    """Store the same images row by row and pixel by pixel, with a gap after each."""
    n, _, h, w = images.shape
    rows = torch.cat([images.permute(0, 2, 3, 1).reshape(n, -1), torch.zeros(n, gap, dtype=torch.uint8)], 1)
    return Ragged(rows.flatten(), torch.tensor([[h, w]] * n), torch.arange(n) * rows.shape[1])


def test_on_a_cpu_images_stay_what_they_are():
    for images in (pictures(), as_ragged(pictures())):
        assert on_device(images, CPU) is images


@pytest.mark.parametrize("store", [lambda images: images, as_ragged], ids=["tensor", "memory map"])
def test_images_of_one_size_are_copied_once_and_a_batch_waits_for_nothing(store):
    images, index = store(pictures()), torch.tensor([4, 0, 4])
    with pretended_gpu() as counts:
        there = on_device(images, GPU)
        assert there.device == GPU
        assert torch.equal(there.cpu(), pictures())
        counts.clear()
        assert on_device(images, GPU) is there
        batch = take(there, index)
        (first, _), (second, _) = two_views(batch, AUGMENT, "overlapping", rng(), GPU)
        assert not counts.synchronisations
        found = [batch.cpu(), first.cpu(), second.cpu()]
    (first, _), (second, _) = two_views(pictures()[index], AUGMENT, "overlapping", rng())
    for one, other in zip(found, (pictures()[index], first, second), strict=True):
        torch.testing.assert_close(one, other)


def test_another_data_set_takes_the_place_of_the_last():
    with pretended_gpu():
        on_device(pictures(), GPU)
        other = pictures(seed=1)
        assert torch.equal(on_device(other, GPU).cpu(), other)
    assert len(module._held) == 1


def test_what_does_not_fit_or_is_not_of_one_size_stays_where_it_is():
    size = pictures().numel()
    several, with_gaps = ragged([(20, 24), (24, 20)]), as_ragged(pictures(), gap=5)
    with pretended_gpu(memory=2 * size - 2):
        images = pictures()
        assert on_device(images, GPU) is images
    with pretended_gpu(memory=2 * size):
        assert on_device(pictures(), GPU).device == GPU
        for images in (several, with_gaps):
            assert on_device(images, GPU) is images
