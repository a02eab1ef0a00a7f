"""Which pixels of a mask file are marked, whatever its mode, its values and the format that it once had."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

LOSSY = frozenset(("JPEG", "MPO"))  # formats that always blur; of the others the pixels tell
NEAR, SIDE, MOST = 24, 8, 0.7  # of `_blurred`
FAINT = 0.15  # of the largest value: a flat area below is noise of the compression and no class
FEW_GREYS = 32  # a drawing has no more


def marked(im: Image.Image) -> np.ndarray:
    """The defective pixels of a loaded mask, [H, W] bool.

    - Grey, 16-bit, 32-bit and float values count when they are not 0; of colours, any channel that is not 0.
    - A palette counts by colour; by index where index 0 is black, or all colours are the same: classes may well be
      painted black.
    - Where alpha varies, transparent pixels are background; if all that can be seen is of one kind (drawn in alpha
      alone: on white, on black, in one colour), it is the mark.
    - Values that a lossy compression has blurred (JPEG always; else by the pixels, so that a PNG made of a JPEG
      counts too) are marked above half of the lowest class, for zero is no longer zero.
    """
    if im.mode == "1" or im.mode == "F" or im.mode.startswith("I"):
        values = np.asarray(im)
        return np.asarray((values != 0) & (values == values))  # NaN marks nothing
    lossy = im.format in LOSSY
    alpha = None
    if im.mode in ("P", "PA"):
        if "transparency" not in im.info and im.mode == "P" and (indexed := _by_index(im)) is not None:
            return indexed
        im = im.convert("RGBA")
    elif "transparency" in im.info and im.mode in ("L", "RGB"):
        im = im.convert("RGBA")
    elif im.mode in ("La", "RGBa"):
        im = im.convert("LA" if im.mode == "La" else "RGBA")
    elif im.mode not in ("L", "LA", "RGB", "RGBA"):
        im = im.convert("RGB")
    level = np.asarray(im)
    if im.mode in ("LA", "RGBA"):
        alpha, level = level[..., -1], level[..., :-1]
    if level.ndim == 3:
        level = level.max(2)
    drawn = level > _floor(level, lossy)
    if alpha is None or alpha.min() == alpha.max():
        return drawn
    seen = alpha > _floor(alpha, False)
    inside = drawn[seen]
    return seen if inside.all() or not inside.any() else seen & drawn


def looks_drawn(im: Image.Image) -> bool:
    """Whether an image has the look of a mask: black and one value more, or few values in large even areas."""
    im.load()
    if im.mode == "1":
        return True
    if im.mode in ("RGBA", "LA", "PA") or "transparency" in im.info:
        alpha = im.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            return _greys(alpha) <= 2
    if im.mode == "F" or im.mode.startswith("I"):
        values = np.unique(np.asarray(im))
        return bool(len(values) <= 2 and values[0] == 0)
    grey = im.convert("RGB").convert("L") if im.mode != "L" else im
    count = _greys(grey)
    level = np.asarray(grey)
    if count <= 2:
        return bool(level.min() == 0 or level.min() == 255)
    if im.format in LOSSY or count > FEW_GREYS:
        return _blurred(level)
    # Four greys of a flat photograph are noise: neighbours differ. Areas of a drawing are even.
    steps = (level[:, 1:] != level[:, :-1]).mean() if level.shape[1] > 1 else 0.0
    return bool(steps < 0.02 and level.min() == 0)


def _greys(im: Image.Image) -> int:
    return sum(n > 0 for n in im.histogram()[:256])


def _by_index(im: Image.Image) -> np.ndarray | None:
    """Marks of a palette image by index; None where the colours say it better."""
    index = np.asarray(im)
    colours = np.asarray(im.getpalette("RGB") or [0, 0, 0], dtype=np.uint8).reshape(-1, 3)
    used = np.unique(index)
    shown = np.zeros((256, 3), np.uint8)
    shown[: len(colours)] = colours[:256]
    black = ~shown[used].any(1)
    if not shown[0].any() or black.all() or not black.any():
        return np.asarray(index != 0)
    return None


def _floor(level: np.ndarray, lossy: bool) -> float:
    """The value above which a pixel is marked."""
    if not (lossy or _blurred(level)):
        return 0.0
    top = float(level.max())
    # Compression leaves even areas even, and what it smears lies along edges.
    im = Image.fromarray(level)
    low, high = (np.asarray(im.filter(f(3))) for f in (ImageFilter.MinFilter, ImageFilter.MaxFilter))
    even = level[(high.astype(np.int16) - low <= 1) & (level > max(FAINT * top, 0.5))]
    return min(float(np.quantile(even, 0.01)), top) / 2 if even.size else top / 2


def _blurred(level: np.ndarray) -> bool:
    """Whether nearly all values between black and the brightest hug one of the two, as a lossy compression leaves them.

    Edges that were drawn smooth spread over all values between, and so do the numbers of many classes.
    """
    counts = np.bincount(level.reshape(-1), minlength=256)
    top = int(level.max())
    between = counts[1:top]
    if top < 128 or not between.any():
        return False
    low, high = counts[1 : NEAR + 1], counts[top - NEAR : top]
    if min((low > 0).sum(), (high > 0).sum()) < SIDE:
        return False
    ends = counts[: NEAR + 1].sum() + counts[top - NEAR :].sum()
    return bool(low.sum() + high.sum() >= MOST * between.sum() and ends >= 0.9 * level.size)
