"""Which images a folder holds: MVTec layout (train, test, ground_truth) or just images; `sets.scan` reads it."""

from __future__ import annotations

import logging
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from patchcore_fast.data.conventions import (
    ANOMALOUS,
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    MASK_FOLDERS,
    META,
    is_litter,
    is_normal,
)
from patchcore_fast.data.images import image_size, mask_files, reason
from patchcore_fast.data.pairs import part_name, sort_files
from patchcore_fast.data.sanity import Marks, check_headers, find_duplicates, marks_of
from patchcore_fast.data.summary import Notes, ScanSummary
from patchcore_fast.data.walk import walk
from patchcore_fast.errors import DataError

_log = logging.getLogger(__name__)
BESIDE = 100_000  # files looked at in a folder that is not used: enough to say that images are there
# Kinds of findings that matter where images are only scored.
_FOR_SCORING = ("closed", "no file", "format", "mask name", "mask beside", "points", "link", "litter", "other")


@dataclass(frozen=True)
class ImageRecord:
    """One image file.

    label : 0 normal, 1 anomalous, -1 unknown.  defect : the folder's name: "good", or the type of defect.
    """

    path: Path
    label: int = -1
    defect: str = "unknown"
    mask: Path | None = None


@dataclass(frozen=True)
class ImageSet:
    """Images of a folder; layout is "mvtec" (train/, test/, ground_truth/), "plain" (every image is for
    training) or "list" (a class of a meta.json). summary : what was used, what was not, and why."""

    root: Path
    train: list[ImageRecord] = field(default_factory=list)
    test: list[ImageRecord] = field(default_factory=list)
    layout: str = "plain"
    summary: ScanSummary = field(default_factory=ScanSummary, repr=False, compare=False)

    @property
    def reckoning(self) -> ScanSummary:
        """`summary` by its older name."""
        return self.summary


def warn_of_findings(summary: ScanSummary) -> None:
    """Warn of what may be a mistake, one line a kind; the whole goes to the log.

    Not of files that cannot be read: what needs one of them reports it itself, or ends with an error.
    """
    _log.debug("%s", summary.text())
    for finding in summary.findings:
        if finding.is_warning and finding.kind != "unreadable":
            warnings.warn(f"{summary.folder}: {finding.text()}", UserWarning, stacklevel=3)


def read_folder(root: str | os.PathLike[str], strict: bool = True, notes: Notes | None = None) -> ImageSet:
    """What a folder holds (`sets.scan`). Unless `strict`, a mask of another size is a finding and not an error.

    notes : take the findings, for a caller who has more to add.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: not a folder" if root.exists() else f"{root}: no such folder")
    notes = notes or Notes(root)
    try:
        parts = sorted(p for p in root.iterdir() if p.is_dir() and part_name(p.name))
    except OSError as error:
        raise DataError(f"{root}: cannot be opened ({error.strerror})") from error
    found = Reader(root, notes, strict)
    train, test = found.mvtec(parts) if parts else (found.plain(), list[ImageRecord]())
    layout = "mvtec" if parts else "plain"
    find_duplicates([(r.path, part, r.label) for part, rs in (("train", train), ("test", test)) for r in rs], notes)
    classes = {"train": [r.defect for r in train], "test": [r.defect for r in test]}
    masks = sum(r.mask is not None for r in test)
    return ImageSet(root, train, test, layout, notes.summary(layout, classes, masks))


def scan_images(source: str | os.PathLike[str] | Iterable[Any]) -> list[ImageRecord]:
    """Images to predict on: a file, a folder (recursive, sorted, masks left out as in `scan`), or a list.

    `ImageRecord`s in a list are kept as they are; everything else gets label -1.

    Raises
    ------
    DataError : nothing there, or a folder or list without images.  TypeError : an item that is no path.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            notes = Notes(path)
            photos = sort_files(_some_below(path, notes), path, notes).photos
            summary = notes.summary("images", {"images": [""] * len(photos)}, 0)
            warn_of_findings(replace(summary, findings=tuple(f for f in summary.findings if f.kind in _FOR_SCORING)))
            if not photos:
                raise DataError(f"{path}: holds masks only")
            return [ImageRecord(p) for p in photos]
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


