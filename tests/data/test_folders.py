"""What a scan finds, follows, leaves out and says of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from patchcore_fast.data import ImageSet, scan, scan_images
from patchcore_fast.errors import DataError

from ..pictures import quiet_scan, write_masks, write_photos

SET = ("train/good/000.png", "test/good/001.png", "test/crack/002.png")


def _names(found: ImageSet) -> list[str]:
    return [r.path.relative_to(found.root).as_posix() for r in (*found.train, *found.test)]


def _told(found: ImageSet) -> dict[str, tuple[str, ...]]:
    return {f.kind: f.names for f in found.summary.findings if f.is_warning}


LITTER = (".ipynb_checkpoints", ".thumbnails", ".Trash-1000", "__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN",
          "System Volume Information", "#recycle")  # fmt: skip


@pytest.mark.parametrize("litter", LITTER)
def test_litter_is_no_data_at_any_level(litter: str, tmp_path: Path) -> None:
    places = ("", "train/", "train/good/", "test/", "test/good/", "test/crack/", "ground_truth/", "ground_truth/crack/")
    write_photos(tmp_path, *SET, *(f"{p}{litter}/{n}" for p in places for n in ("x.png", "good/y.png", "002.png")))
    write_photos(tmp_path, "test/crack/._002.png", "train/good/~$000.png")
    write_masks(tmp_path, "ground_truth/crack/002_mask.png")
    found = quiet_scan(tmp_path)
    assert _names(found) == ["train/good/000.png", "test/crack/002.png", "test/good/001.png"]
    assert not found.summary.warnings
    (noted,) = [f for f in found.summary.findings if f.kind == "litter"]
    assert {f"{p}{litter}" for p in places} <= set(noted.names)
    plain = write_photos(tmp_path / "plain", "a.png", f"{litter}/b.png", f"deep/{litter}/c/d.png")
    assert len(scan(plain).train) == len(scan_images(plain)) == 1


@pytest.mark.parametrize(
    ("train", "test", "normal"),
    [("Train/Good", "TEST", "GOOD"), ("train/ok", "test", "ok"), ("train/normal", "Test", "Normal"),
     ("training", "testing", "good"), ("train/good", "test_public", "good")],
)  # fmt: skip
def test_names_of_parts_and_of_normal_images(train: str, test: str, normal: str, tmp_path: Path) -> None:
    write_photos(tmp_path, f"{train}/0.png", f"{test}/{normal}/0.png", f"{test}/bad/0.png")
    write_masks(tmp_path, f"{test}/ground_truth/bad/0_mask.png")
    found = quiet_scan(tmp_path)
    known = {(r.label, r.defect, r.mask is not None) for r in (*found.train, *found.test)}
    assert (len(found.train), len(found.test)) == (1, 2) and known == {(0, "good", False), (1, "bad", True)}
    assert not found.summary.warnings


def test_nothing_vanishes_in_silence(tmp_path: Path) -> None:
    write_photos(tmp_path, *SET, "train/1.png", "train/crack/2.png", "test/3.png", "val/4.png", "validation/good/5.png")
    write_photos(tmp_path, "6.png", "notes/7.png")
    found = quiet_scan(tmp_path)
    assert len(found.train) == 1 and len(found.test) == 2
    assert _told(found) == {
        "no class": ("test/3.png",),
        "not in good": ("train/1.png", "train/crack/2.png"),
        "not used": ("6.png", "notes (1 image)", "val (1 image)", "validation (1 image)"),
    }


@pytest.mark.parametrize("suffix", [".JPG", ".jfif", ".jpe", ".dib", ".tga", ".pnm", ".jp2", ".avif", ".webp", ".TIF"])
def test_formats_that_pillow_reads(suffix: str, tmp_path: Path) -> None:
    if suffix.lower() not in Image.registered_extensions():
        pytest.skip(f"this Pillow does not read {suffix}")
    write_photos(tmp_path, f"train/good/a{suffix}", f"photos/a{suffix}")
    assert len(quiet_scan(tmp_path).train) == len(scan_images(tmp_path / "photos")) == 1


def test_pictures_that_are_not_read_are_named(tmp_path: Path) -> None:
    write_photos(tmp_path, "a.png")
    for name in ("b.heic", "c.CR2", "d.psd", "e.txt", "f"):
        (tmp_path / name).write_bytes(b"x")
    found = quiet_scan(tmp_path)
    assert _told(found) == {"format": ("c.CR2", "b.heic", "d.psd")}
    assert [f.names for f in found.summary.findings if f.kind == "other"] == [("f", "e.txt")]
    with pytest.warns(UserWarning, match="3 pictures are of formats that are not read"):
        scan_images(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"no images .*; 3 pictures are of formats that are not read: c.CR2, b.heic"):
        scan(tmp_path)


def test_links_are_followed_once(tmp_path: Path) -> None:
    far, root = write_photos(tmp_path / "far", "1.png", "sub/2.png"), tmp_path / "plain"
    write_photos(root, "a/0.png")
    for link, to in (("b", far), ("a/again", far), ("a/loop", ".."), ("a/self", "."), ("above", tmp_path.parent)):
        os.symlink(to, root / link)
    os.symlink(tmp_path / "nowhere.png", root / "dead.png")
    os.symlink(far / "1.png", root / "file.png")
    found = quiet_scan(root)
    assert _names(found) == ["a/0.png", "b/1.png", "b/sub/2.png", "file.png"] or len(found.train) == 4
    assert _told(found)["no file"] == ("dead.png",)
    assert len(scan_images([root])) == 4


def test_classes_and_parts_may_be_links(tmp_path: Path) -> None:
    far, root = tmp_path / "far", tmp_path / "set"
    write_photos(far, "good/0.png", "crack/1.png")
    write_masks(far, "truth/1_mask.png")
    for link, to in (("train/good", far / "good"), ("test/good", far / "good"), ("test/crack", far / "crack"),
                     ("ground_truth/crack", far / "truth")):  # fmt: skip
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(to, root / link)
    found = quiet_scan(root)
    assert _names(found) == ["train/good/0.png", "test/crack/1.png", "test/good/0.png"]
    assert found.test[0].mask is not None
    assert _told(found) == {"same split": ("test/good/0.png (also train/good/0.png)",)}


def test_a_pipe_with_the_name_of_an_image_is_not_opened(tmp_path: Path) -> None:
    write_photos(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")
    found = quiet_scan(tmp_path)
    assert _names(found) == ["a.png"] and _told(found) == {"no file": ("b.png",)}


def test_images_that_are_marked_are_not_learned_as_normal(tmp_path: Path) -> None:
    root = write_photos(tmp_path, "kos/Part0.jpg", "kos/Part1.jpg", "x/bad/2.png", "Images/Normal/3.png")
    write_photos(root, "Images/Anomaly/3.png")
    write_masks(root, "kos/Part0_label.bmp", empty=True)
    write_masks(root, "kos/Part1_label.bmp", "Masks/Anomaly/3.png")
    found = quiet_scan(root)
    assert _names(found) == ["Images/Normal/3.png", "kos/Part0.jpg"]
    assert _told(found) == {"left out": ("Images/Anomaly/3.png", "x/bad/2.png", "kos/Part1.jpg")}


def test_only_anomalous_images_are_nothing_to_learn_from(tmp_path: Path) -> None:
    write_photos(tmp_path, "defects/1.png", "bad/2.png")
    with pytest.raises(DataError, match="all 2 images are marked as anomalous"):
        scan(tmp_path)


def test_a_folder_of_sets_is_refused_by_name(tmp_path: Path) -> None:
    for name in ("bottle", "cable"):
        write_photos(tmp_path / name, *SET)
    with pytest.raises(DataError, match=r"holds sets with train and test \(bottle, cable\); give one of them"):
        scan(tmp_path)
    assert len(scan_images(tmp_path)) == 6


def test_a_folder_that_cannot_be_opened_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photos(tmp_path, "a.png", "closed/b.png")
    true = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return true(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root would be let in
    assert _told(quiet_scan(tmp_path)) == {"closed": ("closed (Permission denied)",)}


def test_a_link_to_itself_is_named_and_ends_nothing(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("b.png")
    found = scan(tmp_path)
    assert [r.path.name for r in found.train] == ["a.png"] and "b.png" in found.summary.text(True)
    assert [r.path.name for r in scan_images(tmp_path)] == ["a.png"]
