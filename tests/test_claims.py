"""Claims against enumeration, against scipy's own tests, and against what they promise when there is nothing."""

from __future__ import annotations

import itertools
import json
import math
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

import helpers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cl_bench.claims import (
    Claim,
    Contrast,
    IncompleteSweep,
    Judgement,
    Verdict,
    contrast,
    correlate,
    holm,
    judge,
    needed_for,
    normalised_sum,
)
from cl_bench.records import LEVELS, Record, configurations


def record(k: int, x: float, score: float, seed: int = 0, family: str = "info_nce", **changes: object) -> Record:
    """One encoder whose normalised sum is a rising function of x, the same at both levels."""
    both = {"alignment": x, "uniformity": -1.0, "performance": score}
    base = helpers.record(
        f"{family}-k{k:03d}", family, seed=seed, **{k: dict.fromkeys(LEVELS, v) for k, v in both.items()}
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def sweep(x: Sequence[float], y: Sequence[float]) -> list[Record]:
    return [record(k, float(a), float(b)) for k, (a, b) in enumerate(zip(x, y, strict=True))]


def untrained(*performance: float) -> list[Record]:
    return [
        record(
            s, 0, p, seed=s, family="random_init", method="random_init", config="random_init", case=f"random_init-s{s}"
        )
        for s, p in enumerate(performance)
    ]


def cases(records: Sequence[Record]) -> list[str]:
    return [r.case for r in records]


def tau_by_loops(x: Sequence[float], y: Sequence[float]) -> float:
    s = tx = ty = 0
    for i, j in itertools.combinations(range(len(x)), 2):
        a, b = (int(v[i] > v[j]) - int(v[i] < v[j]) for v in (x, y))
        s, tx, ty = s + a * b, tx + abs(a), ty + abs(b)
    return s / math.sqrt(tx * ty)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("seed", range(3))
def test_exact_p_is_the_share_of_all_orders(n: int, seed: int) -> None:
    y = np.random.default_rng(seed).permutation(n).astype(float)
    x = np.arange(n, dtype=float)
    found = correlate(sweep(x, y), "dense")
    taus = np.array([tau_by_loops(x, y[list(order)]) for order in itertools.permutations(range(n))])
    observed = tau_by_loops(x, y)
    assert found.method == "exact"
    assert found.tau == pytest.approx(observed)
    assert found.p_negative == pytest.approx(np.mean(taus <= observed + 1e-12))
    assert found.p_positive == pytest.approx(np.mean(taus >= observed - 1e-12))


def test_permutation_p_with_ties_agrees_with_scipy() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=9), np.round(rng.normal(size=9))
    found = correlate(sweep(x, y), "instance")
    assert found.method == "permutation"
    assert found.tau == pytest.approx(tau_by_loops(x, y))
    for alternative, p in (("less", found.p_negative), ("greater", found.p_positive)):
        foreign = stats.permutation_test(
            (y,),
            lambda v: stats.kendalltau(x, v, variant="b").statistic,
            permutation_type="pairings",
            n_resamples=1500,
            alternative=alternative,
            rng=np.random.default_rng(0),
        )
        assert p == pytest.approx(foreign.pvalue, abs=0.04)


def test_permutation_p_with_ties_agrees_with_enumeration() -> None:
    x, y = [0.0, 1, 2, 3, 4, 5], [2.0, 2, 1, 1, 0, 1]
    found = correlate(sweep(x, y), "instance")
    observed = tau_by_loops(x, y)
    taus = np.array([tau_by_loops(x, order) for order in itertools.permutations(y)])
    assert found.p_negative == pytest.approx(np.mean(taus <= observed + 1e-12), abs=0.01)
    assert found.p_positive == pytest.approx(np.mean(taus >= observed - 1e-12), abs=0.01)


def test_the_normalised_sum_is_over_the_configurations_that_take_part() -> None:
    assert normalised_sum(np.array([1.0, 3, 2]), np.array([0.0, 0, 0])).tolist() == [0, 1, 0.5]
    assert normalised_sum(np.array([1.0, 3]), np.array([-2.0, -4])).tolist() == [1, 1]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(*[st.integers(-3, 3)] * 3), min_size=0, max_size=7))
