"""``cl-bench data``: contact sheets of a profile's data, or getting its data ready."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``python -m cl_bench.data``."""
    parser.add_argument(
        "--profile", default="smoke", help="profile whose data sets are meant: its name or TOML file (default: smoke)"
    )
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder with the data sets STL-10, COCO or VOC")
    parser.add_argument(
        "--store",
        type=Path,
        default=Path(".cl_bench"),
        metavar="DIR",
        help="folder that keeps the decoded data (default: .cl_bench)",
    )
    parser.add_argument(
        "--prepare", action="store_true", help="find and decode the profile's data sets, so that a run need not"
    )
    parser.add_argument(
        "--verify", action="store_true", help="check all decoded data, and decode again what is damaged"
    )
    parser.add_argument(
        "--sheet",
        "--out",
        dest="out",
        type=Path,
        nargs="?",
        const=Path("contact_sheets"),
        default=Path("contact_sheets"),
        metavar="DIR",
        help="write pictures of images and views into this folder; also done where neither --prepare nor --verify is "
        "given (default: contact_sheets)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Draw contact sheets, or prepare or verify the data, by the options."""
    from cl_bench.data.__main__ import work

    return work(arguments, "cl-bench data")
