"""Hooks of mkdocs: the front page from README, pages and files from outside of docs/, and every value of every profile.

A link in a page leads to a file of the repository, as on a code host. The site has a copy of each file that is linked
to: a page of its own for Markdown, the file as it is for all else. A link to a folder leads to its README, and is left
out where there is none.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from cl_bench.spec.profile_files import PROFILES, load_profile
from cl_bench.spec.provenance import provenance

ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)
_MOVED = {"README.md": "index.md", "results/README.md": "results-folder.md"}
"""Files of the repository whose place in the site is another page's: results/ is that of docs/results.md."""
_PROFILES = "<!-- a table for each profile -->"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the front page, and whatever pages link to outside of docs/."""
    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text(encoding="utf-8")))
    todo = [file for file in files if file.src_uri.endswith(".md")]
    # Those that the navigation names are there whether or not a page links to them.
    todo += [_added(path, files, config) for path in ("CHANGELOG.md", "CONTRIBUTING.md", "METHODS.md")]
    while todo:
        page = todo.pop()

        def follow(text: str, path: str, anchor: str) -> str:
            if not path.startswith("docs/") and path != "README.md" and _in_site(path) not in files.src_uris:
                todo.append(_added(path, files, config))
            return ""

        if page.src_uri.endswith(".md"):
            _relinked(page.content_string, page.src_uri, follow)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links to their copies on the site; write the profiles' values."""
    here = posixpath.dirname(page.file.src_uri)

    def link(text: str, path: str, anchor: str) -> str:
        return f"[{text}]({posixpath.relpath(_in_site(path), here or '.')}{anchor})"

    if _PROFILES in markdown:
        markdown = markdown.replace(_PROFILES, profiles())
    return _relinked(markdown, page.file.src_uri, link)


def profiles() -> str:
    """Write a table of the values of each built-in profile, with the origin of each."""
    parts = []
    for name in sorted(path.stem for path in PROFILES.glob("*.toml")):
        parts += [
            f"## {name}",
            "",
            f"{load_profile(name).about}.",
            "",
            "| key | value | origin | why |",
            "|---|---|---|---|",
        ]
        for origin in provenance(name):
            if origin.key == "about":
                continue
            cells = (f"`{origin.key}`", f"`{origin.value}`", origin.mark, origin.why)
            parts.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        parts.append("")
    return "\n".join(parts)


def _added(path: str, files: Files, config: MkDocsConfig) -> File:
    """Add a copy of a file of the repository to the site."""
    file = File.generated(config, _in_site(path), abs_src_path=str(ROOT / path))
    files.append(file)
    return file


def _in_repository(src_uri: str) -> str:
    """Return where a file of the site lies in the repository."""
    if src_uri in _MOVED.values():
        return next(path for path, there in _MOVED.items() if there == src_uri)
    return src_uri if (ROOT / src_uri).is_file() else f"docs/{src_uri}"


def _in_site(path: str) -> str:
    """Return where a file of the repository lies in the site."""
    return _MOVED.get(path, path.removeprefix("docs/"))


def _relinked(markdown: str, src_uri: str, link: Callable[[str, str, str], str]) -> str:
    """Replace each relative link outside of code by ``link(text, path in the repository, anchor)``."""
    here = posixpath.dirname(_in_repository(src_uri))

    def one(match: re.Match[str]) -> str:
        text, target = match.groups()
        target, hash_, anchor = target.partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match.group()
        path = posixpath.normpath(posixpath.join(here, target))
        if (ROOT / path).is_dir():
            path = f"{path}/README.md"
            if not (ROOT / path).is_file():
                return text
        return link(text, path, hash_ + anchor)

    return "".join(part if part.startswith("```") else _LINK.sub(one, part) for part in _FENCE.split(markdown))
