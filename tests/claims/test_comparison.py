"""Methods against each other: intervals against scipy and loops, verdicts against their definition."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from helpers import asked, record, untrained
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import cl_bench.claims.comparison
import cl_bench.report.figures
from cl_bench.claims.comparison import compare, contrast
from cl_bench.claims.judge import holm, judge
from cl_bench.claims.judgement import IncompleteSweep, Judgement, Verdict
from cl_bench.spec.claim import Claim
from cl_bench.spec.records import Record

pytest_plugins = ["pytester"]

CLAIM = Claim("no_worse_than", "dense")
LOW = untrained(-90.0, -91.0)


def run(method: str, k: int, score: float, seed: int = 0, **changes: object) -> Record:
    performance = {"instance": 0.0, "dense": score}
    base = record(f"info_nce-k{k:03d}", method=method, seed=seed, performance=performance)
    return replace(base, **changes)  # type: ignore[arg-type]


def runs(method: str, scores: Sequence[float]) -> list[Record]:
    return [run(method, k, float(score)) for k, score in enumerate(scores)]


def two(reference: Sequence[float], other: Sequence[float]) -> tuple[list[Record], list[Record]]:
    return runs("dense_index", reference), runs("dense_emd", other)


def diverged(record: Record) -> Record:
    return replace(record, status="diverged", performance={})


# ---- the difference


@pytest.mark.parametrize("n", [4, 9, 15])
@pytest.mark.parametrize(("alpha", "margin"), [(0.05, 1.0), (0.01, 0.3)])
def test_the_mean_is_judged_by_the_paired_t_test(n: int, alpha: float, margin: float) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.normal(40, 8, size=n), rng.normal(40, 8, size=n)
    found = compare(*two(a, b), "dense", alpha, margin)
    foreign = stats.ttest_rel(a, b).confidence_interval(1 - 2 * alpha)
    assert (found.low, found.high) == pytest.approx((foreign.low, foreign.high))
    assert found.p == pytest.approx(stats.ttest_1samp(a - b, -margin, alternative="greater").pvalue)
    assert (found.p < alpha) == (found.low > -margin)
    assert (found.reference, found.other, found.n, found.left_out) == ("dense_index", "dense_emd", n, ())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.lists(st.one_of(st.none(), st.integers(0, 100)), min_size=2, max_size=2)] * 2), max_size=7)
)
def test_pairs_are_those_of_loops(table: list[tuple[list[int | None], list[int | None]]]) -> None:
    """None is a run that diverged."""
    sides: tuple[list[Record], list[Record]] = [], []  # type: ignore[assignment]
    pairs, lost = [], []
    for k, scores in enumerate(table):
        for side, method, values in zip(sides, ("dense_index", "dense_emd"), scores, strict=True):
            for seed, value in enumerate(values):
                record = run(method, k, float(value or 0), seed)
                side.append(diverged(record) if value is None else record)
        if any(value is None for values in scores for value in values):
            lost.append(f"info_nce-k{k:03d}")
        else:
            pairs.append(tuple(sum(values) / 2 for values in scores))  # type: ignore[arg-type]
    found = compare(*sides, "dense")
    assert (found.n, found.left_out) == (len(pairs), tuple(lost))
    if pairs:
        assert found.mean == pytest.approx(sum(a - b for a, b in pairs) / len(pairs))
        assert found.best == pytest.approx(max(a for a, _ in pairs) - max(b for _, b in pairs))
    else:
        assert math.isnan(found.mean) and math.isnan(found.best)
    if len(pairs) >= 4:
        assert found.low <= found.mean + 1e-9 and found.mean <= found.high + 1e-9 and 0 <= found.p <= 1
        worst, most = (f(a - b for a, b in ((p, q) for p, _ in pairs for _, q in pairs)) for f in (min, max))
        assert worst <= found.best_low <= found.best_high <= most
    else:
        assert all(math.isnan(v) for v in (found.low, found.high, found.best_low, found.best_high)) and found.p == 1


def test_the_best_s_interval_is_the_percentile_of_resampled_pairs() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(40, 8, size=15), rng.normal(40, 8, size=15)
    found = compare(*two(a, b), "dense", alpha=0.1)
    bests = []
    for _ in range(4000):
        drawn = [int(rng.integers(15)) for _ in range(15)]
        bests.append(max(a[i] for i in drawn) - max(b[i] for i in drawn))
    assert np.allclose((found.best_low, found.best_high), np.percentile(bests, [10, 90]), atol=0.5)
    assert found.best_high - found.best_low > 1


def test_seeds_are_averaged_and_are_no_pairs_of_their_own() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(40, 8, size=6), rng.normal(40, 8, size=6)
    spread = (-0.5, 0.1, 0.4)
    sides = [
        [run(method, k, scores[k] + d, seed) for k in range(6) for seed, d in enumerate(spread)]
        for method, scores in (("dense_index", a), ("dense_emd", b))
    ]
    found, alone = compare(*sides, "dense"), compare(*two(a, b), "dense")
    assert found.n == 6
    assert (found.low, found.high, found.best) == pytest.approx((alone.low, alone.high, alone.best))


def test_a_pair_has_the_same_seeds_on_both_sides() -> None:
    ours, theirs = two(range(6), range(6))
    found = compare([*ours, run("dense_index", 2, 50.0, seed=1)], theirs[:5], "dense")
    assert found.n == 4 and found.left_out == ("info_nce-k002", "info_nce-k005")


def test_untrained_encoders_and_the_order_of_records_are_of_no_effect() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = two(rng.normal(size=8), rng.normal(size=8))
    untrained = run("random_init", 0, 3.0, family="random_init", config="random_init", data="multi_object")
    assert compare(ours[::-1], [untrained, *theirs], "dense") == compare(ours, theirs, "dense")


def test_differences_that_are_all_equal_are_their_own_interval() -> None:
    found = compare(*two([3.0, 4, 5, 6], [1.0, 2, 3, 4]), "dense")
    assert (found.mean, found.low, found.high, found.p) == (2, 2, 2, 0)
    behind = compare(*two([1.0, 2, 3, 4], [3.0, 4, 5, 6]), "dense")
    assert (behind.low, behind.high, behind.p) == (-2, -2, 1)


def test_other_data_or_views_are_refused() -> None:
    ours, theirs = two(range(4), range(4))
    for change in ({"data": "multi_object"}, {"views": "disjoint"}):
        with pytest.raises(ValueError, match="that differ in the method or in the data alone"):
            compare(ours, [replace(r, **change) for r in theirs], "dense")
    with pytest.raises(ValueError, match="more than one row"):
        compare([*ours, *theirs], theirs, "dense")


def test_the_contrast_is_welchs() -> None:
    rng = np.random.default_rng(8)
    a, b = rng.normal(5, 2, size=9).tolist(), rng.normal(3, 1, size=4).tolist()
    found = contrast({"one": a[:4], "other": a[4:]}, b, 0.05, 1.0)
    variances = np.var(a, ddof=1) / 9, np.var(b, ddof=1) / 4
    error = math.sqrt(sum(variances))
    degrees = sum(variances) ** 2 / (variances[0] ** 2 / 8 + variances[1] ** 2 / 3)
    half = stats.t.isf(0.05, degrees) * error
    difference = np.mean(a) - np.mean(b)
    assert (found.low, found.high) == pytest.approx((difference - half, difference + half))
    assert found.p_above == pytest.approx(stats.t.sf((difference - 1) / error, degrees))
    assert found.p_below == pytest.approx(1 - found.p_above)
    assert found.by_family == pytest.approx({"one": np.mean(a[:4]), "other": np.mean(a[4:])})
    assert math.isfinite(contrast({"one": a}, [3.0, 3.1], 0.05, 1.0).low)
    for margin, below, above in ((1.5, 0, 1), (0.5, 1, 0), (1.0, 1, 1)):
        still = contrast({"one": [4.0, 4.0]}, [3.0, 3.0], 0.05, margin)
        assert (still.low, still.high, still.p_below, still.p_above) == (1.0, 1.0, below, above)
    for few, random in (([4.0], [3.0, 3.5]), ([], [3.0, 3.5]), ([4.0, 5.0], [3.0])):
        none = contrast({"one": few}, random, 0.05, 1.0)
        assert math.isnan(none.low) and (none.p_below, none.p_above) == (1, 1)


# ---- the verdict


def verdict_of(reference: Sequence[float], other: Sequence[float], **changes: Any) -> Judgement:
    ours, theirs = two(reference, other)
    return judge(CLAIM, asked(theirs), LOW, reference=asked(ours), **changes)


@pytest.mark.parametrize(
    ("reference", "margin", "verdict"),
    [
        ([41.0, 44, 38, 52, 47], 1.0, Verdict.SUPPORTED),  # ahead
        ([39.5, 41.7, 35.6, 49.4, 44.5], 1.0, Verdict.SUPPORTED),  # half a point behind
        ([39.5, 41.7, 35.6, 49.4, 44.5], 0.2, Verdict.REFUTED),
        ([35.0, 38, 33, 44, 41], 1.0, Verdict.REFUTED),
        ([35.0, 50, 33, 60, 38], 1.0, Verdict.INCONCLUSIVE),
    ],
)
def test_verdicts_are_non_inferiority_by_the_margin(reference: list[float], margin: float, verdict: Verdict) -> None:
    found = verdict_of(reference, [40.0, 42, 36, 50, 45], margin=margin)
    assert found.verdict is verdict
    assert found.comparison is not None and found.correlation is None and found.contrast is None
    for part in (
        f"row: {verdict}: on average the reference does no worse at detection; dense_index - dense_emd = ",
        f"{found.comparison.mean:+.2f} points [{found.comparison.low:+.2f}, {found.comparison.high:+.2f}]",
        f"p(difference {'<' if verdict is Verdict.REFUTED else '>'} -{margin:g}) = ",
        "n = 5 pairs",
    ):
        assert part in found.sentence


def test_three_pairs_conclude_nothing() -> None:
    found = verdict_of([50.0, 50, 50], [1.0, 1, 1])
    assert found.verdict is Verdict.INCONCLUSIVE and "too few: 3 of 3 pairs remain" in found.sentence
    assert "= +49.00 points (" in found.sentence and "nan" not in found.sentence


@pytest.mark.parametrize(("lost", "verdict"), [(6, Verdict.SUPPORTED), (7, Verdict.INCONCLUSIVE)])
def test_pairs_lost_on_either_side_are_named_and_with_most_of_them_all_is_lost(lost: int, verdict: Verdict) -> None:
    ours, theirs = two([50.0 + k % 3 for k in range(12)], [40.0] * 12)
    ours = [diverged(r) if k < 3 else r for k, r in enumerate(ours)]
    theirs = [diverged(r) if 2 <= k < lost else r for k, r in enumerate(theirs)]
    found = judge(CLAIM, asked(theirs), LOW, reference=asked(ours))
    assert found.verdict is verdict
    assert found.comparison is not None and found.comparison.n == 12 - lost
    assert found.comparison.left_out == tuple(f"info_nce-k{k:03d}" for k in range(lost))
    assert (
        f"left out: info_nce-k000, info_nce-k001, info_nce-k002, info_nce-k003, info_nce-k004 and {lost - 5} more"
        in (found.sentence)
    )


def test_what_is_missing_on_either_side_is_listed() -> None:
    ours, theirs = two(range(6), range(6))
    whole = asked(theirs), asked(two(range(6), range(6))[0])
    ours[1] = replace(ours[1], performance={"instance": 1.0})
    with pytest.raises(IncompleteSweep) as caught:
        judge(CLAIM, asked(theirs[1:], expected=theirs), LOW, reference=asked(ours[:5], "other", whole[1].records))
    assert set(caught.value.missing) == {theirs[0].case, f"{ours[1].case} of other", f"{ours[5].case} of other"}
    assert judge(Claim("no_worse_than", "instance"), whole[0], LOW, reference=whole[1])


def test_false_support_and_false_refutation_are_as_rare_as_alpha(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reference behind by the very margin, either verdict is an error."""
    monkeypatch.setattr(
        cl_bench.claims.comparison, "RESAMPLES", 10
    )  # of the best's interval, which no verdict rests on
    rng = np.random.default_rng(4)
    verdicts = []
    for _ in range(800):
        other = rng.normal(40, 8, size=15)
        verdicts.append(verdict_of(other - 1 + rng.normal(0, 3, size=15), other).verdict)
    assert 0.03 < verdicts.count(Verdict.SUPPORTED) / 800 < 0.075
    assert 0.03 < verdicts.count(Verdict.REFUTED) / 800 < 0.075


def test_comparisons_survive_json_and_count_in_holm_s_correction() -> None:
    judged = [verdict_of([40.0, 41, 43, 40, 42], other) for other in ([40.0] * 5, [41.0, 40, 42, 39, 43], [45.0] * 5)]
    for found in (*judged, verdict_of([1.0], [2.0])):
        back = Judgement.from_json(found.to_json())
        assert repr(asdict(back)) == repr(asdict(found)) and type(back.comparison) is type(found.comparison)
    p = [j.comparison.p for j in judged if j.comparison]
    rank = np.argsort(p)
    expected = np.empty(3)
    expected[rank] = np.maximum.accumulate(np.minimum(1, np.array([3, 2, 1]) * np.array(p)[rank]))
    unjudged = Judgement.incomplete(CLAIM, IncompleteSweep("row", ["a"]))
    assert holm(judged) == pytest.approx(expected) and math.isnan(holm([*judged, unjudged])[3])


def test_neither_torch_nor_pytest_is_loaded() -> None:
    code = "import sys, cl_bench.claims.comparison; print([m for m in ('torch', 'pytest') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- as outcomes of tests, on planted records
