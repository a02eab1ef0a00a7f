"""How a selection went, signal by signal: what all patches score, which ends were pruned, what was picked."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcore_fast.report.plots import ANOMALOUS, NEUTRAL, new_figure, quiet, save_figure
from patchcore_fast.report.text import plot_text

ALL, PICKED = "#c3ccd3", "#12507b"
UNNAMED, POOL = "pruned", "in the pool"
ENDS = {"hard": ANOMALOUS, "easy": "#2a9d6f", "support": "#c98a1b", UNNAMED: "#b0578d", POOL: "#d08a1d"}
OTHERS = ("#8e5ea2", "#4b5d67", "#6b8e23", "#9a5b3f")
BARS, COLUMNS = 64, 3


def end_colours(ends: Iterable[str]) -> dict[str, str]:
    """One colour an end of pruning, the same in all pictures; ends without a colour of their own take turns."""
    known = list(ends)
    strange = [end for end in known if end not in ENDS]
    return {end: ENDS.get(end) or OTHERS[strange.index(end) % len(OTHERS)] for end in known}


def end_label(end: str) -> str:
    """How legends call an end of pruning, or the pool, which is shown in the same way and was not pruned."""
    return end if end in (UNNAMED, POOL) else f"pruned, {end}"


def as_array(value: Any) -> NDArray[Any]:
    """ndarray of a Tensor, ndarray or list, wherever it is."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)


def pruned_ends(name: str, kept: Any, pruned: Mapping[str, Any] | None, rows: int) -> dict[str, NDArray[np.bool_]]:
    """The masks [N] of each end; rows that are not kept and in no end become the end "pruned".

    kept [N] bool or None (all); pruned: end -> [N] bool. ValueError: a mask of another shape or dtype.
    """
    ends = {end: _mask(name, f"pruned[{end!r}]", mask, rows) for end, mask in (pruned or {}).items()}
    if kept is not None:
        rest = ~_mask(name, "kept", kept, rows)
        for mask in ends.values():
            rest = rest & ~mask
        if rest.any():
            ends[UNNAMED] = rest
    return ends


def picked_rows(name: str, picked: Any, rows: int) -> NDArray[np.int64]:
    """Row numbers [k] in [0, rows); TypeError or ValueError otherwise."""
    numbers = as_array(picked)
    if numbers.dtype.kind not in "iu":
        raise TypeError(f"{name}: picked rows must be integers, got {numbers.dtype}")
    if numbers.ndim != 1 or not numbers.size:
        raise ValueError(f"{name}: picked rows must be [k] with k >= 1, got shape {numbers.shape}")
    if numbers.min() < 0 or numbers.max() >= rows:
        raise ValueError(f"{name}: picked rows must lie in [0, {rows}), got {numbers.min()} to {numbers.max()}")
    return numbers.astype(np.int64)


def _mask(name: str, what: str, mask: Any, rows: int) -> NDArray[np.bool_]:
    array = as_array(mask)
    if array.dtype != np.bool_ or array.shape != (rows,):
        raise ValueError(f"{name}: {what} must be [{rows}] bool, got {array.shape} {array.dtype}")
    return array


