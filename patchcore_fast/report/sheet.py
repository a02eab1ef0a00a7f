"""Contact sheet: many images with their heat maps on one page and one scale."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcore_fast.report.images import COLOURS, Box, as_rgb, draw_boxes, outline, overlay
from patchcore_fast.report.plots import ANOMALOUS, MISTAKE, NEUTRAL, NORMAL, new_figure, save_figure
from patchcore_fast.report.text import plot_label, plot_text

SIDE, GAP, PAD, HEAD = 192, 4, 20, 30  # pixels: picture, inside a pair, between pairs, caption line
LEFT, LINE, RIGHT, DPI = 20, 30, 120, 120  # margins and title lines in pixels; the colour bar is on the right


@dataclass(frozen=True)
class Panel:
    """One image of a contact sheet.

    image [H, W], [H, W, 3] or [3, H, W]; anomaly_map [H, W]; score; name is the caption; label 0 normal, 1 anomalous,
    -1 unknown; is_anomalous is the verdict, None without a threshold; mask [H, W] bool outlines the ground truth;
    boxes frame what the model calls anomalous (`images.region_boxes`).
    """

    image: Any
    anomaly_map: Any
    score: float
    name: str
    label: int = -1
    is_anomalous: bool | None = None
    mask: Any = None
    boxes: Sequence[Box] = ()

    @property
    def verdict(self) -> str:
        """anomalous or normal; missed or false alarm where the label says otherwise; "" without a threshold."""
        if self.is_anomalous is None:
            return ""
        if self.label in (0, 1) and self.is_anomalous != bool(self.label):
            return "missed" if self.label else "false alarm"
        return "anomalous" if self.is_anomalous else "normal"


def _fit(image: NDArray[np.uint8], nearest: bool = False, boxes: Sequence[Box] = ()) -> NDArray[np.uint8]:
    """Resize to the square of the sheet, keeping the aspect ratio on white."""
    from PIL import Image

    picture = Image.fromarray(image)
    scale = SIDE / max(picture.size)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    picture = picture.resize(size, Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS)
    if boxes:
        picture = Image.fromarray(draw_boxes(np.asarray(picture), boxes))
    canvas = Image.new(picture.mode, (SIDE, SIDE), 0 if nearest else "white")
    canvas.paste(picture, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return np.asarray(canvas)


def _pair(panel: Panel, vmin: float, vmax: float) -> NDArray[np.uint8]:
    left = _fit(as_rgb(panel.image))
    right = _fit(overlay(panel.image, panel.anomaly_map, vmin=vmin, vmax=vmax), boxes=panel.boxes)
    if panel.mask is not None:
        mask = _fit(np.asarray(panel.mask, dtype=np.uint8) * 255, nearest=True) > 127
        left, right = outline(left, mask), outline(right, mask)
    return np.hstack([left, np.full((SIDE, GAP, 3), 255, np.uint8), right])


def contact_sheet(
    panels: Sequence[Panel],
    path: str | os.PathLike[str],
    *,
    vmin: float,
    vmax: float,
    columns: int = 4,
    title: str = "",
) -> None:
    """Draw image and heat map of each panel side by side, captioned with name, score and verdict.

    Parameters
    ----------
    vmin, vmax : limits of the one scale, shown as a colour bar.
    columns : pairs in a row.
    path : PNG to write.

    Raises
    ------
    ValueError : no panels, or shapes that do not fit.
    """
    if not panels:
        raise ValueError("contact_sheet: at least one panel is needed, got none")
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    cell_w, cell_h = 2 * SIDE + GAP + PAD, SIDE + HEAD + PAD // 2
    page = np.full((rows * cell_h, columns * cell_w - PAD, 3), 255, np.uint8)
    for i, panel in enumerate(panels):
        y, x = i // columns * cell_h + HEAD, i % columns * cell_w
        page[y : y + SIDE, x : x + cell_w - PAD] = _pair(panel, vmin, vmax)

    drawn = {"ground truth outlined in cyan": any(p.mask is not None for p in panels),
             "regions above the pixel threshold in white boxes": any(p.boxes for p in panels)}  # fmt: skip
    if any(drawn.values()):
        title = f"{title}\n{', '.join(text for text, there in drawn.items() if there)}".strip()
    corners = [(i // columns * cell_h + HEAD - 8, i % columns * cell_w) for i in range(len(panels))]
    _draw(page, panels, corners, title, (vmin, vmax), path)


def _draw(
    page: NDArray[np.uint8],
    panels: Sequence[Panel],
    corners: Sequence[tuple[int, int]],
    title: str,
    limits: tuple[float, float],
    path: str | os.PathLike[str],
) -> None:
    """Text and colour bar around the page, laid out by hand: one axes, one page pixel to a figure pixel.

    A hundred small axes, or an automatic layout, would take longer than the model.
    """
    title = plot_text(title)
    top = LEFT + LINE * (title.count("\n") + bool(title))
    width, height = page.shape[1] + LEFT + RIGHT, page.shape[0] + top + LEFT
    figure = new_figure(width / DPI, height / DPI, dpi=DPI, layout=None)
    axes = figure.add_axes((LEFT / width, LEFT / height, page.shape[1] / width, page.shape[0] / height))
    axes.imshow(page, interpolation="none", aspect="auto")
    axes.set_axis_off()
    for panel, (y, x) in zip(panels, corners, strict=True):
        wrong = panel.verdict in ("missed", "false alarm")
        colour = MISTAKE if wrong else {None: NEUTRAL, True: ANOMALOUS, False: NORMAL}[panel.is_anomalous]
        weight = "bold" if wrong else "normal"
        axes.text(x, y, plot_label(panel.name, 30), fontsize=9, color="black")
        caption = f"{panel.score:.2f}  {panel.verdict}".rstrip()
        axes.text(x + 2 * SIDE + GAP, y, caption, fontsize=9, color=colour, ha="right", weight=weight)
    figure.text(LEFT / width, 1 - LEFT / height, title, va="top", fontsize=12, linespacing=1.5)
    long = min(page.shape[0], 3 * (SIDE + HEAD)) - HEAD
    below = height - top - HEAD - long
    bar = figure.add_axes(((width - RIGHT + 24) / width, below / height, 18 / width, long / height))
    _colour_bar(figure, bar, *limits)
    save_figure(figure, path)


def _colour_bar(figure: Any, axes: Any, vmin: float, vmax: float) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    colours = ListedColormap(colormaps[COLOURS](np.linspace(0.25, 1, 256)))
    bar = figure.colorbar(ScalarMappable(Normalize(vmin, vmax), colours), cax=axes)
    bar.set_label("anomaly map: the higher, the less normal", fontsize=9)
    bar.ax.tick_params(labelsize=8.5)
    bar.outline.set_visible(False)
