"""A folder of whole sets, one a category, as MVTec AD and most benchmarks are laid out, or a list of such."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from patchcore_fast.config.base import nearest
from patchcore_fast.data.meta import classes_of, entries_of, list_of, read_meta, set_folders
from patchcore_fast.data.pairs import part_name
from patchcore_fast.errors import DataError
from patchcore_fast.names import printable


def find_categories(
    root: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
) -> list[Path]:
    """Sub-folders that hold a folder train or test, or the classes of a meta.json as META.JSON/CLASS, by name.

    None where `root` itself is one set.

    Parameters
    ----------
    output : a folder for results, which is no category and must not be `root` or lie inside of a category.
    classes : names of those that are wanted, in this order; all where it is None.

    Raises
    ------
    DataError : a folder that cannot be opened, a list that is wrong, such an output, or a class that is not there.
    """
    listed = list_of(root)
    if listed is None:
        top = Path(root)
        found = set_folders(top)
        found = [] if found == [top] else found
    else:
        top = listed[0].parent
        names = [] if listed[1] else classes_of(listed[0])
        found = [listed[0] / name for name in names] if len(names) > 1 or classes is not None else []
    if classes is not None:
        found = _chosen(found, classes, root)
    if output is None:
        return found
    place = Path(os.path.realpath(output))
    for folder in found:
        if place.is_relative_to(os.path.realpath(folder)):
            raise DataError(f"--output {output}: lies in the category {folder}, give another folder")
    if found and place == Path(os.path.realpath(top)):
        raise DataError(f"--output {output}: is the folder of the categories, give another one")
    return found


def _chosen(found: Sequence[Path], classes: Sequence[str], root: str | os.PathLike[str]) -> list[Path]:
    by_name = {path.name: path for path in found}
    if not found:
        raise DataError(f"--classes: {root} is one set and holds no classes")
    for name in classes:
        if name not in by_name:
            raise DataError(f"--classes: {root} has no class {printable(name)}{nearest(name, by_name)}")
    return [by_name[name] for name in dict.fromkeys(classes)]


def has_test(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder or list has a part of test images. DataError: it cannot be opened."""
    if (listed := list_of(folder)) is not None:
        return bool(read_meta(*listed, strict=False).test)
    try:
        return any(p.is_dir() and part_name(p.name) == "test" for p in Path(folder).iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be opened ({error.strerror})") from error


def files_digest(folder: Path) -> str:
    """Hex digest of the names, sizes and times of change of all files below a folder, or of those that a class of a
    meta.json lists, with what it says of them; no image is read.

    Raises
    ------
    DataError : a folder that cannot be opened, or a list that is wrong.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be opened ({error.strerror})") from error

    digest = hashlib.blake2b(digest_size=16)

    def add(path: str | Path, name: str) -> None:
        try:
            status = os.stat(path)
            facts = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            facts = "gone"  # a link to nothing
        digest.update(os.fsencode(name) + f"\0{facts}\0".encode())

    if (listed := list_of(folder)) is not None:
        file, name = listed
        for part, entries in entries_of(file, name).items():
            for entry in entries:
                digest.update(os.fsencode(f"{part}\0{entry.anomalous}\0{entry.defect}\0"))
                for path in (entry.image, *([] if entry.mask is None else [entry.mask])):
                    add(path, os.path.relpath(path, file.parent))
        return digest.hexdigest()
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        folders.sort()
        for inside in sorted(os.path.join(place, name) for name in files):
            add(inside, os.path.relpath(inside, folder))
    return digest.hexdigest()
