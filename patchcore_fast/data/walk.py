"""Every image file below a folder: links followed, litter left out, and what was passed over written down."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from patchcore_fast.data.conventions import IMAGE_SUFFIXES, OTHER_PICTURES, is_litter
from patchcore_fast.data.summary import Notes
from patchcore_fast.written import LIST, listed


def walk(folder: Path, notes: Notes, shallow: bool = False, most: int | None = None) -> list[Path]:
    """Image files below `folder`, sorted by path.

    Links to folders are followed; each real folder is looked at once, by its own name where it has one below `folder`,
    so loops end. Litter (hidden, of systems: `conventions.is_litter`), what an earlier run wrote (heat maps and the
    like: `written.listed`), files of other kinds, links to nowhere, pipes and folders that cannot be opened are noted.
    `shallow` leaves sub-folders alone; after `most` entries no further folder is opened.
    """
    found: list[Path] = []
    written: set[Path] = set()
    above = {_identity(p) for p in Path(os.path.realpath(folder)).parents}
    seen: set[tuple[int, int] | None] = set()
    folders, links = [folder], list[Path]()
    other: dict[str, list[Path]] = defaultdict(list)
    entered = 0
    while (folders or links) and (most is None or entered < most):
        # Links come last: a folder that lies here itself keeps its own name.
        linked = not folders
        here = folders.pop() if folders else links.pop(0)
        identity = _identity(here)
        if identity in seen or identity in above:
            notes.add("link", here)
            continue
        seen.add(identity)
        try:
            entries = sorted(os.scandir(here), key=lambda e: e.name)
        except OSError as error:
            notes.add("closed", here, why=error.strerror or type(error).__name__)
            continue
        if any(entry.name == LIST for entry in entries):
            written |= {here / name for name in listed(here)} | {here / LIST}
        entered += len(entries)
        for entry in entries:
            path = Path(entry.path)
            suffix = path.suffix.lower()
            if path in written:
                notes.add("written", path)
            elif is_litter(entry.name):
                notes.add("litter", path)
            elif _is(entry.is_dir):
                if not shallow:
                    (links if linked or entry.is_symlink() else folders).append(path)
            elif suffix in IMAGE_SUFFIXES:
                if _is(entry.is_file):
                    found.append(path)
                else:
                    notes.add("no file", path)
            else:
                other[suffix].append(path)
    for suffix, paths in sorted(other.items()):
        for path in sorted(paths):
            notes.add("format" if suffix in OTHER_PICTURES else "other", path)
    return sorted(found)


def _is(kind: Callable[[], bool]) -> bool:
    """A link that leads to itself is neither a folder nor a file, and no error."""
    try:
        return kind()
    except OSError:
        return False


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
