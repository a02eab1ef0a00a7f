"""Cheap sanity checks of a set: headers of images, decoded masks, and hashes of files of equal size."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from patchcore_fast.data.images import displayed_size, mask_pixels, opened, reason
from patchcore_fast.data.marks import looks_drawn
from patchcore_fast.data.summary import Notes
from patchcore_fast.errors import DataError

PIECE = 1 << 14  # bytes at the start, middle and end of a file that are hashed before the whole is
MOST_PIXELS = 1 << 25  # of an image that is decoded only to see whether it is a drawing
PHOTO_DENSITY = 0.03  # bytes a pixel: photographs, compressed as they may be, have more, drawings less


class Marks(NamedTuple):
    """What a mask marks: whether any pixel, whether all."""

    some: bool
    all: bool


def marks_of(mask: Path) -> Marks:
    """Decode a mask and see what it marks; DataError when it cannot be read."""
    pixels = mask_pixels(mask)
    return Marks(bool(pixels.any()), bool(pixels.all()))


def check_headers(images: Sequence[Path], notes: Notes) -> dict[Path, tuple[int, int]]:
    """Sizes (height, width) of those that can be opened; others, and drawings that pose as photographs, are noted.

    Only files with very few bytes a pixel are decoded.
    """
    sizes: dict[Path, tuple[int, int]] = {}
    modes = defaultdict[str, int](int)
    for path in images:
        try:
            with opened(path) as im:
                height, width = displayed_size(im)
                modes[im.mode] += 1
                sizes[path] = (height, width)
                sparse = os.path.getsize(path) < PHOTO_DENSITY * height * width + 512
                if sparse and height * width <= MOST_PIXELS and looks_drawn(im):
                    notes.add("drawn", path)
        except (DataError, OSError) as error:
            notes.add("unreadable", path, why=reason(error.__cause__ or error))
    counted = defaultdict[str, int](int)
    for height, width in sizes.values():
        counted[f"{height} x {width}"] += 1
    for kind, found in (("sizes", counted), ("modes", modes)):
        if len(found) > 1:
            for name, n in sorted(found.items(), key=lambda item: -item[1]):
                notes.add(kind, name, why=f"{n:,}")
    return sizes


def find_duplicates(groups: Iterable[tuple[Path, str, int]], notes: Notes) -> None:
    """Note files with the same content. `groups` gives (file, part, label) of each image."""
    where = {path: (part, label) for path, part, label in groups}
    for paths in _equal(list(where), [_size, _hash_of_pieces, _hash_of_all]):
        parts = {where[p][0] for p in paths}
        labels = {where[p][1] for p in paths} - {-1}
        kind = "same class" if len(labels) > 1 else "same split" if len(parts) > 1 else "same"
        first, *others = sorted(paths)
        notes.add(kind, first, why="also " + ", ".join(notes.name(p) for p in others[:2]))


def _equal(paths: list[Path], keys: list[Callable[[Path], object]]) -> list[list[Path]]:
    """Groups of two and more with all keys equal; later, more expensive keys only of files that still agree."""
    if not keys:
        return [paths]
    by: dict[object, list[Path]] = defaultdict(list)
    for path in paths:
        try:
            by[keys[0](path)].append(path)
        except OSError:
            continue
    return [found for group in by.values() if len(group) > 1 for found in _equal(group, keys[1:])]


def _size(path: Path) -> int:
    return os.path.getsize(path)


def _hash_of_pieces(path: Path) -> bytes:
    digest = hashlib.blake2b()
    with open(path, "rb") as f:
        size = os.fstat(f.fileno()).st_size
        for start in (0, size // 2, size - PIECE):
            f.seek(max(start, 0))
            digest.update(f.read(PIECE))
    return digest.digest()


def _hash_of_all(path: Path) -> bytes:
    digest = hashlib.blake2b()
    with open(path, "rb") as f:
        while piece := f.read(1 << 20):
            digest.update(piece)
    return digest.digest()
