"""The printed numbers, spot-checked against the tables and against one another; and when ours agrees with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
from helpers import disordered
from scipy import stats

from cl_bench.claims import paper
from cl_bench.claims.judgement import Verdict
from cl_bench.claims.paper import Pair, PaperRow, Score, agreement, inconsistencies, lookup, own
from cl_bench.spec.claim import Claim
from cl_bench.spec.records import LEVELS, Level
from cl_bench.statistics.correlation import Correlation


def test_every_printed_row_is_there_once() -> None:
    keys = [(r.data, r.views, r.scheme, r.loss) for r in paper.ROWS]
    assert len(set(keys)) == len(keys) == 14
    assert [sum(r.table == t for r in paper.ROWS) for t in (1, 2, 3)] == [6, 6, 2]


def test_totals_count_their_families_and_have_the_best_of_them() -> None:
    for total in (r for r in paper.ROWS if r.loss == "total" and r.table != 3):
        parts = [lookup(total.data, total.views, total.scheme, loss) for loss in ("align_uniform", "info_nce")]
        for level in LEVELS:
            scores = [part.score(level) for part in parts if part is not None]
            assert len(scores) == 2
            assert total.score(level).models == sum(s.models for s in scores)
            assert total.score(level).max == max(s.max for s in scores)
            assert total.score(level).top10 >= max(s.top10 for s in scores)


@pytest.mark.parametrize(
    ("row", "linear", "detection"),
    [
        (("stl10", "overlapping", "instance", "total"), Score(100, 76.16, 66.51, 75.61, -0.45), -0.41),
        (("coco", "overlapping", "dense", "info_nce"), Score(20, 59.29, 46.36, 57.30, -0.10), -0.54),
        (("stl10", "disjoint", "dense", "total"), Score(46, 69.94, 57.60, 68.74, -0.35), -0.65),
    ],
)
def test_spot_checks(row: tuple[str, str, str, str], linear: Score, detection: float) -> None:
    found = lookup(*row)
    assert found is not None
    assert found.linear == linear and found.detection.tau == detection


def test_embedded_data_stand_for_the_papers() -> None:
    assert lookup("single_object", "overlapping", "dense", "total") == lookup("stl10", "overlapping", "dense", "total")
    confusing = lookup("multi_object", "disjoint", "dense", "total")
    assert confusing is not None and confusing.detection == Score(12, 32.49, 32.03, 32.12, 0.03)


def test_what_was_not_printed_is_not_there() -> None:
    assert lookup("stl10", "disjoint", "instance", "total") is None
    assert lookup("coco", "disjoint", "dense", "info_nce") is None
    assert lookup("imagenet", "overlapping", "dense", "total") is None


def test_random_initialisation_is_below_every_mean_of_linear_evaluation() -> None:
    assert paper.RANDOM_INIT == {"instance": 28.04, "dense": 31.93}
    assert all(r.linear.avg > paper.RANDOM_INIT["instance"] for r in paper.ROWS)


# ---- what contradicts itself


def row(*key: str) -> PaperRow:
    found = lookup(*key)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("key", "level", "notes"),
    [
        (
            ("stl10", "overlapping", "instance", "total"),
            "instance",
            ["avg 66.51, where 70 x 64.39 and 30 x 71.99 give 66.67"],
        ),
        (
            ("stl10", "overlapping", "dense", "total"),
            "instance",
            [
                "avg 63.47, where 70 x 64.61 and 30 x 60.85 give 63.48",
                "tau -0.32, outside its families' -0.19 and -0.01: it compares families too",
            ],
        ),
        (
            ("coco", "overlapping", "instance", "total"),
            "dense",
            ["avg 38.09, where 40 x 38.27 and 20 x 37.77 give 38.10", paper.SWAPPED],
        ),
        (
            ("coco", "overlapping", "dense", "total"),
            "instance",
            [
                "avg 50.39, where 40 x 53.41 and 20 x 46.36 give 51.06",
                "tau -0.01, outside its families' -0.21 and -0.10: it compares families too",
            ],
        ),
        (("coco", "overlapping", "dense", "info_nce"), "dense", []),
        (("stl10", "disjoint", "dense", "total"), "dense", []),
    ],
)
def test_notes_on_what_is_printed(key: tuple[str, ...], level: Level, notes: list[str]) -> None:
    assert row(*key).notes(level) == tuple(notes)


def test_all_that_is_noted() -> None:
    notes = [note for r in paper.ROWS for level in LEVELS for note in r.notes(level)]
    assert [sum(note.startswith(what) for note in notes) for what in ("avg", "tau", "max", "top10")] == [8, 4, 0, 0]
    assert notes.count(paper.SWAPPED) == 2 and len(notes) == 14
    assert "is read as VOC07 AP" in paper.NOTE
    assert "the avg of 8 totals" in paper.NOTE and "the tau of 4 " in paper.NOTE and paper.SWAPPED in paper.NOTE
    assert "28.04" in paper.RANDOM_NOTE and "31.93" in paper.RANDOM_NOTE


FAMILIES = (Score(30, 60, 40, 50, -0.5), Score(10, 70, 60, 65, -0.1))


@pytest.mark.parametrize(
    ("total", "told"),
    [
        (Score(40, 70, 45, 66, -0.3), []),
        (Score(40, 70, 45.01, 65, -0.5), []),  # as far as rounding goes
        (Score(40, 70, 44.98, 70, -0.1), ["avg 44.98, where 30 x 40.00 and 10 x 60.00 give 45.00"]),
        (Score(41, 70, 45, 66, -0.3), ["41 models, where the families have 40"]),
        (Score(40, 69, 45, 66, -0.3), ["max 69.00, where the families' is 70.00"]),
        (Score(40, 70, 45, 64, -0.3), ["top10 64.00, where a family has 65.00"]),
        (Score(40, 70, 45, 71, -0.3), ["top10 71.00, where the max is 70.00"]),
        (
            Score(40, 70, 45, 66, 0),
            ["tau 0.00, outside its families' -0.50 and -0.10: it compares families too"],
        ),
    ],
)
def test_a_total_is_held_against_its_families(total: Score, told: list[str]) -> None:
    assert inconsistencies(total, FAMILIES) == tuple(told)
    assert inconsistencies(total, ()) == ()


def test_separate_rows_share_no_model_and_leave_none_out() -> None:
    separate = [r for r in paper.ROWS if r.separate]
    assert [(r.table, r.loss == "total") for r in separate] == [(1, False)] * 4 + [(2, False)] * 4 + [(3, True)] * 2
    assert sum(r.linear.models for r in separate) == 100 + 100 + 60 + 60 + 46 + 12


@pytest.mark.parametrize("models", [12, 20])
def test_a_printed_tau_is_told_from_zero_by_the_normal_approximation(models: int) -> None:
    decided = set()
    for inversions in range(models * (models - 1) // 2 + 1):
        found = stats.kendalltau(range(models), disordered(models, inversions), method="asymptotic")
        score = Score(models, 0, 0, 0, found.statistic)
        assert score.told_from_zero == (found.pvalue < 0.05)
        decided.add(score.told_from_zero)
    assert decided == {True, False}


# ---- what its own numbers give a claim


def test_twelve_models_do_not_show_that_there_is_no_correlation() -> None:
    """Of Table 3's +.03, n 12: the interval that two one-sided tests stand for reaches to .3 and beyond."""
    found = own(Claim("no_correlation", "dense"), "multi_object", "disjoint", "dense_index")
    assert found is not None and found.verdict is Verdict.INCONCLUSIVE and 0.05 < found.p < 0.5


