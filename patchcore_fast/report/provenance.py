"""Where the bank comes from: which places of the grid, which images, and on the photographs themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchcore_fast.report.images import OUTLINE, as_rgb
from patchcore_fast.report.plots import NEUTRAL, NORMAL, new_figure, quiet, save_figure
from patchcore_fast.report.selection import (
    PICKED,
    POOL,
    end_colours,
    end_label,
    headed_legend,
    patches,
    percent,
    wrapped,
)
from patchcore_fast.report.text import plot_label

if TYPE_CHECKING:
    from patchcore_fast.coverage import BorderShares, Coverage

NAMED = 8  # images named beside the bars
PICK, SHADE = "#{:02x}{:02x}{:02x}".format(*OUTLINE), "#08222c"
SIDE, WIDE = 384, 4  # pixels of a photograph's longer side; photographs in a row


def choose_images(picked: Any, pruned: Any = None, count: int = 8) -> dict[int, str]:
    """Images to look at, with the reason: of those with most picks, with most pruned patches, and typical ones.

    picked, pruned : [images] counts; ties go to the lower number.  count : how many at most. A third (at least one) for
    each reason; typical are those whose picks are closest to the median. In the order of reasons.

    Raises
    ------
    ValueError : counts that are no [images] or differ in length, or count < 1.
    """
    picks = np.asarray(picked)
    takes = None if pruned is None else np.asarray(pruned)
    if picks.ndim != 1 or not picks.size or (takes is not None and takes.shape != picks.shape):
        raise ValueError(f"choose_images: counts must be [images], got {picks.shape}"
                         + ("" if takes is None else f" and {takes.shape}"))  # fmt: skip
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"choose_images: count must be a positive integer, got {count!r}")
    some = takes is not None and bool(takes.any())
    reasons = [("most picked", -picks.astype(np.float64))]
    if takes is not None and some:
        reasons.append(("most pruned", -takes.astype(np.float64)))
    reasons.append(("typical", np.abs(picks - np.median(picks)).astype(np.float64)))
    chosen: dict[int, str] = {}
    for i, (reason, key) in enumerate(reasons):
        room = -(-(min(count, len(picks)) - len(chosen)) // (len(reasons) - i))
        free = [int(j) for j in np.argsort(key, kind="stable") if int(j) not in chosen]
        chosen |= dict.fromkeys(free[:room], reason)
    return chosen


def plot_kept_patches(
    images: Mapping[int, Any],
    positions: Any,
    grid: tuple[int, int],
    path: str | os.PathLike[str],
    *,
    pruned: Mapping[str, Any] | None = None,
    captions: Mapping[int, str] | None = None,
    title: str = "Which patches the bank keeps",
) -> None:
    """Photographs with the cells of picked patches framed and those of pruned ones hatched in their end's colour.

    Parameters
    ----------
    images : number of the image -> the photograph that the grid covers, [H, W], [H, W, 3] or [3, H, W]; drawn in this
        order, each in its own aspect ratio.
    positions : [M, 3] (image, row, column) of the bank's patches; those of images that are not shown are ignored.
    grid : (h, w), patches of an image.
    path : PNG to write.
    pruned : end -> [P, 3] positions of the patches that it left out.
    captions : number of the image -> text above it.

    Raises
    ------
    ValueError, TypeError : no images, or positions outside of the grid or of a wrong shape or type.
    """
    from patchcore_fast.coverage import checked_grid, checked_positions  # here: it loads torch

    name = "plot_kept_patches"
    if not images:
        raise ValueError(f"{name}: at least one image is needed, got none")
    h, w = checked_grid(name, grid)
    picked = checked_positions(name, positions, (h, w)).numpy()
    ends = {end: checked_positions(name, where, (h, w)).numpy() for end, where in (pruned or {}).items()}
    colours = end_colours(ends)
    photos = {number: photograph(image) for number, image in images.items()}
    columns = min(WIDE, len(photos))
    lines = -(-len(photos) // columns)
    shape = max(p.shape[0] / p.shape[1] for p in photos.values())
    figure = new_figure(max(2.9 * columns, 4.6), lines * (2.82 * shape + 0.4) + 0.55)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, (number, photo) in zip(panels, photos.items(), strict=False):
        cells = {end: where[where[:, 0] == number, 1:] for end, where in ends.items()}
        for end, where in cells.items():
            photo = _hatch(photo, where, (h, w), colours[end])
        axes.imshow(photo, interpolation="none")
        mine = picked[picked[:, 0] == number, 1:]
        _frame(axes, mine, photo.shape[0] / h, photo.shape[1] / w)
        lost = len(np.unique(np.concatenate([np.empty((0, 2), np.int64), *cells.values()]), axis=0))
        said = POOL if list(ends) == [POOL] else "pruned"
        counts = f"{len(mine):,} picked" + (f", {percent(lost, h * w)} {said}" if ends else "")
        first = (captions or {}).get(number, f"image {number}")
        axes.set_title(f"{plot_label(first, 38)}\n{counts}", fontsize=8.5, loc="left", color="black", linespacing=1.35)
    headed_legend(figure, title, _handles(colours))
    save_figure(figure, path)


def photograph(image: Any) -> NDArray[np.uint8]:
    """RGB with the longer side at SIDE, so that frames and hatches are equally fine on all."""
    from PIL import Image

    rgb = as_rgb(image)
    scale = SIDE / max(rgb.shape[:2])
    size = (max(round(rgb.shape[1] * scale), 1), max(round(rgb.shape[0] * scale), 1))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))


def _hatch(photo: NDArray[np.uint8], cells: NDArray[Any], grid: tuple[int, int], colour: str) -> NDArray[np.uint8]:
    """The cells tinted, with diagonal stripes: seen without colour too."""
    from matplotlib.colors import to_rgb

    height, width = photo.shape[:2]
    y, x = np.mgrid[:height, :width]
    inside = np.zeros(grid, bool)
    inside[cells[:, 0], cells[:, 1]] = True
    cover = inside[y * grid[0] // height, x * grid[1] // width]
    weight = np.where((x + y) % 8 < 3, 0.75, 0.3)[..., None] * cover[..., None]
    mixed = photo + (np.asarray(to_rgb(colour)) * 255 - photo) * weight
    return np.rint(mixed).astype(np.uint8)


def _frame(axes: Any, cells: NDArray[Any], tall: float, wide: float) -> None:
    """Cyan frames on dark ones: visible on light and dark photographs."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    boxes = [Rectangle((c * wide - 0.5, r * tall - 0.5), wide, tall) for r, c in cells.tolist()]
    for colour, thick in ((SHADE, 2.2), (PICK, 1.1)):
        axes.add_collection(PatchCollection(boxes, facecolor="none", edgecolor=colour, linewidth=thick))


