"""The page that people read: what it says, that it is whole and harmless, and what a browser makes of it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import FOUND, Browser
from helpers import KINDS, PROBES
from test_report import make_row

from cl_bench.report import RowResult
from cl_bench.report.environment import environment
from cl_bench.report.html import LARGEST, Picture, report_html
from cl_bench.report.html.svg import VIRIDIS, Axis, colour, tag, tick_text
from cl_bench.spec.records import FAMILIES, Record

VOID = frozenset({"meta", "img", "br"})
SCRIPT = "<script>alert(1)</script>"
HOSTILE = f"\"'{SCRIPT}<img src=x onerror=alert(2)>{{{{ 7 * 7 }}}}"
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8ffff3f0005fe02fea7"
    "35810b0000000049454e44ae426082"
)


class Page(HTMLParser):
    """Checks that tags close in order, and keeps what a page has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.headings: list[int] = []
        self.tags: dict[str, list[dict[str, str]]] = {}
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), (tag, names)
        assert not [name for name in names if name.startswith("on")], (tag, attrs)
        told = {name: value or "" for name, value in attrs}
        self.tags.setdefault(tag, []).append(told)
        self.ids += [told["id"]] if "id" in told else []
        self.headings += [int(tag[1])] if re.fullmatch(r"h[1-6]", tag) else []
        self.open += [tag] * (tag not in VOID)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.words.append(data)

    @property
    def said(self) -> str:
        return " ".join("".join(self.words).split())


def with_everything(row: RowResult) -> RowResult:
    """Add probes, training curves, similarities and predictors to a row."""
    rng = np.random.default_rng(4)

    def known(record: Record) -> Record:
        *shares, overlap = rng.uniform(size=5).tolist()
        return replace(
            record,
            extra={**record.extra, "similarity_overlap": overlap},
            probes={**dict(zip(PROBES, shares, strict=False)), "position_chance": 1 / 9},
            similarities=dict.fromkeys(KINDS, (0.0, 0.25, 0.5, 0.25)),
            predictors={"rankme@dense": shares[0], "sum_minmax@dense": shares[1], "sum_minmax@instance": shares[2]},
            provenance={"device": "cpu", "torch": "2.14.1", "begun": "2026-11-24T11:35:51+00:00"},
        )

    records = [
        replace(known(r), losses=tuple((s, 6 - k / 40 - s / 900) for s in range(0, 400, 2)), position_only_loss=5.0)
        for k, r in enumerate(row.records)
    ]
    return replace(
        row, records=tuple(records), random_init=tuple(map(known, row.random_init)), better={"rankme": "high"}
    )


@pytest.fixture(scope="module")
def rows() -> list[RowResult]:
    first = with_everything(make_row("one"))
    second = replace(first, name="two", title="Other", views="disjoint", judgements=())
    moved = tuple(replace(r, views="disjoint") for r in first.records)
    return [first, replace(second, records=moved)]


def page_of(rows: list[RowResult], pictures: list[Picture] | None = None, **more: int) -> str:
    stamp = {**environment(rows, "pytest suites/ --method dense_index", "abc123"), "store": "/a/store"}
    return report_html(rows, stamp, pictures or [], **more)


@pytest.fixture(scope="module")
def text(rows: list[RowResult]) -> str:
    return page_of(rows, [Picture("Matched cells", "dense_index on one pair", PIXEL)])


def test_it_is_whole_and_loads_nothing(text: str) -> None:
    page = Page(text)
    assert page.headings.count(1) == 1 and page.headings[0] == 1
    assert all(deep - before <= 1 for before, deep in zip(page.headings, page.headings[1:], strict=False))
    assert len(set(page.ids)) == len(page.ids)
    assert all(a["href"].removeprefix("#") in page.ids for a in page.tags["a"]), "links lead to places of the page"
    assert not {"link", "iframe", "object"} & page.tags.keys() and not re.search(r"url\(|@import|https?:", text)
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in page.tags["img"])
    assert all(head.get("scope") in ("col", "row") for head in page.tags["th"])
    assert all(svg.get("aria-label") or svg.get("aria-hidden") or "over" in svg["class"] for svg in page.tags["svg"])
    assert len(text.encode()) < LARGEST


def test_every_part_is_there(text: str, rows: list[RowResult]) -> None:
    said = Page(text).said
    for part in (
        *("The answer", "Every tau, beside the paper's", "Alignment against uniformity", "What tau ranks", "Training"),
        *("Similarities of positives and negatives", "What the features know", "Controls", "Predictors of performance"),
        *(
            "Beside the paper's tables",
            "Data, views and matched cells",
            "Environment",
            "encode only the position of a cell",
        ),
        *("pytest suites/ --method dense_index", "abc123", "/a/store", "2.14.1", "rankme@dense", "dense_index on one"),
        *(row.title for row in rows),
    ):
        assert part in said, part
    for family in FAMILIES:
        assert str(rows[0].correlations["dense", family]).replace("-", "\u2212") in said
    for judgement in rows[0].judgements:
        assert " ".join(judgement.sentence.split()) in said
    assert "left out" not in said and "No controls: no claim" in said, "the second row was not judged"


