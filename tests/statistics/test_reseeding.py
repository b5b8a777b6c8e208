"""Draws over re-seeding: their mean and variance against arithmetic, and tau over many of them against scipy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import point, untrained
from scipy import stats

from cl_bench.statistics.correlation import normalised_sum
from cl_bench.statistics.reseeding import Seeded, reseeded, taus


def seeded(S: int, C: int, stream: int = 0, noise: float = 1.0) -> Seeded:
    rng = np.random.default_rng(stream)
    values = rng.normal(size=(3, 1, C)) + noise * rng.normal(size=(3, S, C))
    families = tuple("ab"[k % 2] for k in range(C))
    return Seeded(tuple(map(str, range(C))), families, tuple(range(S)), values)


def test_taus_are_of_the_normalised_sum_and_performance() -> None:
    points = seeded(4, 9).values.transpose(1, 0, 2)
    expected = [stats.kendalltau(normalised_sum(p[0], p[1]), p[2]).statistic for p in points]
    np.testing.assert_allclose(taus(points, ["a"] * 9), expected)


def test_taus_are_over_pairs_of_one_family() -> None:
    row = seeded(4, 8)
    apart = row.values + 100 * np.array([[[0]], [[0]], [[1]]]) * (np.arange(8) % 2)  # families far apart in performance
    points = apart.transpose(1, 0, 2)
    signs = []
    for p in points:
        x = normalised_sum(p[0], p[1])
        pairs = [(i, j) for i in range(8) for j in range(i) if (i - j) % 2 == 0]
        signs.append(np.mean([np.sign((x[i] - x[j]) * (p[2][i] - p[2][j])) for i, j in pairs]))
    np.testing.assert_allclose(taus(points, row.families), signs, atol=1e-6)


def test_performance_that_is_the_same_everywhere_has_no_tau() -> None:
    points = np.stack([np.arange(5.0), np.arange(5.0), np.ones(5)])[None]
    assert np.isnan(taus(points, ["a"] * 5)).all()


def test_only_the_same_figures_of_the_same_seeds_are_the_same() -> None:
    row = seeded(2, 3)
    assert row.same_as(replace(row, values=row.values.copy()))
    others = replace(row, seeds=(0, 2)), row.only(["0", "1"]), replace(row, values=row.values + 1e-12), seeded(3, 3)
    assert not any(row.same_as(other) for other in others)


def test_figures_are_taken_from_records_by_configuration_and_seed() -> None:
    records = [point(k, k / 10, 10.0 * k + s, seed=s) for s in (4, 3) for k in (1, 0)]
    found = Seeded.of([*records, *untrained(1, 2)], "dense")
    assert found.names == ("info_nce-k000", "info_nce-k001") and found.seeds == (3, 4)
    assert found.families == ("info_nce", "info_nce")
    np.testing.assert_allclose(found.values[2], [[3, 13], [4, 14]])
    np.testing.assert_allclose(found.values[0], [[0, 0.1], [0, 0.1]])
    np.testing.assert_allclose(found.means[2], [3.5, 13.5])
    np.testing.assert_allclose(found.only(["info_nce-k001"]).values[2], [[13], [14]])


def test_a_configuration_that_diverged_or_lacks_a_seed_is_left_out() -> None:
    records = [point(k, k / 10, 10.0 * k, seed=s) for k in range(3) for s in range(2)]
    records[1] = point(0, 0.0, 0.0, seed=1, status="diverged")
    found = Seeded.of(records[:-1], "dense")
    assert found.names == ("info_nce-k001",)


def test_no_record_is_no_configuration() -> None:
    assert Seeded.of([], "dense").values.shape == (3, 0, 0)


@pytest.mark.parametrize("S", [2, 3, 5])
def test_draws_have_the_mean_and_the_variance_of_a_mean_over_seeds(S: int) -> None:
    row = seeded(S, 4)
    drawn = reseeded(row, 20000)
    assert drawn.shape == (20000, 3, 4)
    error = np.sqrt(row.values.var(1, ddof=1) / S)
    np.testing.assert_allclose(drawn.mean(0), row.means, atol=4 * error.max() / np.sqrt(20000))
    np.testing.assert_allclose(drawn.std(0), error, rtol=0.03)


def test_configurations_are_drawn_each_for_itself() -> None:
    shared = np.random.default_rng(3).normal(size=(3, 5, 1)) * np.ones((1, 1, 2))
    row = Seeded(("a", "b"), ("info_nce",) * 2, tuple(range(5)), shared)
    assert abs(np.corrcoef(reseeded(row, 4000)[:, 2].T)[0, 1]) < 0.06


def test_draws_are_the_same_at_every_call_and_others_in_another_stream() -> None:
    row = seeded(3, 5)
    assert (reseeded(row, 50) == reseeded(row, 50)).all()
    assert (reseeded(row, 50) != reseeded(row, 50, stream=1)).any()


def test_one_seed_takes_its_spread_from_another_row() -> None:
    one, other = seeded(1, 4), seeded(3, 4, stream=7)
    with pytest.raises(ValueError, match="1 seed shows no spread: it takes two"):
        reseeded(one, 10)
    drawn = reseeded(one, 20000, spread=other)
    np.testing.assert_allclose(drawn.std(0), other.values.std(1, ddof=1), rtol=0.03)
    np.testing.assert_allclose(drawn.mean(0), one.means, atol=0.06)
    with pytest.raises(ValueError, match="spread of other configurations"):
        reseeded(one, 10, spread=seeded(3, 5))
