"""The pictures of one test image as layers: photograph, heat and ground truth, for a browser to lay over each other."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcore_fast.files import atomic_write
from patchcore_fast.report.images import OUTLINE, as_rgb, cover_of, heat_colours
from patchcore_fast.report.sheet import Panel

LEVELS = 64  # of heat: a palette of these compresses to a third, and no step is seen
HEAT_SIDE = 192  # pixels: maps are smooth, the browser enlarges them


def write_layers(
    folder: Path,
    name: str,
    panel: Panel,
    vmin: float,
    vmax: float,
    note: Callable[[str], None] = lambda name: None,
) -> dict[str, str | None]:
    """Write NAME_photo.jpg, NAME_heat.png and, with a mask, NAME_mask.png below a folder.

    Parameters
    ----------
    folder : exists; `name` may have sub-folders, which are made.
    panel : photograph, map and mask in one size.
    vmin, vmax : the scale that all images of the set share.
    note : called with the name of each file, relative to `folder`, before it is written.

    Returns
    -------
    {"photo", "heat", "mask"} -> path relative to `folder`, None for the mask of an image that has none.

    Raises
    ------
    ValueError : vmax <= vmin.  OSError : what the file system says.
    """
    from PIL import Image

    if not vmax > vmin:
        raise ValueError(f"write_layers: vmax must be above vmin, got {vmin} and {vmax}")
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    files: dict[str, str | None] = {"photo": f"{name}_photo.jpg", "heat": f"{name}_heat.png", "mask": None}
    has_mask = panel.mask is not None and bool(np.asarray(panel.mask).any())
    if has_mask:
        files["mask"] = f"{name}_mask.png"
    for file in filter(None, files.values()):
        note(file)
    with atomic_write(folder / f"{name}_photo.jpg") as f:
        Image.fromarray(as_rgb(panel.image)).save(f, format="JPEG", quality=82, optimize=True)
    with atomic_write(folder / f"{name}_heat.png") as f:
        _save_palette(f, _heat(panel.anomaly_map, vmin, vmax), *_heat_palette())
    if has_mask:
        with atomic_write(folder / f"{name}_mask.png") as f:
            _save_palette(f, _mask(np.asarray(panel.mask, dtype=bool)), *_mask_palette())
    return files


def heat_png(anomaly_map: Any, vmin: float, vmax: float) -> bytes:
    """The heat of a map [h, w] as a PNG that is laid over its photograph, enlarged to HEAT_SIDE pixels."""
    from PIL import Image

    values = np.asarray(anomaly_map, np.float32)
    size = tuple(max(round(side * HEAT_SIDE / max(values.shape)), 1) for side in values.shape)
    smooth = Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    out = BytesIO()
    _save_palette(out, _heat(np.asarray(smooth), vmin, vmax), *_heat_palette())
    return out.getvalue()


def _heat(anomaly_map: Any, vmin: float, vmax: float) -> NDArray[np.uint8]:
    """[h, w] palette numbers; 0 is clear."""
    from PIL import Image

    level = np.nan_to_num(np.clip((np.asarray(anomaly_map, np.float32) - vmin) / (vmax - vmin), 0, 1), nan=0.0)
    scale = HEAT_SIDE / max(level.shape)
    if scale < 1:
        size = (max(round(level.shape[1] * scale), 1), max(round(level.shape[0] * scale), 1))
        level = np.asarray(Image.fromarray(level).resize(size, Image.Resampling.BILINEAR))
    return np.rint(level * (LEVELS - 1)).astype(np.uint8)


def _heat_palette() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Colours [LEVELS, 3] and opacities [LEVELS] of `overlay`, so that both pictures are the same at full strength."""
    level = np.linspace(0, 1, LEVELS)
    colours = heat_colours()[np.rint(level * 255).astype(int)]
    return np.rint(colours).astype(np.uint8), np.rint(cover_of(level) * 255).astype(np.uint8)


def _mask(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """0 outside, 1 inside, 2 border, 3 a dark line around it: visible on light and dark photographs."""
    from scipy import ndimage

    drawn = mask.astype(np.uint8)
    border = ndimage.binary_dilation(mask, iterations=2)
    drawn[ndimage.binary_dilation(border) & ~mask] = 3
    drawn[border & ~mask] = 2
    return drawn


def _mask_palette() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    colours = np.array([(0, 0, 0), OUTLINE, OUTLINE, (8, 34, 44)], np.uint8)
    return colours, np.array([0, 36, 255, 200], np.uint8)


def _save_palette(file: Any, numbers: NDArray[np.uint8], colours: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> None:
    from PIL import Image

    picture = Image.frombytes("P", (numbers.shape[1], numbers.shape[0]), np.ascontiguousarray(numbers).tobytes())
    picture.putpalette(colours.tobytes())
    picture.save(file, format="PNG", optimize=True, transparency=alpha.tobytes())
