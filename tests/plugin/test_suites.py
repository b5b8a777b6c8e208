"""The suites on planted records: what each claim takes, when it passes, fails, or only tells."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from helpers import ROOT, trained
from jobs import OUTCOMES, TAU_FALLS, TAU_RISES, Job, flat, outcomes

from cl_bench.compute.record import evaluation_name
from cl_bench.compute.stored import PREDICTORS
from cl_bench.predictors.registry import Predictors

pytest_plugins = ["pytester"]

LEVEL = (40.0, 41.0, 40.0, 41.0)
WORDS = {"passed": "PASSED", "failed": "FAILED", "xfailed": "XFAIL", "skipped": "SKIPPED"}


def assert_outcomes(result: pytest.RunResult, expected: Mapping[str, str]) -> None:
    """Of each test whose name holds that."""
    for test, outcome in expected.items():
        assert re.search(rf"^{WORDS[outcome]} \S*{test}", result.stdout.str(), re.MULTILINE), (test, outcome)


def test_a_suite_and_a_file_of_tests_never_share_a_name() -> None:
    """Both would be imported by its bare name: in one process the second of a pair would not be found."""
    suites = {path.name for path in (ROOT / "suites").glob("test_*.py")}
    tests = {path.name for path in (ROOT / "tests").glob("test_*.py")}
    assert suites and tests and not suites & tests


# ---- learning


@pytest.mark.parametrize(("options", "expected"), [([], {"xfailed": 2}), (["--strict-claims"], {"failed": 2})])
def test_a_row_that_did_not_learn_is_inconclusive_however_clear_its_tau(
    job: Job, options: list[str], expected: OUTCOMES
) -> None:
    job.plant(TAU_FALLS, untrained=75.0)
    assert outcomes(job.run("-k", "tau")) == {"passed": 2, "deselected": 4}, "half is enough"
    job.plant((90, 70, 60, 50), untrained=75.0)
    result = job.run("-k", "tau", *options, "-rA")
    assert outcomes(result) == {**expected, "deselected": 4}
    text = flat(result)
    for evaluation in ("linear evaluation", "detection"):
        beat = f"1 of 4 beat the untrained mean by more than its standard error ({evaluation} above 75.01)"
        assert f"INCONCLUSIVE: encoders of this row did not learn: {beat}" in text
    claims = json.loads((job.report / "claims.json").read_text())
    assert [(c["validity"]["learnt"], c["validity"]["of"]) for c in claims] == [(1, 4)] * 2


@pytest.mark.parametrize(
    ("performance", "untrained", "expected"),
    [
        ((10, 10.1, 10.2, 10.3), 10.1, {"test_detection_at_random_level": "passed", "test_tau": "passed"}),
        (TAU_FALLS, 10.0, {"test_detection_at_random_level": "failed", "test_tau": "xfailed"}),
        (TAU_RISES, 10.0, {"test_detection_at_random_level": "failed", "test_tau": "passed"}),
        ((9, 13, 13, 9), 10.0, {"test_detection_at_random_level": "xfailed", "test_tau": "xfailed"}),
    ],
)
def test_verdicts_of_confusing_positives(
    job: Job, performance: tuple[float, ...], untrained: float, expected: Mapping[str, str]
) -> None:
    job.plant(data="multi_object")
    job.plant(performance, untrained, data="multi_object", views="disjoint")
    result = job.run("-k", "TestMultiObject and not model", "-rA", suites="test_confusing_positives.py")
    assert_outcomes(result, expected)


def test_confusing_positives_conclude_nothing_where_their_twin_did_not_learn(job: Job) -> None:
    """The twin's records are pulled though no test of its row is selected."""
    options = "-k", "TestMultiObject and not model", "-rA"
    job.plant((10, 10.1, 10.2, 10.3), 10.1, data="multi_object", views="disjoint")
    plan = flat(job.run(*options, "--plan", suites="test_confusing_positives.py"))
    assert "multi_object-overlapping-dense_index 4 0 4 4" in plan and "4 encoders to compute" in plan
    job.plant((10, 10.1, 10, 10), 10.1, data="multi_object")
    result = job.run(*options, suites="test_confusing_positives.py")
    assert outcomes(result) == {"xfailed": 3, "deselected": 10}
    beat = "0 of 4 beat the untrained mean by more than its standard error"
    said = f"INCONCLUSIVE: encoders of the same row with overlapping views did not learn: {beat}"
    assert job.summary.count(said) >= 3
    assert "dense_index: multi-object data, overlapping views" in job.summary


# ---- many claims


