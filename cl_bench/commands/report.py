"""``cl-bench report``: table and report from what a store holds."""

from __future__ import annotations

import argparse

from cl_bench.commands import run as suites

PASSES_ON = True
add_arguments = suites.add_arguments


def run(arguments: argparse.Namespace) -> int:
    """Judge the stored records and write the report; encoders that are not in the store are skipped."""
    return suites.run(arguments, "--cl-from-store", "--no-header")