def test_any_sweep_has_an_answer(points: list[tuple[int, int, int]]) -> None:
    records = [
        record(k, 0, 0, alignment={"dense": a / 7}, uniformity={"dense": u / 5}, performance={"dense": float(p)})
        for k, (a, u, p) in enumerate(points)
    ]
    found = correlate(records, "dense")
    assert found.n == len(points)
    assert 0 < found.p_negative <= 1 and 0 < found.p_positive <= 1
    assert math.isnan(found.tau) == (found.method == "none")
    if not math.isnan(found.low):
        assert -1 <= found.low <= found.high <= 1


def test_seeds_are_averaged_before_anything_else() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=6), rng.normal(size=6)
    records = [record(k, x[k] + d, y[k] - d, seed=s) for k in range(6) for s, d in enumerate((-0.3, 0.1, 0.2))]
    found, alone = correlate(records, "dense"), correlate(sweep(x, y), "dense")
    assert found.n == 6
    assert found.tau == pytest.approx(alone.tau) and found.p_negative == alone.p_negative


def test_a_configuration_with_a_diverged_seed_is_left_out_by_name() -> None:
    records = [record(k, k, -k, seed=s) for k in range(6) for s in range(2)]
    records[3] = replace(records[3], status="diverged", performance={})
    found = correlate(records, "dense")
    assert found.n == 5
    assert found.left_out == ("dense_index-info_nce-k001-s0", "dense_index-info_nce-k001-s1")


def test_random_initialisation_and_other_families_take_no_part() -> None:
    rng = np.random.default_rng(2)
    y = rng.normal(size=10)
    records = [record(k, k, y[k], family="info_nce" if k < 4 else "align_uniform") for k in range(10)]
    alone = correlate(records, "dense")
    assert correlate([*records, *untrained(1, 2)], "dense") == alone
    assert correlate(records, "dense", "info_nce").n == 4
    assert correlate(records, "dense", "align_uniform") == correlate(records[4:], "dense", "align_uniform")


def test_the_order_of_records_is_of_no_effect_and_the_interval_is_reproducible() -> None:
    rng = np.random.default_rng(3)
    records = sweep(rng.normal(size=8), np.round(rng.normal(size=8)))
    assert correlate(records, "dense") == correlate(records[::-1], "dense")


def test_the_interval_is_the_percentile_of_recomputed_taus() -> None:
    rng = np.random.default_rng(4)
    L_a, L_u, p = rng.normal(size=(3, 10))
    records = [
        record(k, 0, 0, alignment={"dense": L_a[k]}, uniformity={"dense": L_u[k]}, performance={"dense": p[k]})
        for k in range(10)
    ]
    found = correlate(records, "dense")
    taus = []
    for _ in range(400):
        i = rng.integers(10, size=10)
        a, u = ((c - c.min()) / (c.max() - c.min()) for c in (L_a[i], L_u[i]))
        taus.append(stats.kendalltau(a + u, p[i]).statistic)
    assert np.allclose((found.low, found.high), np.percentile(taus, [2.5, 97.5]), atol=0.12)
    assert found.low <= found.tau <= found.high


def test_records_of_two_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="more than one row"):
        correlate([record(0, 0, 0), record(1, 1, 1, data="multi_object")], "dense")


@pytest.mark.parametrize("tau", [-0.9, -0.5, 0.3, 0.05])
def test_needed_is_the_smallest_that_will_do(tau: float) -> None:
    z = stats.norm.ppf(0.95) + stats.norm.ppf(0.8)

    def enough(n: int) -> bool:
        return abs(tau) >= z * math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1)))

    n = needed_for(tau)
    assert n is not None and enough(n) and not enough(n - 1)
    assert needed_for(0.0) is None and needed_for(math.nan) is None


DOWN, UP = Claim("tau_negative", "dense"), Claim("tau_not_negative", "dense")


