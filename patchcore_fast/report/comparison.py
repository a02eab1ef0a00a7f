"""Methods compared: the lines of the table, which of them are best, and pictures of accuracy against cost."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from patchcore_fast.report.plots import LINES, new_figure, quiet, save_figure
from patchcore_fast.report.text import plot_label, plot_text

# Of each column its heading, the decimals that are shown, and whether less is better.
COLUMNS: Mapping[str, tuple[str, int, bool]] = {
    "image_auroc": ("image AUROC", 3, False), "image_ap": ("image AP", 3, False), "image_f1": ("image F1", 3, False),
    "pixel_auroc": ("pixel AUROC", 3, False), "pixel_ap": ("pixel AP", 3, False), "pixel_f1": ("pixel F1", 3, False),
    "aupro": ("AUPRO", 3, False), "pixel_iou_max": ("IoU-max", 3, False), "train_s": ("s to train", 1, True),
    "image_ms": ("ms an image", 1, True), "peak_mib": ("peak MiB", 0, True),
}  # fmt: skip
COSTS = ("train_s", "image_ms", "peak_mib")
METRICS = tuple(name for name in COLUMNS if name not in COSTS)
DRAWN = ("image_auroc", "aupro")  # of the bars
MARKERS = "osD^vPX*<>hp"
COLUMNS_OF_LEGEND = 7


@dataclass(frozen=True)
class Value:
    """A number of the table.

    mean : over seeds; of the line of the mean, over the sets' means.  spread : standard deviation over seeds (n - 1),
    None of one.  count : seeds, or sets, that it is of.
    """

    mean: float
    spread: float | None
    count: int


@dataclass(frozen=True)
class Line:
    """A method on a set, or with `set` None its mean over all sets.

    values : column -> Value, without those that are not known.  errors : of its cells, each once, with their seeds.
    waiting : cells that are still to come.
    """

    set: str | None
    method: str
    values: Mapping[str, Value]
    errors: Sequence[str] = ()
    waiting: int = 0


def best(lines: Sequence[Line]) -> dict[str, set[str]]:
    """Of each column the methods that lead among lines of one set, by the digits that are shown.

    One that has fewer seeds or sets than others does not lead. A column that one method alone has, has no best.
    """
    found = {}
    for name, (_, digits, less) in COLUMNS.items():
        known = {line.method: line.values[name] for line in lines if name in line.values}
        most = max((value.count for value in known.values()), default=0)
        whole = {method: round(value.mean, digits) for method, value in known.items() if value.count == most}
        if len(whole) > 1:
            top = (min if less else max)(whole.values())
            found[name] = {method for method, mean in whole.items() if mean == top}
    return found


def shown(name: str, value: Value | None) -> str:
    """A value as text, "0.987 ± 0.004"; "" for none."""
    if value is None:
        return ""
    digits = COLUMNS[name][1]
    spread = "" if value.spread is None else f" ± {value.spread:,.{digits}f}"
    return f"{value.mean:,.{digits}f}{spread}"


def plot_costs(
    lines: Sequence[Line], path: str | os.PathLike[str], *, metric: str = "image_auroc", title: str = "Methods"
) -> None:
    """A metric against seconds to train and against ms an image, a point a method with its spread over seeds.

    Parameters
    ----------
    lines : of one set, or of the mean.  path : PNG to write.

    Raises
    ------
    ValueError : no line has the metric and its costs.
    """
    some = [line for line in lines if {metric, "train_s", "image_ms"} <= set(line.values)]
    if not some:
        raise ValueError(f"plot_costs: no method of {len(lines)} has {metric}, train_s and image_ms")
    figure = new_figure(9.6, 4.4)
    left, right = figure.subplots(1, 2, sharey=True)
    for number, line in enumerate(lines):
        if line not in some:
            continue
        high = line.values[metric]
        style = {"color": LINES[number % len(LINES)], "marker": MARKERS[number % len(MARKERS)], "markersize": 9,
                 "capsize": 3, "linestyle": "none", "markeredgecolor": "white", "label": plot_label(line.method)}  # fmt: skip
        for axes, cost in ((left, "train_s"), (right, "image_ms")):
            wide = line.values[cost]
            # An axis of logarithms: an error bar that would end at nought or below ends at half of the value.
            below = min(wide.spread or 0.0, wide.mean / 2)
            axes.errorbar([wide.mean], [high.mean], xerr=[[below], [wide.spread or 0.0]], yerr=high.spread or 0.0,
                          **style)  # fmt: skip
    for axes, text in ((left, "seconds to train (log)"), (right, "ms an image (log)")):
        _logarithmic(axes.xaxis, [x for line in some for x in (line.values["train_s" if axes is left else "image_ms"].mean,)])
        axes.set_xlabel(text)
        quiet(axes)
    left.set_ylabel(COLUMNS[metric][0])
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), COLUMNS_OF_LEGEND), frameon=False, fontsize=9)
    figure.suptitle(plot_text(title))
    save_figure(figure, path)


def plot_bars(lines: Sequence[Line], path: str | os.PathLike[str], *, title: str = "Methods") -> None:
    """Bars by set, a colour a method, for each of DRAWN; the whiskers are the spread over seeds.

    Parameters
    ----------
    lines : of sets, and of the mean where there is one.  path : PNG to write.

    Raises
    ------
    ValueError : no line has any of them.
    """
    metrics = [name for name in DRAWN if any(name in line.values for line in lines)]
    if not metrics:
        raise ValueError(f"plot_bars: no line has any of {', '.join(DRAWN)}")
    sets, methods = (list(dict.fromkeys(getattr(line, part) for line in lines)) for part in ("set", "method"))
    known = {(line.set, line.method): line.values for line in lines}
    figure = new_figure(max(6.4, 1.2 + 0.3 * len(sets) * (len(methods) + 1)), 2.9 * len(metrics) + 0.6)
    wide = 0.8 / len(methods)
    for name, axes in zip(metrics, np.atleast_1d(figure.subplots(len(metrics), 1, sharex=True)), strict=True):
        lows = [values[name].mean - (values[name].spread or 0) for values in known.values() if name in values]
        low = max(0.0, min(lows) - 0.15 * max(1 - min(lows), 1e-3))
        for number, method in enumerate(methods):
            found = [known.get((part, method), {}).get(name) for part in sets]
            places = [(i + (number + 0.5) * wide - 0.4, v) for i, v in enumerate(found) if v is not None]
            if not places:
                continue
            x = [place for place, _ in places]
            axes.bar(x, [v.mean - low for _, v in places], 0.92 * wide, bottom=low, color=LINES[number % len(LINES)],
                     hatch="" if number < len(LINES) else "//", edgecolor="white", label=plot_label(method))  # fmt: skip
            axes.errorbar(x, [v.mean for _, v in places], yerr=[v.spread or 0.0 for _, v in places], linestyle="none",
                          color="#1b2126", elinewidth=1.2, capsize=2)  # fmt: skip
        axes.set_ylim(low, None)
        axes.set_ylabel(COLUMNS[name][0])
        axes.set_xticks(range(len(sets)), ["mean" if part is None else plot_label(part, 24) for part in sets])
        quiet(axes)
        axes.grid(False, axis="x")
    handles, labels = max((axes.get_legend_handles_labels() for axes in figure.axes), key=lambda pair: len(pair[1]))
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), COLUMNS_OF_LEGEND), frameon=False, fontsize=9)
    figure.suptitle(plot_text(f"{title} (axes do not begin at 0)"))
    save_figure(figure, path)


def _logarithmic(axis: Any, values: Sequence[float]) -> None:
    """An axis of logarithms with ticks as people write them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axis.axes.set_xscale("log")
    narrow = max(values) < 20 * min(values)
    if narrow:  # of one method, or of much the same, room beside the points
        axis.axes.set_xlim(min(values) / 1.8, max(values) * 1.8)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 10 else f"{v:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
