"""Least loss of features that encode only the place of their cell, which is a shortcut for an encoder."""

from __future__ import annotations

import math

from cl_bench.spec import AlignUniform, InfoNCE


def position_only_loss(objective: InfoNCE | AlignUniform, batch: int, cells: int) -> float:
    """Compute the optimum of an objective over features a_p that are the same for every image and view.

    Under matching by index every positive has cosine 1, and every two different places meet in equally many terms. By
    Jensen's inequality the loss is then least where all cosines between different places are equal and as low as
    possible, -1 / (P - 1): the a_p are the corners of a regular simplex. That takes P - 1 dimensions; in fewer the loss
    stays above. This holds at every temperature, for any negatives and scope.

    Args:
        objective: InfoNCE, or w_a L_a + w_u L_u.
        batch: B, images a batch, at least 2.
        cells: P, cells an image.

    Returns:
        The loss, in nats for InfoNCE; nan for one cell, which has no place to know.
    """
    if cells == 1:
        return math.nan
    farthest = 2 * cells / (cells - 1)  # squared distance of two corners
    # Number of terms in an anchor's sum over pairs that are of its own place, and of each other place.
    if isinstance(objective, InfoNCE):
        same, other = {
            "both_views": (2 * batch - 1, 2 * batch - 1),
            "cross_view": (batch, batch),
            "ntxent": (2 * batch - 1, 2 * batch),
        }[objective.negatives]
        same -= not objective.positive_in_denominator
        return math.log(same + other * (cells - 1) * math.exp(-farthest / (2 * objective.temperature)))
    same, other = {
        "same_index": (batch - 1, 0),
        "other_images": (batch - 1, batch - 1),
        "all_pairs": (batch - 1, batch),
    }[objective.scope]
    others = other * (cells - 1)
    uniformity = math.log((same + others * math.exp(-objective.t * farthest)) / (same + others))
    return -objective.w_a + objective.w_u * uniformity
