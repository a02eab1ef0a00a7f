"""Masks and images: who belongs to whom, what is ambiguous, and that no mask is taken for a photograph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from patchcore_fast.data import load_mask, scan, scan_images
from patchcore_fast.data.conventions import CONVENTIONS

from ..pictures import quiet_scan, write_masks, write_photos

GOOD = ("train/good/000.png", "test/good/000.png")


def _pairs(root: Path) -> dict[str, str | None]:
    """Anomalous image -> mask, relative to the set."""
    return {r.path.relative_to(root / "test").as_posix(): r.mask and r.mask.relative_to(root).as_posix()
            for r in quiet_scan(root).test if r.label == 1}  # fmt: skip


def _kinds(root: Path) -> set[str]:
    return {f.kind for f in quiet_scan(root).summary.findings if f.is_warning}


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("crack/000.png", "ground_truth/crack/000_mask.png"), ("crack/000.PNG", "ground_truth/crack/000_mask.PNG"),
        ("crack/000.png", "ground_truth/crack/000.BMP"), ("crack/000.png", "ground_truth/crack/000_MASK.tif"),
        ("crack/000.jpg", "ground_truth/crack/000_gt.png"), ("crack/000.png", "ground_truth/crack/000-mask.png"),
        ("crack/000.png", "ground_truth/crack/000.mask.png"), ("crack/000.png", "ground_truth/crack/mask_000.png"),
        ("crack/000.png", "Ground_Truth/CRACK/000_mask.webp"), ("Crack/A1.png", "ground_truth/crack/a1_mask.png"),
        ("crack/000.png", "groundtruth/crack/000.png"), ("crack/000.png", "ground_truth/test/crack/000.png"),
        ("crack/000.png", "masks/crack/000.png"), ("crack/000.png", "test/crack/masks/000.png"),
        ("crack/000.png", "test/masks/crack/000.png"), ("crack/images/000.png", "test/crack/masks/000.png"),
        ("crack/rgb/000.png", "test/crack/gt/000.png"), ("crack/img/000.png", "test/crack/label/000.png"),
        ("crack/0576.PNG", "test/crack/Label/0576_label.PNG"),
        ("crack/cam1/000.png", "ground_truth/crack/cam1/000_mask.png"), ("crack/000.png", "test/crack/000_mask.png"),
        ("crack/000.png", "test/crack/000_GT.png"), ("crack/Part0.jpg", "test/crack/Part0_label.bmp"),
        ("crack/000_rgb.png", "test/crack/000_mask.png"), ("crack/000.jpg", "test/crack/000.png"),
        ("crack/000.jpg", "ground_truth/crack/000.jpg.png"),
    ],
)  # fmt: skip
def test_known_conventions(image: str, mask: str, tmp_path: Path) -> None:
    write_photos(tmp_path, *GOOD, f"test/{image}")
    write_masks(tmp_path, mask)
    assert _pairs(tmp_path) == {image: mask}
    found = quiet_scan(tmp_path)
    assert found.summary.masks == 1 and not found.summary.warnings
    assert [p.path.relative_to(tmp_path).as_posix() for p in scan_images(tmp_path)] == sorted((*GOOD, f"test/{image}"))


def test_every_convention_has_a_source() -> None:
    assert all(c.source and c.example for c in CONVENTIONS)


def test_files_of_a_folder_are_joined(tmp_path: Path) -> None:
    write_photos(tmp_path, *GOOD, "test/crack/000.png", "test/crack/001.png")
    write_masks(tmp_path, "ground_truth/crack/000/000.png", "ground_truth/crack/000/001.png")
    write_masks(tmp_path, "ground_truth/crack/001/000.png")
    assert _pairs(tmp_path) == {"crack/000.png": "ground_truth/crack/000", "crack/001.png": "ground_truth/crack/001"}
    parts = [load_mask(p) for p in sorted((tmp_path / "ground_truth/crack/000").iterdir())]
    joined = load_mask(tmp_path / "ground_truth/crack/000")
    assert joined.equal(parts[0] | parts[1]) and not joined.equal(parts[0])


def test_no_mask_of_a_namesake(tmp_path: Path) -> None:
    names = ("crack/000", "crack/cam1/000", "crack/cam2/000", "crack/cam3/000", "spot/000")
    write_photos(tmp_path, *GOOD, *(f"test/{n}.png" for n in names))
    write_masks(tmp_path, *(f"ground_truth/{n}_mask.png" for n in names[:3]))
    want: dict[str, str | None] = {f"{n}.png": f"ground_truth/{n}_mask.png" for n in names[:3]}
    assert _pairs(tmp_path) == want | {"crack/cam3/000.png": None, "spot/000.png": None}
    assert _kinds(tmp_path) == {"mask missing"}


def test_one_mask_for_two_images_is_for_none(tmp_path: Path) -> None:
    write_photos(tmp_path, *GOOD, "test/crack/000.png", "test/crack/000.jpg", "test/crack/001.png")
    write_masks(tmp_path, "ground_truth/crack/000_mask.png", "ground_truth/crack/001_mask.png")
    assert _pairs(tmp_path) == {"crack/000.png": None, "crack/000.jpg": None,
                                "crack/001.png": "ground_truth/crack/001_mask.png"}  # fmt: skip
    with pytest.warns(UserWarning, match="1 mask fits several images.*000_mask.png"):
        scan(tmp_path)


def test_names_that_differ_in_case_keep_their_own(tmp_path: Path) -> None:
    write_photos(tmp_path, *GOOD, "test/crack/a.png", "test/crack/A.png")
    if len(list((tmp_path / "test/crack").iterdir())) < 2:
        pytest.skip("this file system does not tell case")
    write_masks(tmp_path, "ground_truth/crack/a_mask.png", "ground_truth/crack/A_mask.png")
    assert _pairs(tmp_path) == {f"crack/{n}.png": f"ground_truth/crack/{n}_mask.png" for n in "aA"}


def test_a_mask_that_fits_but_for_case_gives_way_and_is_named(tmp_path: Path) -> None:
    write_photos(tmp_path, *GOOD, "test/crack/0.png")
    write_masks(tmp_path, "ground_truth/crack/0_mask.png", "ground_truth/Crack/0_mask.png")
    if len(list((tmp_path / "ground_truth").iterdir())) < 2:
        pytest.skip("this file system does not tell case")
    assert _pairs(tmp_path) == {"crack/0.png": "ground_truth/crack/0_mask.png"}
    with pytest.warns(UserWarning, match=r"1 mask belongs to no image: ground_truth/Crack/0_mask.png"):
        scan(tmp_path)


def test_several_masks_count_only_when_they_agree(tmp_path: Path) -> None:
    write_photos(tmp_path, *GOOD, "test/crack/000.png", "test/crack/001.png")
    write_masks(tmp_path, "ground_truth/crack/000_mask.png", "ground_truth/crack/000.png")
    write_masks(tmp_path, "ground_truth/crack/001_mask.png")
    Image.open(tmp_path / "ground_truth/crack/001_mask.png").save(tmp_path / "ground_truth/crack/001.bmp")
    found = _pairs(tmp_path)
    assert found["crack/000.png"] is None and found["crack/001.png"] is not None
    with pytest.warns(UserWarning, match=r"1 image has several masks that differ.*000.png \(000.png, 000_mask.png\)"):
        scan(tmp_path)


def test_a_mask_without_an_image_and_an_image_without_a_mask_are_said(tmp_path: Path) -> None:
    write_photos(tmp_path, *GOOD, "test/crack/000.png", "test/crack/001.png")
    write_masks(tmp_path, "ground_truth/crack/000_mask.png", "ground_truth/crack/7_mask.png")
    with pytest.warns(UserWarning) as said:
        scan(tmp_path)
    lines = [str(w.message) for w in said]
    assert any("1 mask belongs to no image: ground_truth/crack/7_mask.png" in line for line in lines)
    assert any("1 anomalous image has no mask, while others have: test/crack/001.png" in line for line in lines)


def test_folder_with_the_name_of_masks_may_hold_photographs(tmp_path: Path) -> None:
    write_photos(tmp_path, *GOOD, "test/label/000.png", "test/mask/000.png", "test/mask/x_mask.png")
    assert {r.defect for r in quiet_scan(tmp_path).test} == {"good", "label", "mask"}
    assert len(scan_images(tmp_path / "test")) == 4
    assert not _kinds(tmp_path)


def test_photographs_that_are_called_like_masks_stay_images_and_are_named(tmp_path: Path) -> None:
    write_photos(
        tmp_path, *GOOD, "test/crack/a.png", "test/crack/a_label.png", "test/cut/rgb/b.png", "test/cut/gt/b.png"
    )
    with pytest.warns(UserWarning, match="2 files and folders are called like masks but hold photographs"):
        assert len(scan(tmp_path).test) == 5
    with pytest.warns(UserWarning, match=r"test/cut/gt, test/crack/a_label.png|test/crack/a_label.png, test/cut/gt"):
        assert len(scan_images(tmp_path)) == 6


def test_soft_masks_beside_their_images(tmp_path: Path) -> None:
    write_photos(tmp_path, *GOOD, "test/crack/a.png", side=64)
    write_masks(tmp_path, "test/crack/a_mask.png", side=64)
    path = tmp_path / "test/crack/a_mask.png"
    Image.open(path).filter(ImageFilter.GaussianBlur(2)).save(path)
    assert _pairs(tmp_path) == {"crack/a.png": "test/crack/a_mask.png"}


def test_a_folder_of_good_images_outweighs_their_masks(tmp_path: Path) -> None:
    write_photos(tmp_path, *GOOD)
    write_masks(tmp_path, "train/good/000_mask.png")
    found = quiet_scan(tmp_path)
    assert len(found.train) == 1 and _kinds(tmp_path) == {"mask of normal"}


def test_masks_of_good_images_are_no_images(tmp_path: Path) -> None:
    write_photos(tmp_path, "train/good/rgb/000.png", "test/good/rgb/000.png", "test/crack/rgb/000.png")
    write_masks(tmp_path, "test/good/gt/000.png", "train/good/gt/000.png", empty=True)
    write_masks(tmp_path, "test/crack/gt/000.png")
    write_photos(tmp_path, "test/crack/xyz/000.tiff")
    found = quiet_scan(tmp_path)
    assert [(r.label, r.defect) for r in (*found.train, *found.test)] == [(0, "good"), (1, "crack"), (0, "good")]
    assert not found.summary.warnings and {f.kind for f in found.summary.findings} >= {"points"}
    write_masks(tmp_path, "test/good/gt/000.png")
    assert _kinds(tmp_path) == {"mask of normal"}


@pytest.mark.parametrize("way", ["zeros", "transparent"])
def test_an_empty_mask_is_none(way: str, tmp_path: Path) -> None:
    write_photos(tmp_path, *GOOD, "test/crack/000.png", "test/crack/001.png")
    write_masks(tmp_path, "ground_truth/crack/001_mask.png")
    pixels = np.zeros((24, 24, 4) if way == "transparent" else (24, 24), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "ground_truth/crack/000_mask.png")
    assert _pairs(tmp_path)["crack/000.png"] is None
    with pytest.warns(UserWarning, match="mask that marks nothing.*test/crack/000.png"):
        scan(tmp_path)


def test_a_mask_that_marks_everything_is_said(tmp_path: Path) -> None:
    write_photos(tmp_path, *GOOD, "test/crack/000.png")
    (tmp_path / "ground_truth/crack").mkdir(parents=True)
    Image.new("L", (24, 24), 255).save(tmp_path / "ground_truth/crack/000_mask.png")
    assert _kinds(tmp_path) == {"mask full"} and _pairs(tmp_path)["crack/000.png"] is not None


def test_test_images_in_no_class_are_told_by_their_masks(tmp_path: Path) -> None:
    """KolektorSDD2: train/ and test/ are flat, every image has a _GT, black where nothing is wrong."""
    write_photos(tmp_path, "train/1.png", "train/2.png", "test/3.png", "test/4.png", "test/5.png")
    write_masks(tmp_path, "train/1_GT.png", "test/3_GT.png", empty=True)
    write_masks(tmp_path, "train/2_GT.png", "test/4_GT.png")
    found = quiet_scan(tmp_path)
    assert [r.path.name for r in found.train] == ["1.png"]
    assert [(r.path.name, r.label) for r in found.test] == [("3.png", 0), ("4.png", 1)]
    assert found.test[1].mask is not None
    told = {f.kind: f.names for f in found.summary.findings if f.is_warning}
    assert told == {"left out": ("train/2.png",), "no class": ("test/5.png",)}
