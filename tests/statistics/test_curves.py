"""Curves drawn anew: as smooth as what they stand for, and by the evidence that linear algebra gives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cl_bench.statistics.curves import (
    LENGTHS,
    NOISE,
    Group,
    _log_evidence,
    _normal_scores,
    _Processes,
    _processes,
    families_of,
    knobs_of,
    redrawn,
)

LINE = np.linspace(0, 1, 20)[:, None]


def neighbours(curves: np.ndarray) -> float:
    """Mean rank correlation of neighbours."""
    ranks = stats.rankdata(curves, axis=-1)
    centred = ranks - ranks.mean(-1, keepdims=True)
    return float(((centred[:, 1:] * centred[:, :-1]).sum(-1) / (centred**2).sum(-1)).mean())


def test_knobs_are_told_by_the_name() -> None:
    assert knobs_of("info_nce-t0.05") == {"t": 0.05}
    assert knobs_of("align_uniform-a0-u1.25") == {"a": 0, "u": 1.25}
    assert knobs_of("info_nce-t1e-05") == {"t": 1e-5}
    assert knobs_of("mine-k7") == {} == knobs_of("random_init")


def test_places_are_ranks_of_values_and_hang_on_no_scale() -> None:
    names = ["x-t5", "y-a1-u0.1", "x-t0.1", "x-t0.2", "y-a1-u2", "y-a0-u2"]
    x, y = families_of(names, [name[0] for name in names])
    assert x.members.tolist() == [0, 2, 3] and y.members.tolist() == [1, 4, 5]
    assert x.places is not None and x.places.tolist() == [[1], [0], [0.5]]
    assert y.places is not None and y.places.tolist() == [[1, 0], [1, 1], [0, 1]]
    assert families_of(["c1", "c2"], ["f", "f"])[0].places is None
    assert families_of(["f-t1", "c2"], ["f", "f"])[0].places is None


def test_curves_are_as_smooth_as_what_they_stand_for() -> None:
    rng = np.random.default_rng(0)
    family = [Group(np.arange(20), LINE)]
    smooth, rough = np.sin(4 * LINE[:, 0]), rng.permutation(20).astype(float)
    drawn = [redrawn(values, family, 400, np.random.default_rng(1)) for values in (smooth, rough)]
    assert neighbours(drawn[0]) > 0.75 > 0.3 > neighbours(drawn[1])
    assert np.array_equal(drawn[0], redrawn(np.exp(9 * smooth), family, 400, np.random.default_rng(1)))  # ranks alone


def test_what_is_drawn_knows_nothing_of_what_it_stands_for() -> None:
    family = [Group(np.arange(20), LINE)]
    values = np.sin(4 * LINE[:, 0])
    drawn = redrawn(values, family, 2000, np.random.default_rng(2))
    taus = [stats.kendalltau(values, curve).statistic for curve in drawn]
    assert abs(np.mean(taus)) < 0.05 and np.mean(np.array(taus) > 0) == pytest.approx(0.5, abs=0.05)


def test_a_family_without_knobs_is_shuffled_beside_one_with() -> None:
    values = np.arange(24.0)
    families = [Group(np.arange(20), LINE), Group(np.arange(20, 24), None)]
    drawn = redrawn(values, families, 50, np.random.default_rng(3))
    assert drawn.shape == (50, 24)
    assert (np.sort(drawn[:, 20:], -1) == values[20:]).all() and len(np.unique(drawn[:, 20:], axis=0)) > 10
    assert not (np.sort(drawn[:, :20], -1) == values[:20]).all()


def test_figures_may_change_with_each_knob_alone_their_sum_or_the_ratio_of_weights() -> None:
    names = [f"f-a{a}-u{u}" for a, u in ((1, 1), (1, 2), (2, 1), (2, 8))]
    (group,) = families_of(names, ["f"] * 4)
    both, a, u, total, ratio = group.readings
    assert both.tolist() == [[0, 0], [0, 0.5], [1, 0], [1, 1]]
    assert a.tolist() == [[0, 0], [0, 0], [1, 0], [1, 0]] and u.tolist() == [[0, 0], [0.5, 0], [0, 0], [1, 0]]
    assert total.tolist() == [[0, 0], [0.25, 0], [0.5, 0], [1, 0]]
    assert ratio.tolist() == [[1 / 3, 0], [2 / 3, 0], [0, 0], [1, 0]]  # 1, 2, 1/2 and 4
    assert len(Group(np.arange(20), LINE).readings) == 1
    (equal,) = families_of(["f-a0.1-u0.3", "f-a0.2-u0.6", "f-a0.7-u2.1", "f-a1-u1"], ["f"] * 4)
    assert equal.ratio is not None and equal.ratio.tolist() == [1, 1, 1, 0], "whatever floats are rounded to"
    (path,) = families_of(["f-a1-u1", "f-a1-u2", "f-a1-u3"], ["f"] * 3)
    assert len(path.readings) == 4, "a knob that does not change is no reading"


def test_the_evidence_is_the_marginal_likelihood_without_mean_and_scale() -> None:
    """By inverses and determinants: sigma^2 and a flat mean integrated out of a normal density."""
    rng = np.random.default_rng(4)
    readings = Group(np.arange(6), rng.random((6, 2))).readings
    scores = _normal_scores(rng.random(6))
    found = _log_evidence(_processes(readings.tobytes(), readings.shape), scores)
    wanted, one = [], np.ones(6)

    def add(kernel: np.ndarray, noise: float) -> None:
        inverse = np.linalg.inv((1 - noise) * kernel + (noise + 1e-9) * np.eye(6))
        flat = one @ inverse @ one
        left = scores @ inverse @ scores - (one @ inverse @ scores) ** 2 / flat
        wanted.append(np.linalg.slogdet(inverse)[1] / 2 - np.log(flat) / 2 - 5 / 2 * np.log(left))

    assert len(readings) == 4
    for at in readings:
        distance = np.linalg.norm(at[:, None] - at, axis=-1)
        for length in LENGTHS:
            r = distance / length
            for kernel in ((1 + np.sqrt(3) * r) * np.exp(-np.sqrt(3) * r), np.exp(-(r**2) / 2)):
                for noise in NOISE:
                    add(kernel, noise)
        trend = (at - at.mean(0)) @ (at - at.mean(0)).T
        for noise in NOISE:
            add(trend * 6 / np.trace(trend), noise)
    centred = scores - scores.mean()
    wanted.append(-np.log(6) / 2 - 5 / 2 * np.log(centred @ centred))
    assert found - found[-1] == pytest.approx(np.array(wanted) - wanted[-1], abs=1e-4)


def test_curves_of_the_ratio_are_drawn_along_the_ratio() -> None:
    """On a grid of two weights whose figures change with their ratio alone, equal ratios stay alike."""
    weights = [(a, u) for a in (1, 2, 4, 8) for u in (1, 2, 4, 8)]
    families = families_of([f"f-a{a}-u{u}" for a, u in weights], ["f"] * 16)
    ratio = np.array([np.log2(u / a) for a, u in weights])
    values = np.sin(2 * ratio) + 0.01 * np.random.default_rng(0).standard_normal(16)
    drawn = redrawn(values, families, 400, np.random.default_rng(1))
    within = np.mean([drawn[:, ratio == r].var(1).mean() for r in (-1, 0, 1)])
    assert within < 0.2 * drawn.var(1).mean()


def test_the_last_bits_of_the_evidence_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processors round otherwise; so do these, and still draw the same curves."""
    rng = np.random.default_rng(0)
    values, families = rng.standard_normal(40), [Group(np.arange(20), LINE), Group(np.arange(20, 40), LINE)]

    def drawn() -> list[np.ndarray]:
        return [redrawn(values, families, 500, np.random.default_rng(seed)) for seed in range(20)]

    def rounded(processes: _Processes, scores: np.ndarray) -> np.ndarray:
        found = _log_evidence(processes, scores)
        return found + 1e-11 * rng.standard_normal(len(found))

    expected = drawn()
    monkeypatch.setattr("cl_bench.statistics.curves._log_evidence", rounded)
    assert all(np.array_equal(*both) for both in zip(drawn(), expected, strict=True))
