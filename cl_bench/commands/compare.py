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
    parser.add_argument("before", type=Path, metavar="A", help="figures as they were, a file of --save-baseline")
    parser.add_argument("now", type=Path, metavar="B", help="figures as they are")
    parser.add_argument(
        "--max-tau-drop", type=float, default=0.1, metavar="TAU", help="by how much tau may be worse (default: 0.1)"
    )
    parser.add_argument(
        "--max-performance-drop",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="by how many points mean performance may be worse (default: 1)",
    )
    parser.add_argument("--alpha", type=float, default=0.05, help="chance of any false alarm (default: 0.05)")


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
