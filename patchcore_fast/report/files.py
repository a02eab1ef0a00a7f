"""What the pictures of a folder of images are called."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from pathlib import Path, PurePosixPath

STEM = 180  # bytes: with what is added, here and under a temporary name, a name stays below the 255 of file systems


class PictureNames:
    """A name for the picture of each image: that of its file below `root`, as far as every file system takes it.

    No two are equal, also where case and Unicode forms do not count. Characters that are not printable, and bytes that
    were not UTF-8, become "_"; long names are cut and carry a digest of the whole.

    Parameters
    ----------
    root : pictures of files below it keep their sub-folders; others get their file name.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._taken: set[str] = set()

    def of(self, source: Path) -> PurePosixPath:
        """The picture's name, with .png; every call takes another one."""
        relative = PurePosixPath(Path(os.path.relpath(source, self.root)).as_posix())
        *folders, name = relative.parts if ".." not in relative.parts else relative.parts[-1:]
        parts = [_usable(folder) for folder in folders]
        # A folder called a.png would be in the way of the picture of a.jpg.
        folder = PurePosixPath(*(f"{part}_" if part.lower().endswith(".png") else part for part in parts))
        stem, n = _usable(PurePosixPath(name).stem), 1
        found = folder / f"{stem}.png"
        while (key := _key(found)) in self._taken:  # a.jpg beside a.png
            n += 1
            found = folder / f"{stem}_{n}.png"
        self._taken.add(key)
        return found


def _usable(part: str) -> str:
    text = "".join(c if c.isprintable() and c != "\\" else "_" for c in part)
    raw = text.encode("utf-8", "replace")
    if len(raw) <= STEM:
        return text
    digest = hashlib.sha256(part.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return f"{raw[: STEM - 13].decode('utf-8', 'ignore')}~{digest}"


def _key(name: PurePosixPath) -> str:
    return unicodedata.normalize("NFC", str(name)).casefold()
