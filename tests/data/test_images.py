"""Folders and files: what is found, and that every kind of image becomes the tensor it shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patchcore_fast.data import ImageDataset, ImageRecord, load_image, make_loader, scan, scan_images
from patchcore_fast.errors import DataError
from patchcore_fast.model import PatchCoreConfig
from patchcore_fast.model.batches import batches_of

from ..pictures import write_mvtec


def _palette(transparent: bool) -> Image.Image:
    im = Image.new("P", (6, 4), 1)
    im.putpalette([0, 0, 0, 255, 0, 0])
    im.putpixel((0, 0), 0)
    if transparent:
        im.info["transparency"] = 0
    return im


def _sixteen(value: int) -> Image.Image:
    return Image.fromarray(np.full((4, 6), value, np.uint16))


# (file name, image, colour of the pixel at row 2, column 3, colour at row 0, column 0)
KINDS = {
    "grey": ("a.png", Image.new("L", (6, 4), 51), (0.2, 0.2, 0.2), None),
    "rgb": ("a.png", Image.new("RGB", (6, 4), (255, 51, 0)), (1, 0.2, 0), None),
    "one bit": ("a.png", Image.new("1", (6, 4), 1), (1, 1, 1), None),
    "palette": ("a.png", _palette(False), (1, 0, 0), (0, 0, 0)),
    "transparent palette": ("a.png", _palette(True), (1, 0, 0), (1, 1, 1)),
    "half transparent": ("a.png", Image.new("RGBA", (6, 4), (0, 0, 0, 51)), (0.8, 0.8, 0.8), None),
    "grey with alpha": ("a.png", Image.new("LA", (6, 4), (255, 0)), (1, 1, 1), None),
    "16 bit": ("a.png", _sixteen(13107), (0.2, 0.2, 0.2), None),
    "16 bit tiff": ("a.tif", _sixteen(65535), (1, 1, 1), None),
    "32 bit integer": ("a.tif", Image.new("I", (6, 4), 13107), (0.2, 0.2, 0.2), None),
    "float": ("a.tif", Image.new("F", (6, 4), 0.25), (0.25, 0.25, 0.25), None),
    "cmyk": ("a.tif", Image.new("CMYK", (6, 4), (0, 255, 255, 0)), (1, 0, 0), None),
    "ycbcr": ("a.tif", Image.new("YCbCr", (6, 4), (255, 128, 128)), (1, 1, 1), None),
    "bitmap": ("a.bmp", Image.new("RGB", (6, 4), (0, 51, 255)), (0, 0.2, 1), None),
    "webp": ("a.webp", Image.new("RGB", (6, 4), (255, 255, 255)), (1, 1, 1), None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_mode_becomes_rgb(kind: str, tmp_path: Path) -> None:
    name, image, colour, corner = KINDS[kind]
    image.save(tmp_path / name)
    tensor = load_image(tmp_path / name)
    assert tensor.shape == (3, 4, 6) and tensor.dtype == torch.float32
    assert tensor[:, 2, 3].tolist() == pytest.approx(colour, abs=2e-3)
    if corner is not None:
        assert tensor[:, 0, 0].tolist() == pytest.approx(corner, abs=2e-3)
    assert load_image(tmp_path / name, size=(8, 10)).shape == (3, 8, 10)


def test_sixteen_bits_keep_their_steps(tmp_path: Path) -> None:
    ramp = np.arange(64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    assert torch.equal(load_image(tmp_path / "a.png")[0], torch.from_numpy(ramp.astype(np.float32) / 65535))


def test_resize_and_crop(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (50, 31, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    whole = load_image(tmp_path / "a.png", size=(40, 20))
    assert torch.equal(load_image(tmp_path / "a.png", size=(40, 20), crop=(10, 15)), whole[:, 15:25, 2:17])


def test_scan_mvtec(tmp_path: Path) -> None:
    root = write_mvtec(tmp_path / "set")
    (root / "ground_truth/spot/001_mask.png").rename(root / "ground_truth/spot/001.png")  # the other custom
    (root / "ground_truth/spot/002_mask.png").unlink()
    (root / "train/good/._000.png").write_bytes(b"side file")
    (root / "train/good/notes.txt").write_text("no image")
    found = scan(root)
    assert (found.layout, len(found.train), len(found.test)) == ("mvtec", 6, 6)
    assert [r.label for r in found.test] == [0, 0, 0, 1, 1, 1]
    assert {r.defect for r in found.train} == {"good"} and found.test[-1].defect == "spot"
    assert [r.mask.name if r.mask else None for r in found.test[3:]] == ["000_mask.png", "001.png", None]


@pytest.mark.parametrize("keep", ["train", "test"])
def test_scan_half_a_set(keep: str, tmp_path: Path) -> None:
    root = write_mvtec(tmp_path / "set")
    (root / ("test" if keep == "train" else "train")).rename(tmp_path / "away")
    found = scan(root)
    assert (len(found.train), len(found.test)) == ((6, 0) if keep == "train" else (0, 6))


def test_scan_plain_and_train_without_good(tmp_path: Path) -> None:
    root = write_mvtec(tmp_path / "set")
    plain = scan(root / "test")
    assert plain.layout == "plain" and len(plain.train) == 6 and not plain.test
    for path in (root / "train/good").iterdir():
        path.rename(root / "train" / path.name)
    (root / "train/good").rmdir()
    assert len(scan(root).train) == 6


def test_scan_images(tmp_path: Path) -> None:
    root = write_mvtec(tmp_path / "set")
    everything = scan_images(root)
    assert len(everything) == 12 and all(r.label == -1 for r in everything)  # ground_truth left out
    one = root / "test/spot/000.png"
    record = ImageRecord(one, 1, "spot")
    assert [r.path for r in scan_images([str(one), root / "test/good"])] == [
        one,
        *sorted((root / "test/good").iterdir()),
    ]
    assert scan_images([record]) == [record]
    assert scan_images(one) == [ImageRecord(one)]


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_keeps_order_and_global_random_state(workers: int, tmp_path: Path) -> None:
    found = scan(write_mvtec(tmp_path / "set"))
    before = torch.get_rng_state()
    batches = list(make_loader(found.test, size=32, crop=24, batch_size=4, workers=workers))
    assert torch.equal(torch.get_rng_state(), before)
    assert [b["image"].shape for b in batches] == [(4, 3, 24, 24), (2, 3, 24, 24)]
    assert torch.cat([b["index"] for b in batches]).tolist() == list(range(6))
    assert torch.cat([b["size"] for b in batches]).tolist() == [[64, 64]] * 6
    assert torch.cat([b["has_mask"] for b in batches]).all()
    mask = torch.cat([b["mask"] for b in batches])
    assert mask.dtype == torch.bool and not mask[:3].any() and mask[3:].flatten(1).any(1).all()
    assert torch.equal(batches[0]["image"][0], load_image(found.test[0].path, 32, 24))


def test_a_broken_file_can_be_returned_instead_of_raised(tmp_path: Path) -> None:
    found = scan(write_mvtec(tmp_path / "set"))
    broken, masked = found.test[1], found.test[4]
    broken.path.write_bytes(broken.path.read_bytes()[:300])
    assert masked.mask is not None
    masked.mask.write_bytes(masked.mask.read_bytes()[:60])
    with pytest.raises(DataError, match=broken.path.name):
        list(make_loader(found.test, size=32))
    loader = make_loader(found.test, size=32, crop=(24, 16), batch_size=4, on_error="return")
    items = [{key: value[i] for key, value in b.items()} for b in loader for i in range(len(b["index"]))]
    assert [bool(item["error"]) for item in items] == [i == 1 for i in range(6)]
    assert [bool(item["mask_error"]) for item in items] == [i == 4 for i in range(6)]
    assert broken.path.name in items[1]["error"] and masked.mask.name in items[4]["mask_error"]
    assert items[1]["image"].shape == (3, 24, 16) and not items[1]["image"].any() and items[4]["image"].any()
    assert [bool(item["has_mask"]) for item in items] == [True, False, True, True, False, True]
    batch = next(iter(batches_of(found, PatchCoreConfig(image_size=32), "test", on_error="return")))
    assert [e is None for e in batch.errors] == [i != 1 for i in range(6)] and batch.sizes[1] is None
    assert [e is None for e in batch.mask_errors] == [i != 4 for i in range(6)]


def test_what_to_do_with_a_broken_file_is_checked() -> None:
    with pytest.raises(ValueError, match="on_error"):
        ImageDataset([], size=8, on_error="ignore")