@pytest.mark.parametrize(
    ("slope", "verdict", "mirrored"),
    [(-1, Verdict.SUPPORTED, Verdict.REFUTED), (1, Verdict.REFUTED, Verdict.SUPPORTED)],
)
def test_verdicts_on_tau_are_mirrors(slope: int, verdict: Verdict, mirrored: Verdict) -> None:
    records = sweep(range(8), [slope * k for k in range(8)])
    down, up = (judge(claim, "row", records, cases(records)) for claim in (DOWN, UP))
    assert (down.verdict, up.verdict) == (verdict, mirrored)
    # Either sentence gives the p that decided, whichever way it went.
    assert all(f"p(tau {'<' if slope < 0 else '>'} 0) = 2.5e-05" in j.sentence for j in (down, up))


def test_absence_of_a_correlation_supports_nothing() -> None:
    records = sweep(range(8), [3, 6, 1, 4, 7, 2, 5, 4.5])
    for claim in (DOWN, UP):
        found = judge(claim, "row", records, cases(records))
        assert found.verdict is Verdict.INCONCLUSIVE
        assert found.correlation is not None
        for part in (f"{found.correlation.tau:.2f} [", "n = 8", "p(tau", f"n = {found.correlation.needed}"):
            assert part in found.sentence


def test_three_configurations_conclude_nothing() -> None:
    records = sweep(range(3), [3, 2, 1])
    found = judge(DOWN, "row", records, cases(records))
    assert found.verdict is Verdict.INCONCLUSIVE and "too few" in found.sentence


@pytest.mark.parametrize(("lost", "verdict"), [(6, Verdict.SUPPORTED), (7, Verdict.INCONCLUSIVE)])
def test_with_most_of_a_sweep_diverged_nothing_is_concluded(lost: int, verdict: Verdict) -> None:
    records = sweep(range(12), range(12, 0, -1))
    records = [replace(r, status="diverged", performance={}) if k < lost else r for k, r in enumerate(records)]
    found = judge(DOWN, "row", records, cases(records))
    assert found.verdict is verdict
    assert found.correlation is not None and len(found.correlation.left_out) == lost
    assert records[0].case in found.sentence and f"and {lost - 5} more" in found.sentence


def test_false_support_is_as_rare_as_alpha() -> None:
    rng = np.random.default_rng(7)
    verdicts = []
    for k in range(600):  # the exact test of 12 has size .043
        y = rng.normal(size=12)
        records = sweep(range(12), y if k % 8 else np.round(2 * y))
        verdicts.append(judge(DOWN, "row", records, cases(records)).verdict)
    assert 0.015 < verdicts.count(Verdict.SUPPORTED) / 600 < 0.075
    assert 0.015 < verdicts.count(Verdict.REFUTED) / 600 < 0.075


def test_what_is_missing_is_listed_and_never_averaged_away() -> None:
    records = sweep(range(6), range(6))
    records[2] = replace(records[2], performance={"instance": 1.0})  # detection did not run
    with pytest.raises(IncompleteSweep) as caught:
        judge(DOWN, "the row", records[:4], cases(records))
    assert caught.value.missing == tuple(cases(records)[k] for k in (2, 4, 5))
    assert "the row: 3 record(s) missing" in str(caught.value) and records[5].case in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    shown = Judgement.incomplete(DOWN, caught.value)
    assert shown.verdict is Verdict.INCONCLUSIVE and shown.missing == caught.value.missing
    assert judge(Claim("tau_negative", "instance"), "the row", records, cases(records)).correlation is not None


def test_records_that_were_not_asked_for_take_no_part() -> None:
    records = sweep(range(6), range(6))
    found = judge(DOWN, "row", [*records, record(9, -9, 9)], cases(records))
    assert found == judge(DOWN, "row", records, cases(records))


LEVEL = Claim("at_random_level", "dense")


@pytest.mark.parametrize(
    ("performance", "verdict"),
    [
        ([3.0, 3.1, 3.2, 3.1, 3.0], Verdict.SUPPORTED),
        ([2.0, 1.1, 1.2, 1.1, 2.0], Verdict.SUPPORTED),  # below random initialisation
        ([30.0, 31, 32, 31, 30], Verdict.REFUTED),
        ([3.0, 9, 1, 12, 0], Verdict.INCONCLUSIVE),
    ],
)
def test_verdicts_on_the_random_level(performance: list[float], verdict: Verdict) -> None:
    records = sweep(range(5), performance)
    found = judge(LEVEL, "row", records, cases(records), untrained(3.0, 3.1, 3.2))
    assert found.verdict is verdict and found.correlation is None
    assert found.contrast is not None and found.contrast.n_random == 3 and "margin 1" in found.sentence


