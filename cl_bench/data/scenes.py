"""Embedded data: scenes of real handwritten digits (those that ship inside scikit-learn) on dim coloured backgrounds.

An image has one large digit (single-object, labelled) or two to four small ones that do not overlap (multi-object, with
boxes). Backgrounds are smooth on purpose: a unique texture per image would let instance discrimination ignore the
digit.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import zoom

from cl_bench.data.dataset import Dataset
from cl_bench.spec import ScenesSpec

Floats = NDArray[np.float32]
Shares = tuple[float, float]

CLASSES = tuple(str(d) for d in range(10))
SINGLE_HEIGHT = (0.62, 0.88)
"""Height of the one digit of a single-object scene, as a share of the image."""
MULTI_HEIGHT = (0.28, 0.42)
"""Height of a digit of a multi-object scene."""
TRAIN_SHARE = 0.7


def draw_scenes(spec: ScenesSpec) -> Dataset:
    """Draw scenes. The same spec gives the same bytes; train and test never share a handwritten digit.

    Background and places, digits, and tints each have their own random numbers: if two specs differ in ``digits`` or in
    ``tints`` alone, everything else about a scene is the same.
    """
    handwritten, targets = _digits(spec.split)
    kind, size = spec.kind, spec.size
    of_scene = [spec.seed, size, kind == "multi_object", spec.split == "test"]
    rng, of_digits, of_tints = (np.random.default_rng([*of_scene, part]) for part in range(3))
    canvas = np.empty((spec.images, size, size, 3), np.float32)
    labels, boxes = [], []
    for scene in canvas:
        scene[:] = _background(rng, size, spec.background)
        place = _places_multi if kind == "multi_object" else _place_single
        places = place(rng, size, spec.height)
        which = _which(of_digits, targets, len(places), spec.digits)
        tints = of_tints.uniform(*spec.tint, size=(len(places), 3)).astype(np.float32)
        if spec.tints == "same":
            tints[:] = tints[0]
        found = [_paste(scene, handwritten[w], t, *at) for w, t, at in zip(which, tints, places, strict=True)]
        boxes.append(torch.tensor(found, dtype=torch.float32))
        labels.append(torch.from_numpy(targets[which].astype(np.int64)))
    pixels = torch.from_numpy(np.clip(canvas * 255, 0, 255).astype(np.uint8)).permute(0, 3, 1, 2).contiguous()
    if kind == "single_object":
        return Dataset(pixels, CLASSES, labels=torch.cat(labels))
    return Dataset(pixels, CLASSES, boxes=tuple(boxes), box_labels=tuple(labels))


@lru_cache(maxsize=2)
def _digits(split: str) -> tuple[Floats, NDArray[np.int64]]:
    """Return (n, 8, 8) digits in [0, 1] and their classes; the assignment of digits to splits is fixed."""
    from sklearn.datasets import load_digits  # slow to import

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.images))
    cut = round(TRAIN_SHARE * len(order))
    chosen = order[:cut] if split == "train" else order[cut:]
    return (bunch.images[chosen] / 16).astype(np.float32), bunch.target[chosen]


def _which(
    rng: np.random.Generator, targets: NDArray[np.int64], count: int, digits: Literal["any", "same", "different"]
) -> NDArray[np.int64]:
    """Draw the (count,) indices of the handwritten digits of one scene among all of the split."""
    if digits == "any":
        return rng.integers(len(targets), size=count)
    classes = np.repeat(rng.integers(10), count) if digits == "same" else rng.permutation(10)[:count]
    return np.array([rng.choice(np.flatnonzero(targets == c)) for c in classes])


def _background(rng: np.random.Generator, size: int, brightness: float) -> Floats:
    """Draw a (size, size, 3) background, a dim colour that changes linearly across the image.

    With a bright background colour alone would distinguish images, and the digit would not be learnt.
    """
    corners = rng.uniform(0, brightness, size=(2, 2, 3)).astype(np.float32)
    u = np.linspace(0, 1, size, dtype=np.float32)
    left, right = (np.outer(1 - u, top) + np.outer(u, bottom) for top, bottom in corners.transpose(1, 0, 2))
    drift: Floats = (1 - u)[None, :, None] * left[:, None] + u[None, :, None] * right[:, None]
    return drift


def _place_single(rng: np.random.Generator, size: int, share: Shares | None) -> list[tuple[int, int, int]]:
    height = round(size * rng.uniform(*(share or SINGLE_HEIGHT)))
    x, y = rng.integers(0, size - height + 1, size=2)
    return [(int(x), int(y), height)]


def _places_multi(rng: np.random.Generator, size: int, height: Shares | None) -> list[tuple[int, int, int]]:
    """Draw two to four squares (x, y, side) that do not overlap, by rejection."""
    wanted = int(rng.integers(2, 5))
    placed: list[tuple[int, int, int]] = []
    while len(placed) < wanted:
        side = round(size * rng.uniform(*(height or MULTI_HEIGHT)))
        for _ in range(20):
            x, y = (int(v) for v in rng.integers(0, size - side + 1, size=2))
            if all(x + side <= a or a + s <= x or y + side <= b or b + s <= y for a, b, s in placed):
                placed.append((x, y, side))
                break
        else:  # no room left: restart the scene, so that crowded scenes do not have smaller digits
            placed.clear()
    return placed


def _paste(scene: Floats, digit: Floats, tint: Floats, x: int, y: int, side: int) -> tuple[float, float, float, float]:
    """Blend a tinted digit into the square at (x, y), and return the tight box of its ink in pixels."""
    alpha = np.clip(zoom(digit, side / 8, order=1, grid_mode=True, mode="nearest"), 0, 1)[:side, :side]
    patch = scene[y : y + alpha.shape[0], x : x + alpha.shape[1]]
    patch += alpha[..., None] * (tint - patch)
    rows, columns = np.flatnonzero((alpha > 0.2).any(1)), np.flatnonzero((alpha > 0.2).any(0))
    return float(x + columns[0]), float(y + rows[0]), float(x + columns[-1] + 1), float(y + rows[-1] + 1)
