"""Which pixels of a mask file are marked, whatever its mode, its values and the format that it once had."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

LOSSY = frozenset(("JPEG", "MPO", "AVIF"))  # formats that blur; of WebP its header tells, of the others the pixels
NEAR, SIDE, MOST = 24, 3, 0.65  # of `_blurred`: values around a class, how many of them, share of what is no class
CLASSES, AREA = 5, 0.005  # even areas of a lossy mask at most, and the share of the image that makes one
FAINT = 0.3  # of the largest value: an even area below is noise of the compression and no class
FEW_GREYS = 32  # a drawing has no more


def marked(im: Image.Image, lossy: bool = False) -> np.ndarray:
    """The anomalous pixels of a loaded mask, [H, W] bool.

    - Grey, 16-bit, 32-bit and float values count when they are not 0; of colours, any channel that is not 0.
    - A palette counts by colour; by index where index 0 is black, or all colours are the same: classes may well be
      painted black.
    - Where alpha varies, transparent pixels are background; if all that can be seen is of one kind (drawn in alpha
      alone: on white, on black, in one colour), it is the mark.
    - Values that a lossy compression has blurred (JPEG always; else by the pixels, so that a PNG made of a JPEG
      counts too) are marked above half of the lowest class, for zero is no longer zero.

    lossy : the file is known to be so, though its format need not be.
    """
    if im.mode == "1" or im.mode == "F" or im.mode.startswith("I"):
        values = np.asarray(im)
        return np.asarray((values != 0) & (values == values))  # NaN marks nothing
    lossy = lossy or im.format in LOSSY
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


def may_be_mask(im: Image.Image) -> bool:
    """Whether an image that is called like a mask can be one: it looks drawn, or is mostly even, with much black.

    Photographs that only have such a name (of a label, of a face mask) are not.
    """
    if looks_drawn(im):
        return True
    level = np.asarray(im.convert("RGB")).max(2)
    if len(np.unique(level)) <= 2:
        return True
    even = _even(level)
    return bool((even & (level == 0)).mean() >= 0.2 and even.mean() >= 0.5)


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
    # Compression leaves even areas even, and what it smears lies along edges.
    top = float(level.max())
    areas = level[_even(level) & (level > FAINT * top)]
    return (float(np.quantile(areas, 0.01)) if areas.size else top) / 2


def _even(level: np.ndarray) -> np.ndarray:
    """Pixels that are like all their neighbours, [H, W] bool."""
    im = Image.fromarray(level)
    low, high = (np.asarray(im.filter(kind(3))) for kind in (ImageFilter.MinFilter, ImageFilter.MaxFilter))
    return np.asarray(low == high)


def _blurred(level: np.ndarray) -> bool:
    """Whether values are those that a lossy compression leaves of a mask: a few even areas (classes), and what is left
    hugs their values and the brightest from both sides.

    Edges that were drawn smooth spread over all values between, and so do the numbers of many classes.
    """
    im = Image.fromarray(level)
    counts = np.asarray(im.histogram())
    top = int(level.max())
    if top < 128 or not counts[1:top].any():
        return False
    areas = np.asarray(im.histogram(Image.fromarray(_even(level).astype(np.uint8))))
    classes = np.flatnonzero(areas >= AREA * level.size)
    if len(classes) > CLASSES:
        return False
    left = counts.copy()
    left[classes] = left[0] = left[top] = 0
    low, high = left[1 : NEAR + 1], left[top - NEAR : top]
    if min((low > 0).sum(), (high > 0).sum()) < SIDE:
        return False
    ends = np.append(classes, (0, top))
    near = np.abs(np.arange(256)[:, None] - ends).min(1) <= NEAR
    return bool(left[near].sum() >= MOST * left.sum())
