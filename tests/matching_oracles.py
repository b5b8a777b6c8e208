"""Reference matching strategies: loops over float64 numbers, written from the papers, without code of cl_bench.

A batch of features is ``f[image][cell]``, a list of numbers each, not normalised; a view's place is a box (x1, y1, x2,
y2) in an image of (height, width), mirrored or not. Weights are ``weights[image][p][q]``. Where a rule picks the best
of several, ``TieError`` is raised if rounding would decide which that is.
"""

from __future__ import annotations

import math

import numpy as np
import ot
from scipy.optimize import linear_sum_assignment


class TieError(Exception):
    """Two candidates, or a candidate and a threshold, are too close for float32 to tell apart."""


CLOSE = 1e-5


def apart(a, b):
    if abs(a - b) < CLOSE:
        raise TieError
    return a - b


def best(values):
    """Return the index of the largest value."""
    order = sorted(range(len(values)), key=lambda i: -values[i])
    if len(order) > 1:
        apart(values[order[0]], values[order[1]])
    return order[0]


def shares(chosen):
    """Give equal weights to the chosen cells of each row; rows without any stay 0."""
    return [[float(c) / sum(row) if any(row) else 0.0 for c in row] for row in chosen]


def length(a):
    return math.sqrt(sum(x * x for x in a))


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / (length(a) * length(b))


def cosines(f1, f2):
    """(P, P) of one image."""
    return [[cosine(a, b) for b in f2] for a in f1]


# Features


def dense_cosine(f1, f2):
    """DenseCL: index[image][p]."""
    return [[best(row) for row in cosines(a, b)] for a, b in zip(f1, f2, strict=True)]


def sinkhorn(f1, f2, epsilon, iterations):
    """Cuturi's iteration on the kernel itself, columns then rows; rows of the plan scaled to sum to 1."""
    plans = []
    for a, b in zip(f1, f2, strict=True):
        kernel = [[math.exp(-(1 - c) / epsilon) for c in row] for row in cosines(a, b)]
        cells = range(len(kernel))
        u = [1.0 for _ in cells]
        for _ in range(iterations):
            v = [1 / len(kernel) / sum(kernel[p][q] * u[p] for p in cells) for q in cells]
            u = [1 / len(kernel) / sum(kernel[p][q] * v[q] for q in cells) for p in cells]
        plans.append([[len(kernel) * u[p] * kernel[p][q] * v[q] for q in cells] for p in cells])
    return plans


def assignment(f1, f2):
    """Find the cheapest one-to-one match of one image for cost 1 - cos, by two solvers.

    Returns index[p], its mean cost, and by how much the second cheapest costs more.
    """
    cost = 1 - np.array(cosines(f1, f2))
    _, index = linear_sum_assignment(cost)
    cells = range(len(cost))
    least = cost[cells, index].mean()
    uniform = np.full(len(cost), 1 / len(cost))
    assert abs((ot.emd(uniform, uniform, cost) * cost).sum() - least) < 1e-9
    margin = math.inf
    for p in cells:  # the second cheapest does without one pair of the cheapest
        without = cost.copy()
        without[p, index[p]] = 1e3
        margin = min(margin, without[linear_sum_assignment(without)].mean() - least)
    return index.tolist(), float(least), float(margin)


def attended(f, threshold):
    """SetSim's binarised attention over the cells of one view."""
    attention = [sum(x * x for x in cell) / len(cell) for cell in f]
    norm = length(attention)
    attention = [a / norm if norm else 0.0 for a in attention]
    low, high = min(attention), max(attention)
    if low == high:
        return [True for _ in f]
    scaled = [(a - low) / (high - low) for a in attention]
    return [s == 1 or apart(s, threshold) >= 0 for s in scaled]


def set_pairs(a, b, threshold, similarity):
    """SetSim's correspondence of one image: pairs[p][q]."""
    set1, set2 = attended(a, threshold), attended(b, threshold)
    alike = [[apart(c, similarity) >= 0 for c in row] for row in cosines(a, b)]
    cells = range(len(a))
    return [[set1[p] and set2[q] and alike[p][q] for q in cells] for p in cells]


