"""Fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision  # noqa: F401 - pytester forgets what a run imports, and operators cannot be registered twice
from helpers import until, workers
from jobs import Job

import cl_bench.compute.pictures
import cl_bench.report.figures
from cl_bench.compute.process import descendants
from cl_bench.methods.method import REGISTERED
from cl_bench.methods.registry import Registry

OUTER = "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "GITHUB_STEP_SUMMARY"
"""Variables of the environment that pytest's output depends on."""


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Use one thread, as the workers do: small networks gain nothing from more, and a busy machine loses much."""
    torch.set_num_threads(1)


@pytest.fixture
def forget_methods() -> Iterator[None]:
    """Forget the methods that a test registers; the built-in ones stay, because a module is imported once."""
    Registry()
    before = dict(REGISTERED)
    yield
    REGISTERED.clear()
    REGISTERED.update(before)


@pytest.fixture
def as_in_a_shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the environment of a user, not of the outer test run, and check that no worker is left behind."""
    for name in (*(n for n in os.environ if n.startswith("PYTEST_")), *OUTER):
        if name != "PYTEST_CURRENT_TEST":
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    yield
    until(lambda: not workers(descendants(os.getpid())), 10, "no worker is left")


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not draw figures, which take a second per row and have tests of their own; test_whole_job draws them once."""
    kind = cl_bench.report.figures.KINDS[0]
    monkeypatch.setattr(cl_bench.report.figures, "drawn", lambda _, stem: [(kind, Path(f"{stem}.png"), b"a figure")])
    monkeypatch.setattr(cl_bench.compute.pictures, "pictures", lambda *_: [])


@pytest.fixture
def job(tmp_path: Path, pytester: pytest.Pytester, no_figures: None, as_in_a_shell: None) -> Job:
    """Make a job, for a module whose ``pytest_plugins`` has ``pytester``."""
    return Job(tmp_path, pytester)


@pytest.fixture
def two_seeds(tmp_path: Path, pytester: pytest.Pytester, no_figures: None, as_in_a_shell: None) -> Job:
    """Make that job with two seeds per configuration."""
    return Job(tmp_path, pytester, seeds=2)
