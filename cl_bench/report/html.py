"""Report as a single HTML file with the tables as text and the figures embedded."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from html import escape

from rich.console import Console

from cl_bench.report.row import RowResult
from cl_bench.report.tables import summary_table

WIDTH = 110
_STYLE = """
body { max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #000; background: #fff; font-family: sans-serif; }
pre { overflow-x: auto; font: 0.85rem/1.3 Menlo, "DejaVu Sans Mono", Consolas, monospace; }
figure { margin: 2rem 0; }
img { max-width: 100%; height: auto; }
"""


def report_html(rows: Sequence[RowResult], figures: Sequence[Sequence[tuple[str, bytes]]]) -> str:
    """Return the summary followed by each row's figures, (caption, PNG) each, in the order of the rows."""
    console = Console(file=io.StringIO(), width=WIDTH, record=True, color_system=None, legacy_windows=False)
    console.print(summary_table(rows))
    tables = console.export_html(code_format="<pre>{code}</pre>", inline_styles=True)
    pictures = "\n".join(_figure(row, *figure) for row, drawn in zip(rows, figures, strict=True) for figure in drawn)
    head = f'<meta charset="utf-8">\n<title>cl-bench</title>\n<style>{_STYLE}</style>'
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{tables}\n{pictures}\n</body>\n</html>\n'
    )


def _figure(row: RowResult, caption: str, image: bytes) -> str:
    title = escape(f"{row.title}: {caption}")
    source = f"data:image/png;base64,{b64encode(image).decode()}"
    return f'<figure><img alt="{title}" src="{source}"><figcaption>{title}</figcaption></figure>'
