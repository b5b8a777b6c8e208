"""The suites from a checkout, from anywhere, and beside plugins and conftests that take the same names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, environment
from jobs import Job

pytest_plugins = ["pytester"]

SUITE = str(ROOT / "suites" / "test_single_object.py")
FOREIGN_CONFTEST = """
import pytest

def pytest_addoption(parser):
    parser.addoption("--profile", action="store_true", help="as pytest-profiling has it")

@pytest.fixture
def case():
    return "theirs"

@pytest.fixture
def method():
    return "theirs"

@pytest.fixture
def claim():
    return "theirs"
"""
FOREIGN_PLUGIN = """
def pytest_addoption(parser):
    group = parser.getgroup("playwright")
    group.addoption("--device", default=None, action="store", help="as pytest-playwright has it")
    group.addoption("--browser", action="append", default=[])
"""
FOREIGN_TEST = """
def test_theirs(case, method, claim, pytestconfig):
    assert (case, method, claim) == ("theirs", "theirs", "theirs")
    assert pytestconfig.getoption("--device") == "iPhone 13" and pytestconfig.getoption("--profile")
"""


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    surroundings = environment(PYTHONPATH=f"{ROOT}:{folder}", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    return subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True, timeout=300)


def test_foreign_options_and_fixtures_of_the_same_names_stand_beside_ours(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.plant()
    project = tmp_path / "project"
    project.mkdir()
    (project / "conftest.py").write_text(FOREIGN_CONFTEST)
    (project / "their_plugin.py").write_text(FOREIGN_PLUGIN)
    (project / "test_theirs.py").write_text(FOREIGN_TEST)
    theirs = "-p", "their_plugin", "--device=iPhone 13", "--profile"
    ours = f"--cl-profile={job.profile_file}", "--cl-device=cpu", f"--store={job.root}"
    done = call(project, "pytest", "-p", "cl_bench.plugin", *theirs, *ours, "test_theirs.py", SUITE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout and "SUPPORTED" in done.stdout


@pytest.mark.parametrize("order", [("their_plugin", "cl_bench.plugin"), ("cl_bench.plugin", "their_plugin")])
def test_the_order_of_plugins_does_not_matter(tmp_path: Path, order: tuple[str, str]) -> None:
    (tmp_path / "their_plugin.py").write_text(FOREIGN_PLUGIN)
    plugins = [word for name in order for word in ("-p", name)]
    done = call(tmp_path, "pytest", *plugins, "--help")
    assert done.returncode == 0, done.stderr
    assert "--method=NAME" in done.stdout and "as pytest-playwright has it" in done.stdout
    assert "where to train" not in done.stdout  # --device is theirs


@pytest.mark.slow
def test_a_project_without_options_of_its_own_has_the_short_names(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.plant()
    ours = f"--profile={job.profile_file}", f"--store={job.root}", "--device=cpu"
    done = call(tmp_path, "pytest", "-p", "cl_bench.plugin", f"--rootdir={tmp_path}", *ours, "-q", SUITE)
    assert done.returncode == 0 and "this run supports two" in done.stdout, done.stdout + done.stderr
    assert done.stdout.startswith("cl-bench: dense_index, profile tiny.toml")


@pytest.mark.slow
def test_run_and_report_of_the_command_line(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.plant()
    ours = "--suite", "single_object", "--profile", str(job.profile_file), "--store", str(job.root)
    done = call(tmp_path, "cl_bench", "run", *ours, "--device", "cpu", "--report", "first")
    assert done.returncode == 0, done.stdout + done.stderr
    (job.store.run(job.specs()[0].pretrain.key).path / "status.json").unlink()
    again = call(tmp_path, "cl_bench", "report", *ours, "--report", "second", "-rs")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "not in the store" in again.stdout and "1 record missing" in again.stdout
    assert (tmp_path / "second" / "report.html").exists()
    assert not (job.store.run(job.specs()[0].pretrain.key).path / "status.json").exists()


def test_from_store_and_computing_options_contradict_each_other(tmp_path: Path, pytester: pytest.Pytester) -> None:
    result = Job(tmp_path, pytester).run("--from-store", "--rerun=all")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--from-store computes nothing: leave out --rerun"])


def test_from_store_without_a_store_is_refused(tmp_path: Path, pytester: pytest.Pytester) -> None:
    job = Job(tmp_path, pytester)
    result = job.run("--from-store")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*: no store *the store'*"])
    assert not job.root.exists() and not job.report.exists()