def test_every_configuration_can_be_pointed_at(text: str, rows: list[RowResult]) -> None:
    points = [g["aria-label"] for g in Page(text).tags["g"] if g.get("class") == "pt"]
    for record in rows[0].records:
        level = [p for p in points if p.startswith(f"{record.config}: ")]
        assert len(level) >= 2 * 2 * 2 + 2 + 2, "places and sums of two levels, a curve and an overlap; in two rows"
        assert any(f"detection {record.performance['dense']:.2f}" in p for p in level)


def test_what_is_not_there_is_said(rows: list[RowResult]) -> None:
    bare = [replace(make_row("bare"), judgements=())]
    said = Page(page_of(bare)).said
    for why in (
        *("No training curves: the records", "No histograms: the records", "No probes were measured", "No controls:"),
        *("No predictor was measured", "No pictures: they are drawn", "No claim about this row has been judged yet"),
    ):
        assert why in said
    empty = [replace(rows[0], records=(), random_init=(), judgements=())]
    said = Page(page_of(empty)).said
    assert "No tau yet" in said and "Linear evaluation was not measured. Detection was not measured." in said
    assert "This run has judged no claim" in Page(page_of([])).said


def test_names_and_texts_of_users_stay_texts(rows: list[RowResult]) -> None:
    first = rows[0]
    broken = replace(first.records[0], method=HOSTILE, case=HOSTILE, status="failed", detail=HOSTILE, performance={})
    hostile = replace(
        first,
        **dict.fromkeys(("name", "title", "method", "data", "profile", "detection_protocol", "dataset"), HOSTILE),
        records=(broken, *(replace(r, config=f"{HOSTILE}{r.config}", method=HOSTILE) for r in first.records[1:])),
        judgements=tuple(replace(j, sentence=HOSTILE) for j in first.judgements),
        known=((first.judgements[0].claim, HOSTILE),),
    )
    stamp = {**environment([hostile], HOSTILE, HOSTILE), "store": HOSTILE}
    text = report_html([hostile], stamp, [Picture(HOSTILE, HOSTILE, PIXEL)])
    page = Page(text)
    assert SCRIPT not in text and len(page.tags["script"]) == 1 and len(page.tags["img"]) == 1
    assert HOSTILE in "".join(page.words) and "49" not in page.tags["title"][0]
    assert any(HOSTILE in g.get("aria-label", "") for g in page.tags["g"])
    policy = next(m["content"] for m in page.tags["meta"] if m.get("http-equiv"))
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy and "script-src 'unsafe" not in policy


def test_a_large_run_keeps_the_file_small_and_says_what_is_left_out(rows: list[RowResult], text: str) -> None:
    size = len(text.encode())
    assert "left out" not in text
    less = page_of(rows, largest=size // 2)
    assert len(less.encode()) < size // 2 and "The charts of this row are left out" in Page(less).said
    assert "What the features know" in less and "The points" not in less
    least = page_of(rows, largest=1)
    assert len(least.encode()) < len(less.encode()) and "for the same reason" in Page(least).said
    assert "Performance and tau" in least, "verdicts and tables of tau are always there"


# ---- drawing


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, -0.001), (0.4999, 0.5001), (-1e-9, 1e5), (28, 81)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    ticks = Axis(low, high, 0, 100).ticks()
    assert 3 <= len(ticks) <= 7 and all(low - 1e-9 <= t <= high + 1e-9 for t in ticks)
    texts = [tick_text(t, ticks) for t in ticks]
    assert len(set(texts)) == len(texts)
    for t, text in zip(ticks, texts, strict=True):
        assert float(text.replace("\u2212", "-")) == pytest.approx(t, abs=1e-9 * max(1, abs(high)))


def test_one_value_has_an_axis_and_a_colour() -> None:
    axis = Axis.over([5.0, 5.0], 0, 100)
    assert axis(5.0) == pytest.approx(50) and axis.low < 5 < axis.high
    assert colour(5, 5, 5) == VIRIDIS[-1] and colour(0, 0, 1) == VIRIDIS[0] and colour(math.nan, 0, 1) == "var(--muted)"
    assert colour(0.05, 0, 1) not in VIRIDIS


def test_attributes_and_texts_are_escaped() -> None:
    assert tag("g", "<b>", tag("i"), aria_label='"<&') == '<g aria-label="&#34;&lt;&amp;">&lt;b&gt;<i></i></g>'


