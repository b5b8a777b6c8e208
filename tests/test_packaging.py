"""Content of the wheel: every package of the tree, and the folders at its top that ship inside it."""

from __future__ import annotations

import tomllib
from pathlib import Path

from helpers import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAPPED = {"cl_bench.methods.built_in": "methods", "cl_bench.results": "results", "cl_bench.suites": "suites"}


def packages(folder: Path, name: str) -> set[str]:
    """Return the dotted names of a folder and of all below it that hold a file of the product."""
    found = set()
    for inner in [folder, *folder.rglob("*")]:
        if inner.is_dir() and "__pycache__" not in inner.parts and any(f.is_file() for f in inner.iterdir()):
            found.add(".".join([name, *inner.relative_to(folder).parts]))
    return found


def test_every_folder_of_the_tree_is_in_the_wheel():
    expected = packages(ROOT / "cl_bench", "cl_bench")
    for name, folder in MAPPED.items():
        expected |= packages(ROOT / folder, name)
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == expected


def test_every_kind_of_file_is_in_the_wheel():
    kinds = {pattern.removeprefix("*") for pattern in SETTINGS["tool"]["setuptools"]["package-data"]["*"]}
    folders = [ROOT / "cl_bench", *(ROOT / folder for folder in MAPPED.values())]
    files = [f for folder in folders for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    assert [f for f in files if f.suffix != ".py" and f.suffix not in kinds and f.name not in kinds] == []


def test_licence_and_citation_are_there():
    assert "MIT" in (ROOT / "LICENSE").read_text() and SETTINGS["project"]["license"] == "MIT"
    version = SETTINGS["project"]["version"]
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()