def signal_arrays(name: str, signals: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """signal -> [N] float64; ValueError: no signals, lengths that differ, non-finite numbers."""
    if not signals:
        raise ValueError(f"{name}: at least one signal is needed, got none")
    arrays = {signal: as_array(values) for signal, values in signals.items()}
    rows = len(np.atleast_1d(next(iter(arrays.values()))))
    for signal, values in arrays.items():
        if values.shape != (rows,) or not rows or values.dtype.kind not in "fiub":
            raise ValueError(f"{name}: {signal} must be [{rows}] numbers, got {values.shape} {values.dtype}")
        arrays[signal] = values = values.astype(np.float64)
        if bad := int((~np.isfinite(values)).sum()):
            raise ValueError(f"{name}: {signal} must be finite, {bad} of {rows} scores are not")
    return arrays


def quantiles(values: Any) -> dict[str, float]:
    """Quantiles of numbers [N], N >= 1, for JSON: "q0" is the least, "q0.5" the median, "q1" the largest."""
    at = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
    return {f"q{q:g}": float(v) for q, v in zip(at, np.quantile(as_array(values), at), strict=True)}


def patches(count: int) -> str:
    """1 patch, 2 patches."""
    return f"{count} patch" if count == 1 else f"{count} patches"


def percent(count: float, total: float) -> str:
    """A share for people: 12 %, 1.2 %, 0.12 %."""
    share = 100 * count / total
    return f"{share:.0f} %" if share >= 10 or share == 0 else f"{share:.2g} %"


def plot_score_distributions(
    scores: Mapping[str, Any],
    kept: Any,
    picked: Any,
    path: str | os.PathLike[str],
    *,
    pruned: Mapping[str, Any] | None = None,
    units: Mapping[str, str] | None = None,
    title: str = "Scores of the training patches",
) -> None:
    """One panel a signal: histogram of all rows, in colour those that were pruned, and as a line the picked ones.

    Heights are shares: of all rows for the bars, of the picked rows for the line, so that both shapes can be compared.
    A scale with a far tail ends early, and its last bar counts what lies beyond; the panel says so.

    Parameters
    ----------
    scores : signal -> [N] finite numbers.
    kept : [N] bool, rows that selection could take, or None for all.
    picked : [k] row numbers.
    path : PNG to write.
    pruned : end -> [N] bool, shown in colours with their shares in the legend. Rows that are neither kept nor in one
        of them are shown as "pruned".
    units : signal -> what its numbers are, below its panel.

    Raises
    ------
    ValueError : no signals, lengths that differ, non-finite scores.  TypeError : picked that are no integers.
    """
    name = "plot_score_distributions"
    signals = signal_arrays(name, scores)
    rows = len(next(iter(signals.values())))
    ends = pruned_ends(name, kept, pruned, rows)
    chosen = picked_rows(name, picked, rows)

    columns = min(COLUMNS, len(signals))
    lines = -(-len(signals) // columns)
    figure = new_figure(max(3.5 * columns, 5.5), 2.5 * lines + 0.8)
    figure.get_layout_engine().set(hspace=0.06, wspace=0.03)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (signal, values) in zip(panels, signals.items(), strict=False):
        score_panel(axes, signal, values, ends, chosen)
        axes.set_xlabel((units or {}).get(signal, ""), fontsize=8.5)
    for axes in panels[len(signals) :]:
        axes.set_axis_off()
    for axes in panels[::columns]:
        axes.set_ylabel("share of rows")
    headed_legend(figure, title, panels[0].get_legend_handles_labels()[0])
    save_figure(figure, path)


def wrapped(title: str, inches: float) -> str:
    """A title of 12 points broken into lines that fit: names of folders can be long."""
    return plot_text("\n".join(textwrap.fill(line, max(int(inches / 0.097), 12)) for line in title.splitlines()))


def headed_legend(figure: Any, title: str, handles: list[Any]) -> None:
    """Title and legend above all panels; the layout keeps room for a legend, but not for a title beside it."""
    width = figure.get_size_inches()[0]
    columns = max(1, min(len(handles), int(width / 2.0)))
    figure.legend(handles=handles, title=wrapped(title, width), loc="outside upper left", ncols=columns, frameon=False,
                  alignment="left", fontsize=9, title_fontsize=12, borderaxespad=0.3)  # fmt: skip


def score_panel(
    axes: Any, signal: str, values: NDArray[Any], ends: dict[str, NDArray[np.bool_]], chosen: NDArray[Any]
) -> None:
    """One signal [N]: bars of all rows, in colours those of the ends, and as a line the chosen row numbers [k]."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    edges = _edges(values)
    inside = np.clip(values, edges[0], edges[-1])
    n, k = len(values), len(chosen)

    def shares(part: NDArray[Any], total: int) -> NDArray[np.float64]:
        return np.histogram(part, edges)[0] / total

    every = shares(inside, n)
    axes.stairs(every, edges, fill=True, color=ALL, label=f"all {n:,} patches")
    colours = end_colours(ends)
    for end, mask in ends.items():
        style: dict[str, Any] = {"fill": True, "color": colours[end], "alpha": 0.8}
        axes.stairs(shares(inside[mask], n), edges, label=f"{end_label(end)}: {percent(mask.sum(), n)}", **style)
    axes.stairs(shares(inside[chosen], k), edges, color=PICKED, linewidth=1.4, label=f"{k:,} picked")
    filled = every[every > 0]
    # A log scale where most bars would vanish beside the tallest; its floor is the least that one row can add.
    if filled.max() > 50 * np.median(filled):
        axes.set_yscale("log")
        axes.set_ylim(max(filled.min() / 2, 0.2 / n), filled.max() * 2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.6g} %"))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(axis="x", scilimits=(-3, 4))
    axes.tick_params(labelsize=8.5)
    axes.set_title(signal, fontsize=10.5, loc="left")
    axes.margins(x=0.01)
    quiet(axes)
    beyond = int(((values < edges[0]) | (values > edges[-1])).sum())
    if beyond:
        text = f"{percent(beyond, n)} lie beyond,\nin the outer bars"
        axes.text(0.98, 0.96, text, transform=axes.transAxes, ha="right", va="top", fontsize=7.5, color=NEUTRAL)


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Limits of the bars: around each value where there are few, else even ones over what is not a far tail."""
    few = np.unique(values)
    if len(few) == 1:
        return few[0] + np.array([-0.5, 0.5]) * max(abs(few[0]), 1)
    if len(few) <= BARS // 2:
        half = np.diff(few) / 2
        return np.concatenate([[few[0] - half[0]], few[:-1] + half, [few[-1] + half[-1]]])
    low, high = np.quantile(values, (0.001, 0.999))
    # The middle 99.8 % shall fill at least a third of the panel.
    low, high = max(few[0], low - (high - low)), min(few[-1], high + (high - low))
    return np.linspace(low, high, BARS + 1)
