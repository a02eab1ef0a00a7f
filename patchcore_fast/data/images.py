"""One file to one tensor, for every mode and bit depth Pillow reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from patchcore_fast.errors import DataError

try:
    from PIL import Image, ImageOps
except ImportError as error:
    raise ImportError('patchcore_fast.data needs Pillow: pip install "patchcore_fast[pipeline]"') from error

_ALPHA_MODES = frozenset(("LA", "La", "PA", "RGBA", "RGBa"))
_ORIENTATION = 0x0112
_SIDEWAYS = frozenset((5, 6, 7, 8))  # EXIF orientations that swap height and width

Size = int | tuple[int, int]


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) as displayed, from the header alone. DataError when unreadable."""
    with _opened(path) as im:
        width, height = im.size
        return (width, height) if im.getexif().get(_ORIENTATION) in _SIDEWAYS else (height, width)


def load_image(path: str | os.PathLike[str], size: Size | None = None, crop: Size | None = None) -> torch.Tensor:
    """Read an image file as [3, H, W] float32 in [0, 1], turned as its EXIF says.

    Grey is repeated on three channels; 16-bit grey is divided by 65,535; float images must lie in [0, 1]
    already; palette, CMYK and other colour spaces become RGB; transparent pixels are laid on white; of
    several frames the first is taken.

    Parameters
    ----------
    size : a side or (height, width); resized with Pillow's antialiased bilinear filter, the aspect is not
        kept.
    crop : a side or (height, width); the centre of the resized image.

    Raises
    ------
    DataError : missing, broken or truncated file, or values of no known scale; names the file.
    TypeError, ValueError : size or crop is no size, or the crop is larger than the image.
    """
    target, box = _pair("size", size), _pair("crop", crop)
    with _opened(path) as im:
        array = _pixels(_upright(im), path, target)
    array = _centre(array, box)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def load_mask(path: str | os.PathLike[str], size: Size | None = None, crop: Size | None = None) -> torch.Tensor:
    """Read a mask as [H, W] bool: non-zero pixels are defective (in JPEG, which blurs zero, those above 127).

    Resized with nearest neighbour, so that no pixel is half defective. Parameters and errors as `load_image`.
    """
    target, box = _pair("size", size), _pair("crop", crop)
    with _opened(path) as im:
        floor = 127 if im.format == "JPEG" else 0
        im = _upright(im)
        # A palette or label image counts by its index: class 3 may well be painted black.
        if im.mode not in ("P", "L", "1", "F") and not im.mode.startswith("I"):
            im = im.convert("RGB").convert("L")
        mask = np.asarray(im).astype(np.float32) > floor
    if target is not None:
        small = Image.fromarray(mask.astype(np.uint8) * 255).resize(target[::-1], Image.Resampling.NEAREST)
        mask = np.asarray(small) > 0
    return torch.from_numpy(np.ascontiguousarray(_centre(mask, box)))


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open with Pillow; what goes wrong inside the block becomes a DataError that names the file."""
    try:
        with Image.open(path) as im:
            yield im
    except FileNotFoundError:
        raise DataError(f"{os.fspath(path)}: no such file") from None
    except (DataError, MemoryError):
        raise
    except Exception as error:  # decoders of broken files raise anything: OSError, SyntaxError, struct.error, ...
        raise DataError(f"{os.fspath(path)}: cannot be read as an image ({type(error).__name__}: {error})") from error


def _upright(im: Image.Image) -> Image.Image:
    im.load()
    return ImageOps.exif_transpose(im)


def _pixels(im: Image.Image, path: str | os.PathLike[str], size: tuple[int, int] | None) -> np.ndarray:
    """[H, W] or [H, W, 3] float32 in [0, 1], resized."""
    if im.mode == "F" or im.mode.startswith("I"):
        array = np.asarray(im).astype(np.float32)
        top = 1.0 if im.mode == "F" else 65535.0
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > top:
            raise DataError(
                f"{os.fspath(path)}: mode {im.mode} with values outside [0, {top:g}], their scale is not known"
            )
        im, scale = Image.fromarray(array), np.float32(top)
    else:
        scale = np.float32(255)
        if im.mode in _ALPHA_MODES or "transparency" in im.info:
            rgba = im.convert("RGBA")
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            im = Image.alpha_composite(white, rgba).convert("RGB")
        else:
            im = im.convert("L" if im.mode in ("1", "L") else "RGB")
    if size is not None and im.size != size[::-1]:
        im = im.resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(im, dtype=np.float32) / scale


def _centre(array: np.ndarray, box: tuple[int, int] | None) -> np.ndarray:
    if box is None:
        return array
    height, width = array.shape[:2]
    if box[0] > height or box[1] > width:
        raise ValueError(f"load_image: crop {box[0]} x {box[1]} is larger than the image, {height} x {width}")
    top, left = round((height - box[0]) / 2), round((width - box[1]) / 2)
    return array[top : top + box[0], left : left + box[1]]


def _pair(name: str, value: Size | None) -> tuple[int, int] | None:
    if value is None:
        return None
    sides = (value, value) if isinstance(value, int) else value
    if isinstance(value, bool) or len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise TypeError(f"load_image: {name} must be an integer or (height, width), got {value!r}")
    if min(sides) < 1:
        raise ValueError(f"load_image: {name} must be at least 1 pixel, got {value!r}")
    return sides[0], sides[1]
