"""Curves and histograms as SVG text. Colours come from the page's style sheet, so that they suit light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from patchcore_fast.report.plots import histogram_edges

# Units of the view box. At 390 pixels of a phone one unit is about one pixel, so that text stays readable.
WIDTH, SQUARE, LOW = 380, 340, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 44


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers within [low, high]."""
    raw = (high - low) / wanted or 1.0
    power = 10.0 ** np.floor(np.log10(raw))
    step = power * min((1, 2, 2.5, 5, 10), key=lambda m: abs(m * power - raw))
    first = np.ceil(low / step - 1e-9)
    return [float(k * step) + 0.0 for k in np.arange(first, np.floor(high / step + 1e-9) + 1)]  # + 0.0: no "-0"


class _Frame:
    """The plot area: from numbers to places, axes, ticks and their text."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], height: int, width: int = WIDTH) -> None:
        self.x, self.y, self.height = x, y, height
        self.right, self.bottom = width - RIGHT, height - BOTTOM

    def at(self, x: Any, y: Any) -> tuple[Any, Any]:
        across = (np.asarray(x, float) - self.x[0]) / (self.x[1] - self.x[0])
        up = (np.asarray(y, float) - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (self.right - LEFT), self.bottom - up * (self.bottom - TOP)

    def axes(self, x_label: str, y_label: str, places: Sequence[tuple[float, str]] | None = None) -> str:
        parts = []
        for value, said in [(v, f"{v:g}") for v in _ticks(*self.x)] if places is None else places:
            px = float(self.at(value, self.y[0])[0])
            parts.append(f'<line class="grid" x1="{px:.1f}" y1="{TOP}" x2="{px:.1f}" y2="{self.bottom}"/>')
            parts.append(_text("tick", px, self.bottom + 16, "middle", said))
        for value in _ticks(*self.y):
            py = float(self.at(self.x[0], value)[1])
            parts.append(f'<line class="grid" x1="{LEFT}" y1="{py:.1f}" x2="{self.right}" y2="{py:.1f}"/>')
            parts.append(_text("tick", LEFT - 6, py + 4, "end", f"{value:g}"))
        middle_x, middle_y = (LEFT + self.right) / 2, (TOP + self.bottom) / 2
        parts.append(_text("label", middle_x, self.height - 8, "middle", x_label))
        parts.append(
            f'<g transform="translate(12 {middle_y}) rotate(-90)">{_text("label", 0, 0, "middle", y_label)}</g>'
        )
        return "".join(parts)


def _text(style: str, x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: int, body: str, title: str, attributes: str = "", width: int = WIDTH) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}"{attributes}>{body}</svg>'


def curves_chart(
    curves: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    title: str,
    *,
    diagonal: bool = False,
    steps: bool = False,
    marker: tuple[float, float] | None = None,
) -> str:
    """SVG of curves in the unit square.

    curves : (style "image" or "pixel", x, y).  diagonal : draw chance.  steps : a value holds back to the previous x,
    as precision does.  marker : a point, where the threshold puts the images.  title : the text for screen readers.
    """
    frame = _Frame((0.0, 1.0), (0.0, 1.0), SQUARE)
    body = frame.axes(x_label, y_label)
    if diagonal:
        (x1, x2), (y1, y2) = frame.at((0, 1), (0, 1))
        body += f'<line class="chance" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
    for style, x, y in curves:
        xs, ys = np.asarray(x, float), np.asarray(y, float)
        if steps:
            ys = np.repeat(ys, 2)
            xs = np.concatenate([[0.0], np.repeat(xs, 2)[:-1]])
        px, py = frame.at(xs, ys)
        body += f'<polyline class="curve {style}" points="{_points(px, py)}"/>'
    if marker is not None:
        mx, my = (float(v) for v in frame.at(*marker))
        body += f'<circle class="marker" cx="{mx:.1f}" cy="{my:.1f}" r="5"/>'
    return _svg(SQUARE, body, title)


def _points(x: Any, y: Any) -> str:
    """Places to a tenth of a unit, those that this makes equal to the one before left out."""
    found: list[str] = []
    for a, b in zip(x, y, strict=True):
        text = f"{a:.1f},{b:.1f}"
        if not found or found[-1] != text:
            found.append(text)
    return " ".join(found)


def steps_chart(rows: Sequence[int], lines: Sequence[Sequence[float]], y_label: str, title: str) -> str:
    """SVG of values against rows, which double from step to step: their axis is logarithmic, from zero the other.

    rows : ascending, two or more, at least 1.  lines : values at each of them, not negative.
    """
    places = [float(np.log2(n)) for n in rows]
    top = max(max(values) for values in lines) or 1.0
    frame = _Frame((places[0], places[-1]), (0.0, 1.05 * top), LOW)
    body = frame.axes("rows of the bank", y_label, [(x, f"{n:,}") for x, n in zip(places, rows, strict=True)])
    for values in lines:
        px, py = frame.at(places, values)
        body += f'<polyline class="curve image" points="{_points(px, py)}"/>'
        body += "".join(
            f'<circle class="marker" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in zip(px, py, strict=True)
        )
    return _svg(LOW, body, title)


def run_chart(
    first: int,
    scores: Sequence[float],
    anomalous: Sequence[bool | None],
    threshold: float | None,
    normal: tuple[float, float] | None,
    title: str,
    *,
    width: int = WIDTH,
    around: int = 21,
) -> str:
    """SVG of image scores in the order in which they came, with their moving median and the threshold.

    first : number of the first image.  scores : one or more.  anomalous : verdicts, as many.
    normal : scores between which most normal images lie, drawn as a band.
    width : of the view box.  around : images of the moving median.
    """
    s = np.asarray(scores, float)
    levels = [*s, *([] if threshold is None else [threshold]), *(normal or ())]
    low, high = min(levels), max(levels)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    frame = _Frame((first - 0.5, first + max(len(s), 2) - 0.5), (low - margin, high + margin), LOW, width)
    body = ""
    if normal is not None:
        (_, _), (top, bottom) = frame.at((0, 0), normal[::-1])
        body += (f'<rect class="normal-band" x="{LEFT}" y="{top:.1f}" width="{frame.right - LEFT}" '
                 f'height="{max(bottom - top, 1):.1f}"/>')  # fmt: skip
    body += frame.axes("image", "image score", [(float(v), f"{v:,.0f}") for v in _ticks(*frame.x) if v == int(v)])
    px, py = frame.at(first + np.arange(len(s)), s)
    for x, y, kind in zip(px, py, anomalous, strict=True):
        body += f'<circle class="score{" high" if kind else ""}" cx="{x:.1f}" cy="{y:.1f}" r="{4 if kind else 2.2}"/>'
    if len(s) >= around:
        moving = np.median(np.lib.stride_tricks.sliding_window_view(s, around), axis=1)
        x, y = frame.at(first + around // 2 + np.arange(len(moving)), moving)
        body += f'<polyline class="curve image" points="{_points(x, y)}"/>'
    if threshold is not None:
        y = float(frame.at(0, threshold)[1])
        body += f'<line class="threshold" x1="{LEFT}" x2="{frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return _svg(LOW, body, title, width=width)


def histogram_chart(scores: Any, labels: Any, threshold: float | None, title: str) -> str:
    """SVG of the scores [n] of normal (0) and anomalous images (1), with a threshold line that page.js can move.

    The line and its scale are in data attributes: data-low, data-high (scores at the left and the right edge).
    """
    s, y = np.asarray(scores, float), np.asarray(labels)
    edges = histogram_edges(s, threshold)
    tall = [(kind, np.histogram(s[y == label], edges)[0]) for label, kind in ((0, "normal"), (1, "anomalous"))]
    top = max(int(counts.max()) for _, counts in tall)
    frame = _Frame((float(edges[0]), float(edges[-1])), (0.0, max(top, 1) * 1.05), LOW)
    body = frame.axes("image score", "images")
    for kind, counts in tall:
        for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
            if count:
                (x1, x2), (y1, y2) = frame.at((left, right), (0, count))
                place = f'x="{x1 + 0.5:.1f}" y="{y2:.1f}" width="{max(x2 - x1 - 1, 0.5):.1f}" height="{y1 - y2:.1f}"'
                tooltip = f"{count} {kind}, {left:.4g} to {right:.4g}"
                body += f'<rect class="bar {kind}" {place}><title>{tooltip}</title></rect>'
    if threshold is not None:
        px = float(frame.at(threshold, 0)[0])
        place = f'x1="{px:.1f}" x2="{px:.1f}" y1="{TOP}" y2="{frame.bottom}"'
        body += f'<line id="threshold-line" class="threshold" {place}/>'
    data = (f' id="histogram" data-low="{edges[0]:.9g}" data-high="{edges[-1]:.9g}" data-left="{LEFT}" '
            f'data-right="{frame.right}"')  # fmt: skip
    return _svg(LOW, body, title, data)
