"""``cl-bench new-method``: a file to start a matching strategy from."""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from pathlib import Path

from cl_bench.folders import methods_folder

TEMPLATE = '''"""{name}: say in one line where the idea comes from."""

from cl_bench import DenseViews, Match, matching


@matching("{name}")
def {name}(views: DenseViews, *, mutual: bool = False) -> Match:
    """Take the most similar cell of the other view as a cell's positive.

    Args:
        views: Both views: ``z1``, ``z2`` (B, P, D) unit-norm projections; ``h1``, ``h2`` (B, P, C) unit-norm features,
            detached; ``xy1``, ``xy2`` (B, P, 2) centres of the cells in the source image.
        mutual: Keep only pairs that choose each other.

    Returns:
        For each cell of view 1 its positive in view 2; a cell that is not ``valid`` has none.
    """
    similar = views.h1 @ views.h2.mT
    index = similar.argmax(2)
    if not mutual:
        return Match(index=index)
    back = similar.argmax(1)
    chosen = back.gather(1, index)
    return Match(index=index, valid=chosen == chosen.new_tensor(range(chosen.shape[1])))
'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name of the new method."""
    parser.add_argument("name", metavar="NAME", help="name of the method, such as my_match; the file is NAME.py")


def run(arguments: argparse.Namespace) -> int:
    """Write the file, without overwriting an existing one."""
    name, path = arguments.name, Path(f"{arguments.name}.py")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        told = "is a word of Python's" if keyword.iskeyword(name) else "is not made of lower-case letters, digits and _"
        print(f"cl-bench new-method: {name!r} {told}; choose another name", file=sys.stderr)
        return 4
    # "all" stands for every method (methods.method.ALL, which imports torch); a built-in file is named as its method.
    if name == "all" or (methods_folder() / f"{name}.py").is_file():
        print(f"cl-bench new-method: there is a method {name!r} already; choose another name", file=sys.stderr)
        return 4
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.format(name=name))
    except FileExistsError:
        print(f"cl-bench new-method: {path} is there already", file=sys.stderr)
        return 4
    print(f"{path}\n\nits contract, in seconds:  cl-bench run --suite contract --method ./{path}")
    print(f"what it learns:            cl-bench run --suite single_object --method ./{path}")
    return 0
