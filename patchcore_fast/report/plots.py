"""ROC curves and score histograms."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from patchcore_fast.files import atomic_write
from patchcore_fast.report.text import plot_label, plot_text

NORMAL, ANOMALOUS, NEUTRAL, MISTAKE = "#3a7ca5", "#d1495b", "#5f6368", "#a85b00"
LINES = ("#3a7ca5", "#d1495b", "#2a9d6f", "#8e5ea2", "#c98a1b", "#4b5d67")


def new_figure(
    width: float, height: float, dpi: int = 150, layout: Literal["constrained"] | None = "constrained"
) -> Any:
    """A Figure in inches with its own Agg canvas: no pyplot, nothing global."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise ImportError('patchcore_fast.report needs matplotlib: pip install "patchcore_fast[pipeline]"') from e

    figure = Figure(figsize=(width, height), dpi=dpi, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write as PNG, whole or not at all. Letters that the font lacks are drawn as boxes, without a warning of each."""
    with atomic_write(path) as f, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(f, format="png")


def quiet(axes: Any) -> None:
    """The look of all plots: two spines, a pale grid behind."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def legend_below(figure: Any, axes: Any, columns: int) -> None:
    """The legend of some axes, under the whole figure."""
    handles, labels = axes.get_legend_handles_labels()
    handles = [h[0] if isinstance(h, tuple) else h for h in handles]  # of a point with whiskers the point
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def plain_numbers(axis: Any, values: Sequence[float]) -> None:
    """Ticks of a logarithmic axis as people write them; enough of them where all values lie within one decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    narrow = max(values) < 20 * min(values)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 10 else f"{v:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _two_classes(name: str, labels: Any, scores: Any) -> tuple[Any, Any]:
    labels, scores = np.asarray(labels).ravel(), np.asarray(scores, dtype=np.float64).ravel()
    if labels.shape != scores.shape:
        raise ValueError(f"{name}: one label per score is needed, got {labels.size} labels, {scores.size} scores")
    if not np.isfinite(scores).all():
        raise ValueError(f"{name}: scores must be finite, {int((~np.isfinite(scores)).sum())} are not")
    return labels.astype(bool), scores


def plot_roc(
    curves: Mapping[str, tuple[Any, Any]],
    path: str | os.PathLike[str],
    *,
    threshold: float | None = None,
    title: str = "ROC",
) -> None:
    """Receiver operating characteristic, one line per entry, with its area in the legend.

    Parameters
    ----------
    curves : name -> (labels [n] of 0 and 1, scores [n]).
    path : PNG to write.
    threshold : marks on each line what lies above it.

    Raises
    ------
    ValueError : no curve, lengths that differ, non-finite scores, or a curve with one class only.
    """
    from patchcore_fast.metrics import binary_curve  # here: the tables of this package work without the extras

    if not curves:
        raise ValueError("plot_roc: at least one curve is needed, got none")
    figure = new_figure(5.2, 5.2)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], "--", color="#b0b0b0", linewidth=1, label="chance")
    for i, (name, (labels, scores)) in enumerate(curves.items()):
        labels, scores = _two_classes("plot_roc", labels, scores)
        if (curve := binary_curve(scores, labels)) is None:
            raise ValueError(f"plot_roc: {name} needs normal and anomalous images, has one class only")
        colour = LINES[i % len(LINES)]
        axes.plot(curve.fpr, curve.tpr, color=colour, linewidth=2, label=f"{plot_label(name)}: {curve.auroc:.3f}")
        if threshold is not None:
            at = (scores[~labels] > threshold).mean(), (scores[labels] > threshold).mean()
            axes.plot(*at, "o", color=colour, markersize=9, markeredgecolor="white", clip_on=False, zorder=3,
                      label=f"at the threshold: {at[1]:.0%} found, {at[0]:.0%} false alarms")  # fmt: skip
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal", title=plot_text(title))
    axes.set_xlabel("false positive rate: normal images called anomalous")
    axes.set_ylabel("true positive rate: anomalous images called anomalous")
    axes.legend(loc="lower right", title="area under the curve", frameon=False)
    quiet(axes)
    save_figure(figure, path)


def plot_pr(curves: Mapping[str, tuple[Any, Any]], path: str | os.PathLike[str], *, title: str = "Precision") -> None:
    """Precision against recall, one line per entry, with the average precision in the legend.

    Parameters, errors : as `plot_roc`. Precision is drawn as steps: between two scores nothing is known.
    """
    from patchcore_fast.metrics import binary_curve

    if not curves:
        raise ValueError("plot_pr: at least one curve is needed, got none")
    figure = new_figure(5.2, 5.2)
    axes = figure.add_subplot()
    for i, (name, (labels, scores)) in enumerate(curves.items()):
        labels, scores = _two_classes("plot_pr", labels, scores)
        if (curve := binary_curve(scores, labels)) is None:
            raise ValueError(f"plot_pr: {name} needs normal and anomalous images, has one class only")
        recall, precision = curve.tpr, np.r_[curve.precision[:1], curve.precision]
        colour, text = LINES[i % len(LINES)], f"{plot_label(name)}: {curve.average_precision:.3f}"
        axes.plot(recall, precision, color=colour, linewidth=2, drawstyle="steps-pre", label=text)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.01), aspect="equal", title=plot_text(title))
    axes.set_xlabel("recall: anomalous images called anomalous")
    axes.set_ylabel("precision: images called anomalous that truly are")
    axes.legend(loc="lower left", title="average precision", frameon=False)
    quiet(axes)
    save_figure(figure, path)


def histogram_edges(scores: Any, threshold: float | None = None) -> NDArray[np.float64]:
    """Edges of bins for scores [n]. They start at the threshold, in both directions: no bar lies on both sides of it.

    12 to 60 bins, about 2 sqrt(n), from the lowest score or the threshold to the highest. n >= 1.
    """
    scores = np.asarray(scores, dtype=np.float64)
    anchor = float(scores.min()) if threshold is None else threshold
    low, high = min(scores.min(), anchor), max(scores.max(), anchor)
    width = (high - low) / np.clip(2 * np.sqrt(scores.size), 12, 60) or 0.1
    width = max(width, 1e-9 * max(abs(low), abs(high)))  # edges must differ, however large the scores are
    edges = anchor + width * np.arange(np.floor((low - anchor) / width), np.floor((high - anchor) / width) + 2)
    return np.asarray(edges, dtype=np.float64)


def plot_histogram(
    scores: Any,
    labels: Any,
    path: str | os.PathLike[str],
    *,
    threshold: float | None = None,
    title: str = "Image scores",
) -> None:
    """Histograms of the scores of normal (label 0) and anomalous images (label 1), and the threshold between.

    Parameters
    ----------
    scores, labels : [n]; one class may be missing.
    threshold : drawn as a dashed line if given.
    path : PNG to write.

    Raises
    ------
    ValueError : no scores, lengths that differ, or non-finite scores.
    """
    labels, scores = _two_classes("plot_histogram", labels, scores)
    if not scores.size:
        raise ValueError("plot_histogram: at least one score is needed, got none")
    edges = histogram_edges(scores, threshold)
    figure = new_figure(6.4, 3.8)
    axes = figure.add_subplot()
    for kind, name, colour in ((False, "normal", NORMAL), (True, "anomalous", ANOMALOUS)):
        chosen = scores[labels == kind]
        if chosen.size:
            style = {"color": colour, "alpha": 0.55, "edgecolor": colour}
            axes.hist(chosen, edges, label=f"{name} ({chosen.size})", **style)
    if threshold is not None:
        axes.axvline(threshold, color=NEUTRAL, linestyle="--", linewidth=1.5, label=f"threshold {threshold:.3g}")
        above = scores > threshold
        counts = [f"{above[kind].sum():,} of {kind.sum():,} {word}"
                  for kind, word in ((labels, "found"), (~labels, "false alarms")) if kind.any()]  # fmt: skip
        title += f"\n{', '.join(counts)}"
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set(title=plot_text(title), xlabel="image score", ylabel="images")
    axes.legend(frameon=False)
    quiet(axes)
    save_figure(figure, path)
