"""A folder of whole sets, one a category, as MVTec AD, VisA and most benchmarks are laid out."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from patchcore_fast.data.conventions import is_litter
from patchcore_fast.data.pairs import part_name
from patchcore_fast.errors import DataError


def find_categories(root: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> list[Path]:
    """Sub-folders that hold a folder train or test, by name; none where `root` itself is such a set.

    Parameters
    ----------
    output : a folder for results, which is no category and must not be `root` or lie inside of a category.

    Raises
    ------
    DataError : a folder that cannot be opened, or such an output.
    """
    top = Path(root)
    try:
        inside = sorted(p for p in top.iterdir() if p.is_dir() and not is_litter(p.name))
        if any(part_name(p.name) for p in inside):
            return []
        found = [p for p in inside if any(q.is_dir() and part_name(q.name) for q in p.iterdir())]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be opened ({error.strerror})") from error
    if output is None:
        return found
    place = Path(os.path.realpath(output))
    for folder in found:
        if place.is_relative_to(os.path.realpath(folder)):
            raise DataError(f"--output {output}: lies in the category {folder}, give another folder")
    if found and place == Path(os.path.realpath(top)):
        raise DataError(f"--output {output}: is the folder of the categories, give another one")
    return found


def has_test(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder has a part of test images. DataError: it cannot be opened."""
    try:
        return any(p.is_dir() and part_name(p.name) == "test" for p in Path(folder).iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be opened ({error.strerror})") from error


def files_digest(folder: Path) -> str:
    """Hex digest of the names, sizes and times of change of all files below a folder; nothing is read.

    Raises
    ------
    DataError : a folder that cannot be opened.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be opened ({error.strerror})") from error

    digest = hashlib.blake2b(digest_size=16)
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(place, name)
            try:
                status = os.stat(path)
                facts = f"{status.st_size} {status.st_mtime_ns}"
            except OSError:
                facts = "gone"  # a link to nothing
            digest.update(os.fsencode(os.path.relpath(path, folder)) + f"\0{facts}\0".encode())
    return digest.hexdigest()