@pytest.mark.parametrize(
    ("kind", "level", "row", "verdict"),
    [
        ("tau_negative", "dense", ("single_object", "overlapping", "dense_index"), Verdict.SUPPORTED),  # -.12, n 100
        ("tau_negative", "instance", ("multi_object", "overlapping", "dense_index"), Verdict.INCONCLUSIVE),  # -.01
        ("tau_negative", "dense", ("multi_object", "overlapping", "instance"), Verdict.INCONCLUSIVE),  # -.13, n 60
        ("tau_negative", "dense", ("stl10", "disjoint", "dense_index"), Verdict.SUPPORTED),
        ("tau_not_negative", "dense", ("stl10", "disjoint", "dense_index"), Verdict.REFUTED),
        ("tau_not_negative", "dense", ("multi_object", "disjoint", "dense_index"), Verdict.INCONCLUSIVE),  # +.03, n 12
    ],
)
def test_the_papers_own_tau_is_judged_as_of_independent_models(
    kind: str, level: Level, row: tuple[str, str, str], verdict: Verdict
) -> None:
    found = own(Claim(kind, level), *row)  # type: ignore[arg-type]
    printed = lookup(row[0], row[1], "instance" if row[2] == "instance" else "dense", "total")
    assert found is not None and printed is not None and found.verdict is verdict
    score = printed.score(level)
    pairs = score.models * (score.models - 1) // 2
    order = disordered(score.models, round((1 - score.tau) / 2 * pairs))
    side = "less" if kind == "tau_negative" else "greater"
    exact = stats.kendalltau(range(score.models), order, alternative=side, method="exact").pvalue
    assert found.p == pytest.approx(exact, abs=0.03)  # n = 12 is the farthest
    assert (
        str(found) == f"the paper's own tau {score.tau:.2f}, n {score.models}: "
        f"of independent models it would be {verdict} (p = {found.p:.2g})"
    )


