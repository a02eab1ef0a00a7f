"""One file to one tensor, for every mode and bit depth Pillow reads."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from patchcore_fast.data.conventions import is_image_name
from patchcore_fast.data.marks import marked
from patchcore_fast.errors import DataError

_ALPHA_MODES = frozenset(("LA", "La", "PA", "RGBA", "RGBa"))
_WIDTH, _LENGTH, _ORIENTATION, _XMP = 256, 257, 274, 700  # TIFF and EXIF tags
_SIDEWAYS = frozenset((5, 6, 7, 8))  # EXIF orientations that swap height and width

NEAREST = Image.Resampling.NEAREST

Size = int | tuple[int, int]
LONGEST = 32_768  # pixels of a side that keeping the aspect may make: a line of pixels would take all memory


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) as displayed: the shape that `load_image` and `load_mask` give. From the header alone.

    DataError when unreadable.
    """
    with opened(path) as im:
        return displayed_size(im)


def displayed_size(im: Image.Image) -> tuple[int, int]:
    """(height, width) of an opened image once it is upright, whether this Pillow turns its format itself or not."""
    width, height = im.size
    if im.format == "TIFF":
        # Newer versions of Pillow turn `size` when a file is opened, older ones when it is loaded.
        tags = im.tag_v2  # type: ignore[attr-defined]
        if _XMP in tags and _ORIENTATION not in tags:  # whether that counts depends on the version
            im.load()
            return im.height, im.width
        width, height = int(tags[_WIDTH]), int(tags[_LENGTH])
        turned = tags.get(_ORIENTATION)
    elif im.format == "PNG":
        if _late_chunks(im.fp):  # type: ignore[attr-defined]
            im.load()
        turned = Image.Image.getexif(im).get(_ORIENTATION)  # PNG's own would decode the whole image first
    else:
        turned = im.getexif().get(_ORIENTATION)
    return (width, height) if turned in _SIDEWAYS else (height, width)


def _late_chunks(file: Any) -> bool:
    """Whether a PNG has chunks behind its pixels, where its orientation might be. The position is kept."""
    start = file.tell()
    try:
        file.seek(8)
        seen = False
        while len(head := file.read(8)) == 8:
            kind = head[4:]
            if kind == b"IDAT":
                seen = True
            elif kind == b"IEND":
                return False
            elif seen:
                return True
            file.seek(struct.unpack(">I", head[:4])[0] + 4, os.SEEK_CUR)
        return False
    finally:
        file.seek(start)


def resized_size(displayed: tuple[int, int], size: Size | None, aspect: str = "squash") -> tuple[int, int]:
    """(height, width) to which an image that is displayed at (height, width) is resized, before a crop.

    Parameters
    ----------
    size : a side or (height, width); None keeps the image's own.
    aspect : "squash" for exactly `size`. "keep" makes the shorter side `size`, which must be one side, and the longer
        one follows, rounded down (torchvision.transforms.Resize(side)).

    Raises
    ------
    ValueError : another aspect, two sides to keep it with, or a longer side beyond LONGEST.
    """
    if aspect not in ("squash", "keep"):
        raise ValueError(f'load_image: aspect must be "squash" or "keep", got {aspect!r}')
    target = _pair("size", size)
    if target is None:
        return displayed
    if aspect == "squash":
        return target
    if target[0] != target[1]:
        raise ValueError(f'load_image: aspect="keep" takes one side, got {size!r}')
    side, (height, width) = target[0], displayed
    longer = side * max(height, width) // min(height, width)
    if longer > LONGEST:
        raise ValueError(f"load_image: {height} x {width} pixels would become {side} x {longer}, {LONGEST} at most")
    return (side, longer) if height <= width else (longer, side)


def load_image(
    path: str | os.PathLike[str], size: Size | None = None, crop: Size | None = None, aspect: str = "squash"
) -> torch.Tensor:
    """Read an image file as [3, H, W] float32 in [0, 1], turned as its EXIF says.

    Grey is repeated on three channels; 16-bit grey is divided by 65,535; float images must lie in [0, 1]
    already; palette, CMYK and other colour spaces become RGB; transparent pixels are laid on white; of
    several frames the first is taken.

    Parameters
    ----------
    size, aspect : see `resized_size`; resized with Pillow's antialiased bilinear filter.
    crop : a side or (height, width); the centre of the resized image.

    Raises
    ------
    DataError : missing, broken or truncated file, or values of no known scale; names the file.
    TypeError, ValueError : size or crop is no size, or the crop is larger than the image.
    """
    return load_sized(path, size, crop, aspect)[0]


