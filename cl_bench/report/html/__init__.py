"""Report as a single HTML page, which needs no network and no other file.

Charts are our own SVG (``svg`` says why). A Content-Security-Policy lets the page load nothing and run its own script
alone, so that even a text that were not escaped could do nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cl_bench.claims import paper
from cl_bench.claims.validity import warnings
from cl_bench.report.html import grids, places, similarities, training
from cl_bench.report.html.forest import forest_lines, forest_scale
from cl_bench.report.html.sheets import TEMPLATES, style
from cl_bench.report.html.svg import minus
from cl_bench.report.html.words import answers, headline, multiplicity, other_claims, sentence
from cl_bench.report.league_table import failures, league_notes
from cl_bench.report.paper_tables import paper_notes
from cl_bench.report.probes_table import shortcut_notes
from cl_bench.report.row import RowResult
from cl_bench.spec.records import EVALUATIONS, FAMILIES, NAMES, RANDOM_INIT

LARGEST = 2_000_000
"""Largest size of the file, in bytes."""
_PARTS = (("figures", "tables", "pictures"), ("figures", "tables"), ("tables",), ())
"""Parts of the page, in the order in which they are tried until the file is small enough."""


@dataclass(frozen=True)
class Picture:
    """Small picture on the page.

    Attributes:
        group: Heading above it, such as ``Matched cells``.
        caption: Caption, which is also its alternative text.
        content: Content of the file.
        kind: Media type, such as ``image/png``.
    """

    group: str
    caption: str
    content: bytes
    kind: str = "image/png"

    @property
    def source(self) -> str:
        """Data URL of the picture."""
        return f"data:{self.kind};base64,{base64.b64encode(self.content).decode()}"


def report_html(
    rows: Sequence[RowResult], stamp: Mapping[str, Any], pictures: Sequence[Picture] = (), largest: int = LARGEST
) -> str:
    """Return the page.

    Args:
        rows: Rows of the report.
        stamp: Provenance of the figures, by name.
        pictures: Pictures of matched cells, and samples of data and views.
        largest: Largest size in bytes. If the page is larger, pictures, then charts, then tables of the rows are
            left out, and the page says so.
    """
    page = ""
    for parts in _PARTS:
        page = _page(rows, stamp, pictures, parts)
        if len(page.encode()) <= largest:
            break
    return page


def _page(
    rows: Sequence[RowResult], stamp: Mapping[str, Any], pictures: Sequence[Picture], parts: Sequence[str]
) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "script.js").read_text(encoding="utf-8")
    policy = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    found = answers(rows)
    beside, letters = grids.paper_grids(rows)
    groups: dict[str, list[Picture]] = {}
    for picture in pictures if "pictures" in parts else ():
        groups.setdefault(picture.group, []).append(picture)
    return environment.get_template("report.html").render(
        rows=[_details(row, parts) for row in rows],
        kept=parts,
        stamp=stamp,
        stamp_grid=grids.stamp_grid(stamp),
        script=Markup(script),
        style=style("palette", "style", "charts"),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{policy}'",
        headline=headline(found),
        answers=found,
        beside_answers=[sentence(line) for line in (other_claims(rows), multiplicity(rows)) if line],
        forest=forest_lines(rows),
        forest_scale=forest_scale(),
        claims=grids.claims_grid(rows),
        comparison=grids.comparison_grid(rows),
        league=grids.league_grid(rows),
        league_notes=[*league_notes(rows), *dict.fromkeys(failures(rows))],
        beside=beside,
        agreement=grids.agreement_grid(rows),
        source=paper.SOURCE,
        letters=letters,
        paper_notes=[*paper_notes(rows)] if beside else [],
        probe_notes=[*shortcut_notes(rows)],
        protocols=[
            *dict.fromkeys(f"Linear evaluation: {row.linear_protocol}." for row in rows),
            *dict.fromkeys(f"Detection: {row.detection_protocol}." for row in rows),
        ],
        groups=groups,
        pictures_left_out=len(pictures) if "pictures" not in parts else 0,
        names=EVALUATIONS,
    )


def _details(row: RowResult, parts: Sequence[str]) -> dict[str, Any]:
    """Return the values that a row's section of the page shows."""
    trained = [r for r in row.records if r.family != RANDOM_INIT]
    details: dict[str, Any] = {
        "row": row,
        "complete": sum(r.status == "complete" for r in trained),
        "left_out": [(r.case, " ".join(filter(None, (r.status, r.detail)))) for r in trained if r.status != "complete"],
        "warnings": [f"{text[:1].upper()}{text[1:]}." for text in warnings(row.records, row.random_init)],
        "families": [grids.families_grid(row, level) for level in row.measured],
        "unmeasured": [name for level, name in EVALUATIONS.items() if level not in row.measured],
        "claims": [(j, row.papers_own(j.claim), _known(row, j.claim)) for j in row.claimed],
    }
    if "tables" in parts:
        details |= {
            "configurations": grids.configurations_grid(row),
            "probes": grids.probes_grid(row),
            "controls": grids.controls_grid(row),
        }
    if "figures" in parts:
        details |= {
            "places": [c for level in row.measured if (c := places.places_chart(row, level))],
            "sums": [
                (EVALUATIONS[level], minus(row.correlations[level, "total"].told), c)
                for level in row.measured
                if (c := places.sum_chart(row, level))
            ],
            "curves": [(NAMES[f], c) for f in FAMILIES[:2] if (c := training.training_chart(row, f))],
            "place_is_known": training.place_is_known(row),
            "histograms": similarities.histograms(row),
            "pairs": similarities.PAIRS,
            "overlap": similarities.overlap_chart(row),
        }
    return details


def _known(row: RowResult, claim: object) -> str:
    return next((reason for known, reason in row.known if known == claim), "")