def _handles(colours: dict[str, str]) -> list[Any]:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=SHADE, edgecolor=PICK, linewidth=1.2, label="in the bank")]
    for end, colour in colours.items():
        handles.append(Patch(facecolor=colour, alpha=0.8, hatch="////", edgecolor="white", label=end_label(end)))
    return handles


def plot_provenance(
    coverage: Coverage,
    path: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    border: BorderShares | None = None,
    title: str = "Where the bank comes from",
) -> None:
    """Heat map of the places on the grid, beside it the bank patches of each image, the richest ones named.

    Parameters
    ----------
    coverage : of `spatial_coverage`.
    path : PNG to write.
    names : [images], else they are called "image 0" and so on.
    border : of `border_shares`: named in the heading.

    Raises
    ------
    ValueError : names of another number of images.
    """
    per_image = coverage.per_image.numpy()
    names = [f"image {i}" for i in range(len(per_image))] if names is None else list(names)
    if len(names) != len(per_image):
        raise ValueError(f"plot_provenance: names must be {len(per_image)}, one an image, got {len(names)}")
    figure = new_figure(10.2, 5.0)
    left, right = figure.subfigures(1, 2, width_ratios=(1.05, 1))
    _heat(left, coverage)
    order = np.argsort(-per_image, kind="stable")
    if len(names) > 2 * NAMED:
        above, below = right.subplots(2, 1, height_ratios=(1.15, 1))
        _strip(below, per_image[order])
        _bars(above, per_image, order[:NAMED], names, f"the {NAMED} images that gave most")
    else:
        _bars(right.subplots(), per_image, order, names, "all images")
    m = len(per_image)
    gave = f"{coverage.empty_images:,} of them gave none" if coverage.empty_images else "all of them gave some"
    text = (
        f"{title}: {coverage.patches:,} patches of {m:,} images\n"
        f"{percent(coverage.share, 1)} of the grid's places occur, entropy {coverage.entropy:.3f}; "
        f"as even as {coverage.effective_images:.1f} of {m:,} images, {gave}"
    )
    if border is not None:
        text += (
            f"\n{percent(border.picked, 1)} lie within {patches(border.margin)} of the image's border, where "
            f"{percent(border.rows, 1)} of all patches are: {border.ratio:.2f} times as many as expected"
        )
    figure.suptitle(wrapped(text, 10.8), x=0.01, ha="left", fontsize=11, linespacing=1.5)
    save_figure(figure, path)


def _heat(figure: Any, coverage: Coverage) -> None:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    blues = LinearSegmentedColormap.from_list("house", ["#dbe8f0", NORMAL, "#0b2c45"])
    colours = blues.with_extremes(bad="#f3ead9")  # a place that never occurs is no low count
    counts = np.ma.masked_equal(coverage.counts.numpy(), 0)
    top = int(counts.max())
    shown = axes.imshow(counts, cmap=colours, vmin=0, vmax=top, interpolation="nearest")
    axes.set(xlabel="column of the patch grid", ylabel="row of the patch grid")
    axes.tick_params(labelsize=8.5, length=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True))
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, aspect=28, pad=0.02)
    bar.locator = MaxNLocator(6, integer=True)
    bar.update_ticks()
    empty = int((coverage.counts == 0).sum())
    bar.set_label("bank patches at this place" + (f" (pale sand: none, {empty:,} places)" if empty else ""), fontsize=9)
    bar.ax.tick_params(labelsize=8.5, color=NEUTRAL)
    bar.outline.set_visible(False)


def _bars(axes: Any, per_image: NDArray[Any], order: NDArray[Any], names: Sequence[str], title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.barh(np.arange(len(order)), per_image[order], color=PICKED, height=0.72)
    axes.set_yticks(np.arange(len(order)), [plot_label(names[i], 26) for i in order], fontsize=8.5)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("bank patches", fontsize=9)
    quiet(axes)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8.5)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _strip(axes: Any, sorted_counts: NDArray[Any]) -> None:
    from matplotlib.ticker import MaxNLocator

    m, mean = len(sorted_counts), float(sorted_counts.mean())
    axes.stairs(sorted_counts, np.arange(m + 1) + 0.5, fill=True, color=NORMAL)
    axes.axhline(mean, color=NEUTRAL, linestyle="--", linewidth=1.2, label=f"equal parts: {mean:.1f}")
    axes.set(xlim=(0.5, m + 0.5), ylim=(0, None))
    axes.set_title("all images, sorted", fontsize=10, loc="left")
    axes.set_xlabel("rank of the image", fontsize=9)
    axes.set_ylabel("bank patches", fontsize=9)
    axes.legend(frameon=False, fontsize=8.5, loc="upper right")
    quiet(axes)
    axes.tick_params(labelsize=8.5)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
