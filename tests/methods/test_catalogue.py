"""The list of methods: what the docstrings say, for the terminal and in METHODS.md."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import ROOT
from rich.console import Console

from cl_bench.methods.catalogue import Entry, describe, entries, markdown, methods_table
from cl_bench.methods.registry import BUILT_IN, Registry

pytest_plugins = ["pytester"]

PLUGIN = '''
"""Matching by lot
(Nobody, 1900).

More of it.
"""
from cl_bench import Match, Method, matching

@matching("c_lot")
def lot(views, *, share: float = 0.5, rule: str = "a"):
    """A cell's positive is
    drawn by lot.

    Source: section 2, ``p = 1 / P``.
    Departures: none.

    Args:
        views: Two views of a batch.
        share: Of the cells,
            in (0, 1].
        rule: ``a`` or ``b``.
    """
    return Match.identity(views)

@matching("c_bare", level="instance")
def bare(views):
    return Match.identity(views)

class Own(Method, name="c_own"):
    def match(self, views): return Match.identity(views)
'''


@pytest.fixture
def found(tmp_path: Path) -> dict[str, Entry]:
    (tmp_path / "c_plugin.py").write_text(PLUGIN)
    return {entry.name: entry for entry in entries(Registry([tmp_path]))}


def test_docstrings_are_read(found: dict[str, Entry], tmp_path: Path) -> None:
    assert list(found) == ["c_bare", "c_lot", "c_own"]
    assert found["c_lot"] == Entry(
        name="c_lot",
        level="dense",
        title="Matching by lot (Nobody, 1900).",
        positive="A cell's positive is drawn by lot.",
        source="section 2, ``p = 1 / P``. Departures: none.",
        options={"share": 0.5, "rule": "a"},
        meanings={"views": "Two views of a batch.", "share": "Of the cells, in (0, 1].", "rule": "``a`` or ``b``."},
        origin=f"{tmp_path}/c_plugin.py:9",
    )


@pytest.mark.parametrize("name", ["c_bare", "c_own"])
def test_a_method_may_have_no_docstring(found: dict[str, Entry], name: str) -> None:
    entry = found[name]
    assert (entry.positive, entry.source, entry.options, entry.meanings) == ("", "", {}, {})


def test_the_table_has_it_all(found: dict[str, Entry], tmp_path: Path) -> None:
    console = Console(width=200, record=True)
    console.print(methods_table(found.values(), ["/nowhere/x.py:3: TypeError: no"], tmp_path))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines[0] == ["method", "level", "options", "source", "file"]
    (lot,) = (line for line in lines if line[0] == "c_lot")
    assert lot[:3] == ["c_lot", "dense", "share=0.5"] and lot[-1] == "c_plugin.py:9"
    assert "(Nobody," in lot
    assert ["rule=a"] in lines
    assert lines[-1][:3] == ["failed", "to", "load"]


def test_the_table_says_where_built_in_methods_are_in_a_few_words(tmp_path: Path) -> None:
    console = Console(width=200, record=True)
    console.print(methods_table(entries(Registry()), [], tmp_path))
    assert "dense_index.py:" in console.export_text() and str(ROOT) not in console.export_text()


def test_methods_md_is_current() -> None:
    said = markdown(entries(Registry()))
    assert (ROOT / "METHODS.md").read_text() == said, "run: python -m cl_bench.methods.catalogue > METHODS.md"
    assert said.count("\n## ") == len(list(BUILT_IN.glob("[!_]*.py")))


def test_methods_md_holds_the_built_in_ones_alone(found: dict[str, Entry]) -> None:
    assert "c_lot" not in markdown(found.values())


@pytest.mark.parametrize("name", Registry().names)
def test_every_built_in_method_says_what_it_does_and_where_it_comes_from(name: str) -> None:
    entry = describe(type(Registry().resolve(name)))
    assert entry.positive.endswith(".") and any(year in entry.title for year in ("20", "19"))
    assert set(entry.options) <= set(entry.meanings)
    assert entry.source or name in ("dense_index", "instance")
    if entry.source:
        assert f"- **source**: {entry.source.replace('``', '`')}" in markdown([entry])
    assert all(f"- **option** `{key}={value}`: " in markdown([entry]) for key, value in entry.options.items())


def test_list_methods_lists_and_runs_nothing(pytester: pytest.Pytester) -> None:
    (pytester.path / "mine.py").write_text(PLUGIN)
    args = "-p", "no:cacheprovider", f"--rootdir={ROOT}", str(ROOT / "suites"), "--list-methods"
    result = pytester.runpytest_inprocess(*args, "--method=./mine.py:c_lot", "--store=store")
    assert result.ret == 0
    listed = [line.split()[0] for line in result.stdout.lines if line and not line.startswith(" ")]
    assert listed == ["method", "c_bare", "c_lot", "c_own", *Registry().names]
    assert "collected" not in result.stdout.str() and not (pytester.path / "store").exists()


def test_list_methods_of_a_file_that_is_not_there(pytester: pytest.Pytester) -> None:
    args = f"--rootdir={ROOT}", str(ROOT / "suites"), "--list-methods", "--method=./nowhere.py"
    result = pytester.runpytest_inprocess(*args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: no file" in result.stderr.str()
