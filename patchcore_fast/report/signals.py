"""Signals of the training patches for the eye: histograms, maps beside the photographs, and which say the same."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcore_fast.config.signals import SIGNALS, Signal
from patchcore_fast.report.plots import ANOMALOUS, NEUTRAL, new_figure, save_figure
from patchcore_fast.report.provenance import photograph
from patchcore_fast.report.ranks import tail_shares
from patchcore_fast.report.selection import (
    COLUMNS,
    PICKED,
    headed_legend,
    percent,
    picked_rows,
    score_panel,
    signal_arrays,
    wrapped,
)
from patchcore_fast.report.text import plot_label

TAIL = "0.05"  # of `ranks.TAILS`, named on the panels
RUG = 2_000  # picks that are drawn as ticks, evenly from the lowest to the highest


def described(signal: str) -> Signal:
    """Label and unit of a signal; of one that the table does not have, as a sampler's own, its name."""
    return SIGNALS.get(signal) or Signal(signal, "the sampler's own numbers", "")


def plot_signals(
    signals: Mapping[str, Any],
    picked: Any,
    path: str | os.PathLike[str],
    *,
    title: str = "Signals of the training patches",
) -> None:
    """One panel a signal: bars of all rows, as a line the picked ones, ticks at their values, shares in the tails.

    Parameters
    ----------
    signals : name -> [N] finite numbers.
    picked : [k] row numbers.
    path : PNG to write.

    Raises
    ------
    ValueError : no signals, lengths that differ, non-finite numbers.  TypeError : picked that are no integers.
    """
    arrays = signal_arrays("plot_signals", signals)
    rows = len(next(iter(arrays.values())))
    chosen = picked_rows("plot_signals", picked, rows)
    columns = min(COLUMNS, len(arrays))
    lines = -(-len(arrays) // columns)
    figure = new_figure(max(3.7 * columns, 5.5), 3.0 * lines + 0.8)
    figure.get_layout_engine().set(hspace=0.05, wspace=0.03)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (signal, values) in zip(panels, arrays.items(), strict=False):
        what = described(signal)
        score_panel(axes, plot_label(what.label), values, {}, chosen)
        axes.set_xlabel(wrapped(what.unit, 4.4), fontsize=8.5)
        axes.set_title(plot_label(what.label), fontsize=10.5, loc="left", pad=15)
        axes.text(0, 1.015, _tails(values, chosen), transform=axes.transAxes, va="bottom", fontsize=7.5, color=NEUTRAL)
        _rug(axes, values[chosen])
    for axes in panels[len(arrays) :]:
        axes.set_axis_off()
    for axes in panels[::columns]:
        axes.set_ylabel("share of rows")
    headed_legend(figure, title, panels[0].get_legend_handles_labels()[0])
    save_figure(figure, path)


def _tails(values: NDArray[Any], chosen: NDArray[Any]) -> str:
    """Of a tail that ties with more rows nothing is said."""
    found = tail_shares(values, chosen, (float(TAIL),))["tails"][TAIL]
    parts = [f"{percent(found[end], 1)} in the {name} {percent(found[f'{end}_rows'], 1)}"
             for end, name in (("low", "lowest"), ("high", "highest")) if found[f"{end}_rows"]]  # fmt: skip
    return f"picks: {', '.join(parts)}" if parts else "no tails: too many rows tie"


def _rug(axes: Any, values: NDArray[Any]) -> None:
    """Short ticks below the bars."""
    inside = np.sort(np.clip(values, *axes.get_xlim()))
    if len(inside) > RUG:
        inside = inside[np.linspace(0, len(inside) - 1, RUG).round().astype(int)]
    axes.plot(inside, np.full(len(inside), -0.03), "|", transform=axes.get_xaxis_transform(), color=PICKED, alpha=0.4,
              markersize=5, markeredgewidth=0.6, clip_on=False)  # fmt: skip
    axes.tick_params(axis="x", pad=7, length=0)


def plot_signal_maps(
    images: Mapping[int, Any],
    signals: Mapping[str, Any],
    positions: Any,
    grid: tuple[int, int],
    path: str | os.PathLike[str],
    *,
    captions: Mapping[int, str] | None = None,
    title: str = "Signals on the photographs",
) -> None:
    """A column an image: the photograph, below it a heat map of each signal, the picked patches marked on all.

    A signal has one scale for all images, from its 1st to its 99th percentile over all rows; what lies beyond has the
    colour of the end.

    Parameters
    ----------
    images : number of the image -> the photograph that the grid covers, [H, W], [H, W, 3] or [3, H, W].
    signals : name -> [images * h * w] finite numbers, image by image, line by line.
    positions : [k, 3] (image, row, column) of the picked patches.
    grid : (h, w), patches of an image.
    path : PNG to write.
    captions : number of the image -> text above its column, a line or more.

    Raises
    ------
    ValueError, TypeError : no images or signals, numbers that do not fit the grid or are not finite, wrong positions.
    """
    from patchcore_fast.coverage import checked_grid, checked_positions  # here: it loads torch

    name = "plot_signal_maps"
    if not images:
        raise ValueError(f"{name}: at least one image is needed, got none")
    arrays, (h, w) = signal_arrays(name, signals), checked_grid(name, grid)
    rows = len(next(iter(arrays.values())))
    if rows % (h * w) or max(images) >= rows // (h * w) or min(images) < 0:
        raise ValueError(f"{name}: {rows} numbers are no grids of {h} x {w} that hold image {max(images)}")
    places = checked_positions(name, positions, (h, w), rows // (h * w)).numpy()
    photos = {number: photograph(image) for number, image in images.items()}
    shape = float(np.median([p.shape[0] / p.shape[1] for p in photos.values()]))
    wide = min(1.9, 1.9 / shape)
    width, lines = max(wide * len(photos) + 1.5, 5.0), len(arrays) + 1
    figure = new_figure(width, lines * (wide * shape + 0.28) + 0.9)
    figure.get_layout_engine().set(hspace=0.012, wspace=0.012)
    panels = figure.subplots(lines, len(photos), squeeze=False)
    for axes in panels.ravel():
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    mark = float(np.clip((0.8 * 72 * wide / max(h, w)) ** 2, 3, 20))
    for column, (number, photo) in enumerate(photos.items()):
        mine = places[places[:, 0] == number, 1:]
        top, ratio = panels[0, column], photo.shape[0] / photo.shape[1]
        top.imshow(photo, extent=(0, w, h, 0), aspect=ratio * w / h, interpolation="antialiased")
        first = (captions or {}).get(number, f"image {number}")
        text = "\n".join(plot_label(line, int(wide * 14)) for line in first.split("\n"))
        top.set_title(f"{text}\n{len(mine):,} picked", fontsize=8.5, loc="left")
        for line, (signal, values) in enumerate(arrays.items(), start=1):
            low, high = np.quantile(values, (0.01, 0.99))
            high = high if high > low else low + max(abs(low), 1.0)
            field = values.reshape(-1, h, w)[number]
            shown = panels[line, column].imshow(field, extent=(0, w, h, 0), aspect=ratio * w / h, cmap="viridis",
                                                vmin=low, vmax=high, interpolation="nearest")  # fmt: skip
            if column == 0:
                panels[line, 0].set_ylabel(wrapped(described(signal).label, 1.6 * wide * shape), fontsize=8.5)
            if column == len(photos) - 1:
                _scale(figure, shown, panels[line], signal)
        for axes in panels[:, column]:
            axes.scatter(mine[:, 1] + 0.5, mine[:, 0] + 0.5, s=mark, color=ANOMALOUS, edgecolors="white",
                         linewidths=0.4, label="picked patch")  # fmt: skip
            axes.set(xlim=(0, w), ylim=(h, 0))
    headed_legend(figure, title, panels[0, 0].get_legend_handles_labels()[0])
    save_figure(figure, path)


def _scale(figure: Any, shown: Any, panels: Any, signal: str) -> None:
    bar = figure.colorbar(shown, ax=list(panels), aspect=14, pad=0.015, fraction=0.06, extend="both", extendfrac=0.04)
    bar.set_label(wrapped(described(signal).unit, 3.0), fontsize=7.5)
    bar.ax.tick_params(labelsize=7.5, color=NEUTRAL)
    bar.ax.locator_params(nbins=4)
    bar.outline.set_visible(False)


def plot_correlations(
    names: Sequence[str], table: Any, path: str | os.PathLike[str], *, title: str = "Which signals say the same"
) -> None:
    """The rank correlations [S, S] of `ranks.spearman` as a table of colours and numbers; NaN is "-".

    Raises
    ------
    ValueError : a table that is not [S, S].
    """
    r = np.asarray(table, dtype=np.float64)
    if r.shape != (len(names), len(names)) or not len(names):
        raise ValueError(f"plot_correlations: table must be [{len(names)}, {len(names)}], got {r.shape}")
    labels = [plot_label(described(name).label, 34) for name in names]
    side = 0.56 * len(names)
    figure = new_figure(side + 3.4, side + 2.5)
    axes = figure.add_subplot()
    shown = axes.imshow(np.ma.masked_invalid(r), cmap="RdBu_r", vmin=-1, vmax=1)
    for (line, column), value in np.ndenumerate(r):
        text = "-" if np.isnan(value) else f"{value:.2f}".replace("-0.00", "0.00")
        dark = not np.isnan(value) and abs(value) > 0.6
        axes.text(column, line, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.set_xticks(range(len(names)), labels, rotation=40, ha="right", rotation_mode="anchor", fontsize=8.5)
    axes.set_yticks(range(len(names)), labels, fontsize=8.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(shown, ax=axes, shrink=0.7, aspect=24, pad=0.02)
    bar.set_label("rank correlation (Spearman)", fontsize=9)
    bar.ax.tick_params(labelsize=8.5, color=NEUTRAL)
    bar.outline.set_visible(False)
    figure.suptitle(wrapped(title, side + 3.0), x=0.01, ha="left", fontsize=12)
    save_figure(figure, path)
