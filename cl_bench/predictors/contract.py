"""Contract that every predictor must satisfy, checked on synthetic features in seconds, without training.

A check takes a predictor and raises ``PredictorError`` with one line for its author: what was violated, and where.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from cl_bench.predictors.predictor import Predictor, Seen

IMAGES, CELLS, CHANNELS, CLASSES = 32, 9, 16, 4
Check = Callable[[Predictor], None]


def synthetic(level: str, seed: int = 0, spread: float = 1.0) -> Seen:
    """Make features of two noisy views of images of a few classes; with ``spread`` 0 all are the same.

    Args:
        level: ``instance`` for one vector per image; otherwise one per cell.
        seed: Seed of the draws.
        spread: Factor on all variation.
    """
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(IMAGES) % CLASSES
    cells = 1 if level == "instance" else CELLS
    centres = torch.randn(CLASSES, 1, CHANNELS, generator=draws)
    content = centres[labels] + torch.randn(IMAGES, cells, CHANNELS, generator=draws) / 2
    first, second = (content + torch.randn(content.shape, generator=draws) / 4 for _ in range(2))
    x1, x2 = (1 + spread * x for x in (first, second))
    return Seen.of("instance" if level == "instance" else "dense", x1, x2, 0.5, labels, (3.0, 2.0, 1.0))


def gives_a_number(predictor: Predictor) -> None:
    """Check for one finite number at each level, unchanged features, and no reading of undeclared data."""
    for level in predictor.levels:
        predictor(synthetic(level))


def repeats_itself(predictor: Predictor) -> None:
    """Check that the same features give the same number, bit for bit, also with other calls in between."""
    for level in predictor.levels:
        first = predictor(synthetic(level))
        predictor(synthetic(level, seed=1))
        again = predictor(synthetic(level))
        if again != first:
            raise predictor.error(f"the same features give {first} and then {again}")


def takes_collapsed_features(predictor: Predictor) -> None:
    """Check for a finite number on features that are all the same, like those of a collapsed encoder."""
    for level in predictor.levels:
        predictor(synthetic(level, spread=0.0))


CHECKS: tuple[Check, ...] = (gives_a_number, repeats_itself, takes_collapsed_features)


def try_on(predictor: Predictor) -> None:
    """Run all checks on a predictor, before anything trains.

    Raises:
        PredictorError: If a check fails.
    """
    gives_a_number(predictor)