def test_what_is_refuted_alone_does_not_fail_a_run_of_several_claims(job: Job) -> None:
    """Each of two is refuted with p = 1/4 at a level of .3: alone it fails, and among two it does not."""
    job.plant(TAU_RISES)
    for one in ("tau_linear", "tau_detection"):
        assert outcomes(job.run("-k", one)) == {"failed": 1, "deselected": 5}
    both = job.run("-k", "tau", "-rA")
    assert outcomes(both) == {"xfailed": 2, "deselected": 4} and both.ret == 0
    assert flat(both).count("refuted, but not after correction for the 2 claims of this run (adjusted p = 0.5") >= 2
    assert "2 refuted by their own test, 0 after Holm's correction." in job.summary
    claims = json.loads((job.report / "claims.json").read_text())
    assert [(c["verdict"], c["p_against_holm"]) for c in claims] == [("REFUTED", pytest.approx(0.5, abs=0.05))] * 2
    assert outcomes(job.run("-k", "tau", "--strict-claims")) == {"failed": 2, "deselected": 4}


def test_one_untrained_encoder_is_refused_before_anything_trains(tmp_path: Path, pytester: pytest.Pytester) -> None:
    job = Job(tmp_path, pytester, random_inits=1)
    result = job.run("-k", "random_level", suites="test_confusing_positives.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR and not list(job.store.root.glob("runs/*"))
    said = "random_inits = 1, and multi_object-disjoint-dense_index: at_random_level is compared with the spread of"
    assert said in flat_errors(result) and "--set random_inits=3" in flat_errors(result)


def flat_errors(result: pytest.RunResult) -> str:
    return re.sub(r"\s+", " ", result.stderr.str() + result.stdout.str())


# ---- what the paper does not claim


@pytest.mark.parametrize("strict", [[], ["--strict-claims"]])
def test_an_exploratory_claim_never_fails(two_seeds: Job, strict: list[str]) -> None:
    job, path = two_seeds, two_seeds.folder / "old.json"
    job.plant(TAU_FALLS, data="multi_object")
    first = job.run(f"--save-baseline={path}", suites="test_multi_object.py")
    assert outcomes(first) == {"passed": 10}, "one that is supported passes as any other"
    job.plant(TAU_RISES, data="multi_object")
    result = job.run(*strict, "-rA", suites="test_multi_object.py")
    assert outcomes(result) == {"passed": 8, "xfailed": 1, "failed": 1}
    assert_outcomes(result, {"test_tau_linear_evaluation": "xfailed", "test_tau_detection": "failed"})
    assert "exploratory, the paper does not claim it: multi_object-" in flat(result)
    assert "REFUTED (exploratory): better aligned" in flat(result)
    result = job.run(f"--baseline={path}", *strict, "-rA", suites="test_multi_object.py")
    assert_outcomes(result, {"test_tau_linear_evaluation": "xfailed", "test_tau_detection": "failed"})
    assert "(linear evaluation, tau_negative, exploratory): SUPPORTED -> REFUTED" in flat(result)


def test_what_is_exploratory_of_one_scheme_is_claimed_of_the_other(job: Job) -> None:
    job.plant(TAU_RISES, data="multi_object", method="instance")
    result = job.run("--method=instance", "-k", "tau_linear", "-rA", suites="test_multi_object.py")
    assert outcomes(result) == {"failed": 1, "deselected": 5} and "(exploratory)" not in flat(result)


def test_a_scheme_that_is_none_is_refused(job: Job) -> None:
    suite = job.folder / "test_own.py"
    suite.write_text(
        "import pytest\n\n"
        '@pytest.mark.sweep(data="single_object", views="overlapping")\n'
        '@pytest.mark.claim("tau_negative", level="dense", exploratory="all")\n'
        "def test_it(claim):\n    claim.check()\n"
    )
    result = job.run("-p", "cl_bench.plugin", suites=str(suite))
    assert result.ret != 0
    said = result.stderr.str() + result.stdout.str()
    assert "exploratory takes True or schemes of ('instance', 'dense'), got 'all'" in said and "Traceback" not in said


def plant_rankme(job: Job, values: Sequence[float]) -> None:
    """Store a value of RankMe on the dense features of each configuration."""
    known = Predictors((), ())
    source = known.spec_of(known.named("rankme")).source
    for spec, value in zip(job.profile.sweep(job.row("multi_object")), values, strict=True):
        found = {"rankme": {"source": source, "values": {"rankme@dense": value}, "failed": ""}}
        kept = {"encoder_sha256": "0" * 64, "seconds": 1.0, "provenance": {}}
        job.store.run(spec.pretrain.key).write(evaluation_name(spec, PREDICTORS), {"found": found, **kept})


@pytest.mark.parametrize(
    ("rankme", "outcome", "said", "tau"),
    [
        ((1.0, 2.0, 3.0, 4.0), "passed", "SUPPORTED", "+1.00"),
        ((4.0, 3.0, 2.0, 1.0), "xfailed", "REFUTED", "-1.00"),
    ],
    ids=["against", "along"],
)
def test_a_predictor_that_goes_against_detection(
    job: Job, rankme: Sequence[float], outcome: str, said: str, tau: str
) -> None:
    job.plant(TAU_FALLS, data="multi_object")
    plant_rankme(job, rankme)
    before = trained(job.root)
    result = job.run("-k", "TestMultiObject", "-rA", suites="test_predictors.py")
    assert_outcomes(result, {"test_rankme": outcome, "test_alpha_req": "xfailed", "test_lidar": "xfailed"})
    about = "encoders that rankme@dense ranks higher do worse at detection (tau > 0)"
    figures = f"tau = {float(tau):.2f} over all pairs, {float(tau):.2f} within families, n = 4"
    assert f"{said} (exploratory): {about}; {figures}" in job.summary
    assert "tau = undefined, n = 0" in job.summary, "of those that were not measured"
    lines = [line.split() for line in (job.report / "summary.txt").read_text().splitlines()]
    (shown,) = (line for line in lines if line[:1] == ["rankme@dense"])
    assert shown.count(tau) == 2, "of linear evaluation and of detection, which are the same here"
    assert "rankme@dense" in (job.report / "league.csv").read_text()
    assert trained(job.root) == before


# ---- transfer


@pytest.mark.parametrize(
    ("multi", "single", "outcome"),
    [
        (LEVEL, TAU_FALLS, "passed"),
        ((95, 85, 76, 66), TAU_FALLS, "failed"),
        ((95, 75, 75, 55), TAU_FALLS, "xfailed"),
        (LEVEL, (9, 9, 9, 9), "xfailed"),
    ],
    ids=["behind", "ahead", "unclear", "nothing learnt"],
)
def test_verdicts_on_pretraining_data(
    job: Job, multi: tuple[float, ...], single: tuple[float, ...], outcome: str
) -> None:
    job.plant(multi, data="multi_object")
    job.plant(single)
    result = job.run("-rA", suites="test_pretraining_data.py")
    assert outcomes(result) == {outcome: 1}
    (claim,) = json.loads((job.report / "claims.json").read_text())
    assert claim["row"] == "multi_object-overlapping-dense_index" and claim["claim"]["kind"] == "falls_behind"
    names = claim["comparison"]["reference"], claim["comparison"]["other"]
    assert names == ("single_object", "multi_object")
    assert "the paper's own averages 63.47 - 50.39 = +13.08 points" in job.summary


def test_verdicts_on_scheme_transfer(job: Job) -> None:
    job.plant(TAU_FALLS, data="multi_object")
    job.plant(TAU_FALLS, data="single_object", method="instance")
    job.plant(tuple(v - 0.5 for v in TAU_FALLS), data="multi_object", method="instance")
    job.plant(tuple(v - 5 for v in TAU_FALLS))
    methods = "--method=dense_index", "--method=instance"
    result = job.run(*methods, "-rA", suites="test_scheme_transfer.py")
    assert outcomes(result) == {"passed": 3, "xfailed": 1}
    expected = {
        "test_detection_above_random_level.instance": "passed",
        "test_detection_keeps_up_with_dense.instance": "passed",
        "test_linear_evaluation_above_random_level.dense_index": "passed",
        "test_linear_evaluation_keeps_up_with_instance.dense_index": "xfailed",
    }
    assert_outcomes(result, expected)
    assert "REFUTED (exploratory): on average it does no worse at linear evaluation than the other" in flat(result)
    assert "(detection against dense_index)" in job.summary
    job.plant(tuple(v - 5 for v in TAU_FALLS), data="multi_object", method="instance")
    assert outcomes(job.run(*methods, suites="test_scheme_transfer.py")) == {"passed": 2, "xfailed": 1, "failed": 1}
    low = job.run(*methods, "--set=claims.margin=6", suites="test_scheme_transfer.py")
    assert outcomes(low) == {"passed": 4}


def test_without_a_pair_of_schemes_only_untrained_encoders_are_compared_with(job: Job) -> None:
    job.plant()
    result = job.run("-rs", suites="test_scheme_transfer.py")
    assert outcomes(result) == {"passed": 1, "skipped": 3} and result.ret == 0
    assert "--method names no pair of a dense method and an instance one." in flat(result)
    assert "--method names no instance method" in flat(result)


def test_the_other_scheme_is_index_wise_where_that_is_named(job: Job) -> None:
    before = trained(job.root)
    for method in ("dense_index", "dense_cosine", "instance"):
        job.plant(data="multi_object", method=method)
    options = "-k", "keeps_up_with_dense", "-rA"
    for names, other in ((["dense_cosine", "dense_index"], "dense_index"), (["dense_cosine"], "dense_cosine")):
        methods = [f"--method={name}" for name in (*names, "instance")]
        assert outcomes(job.run(*methods, *options, suites="test_scheme_transfer.py"))["passed"] == 1
        (claim,) = json.loads((job.report / "claims.json").read_text())
        assert (claim["comparison"]["reference"], claim["comparison"]["other"]) == ("instance", other)
    assert len(trained(job.root)) > len(before)