def test_no_random_initialisation_is_an_incomplete_sweep() -> None:
    records = sweep(range(5), range(5))
    broken = [replace(r, status="failed") for r in untrained(3.0)]
    with pytest.raises(IncompleteSweep, match="random_init"):
        judge(LEVEL, "row", records[1:], cases(records), broken)


def test_the_contrast_is_welchs() -> None:
    rng = np.random.default_rng(8)
    a, b = rng.normal(5, 2, size=9).tolist(), rng.normal(3, 1, size=4).tolist()
    found = contrast(a, b, 0.05, 1.0)
    foreign = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((foreign.low, foreign.high))
    one = contrast(a, b[:1], 0.05, 1.0)
    foreign = stats.ttest_1samp(a, b[0]).confidence_interval(0.9)
    assert (one.low, one.high) == pytest.approx((foreign.low - b[0], foreign.high - b[0]))
    assert contrast(a, [3.0, 3.0], 0.05, 1.0).low == pytest.approx(contrast(a, [3.0], 0.05, 1.0).low)
    still = contrast([4.0, 4.0], [3.0, 3.0], 0.05, 1.0)
    assert (still.low, still.high) == (1.0, 1.0)
    assert math.isnan(contrast([4.0], [3.0], 0.05, 1.0).low) and math.isnan(contrast([], [3.0], 0.05, 1.0).low)


def test_judgements_survive_json() -> None:
    records = sweep(range(6), range(6))
    constant = sweep(range(6), [1.0] * 6)
    for found in (
        judge(DOWN, "row", records, cases(records)),
        judge(LEVEL, "row", records, cases(records), untrained(1.0)),
        judge(DOWN, "row", constant, cases(constant)),
        Judgement(LEVEL, "row", Verdict.INCONCLUSIVE, None, Contrast(1, 2, -1, math.nan, math.nan, 1, 1, 1.0), "s"),
        Judgement.incomplete(UP, IncompleteSweep("row", ["a", "b"])),
    ):
        text = found.to_json()
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        back = Judgement.from_json(text)
        assert repr(asdict(back)) == repr(asdict(found)) and isinstance(back.verdict, Verdict)
        assert type(back.correlation) is type(found.correlation) and type(back.contrast) is type(found.contrast)
    assert Judgement.from_json(judge(DOWN, "r", records, cases(records)).to_json()) == judge(
        DOWN, "r", records, cases(records)
    )


@pytest.mark.parametrize(("kind", "level"), [("tau_positive", "dense"), ("tau_negative", "pixel")])
def test_an_unknown_claim_is_refused(kind: str, level: str) -> None:
    with pytest.raises(ValueError, match="kinds"):
        Claim(kind, level)  # type: ignore[arg-type]


def test_holm_steps_down_and_keeps_the_order() -> None:
    def with_p(p: float) -> Judgement:
        records = sweep(range(6), range(6))
        found = judge(DOWN, "row", records, cases(records))
        assert found.correlation is not None
        return replace(found, correlation=replace(found.correlation, p_negative=p))

    none = Judgement.incomplete(DOWN, IncompleteSweep("row", ["a"]))
    adjusted = holm([with_p(0.03), none, with_p(0.01), with_p(0.04)])
    assert math.isnan(adjusted[1])
    assert [adjusted[k] for k in (0, 2, 3)] == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


def test_configurations_are_named_and_averaged() -> None:
    kept, left_out = configurations([record(0, -1, 10), record(0, -0.5, 20, seed=1)], "dense")
    assert left_out == ()
    assert (kept[0].name, kept[0].alignment, kept[0].performance) == ("info_nce-k000", -0.75, 15)


@pytest.mark.parametrize("module", ["cl_bench.claims", "cl_bench.paper", "cl_bench.report"])
def test_neither_torch_nor_pytest_is_loaded(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'pytest') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
