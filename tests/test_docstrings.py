"""Public docstrings open with an imperative or a plain noun."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("cl_bench", "suites", "benchmarks")
HASHED = ROOT / "cl_bench" / "predictors" / "built_in"
"""Predictors whose source is part of a store's keys, so that their docstrings stay as they are."""
RIDDLES = frozenset(
    ["What", "Where", "Whether", "Which", "How", "As", "That", "Of", "Those", "So", "By", "Nothing", "Who", "When"]
)
"""First words of a docstring that does not say what a thing is or does."""


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each public docstring: of modules, classes, functions and attributes."""
    yield from _docstring(tree)
    waiting: list[ast.Module | ast.ClassDef] = [tree]
    while waiting:
        body = waiting.pop().body
        for assigned, text in pairwise(body):
            if isinstance(assigned, ast.Assign | ast.AnnAssign) and _is_text(text) and not _private(assigned):
                yield text.lineno, text.value.value  # type: ignore[attr-defined]
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
                yield from _docstring(node)
            if isinstance(node, ast.ClassDef) and node.name[0] != "_":
                waiting.append(node)


def riddles(path: Path) -> list[str]:
    """Return ``file:line: first word`` for each public docstring of a file that opens with one of ``RIDDLES``."""
    found = docstrings(ast.parse(path.read_text(encoding="utf-8")))
    first = ((line, text.split()[0].strip(".,:;") if text.split() else "") for line, text in found)
    return [f"{path}:{line}: {word!r}" for line, word in sorted(first) if word in RIDDLES]


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[int, str]]:
    if node.body and _is_text(node.body[0]):
        yield node.body[0].lineno, node.body[0].value.value  # type: ignore[attr-defined]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _private(node: ast.Assign | ast.AnnAssign) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return all(isinstance(target, ast.Name) and target.id[0] == "_" for target in targets)


def files() -> list[Path]:
    """Return every source file of the package, the suites and the benchmarks whose docstrings may change."""
    found = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return [path for path in found if HASHED not in path.parents]


def test_public_docstrings_open_with_an_imperative_or_a_plain_noun() -> None:
    found = files()
    assert len(found) > 100 and ROOT / "cl_bench" / "store.py" in found
    assert [line for path in found for line in riddles(path)] == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ('"""What it is."""', [1]),
        ('def f():\n    """Whether it holds."""\n', [2]),
        ('class A:\n    """A thing."""\n\n    @property\n    def x(self):\n        """How much."""\n', [6]),
        ('class A:\n    """As B."""\n    x: int = 1\n    """Where, and when."""\n', [2, 4]),
        ('X = 1\n"""Of all."""\n', [2]),
        ('def f():\n    """Return what it is."""\n', []),
        ('def _f():\n    """What it is."""\n\n\n_X = 1\n"""Of all."""\nclass _A:\n    """As B."""\n', []),
        ('def f():\n    """Whatever it is."""\n    return "What"\n', []),
    ],
)
def test_a_riddle_is_found_by_its_line(tmp_path: Path, source: str, lines: list[int]) -> None:
    path = tmp_path / "module.py"
    path.write_text(source)
    assert [int(found.removeprefix(f"{path}:").split(":")[0]) for found in riddles(path)] == lines
