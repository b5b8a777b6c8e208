"""The workflow of examples/ci: its steps are there, and its commands run."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from itertools import pairwise
from typing import Any

import pytest
from helpers import ROOT
from jobs import Job, outcomes

from cl_bench.commands.run import SUITE, suites

yaml = pytest.importorskip("yaml")
pytest_plugins = ["pytester"]

FILE = ROOT / "examples" / "ci" / "claims.yml"


def steps() -> list[dict[str, Any]]:
    (job,) = yaml.safe_load(FILE.read_text())["jobs"].values()
    found: list[dict[str, Any]] = job["steps"]
    return found


def commands() -> list[list[str]]:
    """Return the words of each call of cl-bench, with dense_index for the method."""
    runs = [
        step["run"].replace('"$METHOD"', "dense_index") for step in steps() if "cl-bench run" in step.get("run", "")
    ]
    return [shlex.split(run) for run in runs]


def test_the_store_is_restored_before_the_claims_and_saved_whatever_they_say() -> None:
    places = {step["uses"].partition("@")[0]: n for n, step in enumerate(steps()) if "uses" in step}
    (judged,) = (n for n, step in enumerate(steps()) if "--baseline" in step.get("run", ""))
    assert places["actions/cache/restore"] < judged < places["actions/cache/save"]
    restore, save = steps()[places["actions/cache/restore"]], steps()[places["actions/cache/save"]]
    assert restore["with"]["path"] == save["with"]["path"] == ".cl_bench" and save["if"] == "always()"
    assert f"steps.{restore['id']}.outputs.cache-primary-key" in save["with"]["key"]
    assert restore["with"]["key"].startswith(restore["with"]["restore-keys"])


def test_its_commands_run(two_seeds: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The suites are those that there are, and the options that follow are taken."""
    contract, claims = commands()
    named = [word for words in (contract, claims) for at, word in pairwise(words) if at == "--suite"]
    assert named and set(named) <= set(suites())
    monkeypatch.chdir(two_seeds.folder)
    for data in ("single_object", "multi_object"):
        two_seeds.plant(data=data)
    first = claims.index("--method")
    options = claims[first : claims.index("--seeds")] + claims[claims.index("--seeds") + 2 :]
    file = SUITE.format("single_object")
    assert two_seeds.run("--save-baseline=baseline.json", suites=file).ret == 0
    result = two_seeds.run(*options, suites=file)
    assert outcomes(result) == {"passed": 10} and result.ret == 0
    result.stdout.fnmatch_lines(["since baseline.json: 2 claims compared; 0 verdicts changed*"])
    assert list(two_seeds.folder.rglob("claims.xml"))


def test_actionlint_finds_nothing() -> None:
    if shutil.which("actionlint") is None:
        pytest.skip("actionlint is not installed")
    done = subprocess.run(["actionlint", str(FILE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
