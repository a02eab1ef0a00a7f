"""Which images a folder holds: MVTec layout (train, test, ground_truth) or just images."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patchcore_fast.data.images import image_size
from patchcore_fast.errors import DataError

IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pbm"))
MASKS = "ground_truth"


@dataclass(frozen=True)
class ImageRecord:
    """One image file.

    label : 0 normal, 1 defective, -1 unknown.  defect : the folder's name ("good", "crack", ...).
    """

    path: Path
    label: int = -1
    defect: str = "unknown"
    mask: Path | None = None


@dataclass(frozen=True)
class ImageSet:
    """Images of a folder; layout is "mvtec" (train/, test/, ground_truth/) or "plain" (every image is for
    training)."""

    root: Path
    train: list[ImageRecord] = field(default_factory=list)
    test: list[ImageRecord] = field(default_factory=list)
    layout: str = "plain"


def scan(root: str | os.PathLike[str]) -> ImageSet:
    """Read what a folder holds.

    With a `train` or `test` folder inside it is taken as MVTec layout: train/good (or images directly in
    train), test/<defect>, ground_truth/<defect>/<stem>_mask.<ext> or <stem>.<ext>. Masks and either part may
    be missing. Any other folder is plain: every image below it, sorted by path, is a normal training image.

    Raises
    ------
    DataError : no such folder, no images, or a mask whose size is not its image's.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: not a folder" if root.exists() else f"{root}: no such folder")
    if not any((root / part).is_dir() for part in ("train", "test")):
        return ImageSet(root, [ImageRecord(p, 0, "good") for p in _some_below(root)])
    train = [ImageRecord(p, 0, "good") for p in _train_images(root / "train")]
    test = [
        _test_record(root, folder.name, path)
        for folder in (sorted((root / "test").iterdir()) if (root / "test").is_dir() else [])
        if folder.is_dir()
        for path in _images_below(folder)
    ]
    if not train and not test:
        raise DataError(f"{root}: train and test hold no images")
    return ImageSet(root, train, test, "mvtec")


def scan_images(source: str | os.PathLike[str] | Iterable[Any]) -> list[ImageRecord]:
    """Images to predict on: a file, a folder (recursive, sorted, `ground_truth` left out), or a list.

    `ImageRecord`s in a list are kept as they are; everything else gets label -1.

    Raises
    ------
    DataError : nothing there, or a folder or list without images.  TypeError : an item that is no path.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            return [ImageRecord(p) for p in _some_below(path)]
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        return [ImageRecord(path)]
    records: list[ImageRecord] = []
    for item in source:
        if isinstance(item, ImageRecord):
            records.append(item)
        elif isinstance(item, str | os.PathLike):
            records.extend(scan_images(item))
        else:
            raise TypeError(f"scan_images: items must be paths or ImageRecords, got {type(item).__name__}")
    if not records:
        raise DataError("scan_images: the list of images is empty")
    return records


def _test_record(root: Path, defect: str, path: Path) -> ImageRecord:
    if defect == "good":
        return ImageRecord(path, 0, defect)
    mask = _find_mask(root / MASKS / defect, path.stem)
    # Headers are cheap to read, and a mix-up found now does not spoil an evaluation at its end.
    if mask is not None and (found := image_size(mask)) != (wanted := image_size(path)):
        raise DataError(f"{mask}: mask of {found[0]} x {found[1]} pixels for {path} of {wanted[0]} x {wanted[1]}")
    return ImageRecord(path, 1, defect, mask)


def _train_images(train: Path) -> list[Path]:
    if not train.is_dir():
        return []
    if (train / "good").is_dir():
        return _images_below(train / "good")
    direct = sorted(p for p in train.iterdir() if _is_image(p))
    if not direct and _images_below(train):
        raise DataError(f"{train}: holds images but no folder named good; training takes normal images only")
    return direct


def _some_below(folder: Path) -> list[Path]:
    if found := _images_below(folder):
        return found
    raise DataError(f"{folder}: no images (looked for {' '.join(sorted(IMAGE_SUFFIXES))})")


def _images_below(folder: Path) -> list[Path]:
    found = []
    for base, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if f != MASKS and not f.startswith(".")]
        found += [path for name in files if _is_image(path := Path(base, name))]
    return sorted(found)


def _is_image(path: Path) -> bool:
    # Files that begin with a dot are the side files of file managers ("._x.png").
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _find_mask(folder: Path, stem: str) -> Path | None:
    for name in (f"{stem}_mask", stem):
        for suffix in (".png", *sorted(IMAGE_SUFFIXES - {".png"})):
            if (candidate := folder / (name + suffix)).is_file():
                return candidate
    return None
