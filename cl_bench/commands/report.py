"""``cl-bench report``: table and report from what a store holds."""

from __future__ import annotations

import argparse

from cl_bench.commands import run as suites

PASSES_ON = True
add_arguments = suites.add_arguments


def run(arguments: argparse.Namespace) -> int:
    """Judge what is there and write the report; an encoder that is not in the store is skipped."""
    return suites.run(arguments, "--cl-from-store", "-q")
