"""Marks, axes and frames of charts as SVG.

The charts are our own SVG and no plotting library's. One that draws in the browser weighs half of what a report may
(Plotly basic 1 MB, Vega-Lite with its runtime 0.8 MB), shows nothing without JavaScript and gives a screen reader one
opaque picture. What is drawn here are points, lines and steps: a few hundred bytes each, sharp at any size, coloured by
the page's theme, each with its name for mouse, keyboard and screen reader.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

VIRIDIS = (
    *("#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c"),
    *("#22a884", "#44bf70", "#7ad151", "#bddf26", "#fde725"),
)
"""Colours of even steps in lightness, which colour-blind eyes and grey prints can read."""


def tag(name: str, /, *children: str, **attributes: str | float) -> Markup:
    """Return an element; text is escaped, ``class_`` stands for class, an underscore for a hyphen."""
    told = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), number(value)) for key, value in attributes.items()
    )
    return Markup("<{}{}>{}</{}>").format(Markup(name), told, join(children), Markup(name))


def join(parts: Iterable[str]) -> Markup:
    """Join elements and texts; texts are escaped."""
    return Markup("").join(map(escape, parts))


def number(value: str | float) -> str:
    """Return a coordinate with at most one decimal; a text is returned unchanged."""
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")


@dataclass(frozen=True)
class Axis:
    """Linear scale from values ``low`` to ``high`` to coordinates ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, room: float = 0.08) -> Axis:
        """Make an axis that holds all values, with that share of their span free at both ends."""
        low, high = min(values, default=0.0), max(values, default=1.0)
        span = high - low or max(abs(high), 1.0) * 0.1
        return cls(low - room * span, high + room * span, start, end)

    def __call__(self, value: float) -> float:
        """Return the coordinate of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Return about so many round values inside, and two at least: one alone shows no scale."""
        raw = (self.high - self.low) / about
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= raw * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)] if last > first else self.ticks(about + 1)


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """Return a tick's value with as many decimals as its neighbours need, and a true minus."""
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return minus(f"{value + 0.0:.{decimals}f}")


def minus(text: str) -> str:
    """Return a text with true minus signs for its hyphens."""
    return text.replace("-", "\u2212")


def two(value: float) -> str:
    """Return a number with two decimals and a true minus sign."""
    return minus(f"{value:.2f}")


def frame(x: Axis, y: Axis, across: str, up: str, *, heights: bool = True) -> Markup:
    """Draw grid, ticks and names of two axes; without ``heights`` the y ticks have no text."""
    left, right, top, bottom = x.start, x.end, y.end, y.start
    parts = []
    x_ticks, y_ticks = x.ticks(max(2, int((right - left) / 60))), y.ticks(max(2, int((bottom - top) / 45)))
    for value in x_ticks:
        at = x(value)
        parts.append(tag("line", class_="grid", x1=at, x2=at, y1=top, y2=bottom))
        parts.append(tag("text", tick_text(value, x_ticks), x=at, y=bottom + 14, text_anchor="middle"))
    for value in y_ticks:
        at = y(value)
        parts.append(tag("line", class_="grid", x1=left, x2=right, y1=at, y2=at))
        if heights:
            parts.append(tag("text", tick_text(value, y_ticks), x=left - 5, y=at + 3.5, text_anchor="end"))
    parts.append(tag("rect", class_="frame", x=left, y=top, width=right - left, height=bottom - top))
    parts.append(tag("text", across, class_="axis", x=(left + right) / 2, y=bottom + 31, text_anchor="middle"))
    middle = (top + bottom) / 2
    if up:
        place = f"rotate(-90 9 {number(middle)})"
        parts.append(tag("text", up, class_="axis", x=9, y=middle + 3, text_anchor="middle", transform=place))
    return tag("g", *parts, aria_hidden="true")


def colour(value: float, low: float, high: float) -> str:
    """Return the colour of a value on a scale from dark to light; grey if it is nan."""
    if math.isnan(value):
        return "var(--muted)"
    share = min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 1.0
    place = share * (len(VIRIDIS) - 1)
    below = min(int(place), len(VIRIDIS) - 2)
    first, second = ([int(shade[k : k + 2], 16) for k in (1, 3, 5)] for shade in (VIRIDIS[below], VIRIDIS[below + 1]))
    mixed = (round(a + (b - a) * (place - below)) for a, b in zip(first, second, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def mark(shape: str, x: float, y: float, name: str, fill: str = "", size: float = 5.5) -> Markup:
    """Draw a named point: a disc for ``align_uniform``, a triangle for ``info_nce``, otherwise a cross."""
    return named(name, plain_mark(shape, x, y, fill, size))


def named(name: str, *drawn: str) -> Markup:
    """Group marks under a name, which is shown when they are hovered or focused."""
    return tag("g", tag("title", name), *drawn, class_="pt", role="img", aria_label=name, tabindex="-1")


def plain_mark(shape: str, x: float, y: float, fill: str = "", size: float = 3.0) -> Markup:
    """Draw a point without a name, for legends and insets."""
    if shape == "info_nce":
        return tag("path", d=_triangle(x, y, size * 1.3), fill=fill)
    if shape == "align_uniform":
        return tag("circle", cx=x, cy=y, r=size, fill=fill)
    return tag("path", d=_cross(x, y, size * 0.8), class_="cross")


def _triangle(x: float, y: float, size: float) -> str:
    return f"M{number(x)} {number(y - size)}l{number(size * 0.9)} {number(size * 1.6)}h{number(-size * 1.8)}z"


def _cross(x: float, y: float, size: float) -> str:
    a, b = number(x - size), number(y - size)
    return (
        f"M{a} {b}l{number(2 * size)} {number(2 * size)}M{number(x + size)} {b}l{number(-2 * size)} {number(2 * size)}"
    )


def line_path(points: Sequence[tuple[float, float]]) -> str:
    """Return a line through points as a path."""
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)


def chart(width: float, height: float, name: str, *parts: str, class_: str = "chart") -> Markup:
    """Return a whole chart; Tab and then the arrow keys reach its points."""
    view = f"0 0 {number(width)} {number(height)}"
    return tag("svg", *parts, viewBox=view, class_=class_, role="group", aria_label=name)


def colour_bar(x: float, y: float, width: float, low: float, high: float, name: str) -> Markup:
    """Draw the scale of colours from low to high."""
    steps = len(VIRIDIS)
    boxes = [
        tag("rect", x=x + k * width / steps, y=y, width=width / steps + 0.5, height=9, fill=shade, class_="swatch")
        for k, shade in enumerate(VIRIDIS)
    ]
    return tag(
        "g",
        *boxes,
        tag("text", minus(f"{low:.1f}"), x=x, y=y + 21),
        tag("text", minus(f"{high:.1f}"), x=x + width, y=y + 21, text_anchor="end"),
        tag("text", name, x=x, y=y - 5),
        aria_hidden="true",
    )
