"""Random smooth curves over a grid of knobs: the correlation that two unrelated curves reach by chance.

Neighbours on a knob are alike, in L_a + L_u and in performance. A test that shuffles configurations treats them as
exchangeable and so finds two independent curves correlated far too often. Here one of the two stays as it is, and the
other is replaced by random curves over the same knobs that are as smooth as the original. They come from a Gaussian
process; its smoothness and noise are not estimated but averaged over, weighted by how well they explain the original
curve.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
LENGTHS = (0.06, 0.12, 0.25, 0.5, 1.0, 2.0)
"""Length scales as shares of a knob's range, from hardly related neighbours to a single bend over the whole range."""
NOISE = (0.0005, 0.01, 0.1, 0.3, 0.6)
"""Shares of the variance that are independent noise, not shared with neighbours."""
_KNOB = re.compile(r"-([tau])(\d[\d.]*(?:e[+-]?\d+)?)")


class Group(NamedTuple):
    """The configurations of one family.

    Attributes:
        members: (m,) indices of its configurations among all configurations.
        places: (m, knobs) positions on the knobs, in [0, 1]; None where no knobs are known, so that every order is
            equally likely.
    """

    members: NDArray[np.intp]
    places: Array | None


def knobs_of(config: str) -> dict[str, float]:
    """Read the knobs from a configuration's name: ``t``, or ``a`` and ``u`` (w_a, w_u); empty for another name."""
    return {name: float(value) for name, value in _KNOB.findall(config)}


def apart(knobs: Mapping[str, float]) -> float:
    """Return in [0, 1] how strongly an objective pushes features apart rather than together; nan without knobs.

    It is ``1 / (1 + t)`` for a temperature and ``w_u / (w_a + w_u)`` for two weights.
    """
    if "t" in knobs:
        return 1 / (1 + knobs["t"])
    both = knobs.get("a", 0.0) + knobs.get("u", 0.0)
    return knobs.get("u", 0.0) / both if both else math.nan


def families_of(names: Sequence[str], families: Sequence[str]) -> list[Group]:
    """Group configurations by family, with their positions on the knobs that are read from their names.

    A position is the rank of the value among the family's values of that knob, divided by the highest rank. It does not
    depend on the knob's scale, and neighbours are nearer on a finer grid.
    """
    found = []
    for family in sorted(set(families)):
        members = np.flatnonzero(np.asarray(families) == family)
        knobs = [knobs_of(names[int(i)]) for i in members]
        known = knobs[0].keys()
        told = bool(known) and all(k.keys() == known for k in knobs)
        found.append(Group(members, np.stack([_places([k[n] for k in knobs]) for n in known], 1) if told else None))
    return found


def redrawn(values: Array, families: Sequence[Group], draws: int, rng: np.random.Generator) -> Array:
    """Draw random curves that are as smooth along the knobs as some figures are, and otherwise unrelated to anything.

    Within a family the ranks of the figures, as normal scores, are treated as a draw of a Gaussian process over the
    knobs: Matern 3/2 or squared exponential, with a length scale in ``LENGTHS`` and a share of noise in ``NOISE``, or
    noise alone. All of these are equally likely a priori, noise alone twice as likely. Their posterior weights are
    marginal likelihoods with mean and scale integrated out, shared by all families. Only the order of drawn figures
    within a family has a meaning.

    Args:
        values: (n,) figures.
        families: Families of the n configurations.
        draws: Number of curves.
        rng: Source of randomness.

    Returns:
        (draws, n). A family without places is shuffled.
    """
    out = np.empty((draws, len(values)))
    smooth = [f for f in families if f.places is not None]
    for family in families:
        if family.places is None:
            out[:, family.members] = rng.permuted(np.tile(values[family.members], (draws, 1)), axis=1)
    if not smooth:
        return out
    scores = [_normal_scores(values[f.members]) for f in smooth]
    processes = [_processes(f.places.tobytes(), f.places.shape) for f in smooth if f.places is not None]
    log_evidence = np.sum([_log_evidence(p, s) for p, s in zip(processes, scores, strict=True)], axis=0)
    # Noise alone is twice as likely a priori. Were it there twice, the last bit would divide the draws between the two.
    log_evidence[-1] += math.log(2)
    evidence = np.exp(log_evidence - np.max(log_evidence))
    start = 0
    for k, count in enumerate(rng.multinomial(draws, evidence / evidence.sum())):
        rows = slice(start, start := start + int(count))
        for family, process in zip(smooth, processes, strict=True):
            out[rows, family.members] = rng.standard_normal((count, len(family.members))) @ process[k].T
    return out


def _places(values: Sequence[float]) -> Array:
    known, ranks = np.unique(values, return_inverse=True)
    return np.asarray(ranks / max(1, len(known) - 1), dtype=np.float64)


def _normal_scores(values: Array) -> Array:
    return np.asarray(stats.norm.ppf((stats.rankdata(values) - 0.375) / (len(values) + 0.25)))


@lru_cache(maxsize=16)
def _processes(places: bytes, shape: tuple[int, int]) -> Array:
    """Compute the (processes, m, m) Cholesky factors of every process's covariance at m places, noise alone last."""
    at = np.frombuffer(places).reshape(shape)
    distance = np.linalg.norm(at[:, None] - at[None], axis=-1)
    near = np.sqrt(3) * distance
    alone = np.eye(len(at))
    covariances = [
        (1 - noise) * kernel + noise * alone
        for length, noise in product(LENGTHS, NOISE)
        for kernel in ((1 + near / length) * np.exp(-near / length), np.exp(-((distance / length) ** 2) / 2))
    ]
    return np.asarray(np.linalg.cholesky(np.stack([*covariances, alone]) + 1e-9 * alone), dtype=np.float64)


def _log_evidence(factors: Array, scores: Array) -> Array:
    """Compute the log marginal likelihood of the scores under each process, mean and scale integrated out.

    It is known up to a constant.
    """
    m = len(scores)
    both = np.stack([np.ones(m), scores], 1)
    white = np.linalg.solve(factors, both)
    ones, seen = white[..., 0], white[..., 1]
    flat = (ones * ones).sum(-1)
    left = (seen * seen).sum(-1) - (ones * seen).sum(-1) ** 2 / flat
    log_determinant = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(-1)
    found: Array = -log_determinant - np.log(flat) / 2 - (m - 1) / 2 * np.log(np.maximum(left, 1e-12))
    return found
