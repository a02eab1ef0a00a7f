"""Images that keep their aspect, or their size: what they become, their masks, and batches of one shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patchcore_fast.data import ImageRecord, load_image, load_mask, load_truth, make_loader, resized_size, scan_images
from patchcore_fast.errors import DataError


@pytest.mark.parametrize(
    ("displayed", "size", "aspect", "becomes"),
    [
        ((50, 70), None, "squash", (50, 70)),
        ((50, 70), 32, "squash", (32, 32)),
        ((50, 70), (20, 30), "squash", (20, 30)),
        ((50, 70), 32, "keep", (32, 44)),
        ((70, 50), 32, "keep", (44, 32)),
        ((10, 10), 32, "keep", (32, 32)),
        ((50, 70), None, "keep", (50, 70)),
    ],
)
def test_resized_size(displayed: tuple[int, int], size: int, aspect: str, becomes: tuple[int, int]) -> None:
    assert resized_size(displayed, size, aspect) == becomes


def test_what_cannot_be_a_size() -> None:
    with pytest.raises(ValueError, match='aspect must be "squash" or "keep", got \'fit\''):
        resized_size((5, 5), 3, "fit")
    with pytest.raises(ValueError, match="takes one side"):
        resized_size((5, 5), (3, 4), "keep")
    with pytest.raises(ValueError, match="would become 256 x 256000"):
        resized_size((1, 1000), 256, "keep")


def test_torchvision_resizes_to_the_same_sides(tmp_path: Path) -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2", reason="torchvision is not installed")
    rng = np.random.default_rng(0)
    for height, width in ((37, 61), (61, 37), (100, 33)):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / "a.png")
        image = load_image(tmp_path / "a.png", 24, 16, "keep")
        with Image.open(tmp_path / "a.png") as im:
            want = transforms.functional.pil_to_tensor(transforms.CenterCrop(16)(transforms.Resize(24)(im)))
        assert torch.equal((image * 255).round().to(torch.uint8), want)


def _write(folder: Path, sizes: list[tuple[int, int]]) -> list[ImageRecord]:
    rng = np.random.default_rng(1)
    for i, (height, width) in enumerate(sizes):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return scan_images(folder)


def test_masks_go_with_their_images(tmp_path: Path) -> None:
    mask = np.zeros((40, 90), np.uint8)
    mask[10:20, 45:60] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    kept = load_mask(tmp_path / "mask.png", 20, None, "keep")
    assert kept.shape == (20, 45) and kept[5:10, 23:30].all() and not kept[:, :22].any()
    assert torch.equal(load_mask(tmp_path / "mask.png"), torch.from_numpy(mask > 0))
    record = ImageRecord(tmp_path / "0.png", 1, "spot", tmp_path / "mask.png")
    _write(tmp_path, [(40, 90)])
    truth = load_truth(record, (20, 45), 20, None, "keep")
    assert truth is not None and torch.equal(truth, kept)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("size", "aspect"), [(16, "keep"), (None, "squash")])
def test_a_batch_ends_where_the_shape_changes(size: int | None, aspect: str, workers: int, tmp_path: Path) -> None:
    sizes = [(32, 64), (32, 64), (32, 64), (48, 32), (32, 64)]
    records = _write(tmp_path, sizes)
    before = torch.get_rng_state()
    batches = list(make_loader(records, size, batch_size=2, workers=workers, aspect=aspect))
    assert torch.equal(torch.get_rng_state(), before)
    assert [b["index"].tolist() for b in batches] == [[0, 1], [2], [3], [4]]
    shapes = [(16, 32), (16, 32), (24, 16), (16, 32)] if size else [(32, 64), (32, 64), (48, 32), (32, 64)]
    assert [tuple(b["image"].shape[2:]) for b in batches] == shapes
    assert [s for b in batches for s in b["size"].tolist()] == [list(s) for s in sizes]


def test_a_broken_image_of_no_known_shape(tmp_path: Path) -> None:
    records = _write(tmp_path, [(32, 64), (32, 64), (32, 64)])
    records[0].path.write_bytes(b"no image")
    whole = records[2].path.read_bytes()
    records[2].path.write_bytes(whole[: len(whole) // 2])  # its header still says the shape
    with pytest.raises(DataError, match=records[0].path.name):
        list(make_loader(records, aspect="keep"))
    batches = list(make_loader(records, 16, batch_size=4, on_error="return", aspect="keep"))
    assert [b["index"].tolist() for b in batches] == [[0], [1, 2]]
    assert [bool(e) for b in batches for e in b["error"]] == [True, False, True]
    assert not batches[0]["image"].any() and not batches[1]["image"][1].any()


def test_a_line_of_pixels_is_refused_by_name(tmp_path: Path) -> None:
    Image.new("L", (2000, 1)).save(tmp_path / "line.png")
    with pytest.raises(DataError, match=r"line.png.*would become 256 x 512000"):
        load_image(tmp_path / "line.png", 256, None, "keep")
