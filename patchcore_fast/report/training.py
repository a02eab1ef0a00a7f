"""The curve of a training: its loss, and metrics of test images where they were measured."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from patchcore_fast.report.plots import LINES, NEUTRAL, legend_below, new_figure, quiet, save_figure
from patchcore_fast.report.text import plot_text

METRICS = {"image_auroc": "image AUROC", "image_ap": "image AP", "pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP",
           "aupro": "AUPRO", "pixel_iou_max": "pixel IoU-max"}  # fmt: skip


def plot_training(
    rows: Sequence[Mapping[str, float]], path: str | os.PathLike[str], *, title: str = "Training"
) -> None:
    """Loss by epoch, and beside it the metrics there are, with a ring around the best of each.

    Parameters
    ----------
    rows : of `curves.csv`, with "epoch", "loss" and some of METRICS.  path : PNG to write.

    Raises
    ------
    ValueError : no rows.
    """
    if not rows:
        raise ValueError("plot_training: at least one epoch is needed, got none")
    measured = {name: [(row["epoch"], row[name]) for row in rows if name in row] for name in METRICS}
    shown = {name: points for name, points in measured.items() if points}
    figure = new_figure(9.5 if shown else 5.4, 4.6 if shown else 4.2, dpi=100)
    axes = figure.add_subplot(1, 2 if shown else 1, 1)
    epochs, losses = [row["epoch"] for row in rows], [row["loss"] for row in rows]
    axes.plot(epochs, losses, color=NEUTRAL, linewidth=2, marker="o" if len(rows) == 1 else None)
    axes.set(xlabel="epoch", ylabel="loss", title=plot_text(title))
    quiet(axes)
    if shown:
        axes = figure.add_subplot(1, 2, 2)
        for (name, points), colour in zip(shown.items(), LINES, strict=False):
            xs, ys = zip(*points, strict=True)
            axes.plot(
                xs, ys, color=colour, linewidth=2, marker="o", markersize=3, label=f"{METRICS[name]} {ys[-1]:.3f}"
            )
            best = max(points, key=lambda p: (p[1], -p[0]))
            axes.plot(*best, "o", color=colour, markersize=11, fillstyle="none", clip_on=False)
        axes.set(xlabel="epoch", title="test images (number: last epoch, ring: best)")
        legend_below(figure, axes, 3)  # lines may lie anywhere
        quiet(axes)
    for axes in figure.axes:
        axes.xaxis.get_major_locator().set_params(integer=True)  # epochs
        if len(epochs) == 1:
            axes.set_xticks(epochs)
    save_figure(figure, path)
