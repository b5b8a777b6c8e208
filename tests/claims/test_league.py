"""The league: columns, sums, tau by row, and the test of a difference, against scipy and by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from helpers import asked, in_full, point, record, untrained
from scipy import stats

from cl_bench.claims.judge import judge
from cl_bench.claims.judgement import Judgement, Verdict
from cl_bench.claims.league import columns, league, predicted
from cl_bench.spec.claim import Claim
from cl_bench.spec.records import LEVELS, Better, Record
from cl_bench.statistics.correlation import unrelated
from cl_bench.statistics.curves import families_of

LOW: Mapping[str, Better] = {"low": "low", "high": "high"}


def row(x: Sequence[float], y: Sequence[float], seed: int = 0, **predictors: Sequence[float]) -> list[Record]:
    """Make configurations with L_a x, performance y, and predictors at the dense level."""
    return [
        point(k, a, b, seed, predictors={f"{name}@dense": values[k] for name, values in predictors.items()})
        for k, (a, b) in enumerate(zip(x, y, strict=True))
    ]


def test_high_is_turned_so_that_lower_is_better_and_seeds_are_averaged() -> None:
    first, second = (row([1, 2, 3, 4], [4, 3, 2, 1], s, high=[5 + s, 6, 7, 8], low=[1, 2, 3, 4 + s]) for s in (0, 1))
    table = columns([*first, *second], LOW)
    assert table["high@dense"].tolist() == [-5.5, -6, -7, -8]
    assert table["low@dense"].tolist() == [1, 2, 3, 4.5]
    assert table["performance@dense"].tolist() == [4, 3, 2, 1]


def test_one_missing_value_takes_out_its_configuration_for_that_predictor_alone() -> None:
    records = row([1, 2, 3, 4, 5], [5, 4, 3, 2, 1], low=[1, 2, 3, 4, 5])
    again = row([1, 2, 3, 4, 5], [5, 4, 3, 2, 1], 1, low=[1, 2, 3, 4, 5])
    again[2] = point(2, 3, 3, 1)
    table = columns([*records, *again], LOW)
    assert np.isnan(table["low@dense"]).tolist() == [False, False, True, False, False]
    assert not np.isnan(table["alignment@dense"]).any()
    assert predicted([*records, *again], "dense", "low@dense", LOW).n == 4


def test_a_predictor_of_unknown_direction_and_untrained_and_diverged_encoders_take_no_part() -> None:
    records = [
        *row([1, 2, 3, 4], [4, 3, 2, 1], other=[1, 2, 3, 4]),
        point(9, 1, 1, status="diverged"),
        *untrained(1.0),
    ]
    table = columns(records, LOW)
    assert "other@dense" not in table and len(table["alignment@dense"]) == 4


def test_the_three_sums_of_alignment_and_uniformity() -> None:
    L_a, L_u = [0.0, 1.0, 4.0, 2.0], [3.0, -1.0, 0.0, 1.0]
    records = [
        record(f"k{k}", alignment=dict.fromkeys(LEVELS, a), uniformity=dict.fromkeys(LEVELS, u))
        for k, (a, u) in enumerate(zip(L_a, L_u, strict=True))
    ]
    table = columns(records, {})
    assert table["sum_minmax@dense"] == pytest.approx([0 + 1, 0.25 + 0, 1 + 0.25, 0.5 + 0.5])
    assert table["sum_rank@instance"] == pytest.approx([1 + 4, 2 + 1, 4 + 2, 3 + 3])
    z = [(np.array(v) - np.mean(v)) / np.std(v) for v in (L_a, L_u)]
    assert table["sum_z@dense"] == pytest.approx(z[0] + z[1])


def test_dse_weighs_its_parts_by_their_spread_over_the_row() -> None:
    separation, dimension = [0.1, 0.3, 0.2, 0.5], [10.0, 40.0, 20.0, 30.0]
    better: Mapping[str, Better] = {"dse_separation": "high", "dse_dimension": "high"}
    records = row([1, 2, 3, 4], [1, 2, 3, 4], dse_separation=separation, dse_dimension=dimension)
    weight = np.std(separation) / np.std(dimension)  # lambda of the paper's Eq. 5
    expected = -(np.array(separation) + weight * np.array(dimension))
    assert columns(records, better)["dse@dense"] == pytest.approx(expected / np.std(separation))


def test_tau_over_rows_is_the_mean_of_theirs() -> None:
    y = [1.0, 2.0, 3.0, 4.0, 5.0]
    rows = {"falls": row(y, y[::-1], low=y), "swapped": row(y, y[::-1], low=[2.0, 1.0, 3.0, 4.0, 5.0])}
    standing = {(s.predictor, s.level): s for s in league(rows, LOW)}
    assert standing["low@dense", "dense"].taus == pytest.approx({"falls": -1.0, "swapped": -0.8})
    assert standing["low@dense", "dense"].tau == pytest.approx(-0.9)
    assert standing["low@dense", "dense"].difference == pytest.approx(0.1)
    assert math.isnan(standing["sum_minmax@dense", "dense"].difference)
    dense = [s.tau for s in league(rows, LOW) if s.level == "dense"]
    assert dense == sorted(dense)


def test_fewer_than_four_configurations_have_no_place() -> None:
    assert league({"few": row([1, 2, 3], [3, 2, 1], low=[1, 2, 3])}, LOW) == []


def test_p_is_the_share_of_unrelated_curves_with_as_large_a_difference() -> None:
    """By scipy's tau, of one row of one family: two rows of the same differ in what else they are drawn with."""
    x, z = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], [8.0, 6.0, 7.0, 5.0, 3.0, 4.0, 2.0, 1.0]
    low = [3.0, 1.0, 4.0, 1.5, 5.0, 9.0, 2.0, 6.0]
    records = row(x, z, low=low)
    standing = {(s.predictor, s.level): s for s in league({"r": records}, LOW)}["low@dense", "dense"]

    def difference(values: Sequence[float]) -> float:
        return float(stats.kendalltau(low, values).statistic - stats.kendalltau(x, values).statistic)

    curves = unrelated(np.array(z), families_of([r.config for r in records], [r.family for r in records]))[:400]
    share = np.mean([abs(difference(curve)) >= abs(difference(z)) - 1e-12 for curve in curves])
    assert standing.difference == pytest.approx(difference(z))
    assert 0.05 < share < 0.9 and standing.p == pytest.approx(share, abs=0.1)


