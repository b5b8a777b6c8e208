"""Places of the cells of a view in its image."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from helpers import rng, some
from hypothesis import given
from hypothesis import strategies as st
from view_cases import POLICIES, any_boxes, close, plain, seeds, sides

from cl_bench.data.views import Geometry, two_views


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
