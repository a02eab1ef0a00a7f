"""Images and masks are turned as their files say: size, pixels and mask alike, in every container."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from patchcore_fast.data import ImageDataset, ImageRecord, image_size, load_image, load_mask

TURN: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}  # fmt: skip


def _stored() -> np.ndarray:
    found = np.zeros((24, 40), np.uint8)
    found[2:9, 3:14] = found[20:22, 30:38] = 255
    return found


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def _plain_tiff(path: Path, pixels: np.ndarray, orientation: int) -> None:
    """Uncompressed in one strip: what Pillow would map into memory."""
    (h, w), c = pixels.shape[:2], 1 if pixels.ndim == 2 else 3
    tags = [(256, 4, w), (257, 4, h), (258, 3, 8), (259, 3, 1), (262, 3, 1 if c == 1 else 2), (273, 4, 8),
            (274, 3, orientation), (277, 3, c), (278, 4, h), (279, 4, pixels.size)]  # fmt: skip
    table = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", t, k, 1, v) for t, k, v in tags)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + pixels.size) + pixels.tobytes() + table + b"\0\0\0\0")


def _late_png(path: Path, pixels: np.ndarray, orientation: int) -> None:
    """The orientation behind the pixels, where some tools write it."""
    Image.fromarray(pixels).save(path, exif=_exif(orientation))
    raw = path.read_bytes()
    start, end = raw.index(b"eXIf") - 4, raw.index(b"IEND") - 4
    size = struct.unpack(">I", raw[start : start + 4])[0] + 12
    path.write_bytes(raw[:start] + raw[start + size : end] + raw[start : start + size] + raw[end:])


def _xmp_png(path: Path, pixels: np.ndarray, orientation: int) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", f'<rdf:Description tiff:Orientation="{orientation}"/>')
    Image.fromarray(pixels).save(path, pnginfo=info)


WRITE: dict[str, Callable[[Path, np.ndarray, int], None]] = {
    "grey.tif": _plain_tiff,
    "rgb.tif": lambda p, a, o: _plain_tiff(p, np.dstack([a] * 3), o),
    "lzw.tif": lambda p, a, o: Image.fromarray(a).save(p, compression="tiff_lzw", tiffinfo={274: o}),
    "deflate.tif": lambda p, a, o: Image.fromarray(a).save(p, compression="tiff_adobe_deflate", tiffinfo={274: o}),
    "a.jpg": lambda p, a, o: Image.fromarray(a).save(p, exif=_exif(o), quality=100),
    "a.png": lambda p, a, o: Image.fromarray(a).save(p, exif=_exif(o)),
    "late.png": _late_png,
    "xmp.png": _xmp_png,
    "a.webp": lambda p, a, o: Image.fromarray(a).convert("RGB").save(p, exif=_exif(o), lossless=True),
}


@pytest.mark.parametrize("orientation", TURN)
@pytest.mark.parametrize("kind", WRITE)
def test_size_image_and_mask_are_those_displayed(kind: str, orientation: int, tmp_path: Path) -> None:
    path, want = tmp_path / kind, TURN[orientation](_stored())
    WRITE[kind](path, _stored(), orientation)
    image, mask = load_image(path).numpy(), load_mask(path).numpy()
    assert image_size(path) == image.shape[1:] == mask.shape == want.shape
    assert np.abs(image[0] * 255 - want).max() < 60 and (mask == (want > 0)).all()
    assert tuple(ImageDataset([ImageRecord(path)], 16)[0]["size"].tolist()) == want.shape
