"""A list of training images that are left out: what `audit` writes, a person edits, and `fit --exclude` reads."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from dataclasses import replace
from pathlib import Path

from patchcore_fast.config.base import nearest
from patchcore_fast.data.folders import ImageRecord, ImageSet
from patchcore_fast.errors import DataError
from patchcore_fast.names import printable

NAMED = 3  # wrong names in a message
LARGEST = 1 << 28  # bytes of a list


def listed_name(name: str) -> str:
    """How a list calls an image: its path relative to the folder, in one line that is no comment."""
    text = printable(name)
    return f"./{text}" if text.startswith("#") or text != text.strip() else text


def read_list(path: str | os.PathLike[str]) -> list[str]:
    """The names of a list, one a line; blank lines and those that begin with # are comments.

    Raises
    ------
    DataError : no such file, or one that is no text in UTF-8.
    """
    try:
        with open(path, "rb") as f:
            text = f.read(LARGEST).decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{Path(path)}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{Path(path)}: is no list of names in UTF-8 (byte {error.start})") from error
    lines = (line.rstrip("\r") for line in text.split("\n"))
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def without(images: ImageSet, path: str | os.PathLike[str]) -> tuple[ImageSet, int]:
    """A set without the training images that a list names, and how many these are.

    path : of the list; its names are relative to the set's folder, as `listed_name` writes them or as they are.

    Raises
    ------
    DataError : as `read_list`; a name that is no training image's (the nearest one is told); no image would be left.
    """
    known: dict[str, list[ImageRecord]] = {}
    for record in images.train:
        name = record.path.relative_to(images.root).as_posix()
        for key in {name, printable(name)}:
            known.setdefault(key, []).append(record)
    gone: set[Path] = set()
    wrong = []
    for line in read_list(path):
        found = known.get(_plain(line)) or known.get(_plain(line.strip()))
        if found is None:
            wrong.append(f"{printable(line.strip())}{nearest(_plain(line.strip()), known)}")
        else:
            gone |= {record.path for record in found}
    if wrong:
        more = f" and {len(wrong) - NAMED:,} more" if len(wrong) > NAMED else ""
        raise DataError(
            f"{Path(path)}: names what is no training image of {images.root}: {', '.join(wrong[:NAMED])}{more}"
        )
    left = [record for record in images.train if record.path not in gone]
    if not left:
        raise DataError(f"{Path(path)}: names all {len(gone):,} training images of {images.root}")
    counts = {**images.summary.images, "train": dict(Counter(record.defect for record in left))}
    return replace(images, train=left, summary=replace(images.summary, images=counts)), len(gone)


def _plain(name: str) -> str:
    return posixpath.normpath(name)
