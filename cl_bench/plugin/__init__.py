"""The pytest plugin: options, fixtures, hooks, and the outcome of a test for each record and verdict."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import nullcontext

import pytest

from cl_bench.console import unread
from cl_bench.plugin.fixtures import Case, ClaimTest, case, claim, method, predictor
from cl_bench.plugin.hooks import Hooks, claim_of
from cl_bench.plugin.options import add_options, tell_nearest
from cl_bench.plugin.session import Session
from cl_bench.plugin.stages import Stages

__all__ = [
    "Case",
    "ClaimTest",
    "case",
    "claim",
    "method",
    "predictor",
    "pytest_addoption",
    "pytest_cmdline_main",
    "pytest_cmdline_main_unread",
    "pytest_configure",
    "pytest_load_initial_conftests",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add every option under a name that no other plugin takes, such as ``--cl-method``."""
    add_options(parser, "--cl-")


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(parser: pytest.Parser, args: list[str]) -> Generator[None, None, None]:
    """Add the short names, such as ``--method``, where no other plugin and no conftest has taken them."""
    yield
    add_options(parser, "--")
    tell_nearest(parser, args)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers and watch the session."""
    config.addinivalue_line(
        "markers", "sweep(data, views, schemes=...): the row of the paper's tables a suite is about"
    )
    config.addinivalue_line(
        "markers",
        "claim(kind, level, exploratory=...): what a test claims of the sweep; exploratory, True or schemes: "
        "the paper does not claim it, and it never fails",
    )
    config.addinivalue_line("markers", "contract: a test of each method that --method names; runs first")
    session = Session(config)
    config.pluginmanager.register(session, Session.NAME)
    hooks = Hooks(session)
    config.pluginmanager.register(hooks)
    if session.options.until_conclusive:
        config.pluginmanager.register(
            Stages(hooks, lambda item, row: ClaimTest(session, item, row, claim_of(item, row)))
        )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Print the list of ``--list-methods`` or ``--list-predictors`` and end; without them return None."""
    session = Session(config)
    option = session.options
    if not (option.list_methods or option.list_predictors):
        return None
    if option.list_methods:
        session.list_methods()
    if option.list_predictors:
        session.list_predictors()
    return 0


@pytest.hookimpl(specname="pytest_cmdline_main", wrapper=True)
def pytest_cmdline_main_unread(config: pytest.Config) -> Generator[None, int | None, int | None]:
    """End quietly where nobody reads the output any more, as in ``--plan | head``."""
    capture = config.pluginmanager.getplugin("capturemanager")  # None with -p no:capture
    try:
        status = yield
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            sys.stdout.flush()
    except BrokenPipeError:
        if capture:
            capture.stop_global_capturing()  # later it would put the closed pipe back
        return unread()
    return status
