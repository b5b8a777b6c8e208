"""Reference losses, probes and VOC07 average precision: loops written from the formulas, without code of cl_bench.

Every sum of a loss is a loop of scalar torch operations in float64, so that autograd gives the gradient by a second
route. A batch is ``z[image][cell]``, a vector each; ``weights[image][p][q]`` are floats.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import torch


class NoNegativesError(Exception):
    """An anchor is left with an empty denominator."""


def as_lists(z):
    """(B, P, D) or (B, D) as ``z[image][cell]``."""
    return [[cell.double() for cell in image] if image.ndim == 2 else [image.double()] for image in z]


def identity(B, P):
    return [[[float(p == q) for q in range(P)] for p in range(P)] for _ in range(B)]


def reversed_weights(weights):
    """Return the correspondence from view 2: transposed, rows scaled to sum to 1, rows of zeros left unchanged."""
    out = []
    for image in weights:
        columns = [[row[q] for row in image] for q in range(len(image))]
        out.append([[x / sum(c) if sum(c) else 0.0 for x in c] for c in columns])
    return out


def _mean(terms):
    return sum(terms) / len(terms) if terms else torch.zeros((), dtype=torch.float64)


def alignment(z1, z2, weights):
    """Minus the mean, over cells of view 1 that have a positive, of their weighted cosine to it."""
    z1, z2 = as_lists(z1), as_lists(z2)
    terms = []
    for i, p in product(range(len(z1)), range(len(z1[0]))):
        if any(w > 0 for w in weights[i][p]):
            terms.append(sum(w * torch.dot(z1[i][p], z2[i][q]) for q, w in enumerate(weights[i][p])))
    return -_mean(terms)


def uniformity(z, t, scope):
    """Log of the mean Gaussian potential over ordered pairs, squared distances taken literally."""
    z = as_lists(z)
    cells = list(product(range(len(z)), range(len(z[0]))))
    potentials = []
    for (i, p), (j, q) in product(cells, cells):
        paired = {
            "same_index": i != j and p == q,
            "other_images": i != j,
            "all_pairs": (i, p) != (j, q),
        }[scope]
        if paired:
            difference = z[i][p] - z[j][q]
            potentials.append(torch.exp(-t * torch.dot(difference, difference)))
    return torch.log(_mean(potentials))


def _anchors(z1, z2, forth, back, temperature, negatives, positive_in_denominator):
    """For each anchor of both views with a positive: its [(weight, similarity)] and its list of denominator terms."""
    views = as_lists(z1), as_lists(z2)
    B, P = len(views[0]), len(views[0][0])
    everyone = list(product(range(2), range(B), range(P)))
    for v, i, p in everyone:
        weights = (forth, back)[v][i][p]
        positives = [(w, torch.dot(views[v][i][p], views[1 - v][i][q])) for q, w in enumerate(weights) if w > 0]
        if not positives:
            continue
        denominator = []
        for u, j, q in everyone:
            if (u, j, q) == (v, i, p):
                continue
            if negatives == "cross_view" and u == v:
                continue
            if negatives == "both_views" and u == v and j == i:
                continue
            if not positive_in_denominator and u != v and j == i and weights[q] > 0:
                continue
            denominator.append(torch.exp(torch.dot(views[v][i][p], views[u][j][q]) / temperature))
        if not denominator:
            raise NoNegativesError
        yield positives, denominator


def info_nce_terms(z1, z2, forth, back, temperature=0.2, negatives="both_views", positive_in_denominator=True):
    """(alignment, distribution), each a mean over the anchors of both views that have a positive."""
    pull, spread = [], []
    for positives, denominator in _anchors(z1, z2, forth, back, temperature, negatives, positive_in_denominator):
        pull.append(sum(-w * s / temperature for w, s in positives))
        spread.append(torch.log(sum(denominator)))
    return _mean(pull), _mean(spread)


def info_nce(z1, z2, forth, back, temperature=0.2, negatives="both_views", positive_in_denominator=True):
    """Compute the loss in its usual form, the mean of ``-log(exp(positive) / sum exp)``, weighted over positives."""
    losses = []
    for positives, denominator in _anchors(z1, z2, forth, back, temperature, negatives, positive_in_denominator):
        losses.append(sum(-w * torch.log(torch.exp(s / temperature) / sum(denominator)) for w, s in positives))
    return _mean(losses)


def row_logsumexp(a, b, scale, group):
    """Compute ``log sum_c exp(scale <a_r, b_c>)``, where runs of ``group`` rows and columns exclude each other."""
    rows = []
    for r in range(len(a)):
        seen = [c for c in range(len(b)) if not group or r // group != c // group]
        total = sum(torch.exp(scale * torch.dot(a[r].double(), b[c].double())) for c in seen)
        rows.append(torch.log(total) if seen else torch.tensor(-math.inf, dtype=torch.float64))
    return torch.stack(rows)


def correct_positives(weights, boxes, flips, grid):
    """Weight of positives whose cells share a piece of the source image, and weight of all, in exact arithmetic.

    ``boxes`` and ``flips`` are of both views: ``boxes[view][b]`` (x1, y1, x2, y2) in pixels; ``grid`` is
    (rows, columns).
    """
    rows, columns = grid

    def cell(view, b, p):
        x1, y1, x2, y2 = (Fraction(v) for v in boxes[view][b])
        row, column = divmod(p, columns)
        column = columns - 1 - column if flips[view][b] else column
        width, height = (x2 - x1) / columns, (y2 - y1) / rows
        return x1 + column * width, y1 + row * height, x1 + (column + 1) * width, y1 + (row + 1) * height

    right = every = 0.0
    for b, image_weights in enumerate(weights):
        for p, row_weights in enumerate(image_weights):
            for q, weight in enumerate(row_weights):
                left1, top1, right1, bottom1 = cell(0, b, p)
                left2, top2, right2, bottom2 = cell(1, b, q)
                shared = min(right1, right2) > max(left1, left2) and min(bottom1, bottom2) > max(top1, top2)
                every += weight
                right += weight if shared else 0.0
    return right, every


def voc07_average_precision(detections, truths, classes):
    """In percent, at IoU .50:.05:.95 and at .50; exact arithmetic, but for recall points, which are the binary ones.

    ``detections[image]`` are (box, label, score), ``truths[image]`` (box, label, difficult); a box is (x1, y1, x2, y2).
    """
    means = []
    for percent in range(50, 100, 5):
        aps = []
        for label in range(classes):
            objects = [[(box, difficult) for box, own, difficult in image if own == label] for image in truths]
            positives = sum(not difficult for image in objects for _, difficult in image)
            if not positives:
                continue
            ranked = [(i, *d) for i, image in enumerate(detections) for d in image if d[1] == label]
            taken, outcomes = set(), []
            for i, box, _, _ in sorted(ranked, key=lambda d: -d[3]):
                overlaps = [_iou(box, other) for other, _ in objects[i]]
                best = max(range(len(overlaps)), key=overlaps.__getitem__, default=None)
                if best is None or overlaps[best] <= Fraction(percent, 100):
                    outcomes.append(0)
                elif not objects[i][best][1]:
                    outcomes.append(int((i, best) not in taken))
                    taken.add((i, best))
            found = [sum(outcomes[: n + 1]) for n in range(len(outcomes))]
            curve = [(f / positives, Fraction(f, n)) for n, f in enumerate(found, start=1)]
            best_at = [max((p for r, p in curve if r >= k * 0.1), default=Fraction(0)) for k in range(11)]
            aps.append(sum(best_at) / 11)
        means.append(100 * sum(aps) / len(aps))
    return float(sum(means) / len(means)), float(means[0])


def _iou(a, b):
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = (map(Fraction, box) for box in (a, b))
    width, height = min(ax2, bx2) - max(ax1, bx1), min(ay2, by2) - max(ay1, by1)
    shared = max(width, 0) * max(height, 0)
    return shared / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared)


def variance_shares(h):
    """(position share, image share): distances between means, squared, over those of all features to their mean."""
    h = as_lists(h)
    N, P = len(h), len(h[0])
    mean = sum(cell for image in h for cell in image) / (N * P)
    total = sum(_squared(cell - mean) for image in h for cell in image) / (N * P)
    places = sum(_squared(sum(h[i][p] for i in range(N)) / N - mean) for p in range(P)) / P
    images = sum(_squared(sum(image) / P - mean) for image in h) / N
    return float(places / total), float(images / total)


def held_out_predictions(x, y, ridge):
    """Each image predicted by a ridge regression with a free intercept, fitted anew to all other images."""
    N, P, C = x.shape
    x, y = x.double(), y.double()
    penalty = ridge * float(sum(_squared(cell - x.flatten(0, 1).mean(0)) for cell in x.flatten(0, 1))) / C
    out = []
    for g in range(N):
        others = [i for i in range(N) if i != g]
        rows = torch.cat([x[others].flatten(0, 1), torch.ones(P * (N - 1), 1, dtype=torch.float64)], 1)
        penalties = math.sqrt(penalty) * torch.eye(C, C + 1, dtype=torch.float64)
        targets = torch.cat([y[others].flatten(0, 1), torch.zeros(C, y.shape[-1], dtype=torch.float64)])
        weights = torch.linalg.lstsq(torch.cat([rows, penalties]), targets, driver="gelsd").solution
        out.append(x[g] @ weights[:-1] + weights[-1])
    return torch.stack(out)


def similarities(h1, h2, bins, partners):
    """Shares of cosines by kind of pair; ``partners`` are the images that each image is paired with."""
    h1, h2 = as_lists(h1), as_lists(h2)
    N, P = len(h1), len(h1[0])
    found = {"positive": [], "same_image": [], "other_images": []}
    for i, p, q in product(range(N), range(P), range(P)):
        found["positive" if p == q else "same_image"].append(float(torch.dot(h1[i][p], h2[i][q])))
        for j in partners(i):
            found["other_images"].append(float(torch.dot(h1[i][p], h2[j][q])))
    out = {}
    for kind, cosines in found.items():
        shares = [0.0] * bins
        for cosine in cosines:
            shares[min(bins - 1, max(0, math.floor((cosine + 1) / 2 * bins)))] += 1 / len(cosines)
        if cosines:
            out[kind] = shares
    return out


def _squared(x):
    return torch.dot(x, x)