class Reader:
    """Files of a folder to records; what is not used is noted."""

    def __init__(self, root: Path, notes: Notes, strict: bool) -> None:
        self.root, self.notes, self.strict = root, notes, strict
        self.sizes: dict[Path, tuple[int, int]] = {}
        self.mask_of: dict[Path, Path | None] = {}

    def mvtec(self, parts: list[Path]) -> tuple[list[ImageRecord], list[ImageRecord]]:
        """Training and test records of a folder with the parts train, test or both."""
        files = [p for part in parts for p in walk(part, self.notes)]
        self.notes.extend("not used", walk(self.root, self.notes, shallow=True))
        if (self.root / META).is_file():
            self.notes.add("list", self.root / META)
        for folder in sorted(p for p in self.root.iterdir() if p.is_dir() and p not in parts and not is_litter(p.name)):
            if folder.name.casefold() in MASK_FOLDERS:
                files += walk(folder, self.notes)
            elif below := walk(folder, Notes(self.root), most=BESIDE):
                self.notes.add("not used", folder, why=_images(len(below)))
        train, test = list[Path](), list[Path]()
        for path in self._photos(files):
            part = part_name(path.relative_to(self.root).parts[0])
            if part:
                (train if part == "train" else test).append(path)
            else:
                self.notes.add("not used", path)
        train = self._training(train)
        if not train and not test:
            raise DataError(f"{self.root}: train and test hold no images")
        self.look([*train, *test])
        return self._normal(train), self.judged([(path, self._class(path)) for path in test])

    def look(self, images: list[Path], mask_of: Mapping[Path, Path | None] | None = None) -> None:
        """Read the headers of all images, before `judged`.

        mask_of : where each image's mask is, of a list that says it.
        """
        self.sizes = check_headers(images, self.notes)
        if mask_of is not None:
            self.mask_of = {**mask_of}

    def judged(self, named: list[tuple[Path, str]]) -> list[ImageRecord]:
        """Test records of images and the names of their classes, "" for none."""
        records = [r for path, name in named if (r := self._test_record(path, name)) is not None]
        if any(r.mask for r in records):
            noted = {r.path for r in records if r.path in self.mask_of}
            missing = [r.path for r in records if r.label == 1 and r.mask is None and r.path not in noted]
            self.notes.extend("mask missing", missing)
        return records

    def plain(self) -> list[ImageRecord]:
        """Training records: all images but those that are marked as anomalous."""
        files = _some_below(self.root, self.notes)
        self._no_sets_inside(files)
        photos = self._photos(files)
        folders = {p: p.relative_to(self.root).parts[:-1] for p in photos}
        beside_normal = {f[:i] for f in folders.values() for i, name in enumerate(f) if is_normal(name)}
        kept = []
        for path in photos:
            names = folders[path]
            if any(name.casefold() in ANOMALOUS for name in names):
                self.notes.add("left out", path)
                continue
            kept.append(path)
            for i, name in enumerate(names):
                if names[:i] in beside_normal and not is_normal(name):
                    self.notes.add("not normal", self.root.joinpath(*names[: i + 1]))
        self.sizes = check_headers(kept, self.notes)
        records = self._normal(kept)
        if not records:
            raise DataError(f"{self.root}: all {_images(len(photos))} are marked as anomalous, by mask or folder")
        return records

    def _photos(self, files: list[Path]) -> list[Path]:
        found = sort_files(files, self.root, self.notes)
        self.mask_of = {**found.mask_of}
        return found.photos

    def _training(self, train: list[Path]) -> list[Path]:
        """Those in train/good; where there is no such folder, those in no folder."""
        by: dict[str, list[Path]] = defaultdict(list)
        for path in train:
            name = self._class(path)
            by["good" if is_normal(name) else name].append(path)
        wanted = "good" if "good" in by else ""
        if train and wanted not in by:
            folder = self.root / train[0].relative_to(self.root).parts[0]
            raise DataError(f"{folder}: holds images but no folder named good; training takes normal images only")
        self.notes.extend("not in good", (p for name in sorted(by) if name != wanted for p in by[name]))
        return by[wanted]

    def _class(self, path: Path) -> str:
        """The folder below train or test, "" for none."""
        folders = path.relative_to(self.root).parts[1:-1]
        return next((f for f in folders if f.casefold() not in IMAGE_FOLDERS), "")

    def _normal(self, paths: list[Path]) -> list[ImageRecord]:
        """Training records; where no folder says "good", an image whose mask marks something is none."""
        records = []
        for path in paths:
            marks = self._marks(path)
            if marks is not None and marks.some:
                good = any(map(is_normal, path.relative_to(self.root).parts[:-1]))
                self.notes.add("mask of normal" if good else "left out", path)
                if not good:
                    continue
            records.append(ImageRecord(path, 0, "good"))
        return records

    def _test_record(self, path: Path, name: str) -> ImageRecord | None:
        marks = self._marks(path, strict=self.strict and not is_normal(name))
        mask = self.mask_of.get(path)
        if is_normal(name):
            if marks is not None and marks.some:
                self.notes.add("mask of normal", path)
            return ImageRecord(path, 0, "good")
        if not name:  # in no folder of a class: its mask says what it is
            if marks is None:
                self.notes.add("no class", path)
                return None
            if not marks.some:
                return ImageRecord(path, 0, "good")
            name = "defect"
        if mask is None or marks is None:
            return ImageRecord(path, 1, name, mask)
        if not marks.some:
            self.notes.add("mask empty", path)
            mask = None
        elif marks.all:
            self.notes.add("mask full", mask)
        return ImageRecord(path, 1, name, mask)

    def _marks(self, image: Path, strict: bool = False) -> Marks | None:
        """What the mask of an image marks; one of another size (an error if `strict`) is forgotten before it is
        decoded."""
        mask = self.mask_of.get(image)
        if mask is None:
            return None
        try:
            size = image_size(mask_files(mask)[0])
            if size == (wanted := self.sizes.get(image, size)):
                return marks_of(mask)
        except DataError as error:
            self.notes.add("unreadable", mask, why=reason(error.__cause__ or error))
            return None
        if strict:
            raise DataError(f"{mask}: mask of {size[0]} x {size[1]} pixels for {image} of {wanted[0]} x {wanted[1]}")
        self.notes.add("mask size", mask)
        self.mask_of[image] = None
        return None

    def _no_sets_inside(self, files: list[Path]) -> None:
        """A folder of whole sets is not one: its test images are no normal ones."""
        parts: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for path in files:
            folders = path.relative_to(self.root).parts[:-1]
            for i, name in enumerate(folders[1:], 1):
                if part := part_name(name):
                    parts[folders[:i]].add(part)
                    if part == "test" and i + 1 < len(folders) and is_normal(folders[i + 1]):
                        parts[folders[:i]].add("train")
        if sets := sorted("/".join(p) for p, found in parts.items() if len(found) == 2):
            more = f" and {len(sets) - 3} more" if len(sets) > 3 else ""
            raise DataError(f"{self.root}: holds sets with train and test ({', '.join(sets[:3])}{more}); give one of "
                            f"them: {self.root / sets[0]}")  # fmt: skip


def _images(n: int) -> str:
    return "1 image" if n == 1 else f"{n:,} images"


def _some_below(folder: Path, notes: Notes) -> list[Path]:
    if found := walk(folder, notes):
        return found
    others = "; ".join(f.text() for f in notes.findings() if f.kind in ("format", "closed", "no file", "litter"))
    raise DataError(
        f"{folder}: no images (looked for {' '.join(sorted(IMAGE_SUFFIXES))}){f'; {others}' if others else ''}"
    )
