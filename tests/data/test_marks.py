"""What a mask file marks, whatever its mode, values and format."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from patchcore_fast.data import ImageDataset, ImageRecord, load_mask, load_truth
from patchcore_fast.errors import DataError

from ..pictures import write_masks, write_photos

MASKS = {
    "0 and 255": ("a.png", lambda m: Image.fromarray(m * 255)),
    "0 and 1": ("a.png", lambda m: Image.fromarray(m)),
    "one bit": ("a.png", lambda m: Image.fromarray(m * 255).convert("1")),
    "palette whose colours are black": ("a.png", lambda m: _painted_black(m)),
    "rgb": ("a.png", lambda m: Image.fromarray(np.stack([m * 255, m * 0, m * 0], 2))),
    "16 bit": ("a.png", lambda m: Image.fromarray(m.astype(np.uint16))),
    "jpeg": ("a.jpg", lambda m: Image.fromarray(m * 255)),
}


def _painted_black(m: np.ndarray) -> Image.Image:
    im = Image.frombytes("P", m.shape[::-1], m.tobytes())
    im.putpalette([0] * 6)
    return im


@pytest.mark.parametrize("kind", MASKS)
def test_masks_are_binary(kind: str, tmp_path: Path) -> None:
    truth = np.zeros((32, 48), np.uint8)
    truth[8:24, 16:40] = 1
    name, make = MASKS[kind]
    make(truth).save(tmp_path / name)
    mask = load_mask(tmp_path / name)
    assert mask.dtype == torch.bool
    assert torch.equal(mask, torch.from_numpy(truth > 0))
    half = load_mask(tmp_path / name, size=(16, 24), crop=(16, 16))
    assert torch.equal(half, torch.from_numpy(truth[::2, ::2] > 0)[:, 4:20])


def _truth() -> np.ndarray:
    im = Image.new("L", (128, 96))
    draw = ImageDraw.Draw(im)
    draw.ellipse((20, 20, 60, 50), fill=1)
    draw.rectangle((80, 60, 100, 90), fill=1)
    return np.asarray(im)


M = _truth()
Z = np.zeros_like(M)
W = Z + 255


def _palette(index: np.ndarray, *colours: tuple[int, int, int], clear: int | None = None) -> Image.Image:
    im = Image.frombytes("P", index.shape[::-1], index.astype(np.uint8).tobytes())
    im.putpalette([v for colour in colours for v in colour])
    if clear is not None:
        im.info["transparency"] = clear
    return im


def _layers(*layers: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack(layers))


def _once_jpeg(pixels: np.ndarray, quality: int) -> Image.Image:
    """A PNG made of a JPEG: the format says lossless, the pixels know better."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).copy()


def _nan(m: np.ndarray) -> Image.Image:
    values = m.astype(np.float32)
    values[0, 0] = np.nan
    return Image.fromarray(values)


def _instances() -> np.ndarray:
    found = Z.copy()
    for i, (y, x) in enumerate(np.ndindex(8, 8)):
        found[12 * y : 12 * y + 8, 16 * x : 16 * x + 10] = i + 1
    return found


