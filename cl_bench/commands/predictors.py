"""``cl-bench predictors``: every predictor of performance there is."""

from __future__ import annotations

import argparse

from cl_bench.commands.run import call_pytest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the option for more files to search."""
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE.py",
        help="file whose predictors are listed beside the built-in and installed ones",
    )


def run(arguments: argparse.Namespace) -> int:
    """List the predictors, and return the exit status."""
    return call_pytest(["--cl-list-predictors", *(f"--cl-predictor={file}" for file in arguments.files)])
