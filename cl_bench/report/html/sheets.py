"""Style sheets of the report and of the pictures that stand alone."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

TEMPLATES = Path(__file__).parent.parent / "templates"


def style(*names: str) -> Markup:
    """Return the style sheets of those names, one after the other."""
    return Markup("").join(Markup((TEMPLATES / f"{name}.css").read_text(encoding="utf-8")) for name in names)
