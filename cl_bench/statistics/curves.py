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
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
LENGTHS = (0.06, 0.12, 0.25, 0.5, 1.0, 2.0)
"""Length scales as shares of a knob's range, from hardly related neighbours to a single bend over the whole range.

Beside them stands the limit of infinite length, a linear trend.
"""
NOISE = (0.0005, 0.01, 0.1, 0.3, 0.6)
"""Shares of the variance that are independent noise, not shared with neighbours."""
SYMBOLS = {"t": "t", "a": "w_a", "u": "w_u"}
"""Symbols of the knobs, by their letters in a configuration's name."""
_KNOB = re.compile(r"-([tau])(\d[\d.]*(?:e[+-]?\d+)?)")


class Group(NamedTuple):
    """The configurations of one family.

    Attributes:
        members: (m,) indices of its configurations among all configurations.
        places: (m, knobs) positions on the knobs, in [0, 1]; None where no knobs are known, so that every order is
            equally likely.
        ratio: (m,) positions on the ratio of the two weights, in [0, 1]; None where there are no two weights.
    """

    members: NDArray[np.intp]
    places: Array | None
    ratio: Array | None = None

    @property
    def readings(self) -> Array:
        """The (readings, m, knobs) coordinates along which figures may change; places must be known.

        They may change with all knobs alike, with one knob alone, with the sum of the knobs, or with the ratio of the
        two weights. What a reading does not tell is 0, and what is the same for all configurations is no reading.
        """
        assert self.places is not None
        m, knobs = self.places.shape
        single = [*self.places.T, self.places.sum(1)] if knobs > 1 else []
        single += [] if self.ratio is None else [self.ratio]
        out = np.zeros((1 + len(single), m, knobs))
        out[0] = self.places
        for reading, along in zip(out[1:], single, strict=True):
            reading[:, 0] = along / max(1.0, along.max())
        return out[[True, *(np.ptp(along) > 0 for along in single)]]


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
        if not told:
            found.append(Group(members, None))
            continue
        ratio = _places([round(apart(k), 9) for k in knobs]) if {"a", "u"} <= known else None
        found.append(Group(members, np.stack([_places([k[n] for k in knobs]) for n in known], 1), ratio))
    return found


def redrawn(values: Array, families: Sequence[Group], draws: int, rng: np.random.Generator) -> Array:
    """Draw random curves that are as smooth along the knobs as some figures are, and otherwise unrelated to anything.

    Within a family the ranks of the figures, as normal scores, are treated as a draw of a Gaussian process over one of
    the family's ``readings`` of the knobs: Matern 3/2 or squared exponential with a length scale in ``LENGTHS``, or a
    linear trend, each with a share of noise in ``NOISE``; or else noise alone. A priori all are equally likely, except
    that trends and noise alone are twice as likely, being limits of both kernels. Their posterior weights are
    marginal likelihoods with mean and scale integrated out, shared by all families; a family with fewer readings than
    another has all its knobs alike in place of those it lacks. Only the order of drawn figures within a family has a
    meaning.

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
    white = rng.standard_normal((draws, len(values)))
    readings = [f.readings for f in smooth]
    most = max(len(r) for r in readings)
    filled = [np.concatenate([r, *[r[:1]] * (most - len(r))]) for r in readings]
    processes = [_processes(r.tobytes(), r.shape) for r in filled]
    scores = [_normal_scores(values[f.members]) for f in smooth]
    log_evidence = np.sum([_log_evidence(p, s) for p, s in zip(processes, scores, strict=True)], axis=0)
    log_evidence += _log_prior(most)
    evidence = np.exp(log_evidence - np.max(log_evidence))
    start = 0
    for k, count in enumerate(rng.multinomial(draws, evidence / evidence.sum())):
        rows = slice(start, start := start + int(count))
        for family, process in zip(smooth, processes, strict=True):
            out[rows, family.members] = white[rows, family.members] @ process.factors[k].T
    return out


def _places(values: Sequence[float]) -> Array:
    known, ranks = np.unique(values, return_inverse=True)
    return np.asarray(ranks / max(1, len(known) - 1), dtype=np.float64)


def _normal_scores(values: Array) -> Array:
    return np.asarray(stats.norm.ppf((stats.rankdata(values) - 0.375) / (len(values) + 0.25)))


def _log_prior(readings: int) -> Array:
    """Return the log prior of every process, up to a constant, in the order of ``_processes``."""
    one = [0.0] * (2 * len(LENGTHS) * len(NOISE)) + [math.log(2)] * len(NOISE)
    return np.array([*one * readings, math.log(2)])


class _Processes(NamedTuple):
    """Gaussian processes at m places: Cholesky factors of their covariances, the inverses, and half log determinants.

    The shapes are (processes, m, m) twice, and (processes,); noise alone is last.
    """

    factors: Array
    inverses: Array
    log_determinants: Array


@lru_cache(maxsize=8)
def _processes(readings: bytes, shape: tuple[int, int, int]) -> _Processes:
    """Compute every process at the places that ``Group.readings`` gives."""
    alone = np.eye(shape[1])
    covariances = [
        (1 - noise) * kernel + noise * alone
        for at in np.frombuffer(readings).reshape(shape)
        for kernel, noise in product(_kernels(at), NOISE)
    ]
    factors = np.asarray(np.linalg.cholesky(np.stack([*covariances, alone]) + 1e-9 * alone), dtype=np.float64)
    inverses = np.asarray(np.linalg.inv(factors), dtype=np.float64)
    return _Processes(factors, inverses, np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(-1))


def _kernels(at: Array) -> Iterator[Array]:
    """Yield the (m, m) covariances over (m, knobs) coordinates: two for each length scale, and a linear trend's."""
    distance = np.linalg.norm(at[:, None] - at[None], axis=-1)
    for length in LENGTHS:
        near = np.sqrt(3) * distance / length
        yield (1 + near) * np.exp(-near)
        yield np.exp(-((distance / length) ** 2) / 2)
    centred = at - at.mean(0)
    yield centred @ centred.T / max(float((centred**2).sum(1).mean()), 1e-9)


def _log_evidence(processes: _Processes, scores: Array) -> Array:
    """Compute the log marginal likelihood of the scores under each process, mean and scale integrated out.

    It is known up to a constant.
    """
    m = len(scores)
    white = processes.inverses @ np.stack([np.ones(m), scores], 1)
    ones, seen = white[..., 0], white[..., 1]
    flat = (ones * ones).sum(-1)
    left = (seen * seen).sum(-1) - (ones * seen).sum(-1) ** 2 / flat
    found: Array = -processes.log_determinants - np.log(flat) / 2 - (m - 1) / 2 * np.log(np.maximum(left, 1e-12))
    return found