def test_the_level_of_the_verdict_is_the_profiles() -> None:
    claim, row = Claim("tau_negative", "dense"), ("single_object", "overlapping", "dense_index")
    found = own(claim, *row, alpha=0.01)
    assert found is not None and found.verdict is Verdict.INCONCLUSIVE and found.p == pytest.approx(0.038, abs=5e-4)


@pytest.mark.parametrize(
    ("kind", "level", "row", "numbers"),
    [
        ("at_random_level", "dense", ("multi_object", "disjoint", "dense_index"), "32.03 - 31.93 = +0.10"),
        ("above_random_level", "dense", ("multi_object", "overlapping", "instance"), "38.09 - 31.93 = +6.16"),
        ("above_random_level", "instance", ("single_object", "overlapping", "dense_index"), "63.47 - 28.04 = +35.43"),
        ("keeps_up", "dense", ("multi_object", "overlapping", "instance"), "38.09 - 37.72 = +0.37"),
        ("keeps_up", "instance", ("single_object", "overlapping", "dense_index"), "63.47 - 66.51 = -3.04"),
        ("falls_behind", "instance", ("multi_object", "overlapping", "dense_index"), "63.47 - 50.39 = +13.08"),
        ("falls_behind", "instance", ("multi_object", "overlapping", "instance"), "66.51 - 61.43 = +5.08"),
    ],
)
def test_printed_means_are_told_without_a_verdict(
    kind: str, level: Level, row: tuple[str, str, str], numbers: str
) -> None:
    found = own(Claim(kind, level), *row)  # type: ignore[arg-type]
    said = f"the paper's own averages {numbers} points; it prints no spread, so they cannot be tested"
    assert found is not None and found.verdict is None and math.isnan(found.p) and str(found) == said


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("tau_negative", ("single_object", "overlapping", "dense_emd")),
        ("tau_negative", ("single_object", "disjoint", "instance")),
        ("tau_negative", ("elsewhere", "overlapping", "dense_index")),
        ("no_worse_than", ("single_object", "overlapping", "dense_index")),
        ("keeps_up", ("single_object", "disjoint", "dense_index")),
    ],
)
def test_of_what_is_not_printed_there_is_nothing(kind: str, row: tuple[str, str, str]) -> None:
    assert own(Claim(kind, "instance"), *row) is None  # type: ignore[arg-type]


