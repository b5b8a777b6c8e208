"""``cl-bench run``: the suites, wherever it is called, with every option that pytest has."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cl_bench.errors import nearest
from cl_bench.folders import suites_folder

PASSES_ON = True
SUITE = "test_{}.py"


def suites() -> list[str]:
    """Return the name of each suite, such as ``single_object``."""
    return sorted(path.stem.removeprefix("test_") for path in suites_folder().glob("test_*.py"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that are not pytest's; all others are passed on to pytest."""
    parser.add_argument(
        "--suite",
        action="append",
        default=[],
        metavar="NAME",
        help=f"suite to run, repeatable (default: all of them); suites: {', '.join(suites())}",
    )
    parser.epilog = (
        "Every option of the suites and of pytest works here too, such as --method ./my_match.py, --profile, --seeds, "
        "--store, -k, -x and -q; --pytest-help lists them."
    )
    parser.add_argument("--pytest-help", action="store_true", help="list the options of the suites and of pytest")


def run(arguments: argparse.Namespace, *more: str) -> int:
    """Run pytest over the suites.

    Args:
        arguments: Parsed; ``others`` is passed on.
        more: Options that the command adds.
    """
    unknown = [name for name in arguments.suite if name not in suites()]
    if unknown:
        near = nearest(unknown[0], suites())
        print(f"cl-bench: --suite: no suite {unknown[0]!r}{near}; suites: {', '.join(suites())}", file=sys.stderr)
        return 4
    chosen = [str(suites_folder() / SUITE.format(name)) for name in arguments.suite] or [str(suites_folder())]
    if arguments.pytest_help:
        more = (*more, "--help")
    return call_pytest([*chosen, *more, *arguments.others])


def call_pytest(arguments: Sequence[str]) -> int:
    """Call pytest in this process, with the working directory as its root, which then holds store and cache."""
    import pytest

    return int(pytest.main(["-p", "cl_bench.plugin", f"--rootdir={Path.cwd()}", *arguments]))
