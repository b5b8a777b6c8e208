"""Claims in pytest's own outputs: statuses with -v, -q, skips, JUnit's file, GitHub's page of a run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import parse

import pytest
from helpers import environment
from jobs import OUTCOMES, TAU_FALLS, TAU_RISES, TAU_UNCLEAR, Job, flat, outcomes

pytest_plugins = ["pytester"]

TESTS = "test_tau_linear_evaluation", "test_tau_detection"


@pytest.mark.parametrize(
    ("performance", "options", "expected", "status"),
    [
        (TAU_FALLS, [], {"passed": 6}, r"SUPPORTED tau -1\.00"),
        (TAU_RISES, [], {"passed": 4, "xfailed": 2}, r"REFUTED tau 1\.00"),
        (TAU_RISES, ["--strict-claims"], {"passed": 4, "failed": 2}, r"REFUTED tau 1\.00"),
        (TAU_UNCLEAR, [], {"passed": 4, "xfailed": 2}, r"INCONCLUSIVE tau -?0\.\d\d"),
        (TAU_UNCLEAR, ["--strict-claims"], {"passed": 4, "failed": 2}, r"FAILED, INCONCLUSIVE tau -?0\.\d\d"),
    ],
)
def test_with_v_a_claim_s_status_is_its_verdict_and_counts_stay(
    job: Job, performance: tuple[float, ...], options: list[str], expected: OUTCOMES, status: str
) -> None:
    job.plant(performance)
    plain, verbose = job.run(*options), job.run(*options, "-v")
    assert outcomes(plain) == outcomes(verbose) == expected and plain.ret == verbose.ret
    for test in TESTS:
        assert re.search(rf"{test}\[dense_index\] {status} +\[", verbose.stdout.str()), verbose.stdout.str()
    assert verbose.stdout.str().count("PASSED") == 4, "models are as pytest has them"
    assert not re.search(rf"{TESTS[0]}\S* {status}", plain.stdout.str())


def test_a_claim_that_is_missing_records_has_no_tau(job: Job) -> None:
    job.plant()
    (job.store.run(job.specs()[0].pretrain.key).path / "status.json").unlink()
    result = job.run("--from-store", "-rs", "-v")
    assert outcomes(result) == {"passed": 3, "skipped": 3}
    said = flat(result)
    assert f"{job.specs()[0].case} is not in the store, and --from-store computes nothing." in said
    assert (
        "This is not judged, because --from-store computes nothing. single_object-overlapping-dense_index: 1 " in said
    )


@pytest.mark.parametrize(
    ("suite", "options"),
    [
        ("test_confusing_positives.py", ["--method=instance"]),
        ("test_shared_content.py", ["-k", "not model"]),
        ("test_predictors.py", ["-k", "contract"]),
        ("test_matching_strategies.py", []),
    ],
)
def test_a_skip_says_why_in_a_sentence(job: Job, suite: str, options: Sequence[str]) -> None:
    result = job.run(*options, "-rs", suites=suite)
    assert set(outcomes(result)) - {"deselected"} == {"skipped"} and result.ret == 0
    reasons = re.findall(r"^SKIPPED \[\d+\] \S+: (.*)$", result.stdout.str(), re.MULTILINE)
    assert reasons and all(re.fullmatch(r"This is not tested, because .+\.", reason) for reason in reasons), reasons
    by_default = flat(job.run(*options, suites=suite))
    assert re.search(r"\d+ skipped: This is not tested, because ", by_default)
    assert all(reason in by_default for reason in reasons[:1])
    assert "This is not tested" not in flat(job.run(*options, "-q", suites=suite))


def test_q_ends_with_the_answer_and_the_place_of_the_report(job: Job) -> None:
    job.plant()
    lines = [line for line in job.run("-q").stdout.lines if line]
    assert lines[-3].startswith("Of the two claims") and lines[-3].endswith(".")
    assert lines[-2] == f"report: {job.report / 'report.html'}"
    assert lines[-1].startswith("6 passed")


def test_by_default_one_screen(job: Job) -> None:
    job.plant()
    result = job.run()
    text = result.stdout.str().partition(" cl-bench =")[2]
    assert "Of the two claims" in text and len(text.splitlines()) < 15
    result.stdout.fnmatch_lines(["single_object *linear *-1.00 *SUPPORTED*-0.32", f"report: {job.report}/report.html"])
    assert "tau-b: rank correlation" not in text and "tau-b: rank correlation" in job.summary
    assert "tau-b: rank correlation" in flat(job.run("-vv"))


def properties(file: Path) -> dict[str, dict[str, str]]:
    """Return the properties of each test of a JUnit file, by the test's name."""
    return {
        str(case.get("name")): {str(p.get("name")): str(p.get("value")) for p in case.iter("property")}
        for case in parse(file).iter("testcase")
    }