# ---- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if FOUND is None:
        pytest.skip("no Chromium on the path")
    with Browser(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture(scope="module")
def file(text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_names_its_points(browser: Browser, file: Path, width: int, scheme: str) -> None:
    browser.open(file, width, scheme=scheme)
    assert browser.errors() == [] and browser.requests() == [file.as_uri()]
    assert browser.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    dark = browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
    assert dark == (scheme == "dark")
    assert browser.ask("[...document.images].map(i => i.naturalWidth)") == [1]
    # By mouse: the last point of a chart lies above the others.
    point = "[...document.querySelectorAll('.chart .pt')].filter(p => p.closest('figure')).at(-1)"
    browser.ask(f"{point}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    browser.ask("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    x, y = browser.ask(
        f"(() => {{ const b = {point}.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2] }})()"
    )
    assert browser.ask("document.getElementById('tip').hidden")
    browser.move(x, y)
    tip = browser.ask("document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent")
    assert tip == browser.ask(f"{point}.getAttribute('aria-label')") and tip.startswith(("info_nce-", "align_uniform-"))
    box = browser.ask("(() => { const b = tip.getBoundingClientRect(); return [b.left, b.right, innerWidth] })()")
    assert 0 <= box[0] < box[1] <= box[2], "the name is inside the window"
    browser.move(1, 1)
    assert browser.ask("document.getElementById('tip').hidden")


def test_it_is_read_by_keyboard(browser: Browser, file: Path) -> None:
    browser.open(file, 1280)
    browser.press("Tab")
    assert browser.ask("document.activeElement.className") == "skip"
    assert browser.ask("document.activeElement.getBoundingClientRect().left >= 0"), (
        "the link is seen when it is reached"
    )
    browser.press("Enter")
    assert browser.ask("location.hash") == "#answer"
    # A chart is one stop; arrows walk from point to point, and each tells its name.
    browser.ask("document.querySelector('figure .pt').focus()")
    names = []
    for _ in range(3):
        names.append(browser.ask("tip.hidden ? '' : tip.textContent"))
        browser.press("ArrowRight")
    assert len(set(names)) == 3 and all(names)
    stops = browser.ask(
        "[...document.querySelectorAll('svg')].map(s => s.querySelectorAll('.pt[tabindex=\"0\"]').length)"
    )
    assert max(stops) == 1
    browser.press("Escape")
    assert browser.ask("tip.hidden")


def test_tables_are_sorted_and_the_theme_is_chosen(browser: Browser, file: Path) -> None:
    browser.open(file, 1280)
    tables = "[...document.querySelectorAll('table[data-sortable]')]"
    table = f"{tables}.find(t => t.caption.textContent.startsWith('Every configuration'))"
    column = f"[...{table}.tHead.rows[0].cells].findIndex(c => c.textContent === 'detection')"
    browser.ask(f"{table}.closest('details').open = true")
    values = f"[...{table}.tBodies[0].rows].map(r => Number(r.cells[{column}].dataset.value))"
    before = browser.ask(values)
    for arrow, ordered in (("ascending", sorted(before)), ("descending", sorted(before, reverse=True))):
        browser.ask(f"{table}.tHead.rows[0].cells[{column}].querySelector('button').focus()")
        browser.press("Enter")
        assert browser.ask(values) == ordered != before
        assert browser.ask(f"{table}.tHead.rows[0].cells[{column}].getAttribute('aria-sort')") == arrow
    ground = "getComputedStyle(document.body).backgroundColor"
    seen = []
    for _ in range(3):
        browser.ask("document.getElementById('theme').click()")
        seen.append((browser.ask("document.getElementById('theme').textContent"), browser.ask(ground)))
    assert [name for name, _ in seen] == ["Theme: light", "Theme: dark", "Theme: as the system"]
    assert seen[0][1] == seen[2][1] != seen[1][1]
    assert browser.errors() == []


CONTRAST = """
(() => {
  const shade = text => text.match(/[\\d.]+/g).map(Number);
  const light = c => {
    const [r, g, b] = c.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = shade(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const worst = {};
  const all = 'p, li, th, td, caption, a, button, summary, .badge, figcaption, svg text';
  for (const e of document.querySelectorAll(all)) {
    if (!e.textContent.trim() || e.closest('.skip')) continue;
    const own = getComputedStyle(e);
    const ink = shade(e.closest('svg') ? own.fill : own.color).slice(0, 3);
    const [a, b] = [light(ink), light(ground(e.closest('svg')?.parentElement ?? e))].sort((x, y) => y - x);
    const name = `${e.tagName}.${e.className.baseVal ?? e.className}`;
    worst[name] = Math.min(worst[name] ?? 99, (a + .05) / (b + .05));
  }
  return worst;
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(browser: Browser, file: Path, scheme: str) -> None:
    browser.open(file, 1280, scheme=scheme)
    worst = browser.ask(CONTRAST)
    assert len(worst) > 10 and {name: c for name, c in worst.items() if c < 4.5} == {}
