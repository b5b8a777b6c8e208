"""``cl-bench plan``: what ``cl-bench run`` would compute with the same options."""

from __future__ import annotations

import argparse

from cl_bench.commands import run as suites

PASSES_ON = True
add_arguments = suites.add_arguments


def run(arguments: argparse.Namespace) -> int:
    """Show the plan; nothing is trained."""
    return suites.run(arguments, "--cl-plan")
