"""``cl-bench compare``: two files that ``--save-baseline`` wrote, claim by claim."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cl_bench.errors import SpecError, of_file

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the two files and the allowed changes."""
    parser.add_argument(
        "before", type=Path, metavar="A", help="file of --save-baseline with the figures before the change"
    )
    parser.add_argument("now", type=Path, metavar="B", help="file of --save-baseline with the figures after it")
    parser.add_argument(
        "--max-tau-drop",
        type=float,
        default=0.1,
        metavar="TAU",
        help="largest deterioration of tau that is allowed (default: 0.1)",
    )
    parser.add_argument(
        "--max-performance-drop",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="largest loss of mean performance that is allowed, in percentage points (default: 1)",
    )
    parser.add_argument(
        "--alpha", type=float, default=0.05, help="probability of any false alarm in a comparison (default: 0.05)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Show verdicts and figures side by side; return 1 if a figure is significantly worse than allowed."""
    from cl_bench.claims.baseline import Baseline
    from cl_bench.console import Console
    from cl_bench.report.baselines_table import baselines_table, compared

    try:
        if not 0 < arguments.alpha < 1:
            raise SpecError(f"--alpha must be between 0 and 1, got {arguments.alpha:g}")
        before, now = (_read(Baseline.load, path) for path in (arguments.before, arguments.now))
        both = compared(before, now, arguments.alpha, arguments.max_tau_drop, arguments.max_performance_drop)
    except SpecError as error:
        print(f"cl-bench compare: {error}", file=sys.stderr)
        return 4
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(baselines_table(arguments.before.name, arguments.now.name, both))
    for line in both.told:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 1 if both.failed else 0


def _read(load: Callable[[Path], T], path: Path) -> T:
    try:
        return load(path)
    except OSError as error:
        raise SpecError(of_file(error)) from None