def test_the_difference_is_of_taus_within_families() -> None:
    """A predictor that tells the families apart, and nothing within one, is no better than one that knows nothing."""
    x, z = [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0], [8.0, 6.0, 7.0, 5.0, 4.0, 2.0, 3.0, 1.0]
    low = [0.1, 0.4, 0.3, 0.2, 5.1, 5.2, 5.4, 5.3]
    records = [replace(r, family=("info_nce", "align_uniform")[k // 4]) for k, r in enumerate(row(x, z, low=low))]
    standing = {(s.predictor, s.level): s for s in league({"r": records}, LOW)}["low@dense", "dense"]

    def inside(values: Sequence[float]) -> float:
        taus = [stats.kendalltau(values[part], z[part]).statistic for part in (slice(4), slice(4, 8))]
        return float(np.mean(taus))

    assert standing.difference == pytest.approx(inside(low) - inside(x)) != pytest.approx(0)
    told = predicted(records, "dense", "low@dense", LOW)
    assert told.within == pytest.approx(inside(low)) and told.tau == pytest.approx(stats.kendalltau(low, z).statistic)
    assert str(told) == f"{told.tau:.2f} over all pairs, {told.within:.2f} within families"


def test_unrelated_curves_are_seldom_found_to_differ() -> None:
    """Smooth figures over one knob, the same in four rows; to swap them one by one would find a difference in half."""
    draws = np.random.default_rng(7)
    at = np.linspace(0, 1, 12)
    factor = np.linalg.cholesky(np.exp(-(((at[:, None] - at) / 0.5) ** 2) / 2) + 0.01 * np.eye(12))
    found = []
    for _ in range(40):
        x, z, low = (factor @ draws.standard_normal(12) for _ in range(3))
        records = [replace(r, config=f"info_nce-t{k + 1}") for k, r in enumerate(row(x, z, low=low.tolist()))]
        standing = {(s.predictor, s.level): s for s in league(dict.fromkeys("abcd", records), LOW)}
        found.append(standing["low@dense", "dense"].p)
    assert np.mean(np.array(found) < 0.05) <= 0.15 and min(found) < 0.3


def test_p_is_adjusted_for_the_predictors_of_one_performance() -> None:
    y = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    for level in LEVELS:
        dense = [s for s in league({"r": row(y, y[::-1], low=[6.0, 5, 4, 3, 1, 2])}, LOW) if s.level == level]
        tested = sorted((s for s in dense if not math.isnan(s.p)), key=lambda s: s.p)
        worst = 0.0
        for k, s in enumerate(tested):
            worst = max(worst, min(1.0, s.p * (len(tested) - k)))
            assert s.p_holm == pytest.approx(worst)
        assert len(tested) > 2


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([1, 2, 3, 4, 5, 6], Verdict.SUPPORTED),
        ([6, 5, 4, 3, 2, 1], Verdict.REFUTED),
        ([1, 6, 2, 5, 3, 4], Verdict.INCONCLUSIVE),
        ([], Verdict.INCONCLUSIVE),
    ],
)
def test_a_claim_that_a_predictor_goes_against_performance(values: list[float], verdict: Verdict) -> None:
    y = [60.0, 50, 40, 30, 20, 15]
    records = row(range(6), y, **({"high": values} if values else {}))
    claim = Claim("predictor_against", "dense", exploratory=True, predictor="high@dense")
    found = judge(claim, asked(records), untrained(1.0, 1.1), better=LOW)
    assert found.verdict is verdict and "encoders that high@dense ranks higher do worse at detection" in found.sentence
    assert in_full(Judgement.from_json(found.to_json())) == in_full(found)
    assert found.prediction is not None and found.prediction.n == len(values)


def test_a_predictor_belongs_to_claims_about_one() -> None:
    for kind, predictor in (("predictor_against", ""), ("tau_negative", "rankme@dense")):
        with pytest.raises(ValueError, match="predictor= goes with 'predictor_against'"):
            Claim(kind, "dense", predictor=predictor)  # type: ignore[arg-type]