BLUE, RED, WHITE, BLACK = (0, 0, 255), (255, 0, 0), (255, 255, 255), (0, 0, 0)
CLASSES = np.where(np.arange(96)[:, None] < 55, M * 85, M * 255)
SMOOTH = Image.fromarray(M * 255).filter(ImageFilter.GaussianBlur(2))
# (file name, image, how many pixels may differ, what it marks where that is not M)
KINDS: dict[str, tuple[str, Image.Image, int, np.ndarray | None]] = {
    "palette, white first": ("a.png", _palette(1 - M, WHITE, BLACK), 0, None),
    "palette of many": ("a.png", _palette(M * 15, *((i, i // 2, i) for i in range(256))), 0, None),
    "palette without black": ("a.png", _palette(M, BLUE, RED), 0, None),
    "clear palette": ("a.png", _palette(M, WHITE, RED, clear=0), 0, None),
    "clear palette, mark first": ("a.png", _palette(1 - M, RED, WHITE, clear=1), 0, None),
    "gif": ("a.gif", Image.fromarray(M * 255), 0, None),
    "tiff of one bit": ("a.tif", Image.fromarray(M * 255).convert("1"), 0, None),
    "class in one channel": ("a.png", _layers(Z, Z, M), 0, None),
    "colours, opaque": ("a.png", _layers(M * 255, Z, Z, W), 0, None),
    "alpha on black": ("a.png", _layers(Z, Z, Z, M * 255), 0, None),
    "alpha on white": ("a.png", _layers(W, W, W, M * 255), 0, None),
    "grey alpha": ("a.png", _layers(W, M * 255), 0, None),
    "painted on clear": ("a.png", _layers(M * 255, Z, Z, M * 128), 0, None),
    "painted on clear white": ("a.png", _layers(W, (1 - M) * 255, (1 - M) * 255, M * 255), 0, None),
    "black paint on clear white": ("a.png", _layers(*[(1 - M) * 255] * 3, M * 255), 0, None),
    "webp alpha": ("a.webp", _layers(W, W, W, M * 255), 0, None),
    "16 bit": ("a.png", Image.fromarray(M.astype(np.uint16) * 300), 0, None),
    "32 bit": ("a.tif", Image.fromarray(M.astype(np.int32)), 0, None), "float with nan": ("a.tif", _nan(M), 0, None),
    "cmyk": ("a.tif", _layers(M * 255, M * 255, M * 255).convert("CMYK"), 0, None),
    "many objects": ("a.png", Image.fromarray(_instances()), 0, _instances() > 0),
    "smooth edges": ("a.png", SMOOTH, 0, np.asarray(SMOOTH) > 0),
    "jpeg class 1": ("a.jpg", Image.fromarray(M), 60, None),
    "jpeg class 3": ("a.jpg", Image.fromarray(M * 3), 60, None),
    "jpeg class 100": ("a.jpg", Image.fromarray(M * 100), 10, None),
    "jpeg red": ("a.jpg", _layers(M * 255, Z, Z), 20, None),
    "jpeg by another name": ("a.png", Image.fromarray(M * 255), 0, None),
    "lossy webp": ("a.webp", Image.fromarray(M * 255), 10, None),
    "lossless webp": ("b.webp", Image.fromarray(M), 0, None),
    "png of a jpeg": ("a.png", _once_jpeg(M * 255, 75), 10, None),
    "png of a fine jpeg": ("a.png", _once_jpeg(M * 255, 95), 10, None),
    "png of a jpeg of classes": ("a.png", _once_jpeg(CLASSES, 50), 20, None),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_mark(kind: str, tmp_path: Path) -> None:
    name, image, off, truth = KINDS[kind]
    more: dict[str, Any] = {"quality": 95} if name.endswith(".jpg") else {"lossless": True} if name == "b.webp" else {}
    more |= {"format": "JPEG"} if kind == "jpeg by another name" else {}
    image.save(tmp_path / name, **more)
    found = load_mask(tmp_path / name).numpy()
    assert (found != ((M if truth is None else truth) > 0)).sum() <= off


def test_a_speck_is_not_lost_when_resized(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[9, 50] = 255
    Image.fromarray(mask).save(tmp_path / "a.png")
    assert load_mask(tmp_path / "a.png", 16).nonzero().tolist() == [[2, 12]]


def test_the_truth_of_a_defect_whose_mask_is_empty_is_not_known(tmp_path: Path) -> None:
    write_photos(tmp_path, "0.png")
    write_masks(tmp_path, "m.png", empty=True)
    record = ImageRecord(tmp_path / "0.png", 1, "crack", tmp_path / "m.png")
    with pytest.warns(UserWarning, match="m.png: marks nothing, but its image is anomalous"):
        assert load_truth(record, (24, 24)) is None
    with pytest.warns(UserWarning, match="marks nothing"):
        assert not ImageDataset([record])[0]["has_mask"]
    normal = ImageRecord(tmp_path / "0.png", 0, "good", tmp_path / "m.png")
    assert ImageDataset([normal])[0]["has_mask"]


def test_a_defect_outside_of_the_crop_is_known(tmp_path: Path) -> None:
    write_photos(tmp_path, "0.png")
    mask = np.zeros((24, 24), np.uint8)
    mask[0, 0] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    item = ImageDataset([ImageRecord(tmp_path / "0.png", 1, "crack", tmp_path / "m.png")], crop=12)[0]
    assert item["has_mask"] and not item["mask"].any()


@pytest.mark.parametrize("asked", ["is_dir", "iterdir"])
def test_a_folder_of_masks_that_cannot_be_read_is_named(tmp_path, monkeypatch, asked):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "crack").mkdir()
    monkeypatch.setattr(Path, asked, refuse)
    with pytest.raises(DataError, match=r"crack: cannot be read as a mask .*Permission denied"):
        load_mask(tmp_path / "crack")


def test_a_mask_whose_name_no_file_can_have_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nnn\.png: cannot be read as a"):
        load_mask(tmp_path / f"{'n' * 300}.png")