# ---- ours beside it


def ours(tau: float, low: float = math.nan, high: float = math.nan, level: Level = "instance") -> Correlation:
    return Correlation(level, "info_nce", 8, tau, low, high, 0.5, 0.5, "exact", None, ())


@pytest.mark.parametrize(
    ("found", "printed", "sign", "certain"),
    [
        (ours(-0.5, -0.8, -0.1), -0.5, "same", True),
        (ours(0.5, 0.1, 0.8), -0.5, "other", True),
        (ours(0.5, 0.1, 0.8), 0.5, "same", True),
        (ours(-0.5, -0.8, 0.1), -0.5, "same", False),
        (ours(-0.5, -0.8, 0.0), -0.5, "same", False),
        (ours(-0.5), -0.5, "same", False),  # below four configurations there is no interval
        (ours(-0.5, -0.8, -0.1), -0.01, "same", False),
        (ours(-0.5, -0.8, -0.1), 0.03, "other", False),
        (ours(0.0, -0.4, 0.4), -0.5, "-", False),
        (ours(math.nan), -0.5, "-", False),
    ],
)
def test_signs(found: Correlation, printed: float, sign: str, certain: bool) -> None:
    pair = Pair(found, Score(40, 0, 0, 0, printed))
    assert (pair.sign, pair.certain) == (sign, certain)


def pairs(taus: Sequence[float], printed: Sequence[float], level: Level = "instance") -> list[Pair]:
    rows = zip(taus, printed, strict=True)
    return [Pair(ours(a, a - 0.2, a + 0.2, level), Score(100, 0, 0, 0, b)) for a, b in rows]


def test_agreement_is_counted() -> None:
    some = pairs([-0.5, -0.1, 0.3, 0.0, math.nan, 0.6], [-0.4, -0.3, -0.2, -0.5, -0.6, 0.01])
    found = agreement(some)
    assert (found.rows, found.signed, found.same) == (5, 4, 3)
    assert (found.certain, found.certain_same) == (2, 1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [4, 6, 10])
def test_the_order_of_rows_is_kendalls(n: int, seed: int) -> None:
    x, y = np.random.default_rng(seed).uniform(-1, 1, size=(2, n)).round(6)
    found = agreement(pairs(x.tolist(), y.tolist()))
    wanted = stats.kendalltau(x, y, method="exact", alternative="greater")
    assert (found.tau, found.p) == pytest.approx((wanted.statistic, wanted.pvalue))
    assert found.method == "exact"


def test_with_ties_the_order_is_that_of_shuffled_rows() -> None:
    x, y = [-0.5, -0.4, -0.4, 0.1, 0.3, 0.2], [-0.41, -0.31, -0.54, -0.41, 0.03, -0.23]
    found = agreement(pairs(x, y))
    tau = stats.kendalltau(x, y).statistic
    as_large = [stats.kendalltau(x, shuffled).statistic >= tau - 1e-9 for shuffled in permutations(y)]
    assert found.tau == pytest.approx(tau) and found.method == "permutation"
    assert found.p == pytest.approx(np.mean(as_large), abs=0.02)


def test_where_there_is_no_order() -> None:
    few, constant = pairs([-0.1, -0.2, -0.3], [-0.1, -0.2, -0.3]), pairs([-0.1, -0.2, -0.3, -0.4], [-0.5] * 4)
    for some in ([], few, [*few, *pairs([math.nan], [-0.4])], constant):
        found = agreement(some)
        assert math.isnan(found.tau) and math.isnan(found.p) and found.method == "none"


def test_both_evaluations_together_have_a_tau_and_no_p() -> None:
    taus, printed = [-0.1, -0.2, -0.3, -0.4], [-0.2, -0.1, -0.3, -0.4]
    found = agreement(pairs(taus, printed) + pairs(taus, printed, "dense"))
    assert found.tau == pytest.approx(stats.kendalltau(taus * 2, printed * 2).statistic)
    assert math.isnan(found.p) and found.rows == 8