# DataPaths


def centres(box, flip, image, grid):
    """Cell centres in [0, 1], row by row, by hand."""
    (x1, y1, x2, y2), (height, width), (rows, columns) = box, image, grid
    places = []
    for row in range(rows):
        for column in range(columns):
            seen = columns - 1 - column if flip else column
            places.append(
                ((x1 + (seen + 0.5) * (x2 - x1) / columns) / width, (y1 + (row + 0.5) * (y2 - y1) / rows) / height)
            )
    return places


def diagonal(box, image, grid):
    """Compute the diagonal of a cell, in [0, 1]."""
    (x1, y1, x2, y2), (height, width), (rows, columns) = box, image, grid
    return math.hypot((x2 - x1) / columns / width, (y2 - y1) / rows / height)


def distances(place1, place2, image, grid):
    """(P, P) of one image; a place is (box, flip)."""
    return [[math.dist(a, b) for b in centres(*place2, image, grid)] for a in centres(*place1, image, grid)]


def nearby(place1, place2, image, grid, threshold):
    """PixContrast's correspondence of one image: pairs[p][q]."""
    largest = max(diagonal(place1[0], image, grid), diagonal(place2[0], image, grid))
    return [[apart(d / largest, threshold) < 0 for d in row] for row in distances(place1, place2, image, grid)]


def dense_geometric(places1, places2, image, grid, threshold=0.7, nearest=False):
    """PixContrast's rule; with ``nearest`` only the nearest of an anchor's positives."""
    weights = []
    for place1, place2 in zip(places1, places2, strict=True):
        chosen = nearby(place1, place2, image, grid, threshold)
        for near, row in zip(chosen, distances(place1, place2, image, grid), strict=True):
            if nearest and any(near):
                closest = best([-d for d in row])
                near[:] = [q == closest for q in range(len(row))]
        weights.append(shares(chosen))
    return weights


# Both


def dense_setsim(f1, f2, places1, places2, image, grid, threshold=0.7, similarity=0.2, geometry=0.0):
    """SetSim's sets; with ``geometry`` its script's pairs that are near in place besides, whatever their features."""
    weights = []
    for a, b, place1, place2 in zip(f1, f2, places1, places2, strict=True):
        pairs = set_pairs(a, b, threshold, similarity)
        if geometry:
            near = nearby(place1, place2, image, grid, geometry)
            pairs = [[x or y for x, y in zip(*rows, strict=True)] for rows in zip(pairs, near, strict=True)]
        weights.append(shares(pairs))
    return weights


def best_pairs(cost, gamma):
    """VICRegL's selection: {(p, q)}, q the cheapest of p, for the cells p whose cheapest is among the best."""
    nearest = [best([-c for c in row]) for row in cost]
    order = sorted(range(len(cost)), key=lambda p: cost[p][nearest[p]])
    keep = max(1, round(gamma * len(cost)))
    if keep < len(cost):
        last, first_left = order[keep - 1], order[keep]
        apart(cost[last][nearest[last]], cost[first_left][nearest[first_left]])
    return {(p, nearest[p]) for p in order[:keep]}


def unlikeness(f1, f2):
    """(P, P) squared L2 distances of one image's features as unit vectors."""
    units1, units2 = ([[x / length(cell) for x in cell] for cell in f] for f in (f1, f2))
    return [[sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) for b in units2] for a in units1]


def dense_vicregl(f1, f2, places1, places2, image, grid, gamma=20 / 49, feature_gamma=None):
    """``feature_gamma``: the share of pairs by feature that are kept, where it is another one."""
    weights = []
    for a, b, place1, place2 in zip(f1, f2, places1, places2, strict=True):
        by_place = best_pairs(distances(place1, place2, image, grid), gamma)
        by_feature = best_pairs(unlikeness(a, b), feature_gamma or gamma)
        cells = range(len(a))
        weights.append(shares([[(p, q) in by_place | by_feature for q in cells] for p in cells]))
    return weights
