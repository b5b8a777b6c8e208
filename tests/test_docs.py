"""The pages for people: links lead somewhere, every option and profile is described, README stays short."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import ROOT

import cl_bench
from cl_bench.cli import COMMANDS
from cl_bench.plugin.options import OPTIONS
from cl_bench.spec.profile_files import PROFILES
from cl_bench.spec.provenance import provenance

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


def test_the_api_page_has_every_public_name() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    told = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    assert sorted(name.rpartition(".")[2] for name in told) == sorted(cl_bench.__all__)
    for name in told:
        module, _, attribute = name.rpartition(".")
        assert getattr(sys.modules.get(module) or __import__(module, fromlist="x"), attribute).__doc__


def templates() -> Iterator[re.Pattern[str]]:
    """Yield the sentences of the package as patterns, where what is filled in may be anything."""
    for path in (ROOT / "cl_bench").rglob("*.py"):
        nodes = [*ast.walk(ast.parse(path.read_text()))]
        pieces = {part for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else None for part in node.values]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in pieces:
                parts = [node.value]
            else:
                continue
            said = "".join(part for part in parts if part)
            if len(said) >= 12 and " " in said.strip():
                yield re.compile("".join(".*?" if part is None else re.escape(part) for part in parts))


def test_the_refusals_of_the_faq_are_those_of_the_code() -> None:
    blocks = re.findall(r"```text\n(.*?)```", (ROOT / "docs" / "faq.md").read_text(), re.DOTALL)
    messages = [line for block in blocks for line in block.splitlines()]
    known = [*templates()]
    assert len(messages) > 20
    assert [message for message in messages if not any(pattern.search(message) for pattern in known)] == []


class Links(HTMLParser):
    """Targets of the links of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("href", "src") and value]


@pytest.mark.skipif(
    not all(map(find_spec, ("mkdocs", "material", "mkdocstrings"))), reason="no mkdocs here: pip install -e '.[docs]'"
)
def test_the_site_is_built_and_its_links_lead_to_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "docs/site/mkdocs.yml"]
    done = subprocess.run(
        [*command, "-d", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = [page for page in tmp_path.rglob("*.html") if page.name != "404.html"]
    assert len(pages) > 25
    for page in pages:
        relative = [re.split("[?#]", link)[0] for link in Links(page).found if not re.match(r"[a-z]+:|/", link)]
        assert [link for link in relative if not (page.parent / link).exists()] == [], page
    reference = (tmp_path / "profiles-reference" / "index.html").read_text()
    for origin in provenance("paper"):
        assert origin.key == "about" or f"<code>{origin.key}</code>" in reference
    assert "minmax" in (tmp_path / "index.html").read_text(), "the front page is README"
    results = (tmp_path / "results" / "index.html").read_text()
    assert results.count("<table>") > 5 and 'id="what-depends-on-the-seed-and-on-rounding"' in results
    assert "Moon" in (tmp_path / "METHODS" / "index.html").read_text()