def load_sized(
    path: str | os.PathLike[str], size: Size | None = None, crop: Size | None = None, aspect: str = "squash"
) -> tuple[torch.Tensor, tuple[int, int]]:
    """`load_image`, and the file's own (height, width) as displayed."""
    box = _pair("crop", crop)
    resized_size((1, 1), size, aspect)  # an argument that is wrong is no fault of the file
    with opened(path) as im:
        upright = _upright(im)
        displayed = upright.height, upright.width
        array = _pixels(upright, path, resized_size(displayed, size, aspect))
    array = _centre(array, box)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1))), displayed


def load_mask(
    path: str | os.PathLike[str], size: Size | None = None, crop: Size | None = None, aspect: str = "squash"
) -> torch.Tensor:
    """Read a mask as [H, W] bool: True where the image is anomalous (see `marks.marked` for what counts as that).

    A folder is a mask in several files (MVTec LOCO), which are joined. Resized with nearest neighbour, so that no
    pixel is half anomalous; a defect too small to be met by any sample keeps the pixels that it falls into. Parameters
    and errors as `load_image`.
    """
    box = _pair("crop", crop)
    resized_size((1, 1), size, aspect)
    mask = mask_pixels(Path(path))
    target = resized_size(mask.shape, size, aspect)
    if target != mask.shape:
        small = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(target[::-1], NEAREST)) > 0
        if mask.any() and not small.any():
            rows, columns = mask.nonzero()
            small[rows * target[0] // mask.shape[0], columns * target[1] // mask.shape[1]] = True
        mask = small
    return torch.from_numpy(np.ascontiguousarray(_centre(mask, box)))


def mask_files(path: Path) -> list[Path]:
    """The files of a mask: itself, or those of a folder. DataError: a folder that cannot be read or has none."""
    try:
        if not path.is_dir():
            return [path]
        files = sorted(p for p in path.iterdir() if is_image_name(p.name))
    except OSError as error:
        raise DataError(f"{path}: cannot be read as a mask ({reason(error)})") from error
    if not files:
        raise DataError(f"{path}: a folder for a mask, without an image in it")
    return files


def mask_pixels(path: Path) -> np.ndarray:
    """[H, W] bool at the size of the file."""
    whole: np.ndarray | None = None
    for file in mask_files(path):
        with opened(file) as im:
            mask = marked(_upright(im), im.format == "WEBP" and _lossy_webp(file))
        if whole is not None and whole.shape != mask.shape:
            raise DataError(f"{file}: {mask.shape} is not the size of the other masks of its folder, {whole.shape}")
        whole = mask if whole is None else whole | mask
    assert whole is not None
    return whole


def _lossy_webp(path: Path) -> bool:
    """Whether a WebP file's first picture is in the lossy coding ("VP8 ", not "VP8L")."""
    with open(path, "rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            if head[:4] in (b"VP8 ", b"VP8L"):
                return head[:4] == b"VP8 "
            size = struct.unpack("<I", head[4:])[0]
            # Frames of an animation hold their picture behind 16 bytes of their own; chunks are padded to even sizes.
            file.seek(16 if head[:4] == b"ANMF" else size + size % 2, os.SEEK_CUR)
    return True


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open with Pillow; what goes wrong inside the block becomes a DataError, or a MemoryError, that names the file.

    By a file object: of a path Pillow maps uncompressed files into memory, and some versions map a turned TIFF with its
    sides exchanged (Pillow #7381).
    """
    sides = ""
    try:
        with open(path, "rb") as file, Image.open(file) as im:
            sides = f" for {im.width:,} x {im.height:,} pixels"
            yield im
    except FileNotFoundError:
        raise DataError(f"{os.fspath(path)}: no such file") from None
    except DataError:
        raise
    except MemoryError as error:
        raise MemoryError(f"{os.fspath(path)}: out of memory{sides}") from error
    except Exception as error:  # decoders of broken files raise anything: OSError, SyntaxError, struct.error, ...
        raise DataError(f"{os.fspath(path)}: cannot be read as an image ({reason(error)})") from error


def reason(error: BaseException | None) -> str:
    """What a decoder had to say, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "of no format that is known"  # Pillow's text only repeats the path
    return " ".join(f"{type(error).__name__}: {error}".split())


def _upright(im: Image.Image) -> Image.Image:
    """Loaded and turned, with the format that it had in its file."""
    im.load()
    if im.format == "TIFF":  # turned by Pillow while loading; not all versions then forget the tag
        return im
    if im.getexif().get(_ORIENTATION, 1) == 1:
        return im  # exif_transpose would copy it, and a large image twice is twice the memory
    upright = ImageOps.exif_transpose(im)
    upright.format = im.format
    return upright


def _pixels(im: Image.Image, path: str | os.PathLike[str], size: tuple[int, int]) -> np.ndarray:
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
            mode = "L" if im.mode in ("1", "L") else "RGB"
            im = im if im.mode == mode else im.convert(mode)  # which would copy one that is
    if im.size != size[::-1]:
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
