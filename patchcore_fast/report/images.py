"""Single pictures: an anomaly map laid over its photograph."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcore_fast.files import atomic_write

COLOURS = "inferno"  # perceptually even, and its order survives grey print and colour blindness
OUTLINE = (64, 224, 255)  # cyan: the one hue that neither grey photographs nor the heat colours contain
BOX, BOX_EDGE = (255, 255, 255), (0, 0, 0)  # no hue of its own, and seen on light and on dark ground
HIDE = 0.75  # how much of the photograph the hottest pixel covers
LONGEST = 2048  # pixels of the longer side of any picture that is drawn: a small file can hold a very large photograph
BAND = 256  # rows that are coloured at a time


def shared_scale(maps: Iterable[Any], threshold: float | None = None) -> tuple[float, float]:
    """Limits (vmin, vmax) for all pictures of one set, so that a normal image looks calm beside an anomalous one.

    Parameters
    ----------
    maps : anomaly maps [H, W]; vmin is their median, vmax their 99.9th percentile.
    threshold : image score above which an image is anomalous. If given, vmax lies well above it, so that a set
        without any anomaly does not glow.

    Raises
    ------
    ValueError : no maps.
    """
    # A map is smooth: one pixel in 16 tells its distribution and keeps a large set small.
    values = [np.asarray(m, dtype=np.float32)[::4, ::4].ravel() for m in maps]
    if not values:
        raise ValueError("shared_scale: at least one map is needed, got none")
    low, high = (float(v) for v in np.percentile(np.concatenate(values), (50, 99.9)))
    if threshold is not None and np.isfinite(threshold):
        high = max(high, low + 1.5 * (threshold - low))
    return low, high if high > low else low + 1.0


def drawn_size(size: tuple[int, int], longest: int = LONGEST) -> tuple[int, int]:
    """(height, width) in the same proportions with no side above `longest`; smaller ones stay as they are."""
    scale = longest / max(size)
    return size if scale >= 1 else (max(round(size[0] * scale), 1), max(round(size[1] * scale), 1))


def photograph(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """A file as [H, W, 3] uint8, upright, shrunk to `drawn_size`; DataError as `data.load_image`."""
    from patchcore_fast.data import image_size, load_image

    image = load_image(path, drawn_size(image_size(path)))
    return np.stack([np.rint(channel * 255).astype(np.uint8) for channel in image.numpy()], axis=2)


def as_rgb(image: Any) -> NDArray[np.uint8]:
    """[H, W, 3] uint8 from [H, W], [H, W, 3] or [3, H, W]; floats are taken to lie in [0, 1]."""
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        array = array.transpose(1, 2, 0)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"overlay: image must be [H, W], [H, W, 3] or [3, H, W], got shape {array.shape}")
    if array.dtype == np.uint8:
        return array
    return np.rint(np.clip(array.astype(np.float64), 0, 1) * 255).astype(np.uint8)


def heat_colours() -> NDArray[np.float32]:
    """256 heat colours [256, 3] in [0, 255]; the darkest quarter would blacken the photograph, so it is left out."""
    try:
        from matplotlib import colormaps
    except ImportError as e:
        raise ImportError('patchcore_fast.report needs matplotlib: pip install "patchcore_fast[pipeline]"') from e

    return (colormaps[COLOURS](np.linspace(0.25, 1, 256))[:, :3] * 255).astype(np.float32)


def cover_of(level: NDArray[Any]) -> NDArray[Any]:
    """How much of the photograph the heat of a level in [0, 1] covers, in [0, HIDE]."""
    return HIDE * np.sqrt(level) * np.clip(level * 4, 0, 1)


def outline(image: NDArray[np.uint8], mask: Any, width: int = 1) -> NDArray[np.uint8]:
    """Copy of an image [H, W, 3] with the border of a mask [H, W] drawn just outside of it, `width` pixels wide."""
    from scipy import ndimage

    inside = np.asarray(mask, dtype=bool)
    if inside.shape != image.shape[:2]:
        raise ValueError(f"outline: mask must be {image.shape[:2]} like its image, got {inside.shape}")
    drawn = image.copy()
    if inside.any():
        drawn[ndimage.binary_dilation(inside, iterations=width) & ~inside] = OUTLINE
    return drawn


Box = tuple[float, float, float, float]  # left, top, right, bottom, in parts of the picture's width and height


def region_boxes(regions: Any, size: tuple[int, int]) -> list[Box]:
    """Boxes of `regions.Region` in an image of (height, width) `size`, for pictures of any size; none of None."""
    height, width = size
    return [(r.x / width, r.y / height, (r.x + r.width) / width, (r.y + r.height) / height) for r in regions or ()]


def draw_boxes(image: NDArray[np.uint8], boxes: Iterable[Box]) -> NDArray[np.uint8]:
    """Copy of an image [H, W, 3] with a frame just outside of each box; at the edge of the image it lies inside."""
    from PIL import Image, ImageDraw

    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    thick = max(round(max(height, width) / 400), 1)
    for left, top, right, bottom in boxes:
        for grow, least, colour in ((2 * thick, 0, BOX_EDGE), (thick, thick, BOX)):
            x, y = (max(math.floor(a * side) - grow, least) for a, side in ((left, width), (top, height)))
            to = (min(math.ceil(b * side) + grow, side - least) - 1 for b, side in ((right, width), (bottom, height)))
            draw.rectangle((x, y, *(max(a, b) for a, b in zip((x, y), to, strict=True))), outline=colour, width=thick)
    return np.asarray(picture)


def overlay(
    image: Any,  # [H, W] | [H, W, 3] | [3, H, W]
    anomaly_map: Any,  # [H, W]
    *,
    vmin: float,
    vmax: float,
    mask: Any = None,  # [H, W] bool
) -> NDArray[np.uint8]:
    """Photograph with its anomaly map laid over: clear where normal, glowing where not.

    Parameters
    ----------
    image : uint8, or floats in [0, 1].
    anomaly_map : same height and width as the image.
    vmin, vmax : the limits of the scale; use one pair for all pictures that are compared (`shared_scale`).
    mask : outlines this region, the ground truth.

    Returns
    -------
    [H, W, 3] uint8.

    Raises
    ------
    ValueError : shapes that do not fit, or vmax <= vmin.
    """
    if not vmax > vmin:
        raise ValueError(f"overlay: vmax must be above vmin, got {vmin} and {vmax}")
    base = as_rgb(image)
    heat, palette = np.asarray(anomaly_map, dtype=np.float32), heat_colours()
    if heat.shape != base.shape[:2]:
        raise ValueError(f"overlay: anomaly_map must be {base.shape[:2]} like its image, got {heat.shape}")
    result = np.empty_like(base)
    for top in range(0, len(base), BAND):  # in bands: floats of a whole picture take twenty times its own memory
        rows = slice(top, top + BAND)
        level = np.nan_to_num(np.clip((heat[rows] - vmin) / (vmax - vmin), 0, 1), nan=0.0)
        colours = palette[np.rint(level * 255).astype(np.uint8)]
        cover = cover_of(level)[..., None]
        result[rows] = np.rint(base[rows] + (colours - base[rows]) * cover)
    return result if mask is None else outline(result, mask)


def save_png(path: str | os.PathLike[str], image: NDArray[np.uint8]) -> None:
    """Write a [H, W, 3] or [H, W] uint8 picture, whole or not at all."""
    from PIL import Image

    with atomic_write(path) as f:
        # Five times as fast as the default level, and a sixth larger.
        Image.fromarray(image).save(f, format="PNG", compress_level=1)
