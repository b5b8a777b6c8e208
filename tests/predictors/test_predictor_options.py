"""``--predictor`` and ``--list-predictors`` as a person types them, and what a bad predictor costs a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import trained
from jobs import Job, flat, outcomes

from cl_bench.predictors.contract import CHECKS, IMAGES
from cl_bench.predictors.registry import Predictors

pytest_plugins = ["pytester"]

CASE = "-k", "test_model and info_nce-t0.2", "--jobs=1"


def write(file: Path, body: str) -> str:
    """Write a predictor with the name of its file; its body is line 6."""
    header = "import os\nfrom cl_bench import Seen, predictor\n\n"
    marked = f'@predictor("{file.stem}", better="low", level="dense")\ndef figure(seen: Seen) -> float:\n'
    file.write_text(f"{header}{marked}    {body}\n")
    return f"--predictor={file}"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return float('nan')", "it must return a finite number, got nan"),
        ("return [].pop()", "IndexError: pop from empty list"),
        ("seen.x1.zero_(); return 1.0", "it writes to x1, which others read too: clone it first"),
        ("return float(seen.labels[0])", 'reads labels, which it does not ask for: needs="labels"'),
    ],
)
def test_a_predictor_that_cannot_work_is_told_before_anything_trains_and_the_run_goes_on(
    job: Job, body: str, said: str
) -> None:
    file = job.folder / "bad.py"
    result = job.run(write(file, body), "--plan")
    assert result.ret == 0 and "encoders to compute" in flat(result)
    told, _, _ = flat(result).partition("encoders to compute")
    assert f"predictor 'bad' ({file}:" in told
    assert f"{said}; the run goes on, and leaves it out where it fails on an encoder" in told
    assert "Traceback" not in told and not result.stderr.str().strip()
    assert not job.root.exists() or trained(job.root) == {}


@pytest.mark.slow
def test_only_the_column_of_a_predictor_that_cannot_work_is_missing(job: Job) -> None:
    result = job.run(*CASE, write(job.folder / "bad.py", "return float('nan')"))
    assert result.ret == 0 and outcomes(result)["passed"] == 1
    place = f"predictor 'bad' ({job.folder / 'bad.py'}:4)"
    assert f"without: {place}: it must return a finite number, got nan (of 1 encoder)" in job.summary
    header = (job.report / "records.csv").read_text().partition("\n")[0].split(",")
    assert "predictors.rankme@instance" in header and not any("bad" in name for name in header)
    assert "seconds.predictors" in header


def test_the_list_has_the_built_in_ones_and_those_of_a_file(job: Job) -> None:
    result = job.run("--list-predictors", write(job.folder / "mine.py", "return 1.0"))
    listed = [line.split() for line in result.stdout.lines if line and not line.startswith(" ")]
    names = [p.name for p in Predictors((), ()).built_in]
    assert result.ret == 0 and [line[0] for line in listed] == ["predictor", *sorted([*names, "mine"])]
    about = {line[0]: line[1:] for line in listed}
    assert about["mine"][:2] == ["low", "dense"] and about["knn"][:3] == ["high", "instance", "labels"]
    assert not job.root.exists()


def test_the_contract_of_a_predictor_of_ones_own(job: Job) -> None:
    good, unsteady = job.folder / "good.py", job.folder / "unsteady.py"
    options = (
        write(good, "return float(seen.x1.std())"),
        write(unsteady, "return float(int.from_bytes(os.urandom(6), 'big'))"),
    )
    result = job.run("-k", "contract", "-rA", *options, suites="test_predictors.py")
    assert outcomes(result)["passed"] == 2 * len(CHECKS) - 1 and outcomes(result)["failed"] == 1
    assert f"predictor 'unsteady' ({unsteady}:4): the same features give" in flat(result)
    assert "Traceback" not in result.stdout.str()


@pytest.mark.slow
def test_encoders_that_are_there_get_what_they_lack_and_a_bad_one_costs_only_itself(job: Job) -> None:
    """One that fails on real features alone, and one that takes its process along."""
    first = job.run(*CASE)
    assert outcomes(first)["passed"] == 1
    before = {name: when for name, when in trained(job.root).items() if "predictors" not in name}
    good = write(job.folder / "good.py", "return float(seen.x1.std())")
    fails = write(job.folder / "fails.py", f"return 1.0 if len(seen.x1) == {IMAGES} else 1 / 0")
    exits = write(job.folder / "exits.py", f"return 1.0 if len(seen.x1) == {IMAGES} else os._exit(3)")
    result = job.run(*CASE, good, fails, exits)
    assert outcomes(result)["passed"] == 1 and result.ret == 0
    after = trained(job.root)
    assert {name: after[name] for name in before} == before, "nothing is trained or evaluated again"
    said = flat(result)
    assert f"predictor 'fails' ({job.folder / 'fails.py'}:6): ZeroDivisionError: division by zero" in said
    assert "without predictors exits: dense_index-info_nce-t0.2-s0: " in said
    (stored,) = job.root.glob("runs/*/evals/predictors-*.json")
    found = json.loads(stored.read_text())["payload"]["found"]
    assert set(found) == {p.name for p in Predictors((), ()).built_in} | {"good", "fails"}
    assert found["good"]["values"]["good@dense"] > 0 and found["rankme"]["values"]["rankme@dense"] >= 1
    header = (job.report / "records.csv").read_text().partition("\n")[0].split(",")
    assert {"predictors.good@dense", "predictors.rankme@instance"} <= set(header)
    assert not any("fails" in name or "exits" in name for name in header)
    assert "Traceback" not in said