@pytest.mark.parametrize(("unbuffered", "more"), [("", ()), ("1", ()), ("1", ("-p", "no:capture"))])
def test_output_that_nobody_reads_to_its_end_is_no_traceback(job: Job, unbuffered: str, more: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "pytest", *job.args("--plan", *more)]
    pipe, variables = subprocess.PIPE, environment(PYTHONUNBUFFERED=unbuffered)
    running = subprocess.Popen(command, cwd=job.folder, env=variables, stdout=pipe, stderr=pipe)
    assert running.stdout is not None and running.stderr is not None
    assert running.stdout.readline().startswith(b"cl-bench: ")
    running.stdout.close()
    assert (running.stderr.read(), running.wait(60)) == (b"", 141)
    running.stderr.close()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.slow
def test_junit_has_flat_properties_of_claims(job: Job, workers: int) -> None:
    """Under pytest-xdist too, where the summary has to reach the process that writes it."""
    job.plant(TAU_RISES)
    file = job.folder / "junit.xml"
    options = f"--junitxml={file}", *(("-n", str(workers)) if workers else ())
    if workers:
        command = [sys.executable, "-m", "pytest", *job.args(*options)]
        done = subprocess.run(command, cwd=job.folder, env=environment(), capture_output=True, text=True, timeout=200)
        assert done.returncode == 0 and "single_object           linear      1.00" in done.stdout, done.stdout
    else:
        job.run(*options)
    found = properties(file)
    assert len(found) == 6
    for test in TESTS:
        flat = found[f"{test}[dense_index]"]
        assert {"row", "verdict", "tau", "low", "high", "p", "n"} <= set(flat)
        assert (flat["verdict"], flat["tau"], flat["n"]) == ("REFUTED", "1", "4")
        assert 0.5 < float(flat["p"]) <= 1
    assert [name for name, told in found.items() if told and "tau" not in name] == [], "a model's test has none"
    assert "{" not in "".join(value for told in found.values() for value in told.values())


def test_github_s_page_of_a_run_has_the_answer_and_the_table(two_seeds: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job = two_seeds
    page, kept = job.folder / "page.md", job.folder / "kept.json"
    page.write_text("# of another step\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    job.plant()
    job.run(f"--save-baseline={kept}")
    job.run(f"--baseline={kept}")
    first, *others = page.read_text().split("### cl-bench\n")
    assert first == "# of another step\n" and len(others) == 2
    for said in others:
        assert "Of the two claims" in said and "| row | evaluation | tau | 95 % interval | verdict | paper |" in said
        assert "| detection | -1.00 | [-1.00, 1.00] | SUPPORTED | -0.12 |" in said
    assert "2 claims compared" in others[1] and "2 claims compared" not in others[0]


def test_a_page_that_cannot_be_written_changes_no_outcome(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.plant()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(job.folder))
    result = job.run()
    assert result.ret == 0 and re.search(r"^GITHUB_STEP_SUMMARY: .*Is a directory", result.stdout.str(), re.MULTILINE)
