"""The pages for people: links lead somewhere, every option and profile is described, README stays short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers import ROOT

from cl_bench.cli import COMMANDS
from cl_bench.plugin.options import OPTIONS
from cl_bench.spec.profile_files import PROFILES

PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("examples/*/*.md")]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    relative = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in relative if not (page.parent / link).exists()] == []


def test_every_option_and_command_is_described() -> None:
    text = (ROOT / "docs" / "options.md").read_text()
    assert [option.name for option in OPTIONS if f"`--{option.name}" not in text.replace(", --", "`, `--")] == []
    assert [name for name in COMMANDS if f"`cl-bench {name}" not in text] == []


def test_every_profile_is_described() -> None:
    text = (ROOT / "docs" / "profiles.md").read_text()
    assert [path.stem for path in PROFILES.glob("*.toml") if f"| `{path.stem}`" not in text] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 9_000
