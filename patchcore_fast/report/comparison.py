"""Methods compared: the lines of the table, which of them are best, and pictures of accuracy against cost."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from patchcore_fast.report.plots import LINES, legend_below, new_figure, plain_numbers, quiet, save_figure
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
DRAWN = ("image_auroc", "aupro")  # by set
MARKERS = "osD^vPX*<>hp"
LEGEND = 7  # columns, at most


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
        style = _mark(number, line.method)
        for axes, cost in ((left, "train_s"), (right, "image_ms")):
            wide = line.values[cost]
            # An axis of logarithms: an error bar that would end at nought or below ends at half of the value.
            below = min(wide.spread or 0.0, wide.mean / 2)
            axes.errorbar([wide.mean], [high.mean], xerr=[[below], [wide.spread or 0.0]], yerr=high.spread or 0.0,
                          **style)  # fmt: skip
    for axes, cost, text in ((left, "train_s", "seconds to train (log)"), (right, "image_ms", "ms an image (log)")):
        taken = [line.values[cost].mean for line in some]
        axes.set_xscale("log")
        axes.set_xlim(min(taken) / 1.8, max(taken) * 1.8)
        plain_numbers(axes.xaxis, taken)
        axes.set_xlabel(text)
        quiet(axes)
    left.set_ylabel(COLUMNS[metric][0])
    legend_below(figure, left, min(len(some), LEGEND))
    figure.suptitle(plot_text(title))
    save_figure(figure, path)


def plot_sets(lines: Sequence[Line], path: str | os.PathLike[str], *, title: str = "Methods") -> None:
    """Points by set, a colour and a mark a method, for each of DRAWN; the whiskers are the spread over seeds.

    Parameters
    ----------
    lines : of sets, and of the mean where there is one.  path : PNG to write.

    Raises
    ------
    ValueError : no line has any of them.
    """
    metrics = [name for name in DRAWN if any(name in line.values for line in lines)]
    if not metrics:
        raise ValueError(f"plot_sets: no line has any of {', '.join(DRAWN)}")
    sets, methods = (list(dict.fromkeys(getattr(line, part) for line in lines)) for part in ("set", "method"))
    known = {(line.set, line.method): line.values for line in lines}
    rows, columns = (1, len(metrics)) if len(sets) == 1 else (len(metrics), 1)
    figure = new_figure(max(9.6, 1.2 + 0.3 * len(sets) * (len(methods) + 1)), 2.9 * rows + 0.6)
    wide = 0.8 / len(methods)
    for name, axes in zip(metrics, figure.subplots(rows, columns, sharex=True, squeeze=False).flat, strict=True):
        for number, method in enumerate(methods):
            found = [known.get((part, method), {}).get(name) for part in sets]
            places = [(i + (number + 0.5) * wide - 0.4, v) for i, v in enumerate(found) if v is not None]
            if not places:
                continue
            spread = [np.nan if v.spread is None else v.spread for _, v in places]  # of one seed there is none to draw
            axes.errorbar([x for x, _ in places], [v.mean for _, v in places], yerr=spread, **_mark(number, method))
        for between in range(1, len(sets)):
            axes.axvline(between - 0.5, color="#c9cdd1", linewidth=1)
        axes.set_xlim(-0.5, len(sets) - 0.5)
        axes.set_ylabel(COLUMNS[name][0])
        axes.set_xticks(range(len(sets)), ["mean" if part is None else plot_label(part, 24) for part in sets])
        quiet(axes)
        axes.grid(False, axis="x")
    legend_below(figure, max(figure.axes, key=lambda one: len(one.containers)), min(len(methods), LEGEND))
    figure.suptitle(plot_text(title))
    save_figure(figure, path)


def _mark(number: int, method: str) -> dict[str, Any]:
    """How a method is drawn in all pictures."""
    return {
        "color": LINES[number % len(LINES)], "marker": MARKERS[number % len(MARKERS)], "markersize": 9,
        "capsize": 3, "linestyle": "none", "markeredgecolor": "white", "label": plot_label(method),
    }  # fmt: skip
