"""Pictures of an experiment: accuracy against time and bank size, parallel coordinates of settings, bars of steps."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from patchcore_fast.report.plots import LINES, NEUTRAL, legend_below, new_figure, plain_numbers, quiet, save_figure
from patchcore_fast.report.text import plot_text

Row = Mapping[str, Any]

CHOICE = "AUROC on held-out normal images against\nsynthetic defects (mean of image and pixel)"
BASES = {"greedy": ("D", LINES[1], "exact greedy"), "random": ("s", NEUTRAL, "random rows")}
POOLS = {"composite": LINES[0], "diversity": LINES[2], "refined": LINES[3]}
AXES = (
    ("w_repr", "weight of\nrepresentativeness"), ("w_density", "weight of\ndensity"),
    ("w_unc", "weight of\ninstability"), ("starting_points", "starting\npoints"), ("noise", "noisy\ncopies"),
    ("pool", "pool"),
)  # fmt: skip
MAP = "viridis"
MARKED = 6  # sizes of banks that all have a tick


def _finished(name: str, rows: Sequence[Row]) -> list[Row]:
    found = [row for row in rows if row["choice"] is not None]
    if not found:
        raise ValueError(f"{name}: no finished row with an AUROC, of {len(rows)}")
    return found


def plot_against_time(
    rows: Sequence[Row], path: str | os.PathLike[str], *, best: str | None = None, title: str = "Grid"
) -> None:
    """Each setting as a point: seconds of its selection, and its AUROC on what was held out; random rows as a line.

    Parameters
    ----------
    rows : of an experiment's table.  path : PNG to write.  best : name of the setting that was chosen, ringed.

    Raises
    ------
    ValueError : no finished row.
    """
    rows = _finished("plot_against_time", rows)
    figure = new_figure(7.2, 4.4)
    axes = figure.add_subplot()
    for pool, colour in POOLS.items():
        some = [row for row in rows if row["sampler"] == "composite" and row["pool"] == pool]
        if some:
            axes.scatter([r["seconds"] for r in some], [r["choice"] for r in some], s=34, color=colour, alpha=0.7,
                         edgecolor="white", linewidth=0.5, label=f"composite, pool by {pool}")  # fmt: skip
    marker, colour, label = BASES["greedy"]
    if some := [row for row in rows if row["name"] == "greedy"]:
        axes.scatter([r["seconds"] for r in some], [r["choice"] for r in some], s=64, marker=marker, color=colour,
                     edgecolor="white", zorder=3, label=label)  # fmt: skip
    if some := [row for row in rows if row["name"] == "random"]:  # no time to speak of: a point would be far away
        level, spent = (float(np.mean([r[what] for r in some])) for what in ("choice", "seconds"))
        axes.axhline(level, color=NEUTRAL, linestyle="--", linewidth=1.2, label=f"random rows ({spent:.2g} s)")
    if ringed := [row for row in rows if row["name"] == best]:
        axes.scatter([r["seconds"] for r in ringed], [r["choice"] for r in ringed], s=150, facecolor="none",
                     edgecolor="black", linewidth=1.3, zorder=4, label=f"best: {plot_text(str(best))}")  # fmt: skip
    axes.set_xscale("log")
    plain_numbers(axes.xaxis, [row["seconds"] for row in rows if row["name"] != "random"] or [1.0])
    axes.set(xlabel="seconds of the selection (log)", ylabel=CHOICE, title=plot_text(title))
    legend_below(figure, axes, 2)
    quiet(axes)
    save_figure(figure, path)


def plot_against_size(
    rows: Sequence[Row], path: str | os.PathLike[str], *, best: str | None = None, title: str = "Grid"
) -> None:
    """AUROC against the rows of the bank: exact greedy, random and the best setting as lines, other settings as points.

    Several seeds of a size are averaged in the lines. Parameters, errors : as `plot_against_time`; ValueError also
    where all banks have one size.
    """
    rows = _finished("plot_against_size", rows)
    sizes = sorted({row["rows"] for row in rows})
    if len(sizes) < 2:
        raise ValueError(f"plot_against_size: banks of several sizes are wanted, all have {sizes[0]} rows")
    figure = new_figure(7.2, 4.4)
    axes = figure.add_subplot()
    others = [row for row in rows if row["sampler"] == "composite" and row["name"] != best]
    axes.scatter([r["rows"] for r in others], [r["choice"] for r in others], s=22, color=LINES[0], alpha=0.35,
                 linewidth=0, label="composite, other settings")  # fmt: skip
    lines = {name: (f"-{marker}", colour, label) for name, (marker, colour, label) in BASES.items()}
    lines |= {} if best is None else {best: ("-o", "black", f"best: {plot_text(best)}")}
    for name, (style, colour, label) in lines.items():
        some = [row for row in rows if row["name"] == name]
        own = sorted({row["rows"] for row in some})
        means = [np.mean([row["choice"] for row in some if row["rows"] == size]) for size in own]
        if own:
            axes.plot(own, means, style, color=colour, linewidth=1.6, markersize=6, label=label)
    axes.set_xscale("log")
    plain_numbers(axes.xaxis, sizes)
    if len(sizes) <= MARKED:
        axes.set_xticks(sizes)
    axes.set(xlabel="rows of the bank (log)", ylabel=CHOICE, title=plot_text(title))
    legend_below(figure, axes, 2)
    quiet(axes)
    save_figure(figure, path)


def plot_parallel(
    rows: Sequence[Row], path: str | os.PathLike[str], *, best: str | None = None, title: str = "Grid"
) -> None:
    """Parallel coordinates: a line for each composite setting through its values, its colour the AUROC.

    Values are evenly spaced on each axis, lines that share a value lie side by side, and the lines of the highest AUROC
    are on top. Parameters, errors : as `plot_against_time`; ValueError also without a composite row.
    """
    rows = [row for row in _finished("plot_parallel", rows) if row["sampler"] == "composite"]
    if not rows:
        raise ValueError("plot_parallel: no finished row of the composite sampler")
    rows = sorted(rows, key=lambda row: row["choice"])
    values = [sorted({row[name] for row in rows}) for name, _ in AXES]
    aucs = np.array([row["choice"] for row in rows])
    low, high = float(aucs.min()), float(aucs.max())
    figure = new_figure(8.6, 4.8)
    axes = figure.add_subplot()
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(low, high if high > low else low + 1e-6), colormaps[MAP])
    x = np.arange(len(AXES))
    # Beside each other by the rank of the AUROC, so that a bundle reads from its worst line (left) to its best (right).
    spread = np.linspace(-1, 1, len(rows)) if len(rows) > 1 else np.zeros(1)
    for row, shift in zip(rows, spread, strict=True):
        y = [_height(at.index(row[name]), at) for (name, _), at in zip(AXES, values, strict=True)]
        room = np.array([min(0.1, 0.3 / max(len(at) - 1, 1)) for at in values])
        chosen = row["name"] == best
        axes.plot(x, np.array(y) + shift * room, color=scale.to_rgba(row["choice"]), linewidth=3.2 if chosen else 1.4,
                  alpha=1.0 if chosen else 0.75, zorder=3 if chosen else 2)  # fmt: skip
    for place, at in zip(x, values, strict=True):
        axes.axvline(place, color="#9aa0a6", linewidth=0.9, zorder=1)
        for i, value in enumerate(at):
            said = f"{value:g}" if isinstance(value, float | int) else value
            axes.text(place, _height(i, at), said, ha="center", va="center", fontsize=9, zorder=4,
                      bbox={"boxstyle": "round,pad=0.2", "fc": "white", "ec": "#9aa0a6", "lw": 0.6})  # fmt: skip
    axes.set_xticks(x, [label for _, label in AXES])
    axes.set(xlim=(-0.35, len(AXES) - 0.65), ylim=(-0.14, 1.14), yticks=[])
    axes.set_title(plot_text(title) + ("" if best is None else f"\nthick: the best, {plot_text(best)}"))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(scale, ax=axes, label=CHOICE, pad=0.02)
    save_figure(figure, path)


def plot_steps(rows: Sequence[Row], path: str | os.PathLike[str], *, title: str = "Step by step") -> None:
    """A point for the AUROC of each step, with its number; what the test images say as open circles.

    Steps with several sizes or seeds are averaged, and a line spans them. Parameters, errors : as `plot_against_time`.
    """
    rows = _finished("plot_steps", rows)
    names = list(dict.fromkeys(row["name"] for row in rows))
    own = [[row["choice"] for row in rows if row["name"] == name] for name in names]
    tested = [[(row["test_auroc"] + row["test_pixel_auroc"]) / 2 for row in rows if row["name"] == name
               and None not in (row["test_auroc"], row["test_pixel_auroc"])] for name in names]  # fmt: skip
    figure = new_figure(7.6, 1.6 + 0.42 * len(names))
    axes = figure.add_subplot()
    y = range(len(names))
    for place, name, values in zip(y, names, own, strict=True):
        colour = LINES[0] if row_of(rows, name)["sampler"] == "composite" else NEUTRAL
        mean = float(np.mean(values))
        axes.plot([min(values), max(values)], [place, place], color=colour, linewidth=1.2)
        axes.plot(mean, place, "o", markersize=9, color=colour)
        axes.annotate(f"{mean:.3f}", (mean, place), (0, 7), textcoords="offset points", ha="center", fontsize=8)
    shown = [(np.mean(values), place) for place, values in zip(y, tested, strict=True) if values]
    if shown:
        axes.plot(*zip(*shown, strict=True), "o", markersize=7, markerfacecolor="none", markeredgecolor=LINES[1],
                  markeredgewidth=1.6, linestyle="none", label="the folder's test images, for information")  # fmt: skip
        legend_below(figure, axes, 1)
    axes.set_yticks(y, [plot_text(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.8)  # the first on top, with room for its number
    axes.set(xlabel=CHOICE, title=plot_text(title))
    quiet(axes)
    save_figure(figure, path)


def row_of(rows: Sequence[Row], name: str) -> Row:
    """The first row of a name."""
    return next(row for row in rows if row["name"] == name)


def _height(place: int, values: Sequence[Any]) -> float:
    """Of the value with this number on an axis from 0 to 1; in the middle where there is one alone."""
    return place / (len(values) - 1) if len(values) > 1 else 0.5
