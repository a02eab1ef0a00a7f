"""Which files are masks, and whose: by sub-path and stem without regard to case, after `conventions.CONVENTIONS`."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from patchcore_fast.data.conventions import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    POINT_FOLDERS,
    SURE_FOLDERS,
    TEST,
    TRAIN,
    photo_stem,
    stems_of_mask,
)
from patchcore_fast.data.images import load_mask, opened
from patchcore_fast.data.marks import looks_drawn, may_be_mask
from patchcore_fast.data.summary import Notes
from patchcore_fast.errors import DataError

SAMPLED = 3  # files of a folder of an unsure name that are opened


class Place(NamedTuple):
    """Where a file lies: the part of the set ("" for none), folders below it, and the stem, as they are written."""

    part: str
    folders: tuple[str, ...]
    stem: str

    def folded(self) -> Place:
        """For comparisons without regard to case, or to how accents are put together (macOS takes them apart)."""
        return Place(self.part, tuple(map(folded, self.folders)), folded(self.stem))

    def loose(self) -> Place:
        """Without the words that only say "photograph"."""
        kept = tuple(f for f in self.folders if f.casefold() not in IMAGE_FOLDERS)
        return Place(self.part, kept, photo_stem(self.stem))


@dataclass
class SortedFiles:
    """Files told apart: photographs, and the mask of each (a file, or a folder of several)."""

    photos: list[Path] = field(default_factory=list)
    mask_of: dict[Path, Path] = field(default_factory=dict)


def folded(text: str) -> str:
    """A name for comparisons."""
    return unicodedata.normalize("NFC", text.casefold())


def place_of(path: Path, root: Path) -> Place:
    """Place of a photograph or a mask; folders of masks are left out."""
    folders = [f for f in path.relative_to(root).parts[:-1] if f.casefold() not in MASK_FOLDERS]
    part = "" if not folders else part_name(folders[0])
    return Place(part, tuple(folders[1:] if part else folders), path.stem)


def part_name(folder: str) -> str:
    """ "train", "test", or "" for a folder that is neither."""
    name = folder.casefold()
    return "train" if name in TRAIN else "test" if name in TEST else ""


def sort_files(files: Sequence[Path], root: Path, notes: Notes) -> SortedFiles:
    """Tell photographs from masks and pair them; what does not fit is noted.

    A mask is what lies in a folder that holds nothing else (ground_truth); in a folder with another mask's name (gt,
    label, ...) if any file there pairs with an image outside and may be one by its look, or all look drawn; beside an
    image of the same stem with a word like "_mask", if it may be one by its look; or beside one of the same stem and
    another suffix, if it alone looks drawn.
    """
    photos, masks, unsure = _by_folder(files, root, notes)
    photos, beside = _beside(photos, notes)
    index = _Index(photos, root)
    for folders, group in unsure.items():
        fits = any(next(index.images_of(p), None) for p in group)
        if any(map(file_may_be_mask, group[:SAMPLED])) if fits else all(map(file_looks_drawn, group[:SAMPLED])):
            masks += group
            continue
        photos += group
        if fits:
            notes.add("mask name", root.joinpath(*folders))
    if len(photos) > len(index.photos):
        photos, more = _beside(sorted(photos), notes)
        beside += more
        index = _Index(photos, root)
    masks += beside
    notes.extend("mask beside", beside)
    return SortedFiles(sorted(photos), _paired(index, sorted(masks), notes))


def file_looks_drawn(path: Path) -> bool:
    """Whether a file can be read and looks like a mask."""
    try:
        with opened(path) as im:
            return looks_drawn(im)
    except DataError:
        return False


def file_may_be_mask(path: Path) -> bool:
    """Whether a file that is called like a mask may be one; of one that cannot be read the name decides."""
    try:
        with opened(path) as im:
            im.load()
            return may_be_mask(im)
    except DataError:
        return True


def _by_folder(
    files: Sequence[Path], root: Path, notes: Notes
) -> tuple[list[Path], list[Path], dict[tuple[str, ...], list[Path]]]:
    photos, masks = [], []
    unsure: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    relative = [(p, p.relative_to(root).parts[:-1]) for p in files]
    with_rgb = {f[:i] for _, f in relative for i, name in enumerate(f) if name.casefold() == "rgb"}
    for path, folders in relative:
        names = [f.casefold() for f in folders]
        if any(name in SURE_FOLDERS for name in names):
            masks.append(path)
        elif at := [i for i, name in enumerate(names) if name in MASK_FOLDERS]:
            unsure[folders[: at[0] + 1]].append(path)
        elif any(name in POINT_FOLDERS and folders[:i] in with_rgb for i, name in enumerate(names)):
            notes.add("points", path)
        else:
            photos.append(path)
    return photos, masks, unsure


def _beside(files: Iterable[Path], notes: Notes) -> tuple[list[Path], list[Path]]:
    """Photographs, and masks that lie beside them."""
    by_stem: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in files:
        by_stem[path.parent, folded(path.stem)].append(path)
        if (loose := folded(photo_stem(path.stem))) != folded(path.stem):
            by_stem[path.parent, loose].append(path)
    photos, masks = [], []
    for path in files:
        stems = [folded(s) for s in stems_of_mask(path.stem)]
        # A name like a mask's is no proof, and without its image still less: photographs may be called so.
        others = any((path.parent, s) in by_stem for s in stems)
        if stems and (file_may_be_mask(path) if others else file_looks_drawn(path)):
            masks.append(path)
            continue
        if others:
            notes.add("mask name", path)
        twins = [p for p in by_stem[path.parent, folded(path.stem)] if folded(p.stem) == folded(path.stem)]
        if len(twins) > 1 and file_looks_drawn(path) and not all(map(file_looks_drawn, twins)):
            masks.append(path)
        else:
            photos.append(path)
    return photos, masks


class _Index:
    """Photographs by place."""

    def __init__(self, photos: Sequence[Path], root: Path) -> None:
        self.photos, self.root = list(photos), root
        self.places = {p: place_of(p, root) for p in photos}
        self._by: dict[Place, list[Path]] = defaultdict(list)
        for path, place in self.places.items():
            # The whole name stands for its stem too: masks of 000.png and 000.jpg are told apart so.
            for key in {place.folded(), place.loose().folded(), place._replace(stem=path.name).folded()}:
                self._by[key].append(path)

    def images_of(self, mask: Path) -> Iterator[tuple[Place, list[Path], bool]]:
        """(place that was looked for, images there, whether the mask is one of several in a folder), best first."""
        place = place_of(mask, self.root)
        wanted = [(place._replace(stem=s), False) for s in (place.stem, *stems_of_mask(place.stem))]
        inside = len(place.folders) > 0 and place.folders[-1] == mask.parent.name
        if inside and mask.parent.name.casefold() not in MASK_FOLDERS:
            wanted.append((Place(place.part, place.folders[:-1], place.folders[-1]), True))
        for key, several in wanted:
            # A mask in no part of the set is of the test part: training images have none.
            for part in (key.part,) if key.part else ("test", "", "train"):
                at = key._replace(part=part)
                for form in (at, at.loose()):
                    if found := self._by.get(form.folded()):
                        yield at, found, several


def _paired(index: _Index, masks: Sequence[Path], notes: Notes) -> dict[Path, Path]:
    """Image -> mask, where one fits one."""
    claims: dict[Path, dict[Path, bool]] = defaultdict(dict)  # image -> mask -> whether it fits to the letter
    for mask in masks:
        best = next(index.images_of(mask), None)
        if best is None:
            notes.add("mask unused", mask)
            continue
        place, images, several = best
        target = mask.parent if several else mask
        exact = [i for i in images if _same_letters(index.places[i], i, place)]
        if len(images) > 1 and len(exact) == 1:
            images = exact
        if len(images) > 1:
            names = ", ".join(sorted(i.name for i in images)[:3])
            notes.add("mask shared", target, why=names)
            continue
        claims[images[0]][target] = bool(exact)
    found: dict[Path, Path] = {}
    for image, targets in claims.items():
        to_the_letter = [t for t, exact in targets.items() if exact]
        if to_the_letter:
            notes.extend("mask unused", (t for t, exact in targets.items() if not exact))
        choice = _only(to_the_letter or list(targets))
        if choice is None:
            notes.add("masks", image, why=", ".join(sorted(t.name for t in targets)[:3]))
        else:
            found[image] = choice
    return found


def _same_letters(place: Place, image: Path, wanted: Place) -> bool:
    return place.folders == wanted.folders and wanted.stem in (place.stem, image.name)


def _only(targets: list[Path]) -> Path | None:
    """The mask, where all of them mark the same."""
    if len(targets) == 1:
        return targets[0]
    try:
        first, *others = map(load_mask, targets)
    except DataError:
        return None
    same = all(first.shape == o.shape and bool((first == o).all()) for o in others)
    return sorted(targets)[0] if same else None
