"""What every test may rely on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision  # noqa: F401 - pytester forgets what a run imports, and operators cannot be registered twice
from helpers import children, until, workers
from jobs import Job

import cl_bench.report.figures
from cl_bench.methods.method import REGISTERED
from cl_bench.methods.registry import Registry


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """As the workers have: small nets gain nothing from more, and a busy machine loses much."""
    torch.set_num_threads(1)


@pytest.fixture
def forget_methods() -> Iterator[None]:
    """What a test registers is gone after it; the built-in methods stay, for a module is imported once."""
    Registry()
    before = dict(REGISTERED)
    yield
    REGISTERED.clear()
    REGISTERED.update(before)


@pytest.fixture
def as_in_a_shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Surroundings as a user's, not as the outer test run's; no worker is left behind."""
    for name in (*(n for n in os.environ if n.startswith("PYTEST_")), "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        if name != "PYTEST_CURRENT_TEST":
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    yield
    until(lambda: not workers(children(os.getpid())), 10, "no worker is left")


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take a second a row; what draws them has tests of its own, and the whole job of test_plugin draws them."""
    kind = cl_bench.report.figures.KINDS[0]
    monkeypatch.setattr(cl_bench.report.figures, "drawn", lambda _, stem: [(kind, Path(f"{stem}.png"), b"a figure")])


@pytest.fixture
def job(tmp_path: Path, pytester: pytest.Pytester, no_figures: None, as_in_a_shell: None) -> Job:
    """For a module whose ``pytest_plugins`` has ``pytester``."""
    return Job(tmp_path, pytester)


@pytest.fixture
def two_seeds(tmp_path: Path, pytester: pytest.Pytester, no_figures: None, as_in_a_shell: None) -> Job:
    """That job with two seeds a configuration."""
    return Job(tmp_path, pytester, seeds=2)
