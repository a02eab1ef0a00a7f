"""Images into the folder of their verdict, and heat maps; each may be done again after a kill without a second file."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
from pathlib import Path

from patchcore_fast.files import atomic_write
from patchcore_fast.model import Prediction
from patchcore_fast.report.files import PictureNames
from patchcore_fast.report.images import overlay, photograph, save_png
from patchcore_fast.watch.journal import Entry

WAYS = ("link", "copy", "move", "none")  # the command line's (a test compares)
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES)


class Placing:
    """How images get into OUT/normal, OUT/anomalous and OUT/unreadable, in sub-folders as below the watched folder.

    Parameters
    ----------
    folder : that is watched.  output : OUT.
    way : "link" (a hard link; a copy where the file system has none), "copy", "move", or "none".
    """

    def __init__(self, folder: Path, output: Path, way: str) -> None:
        """Nothing is made yet."""
        self.folder, self.output, self.way = folder, output, way

    def place(self, entry: Entry) -> Path:
        """Put the image where it belongs, once; returns where it is now.

        An image of another content that has the name already stays, and the new one gets a digest behind its stem. A
        file that is no longer the one that was scored is left alone: it is another image, and gets its own verdict.

        Raises
        ------
        OSError : the file system does not let it.
        """
        source = self.folder / entry.name
        if self.way == "none" or entry.verdict is None:
            return source
        target, other = self.places(entry)
        try:
            found = os.stat(source)
        except FileNotFoundError:
            return self.find(entry)
        if (found.st_size, found.st_mtime_ns) != (entry.size, entry.mtime_ns):
            return source
        if target.exists() and not _same(source, target):
            target = other
        target.parent.mkdir(parents=True, exist_ok=True)
        self._put(source, target)
        return target

    def find(self, entry: Entry) -> Path:
        """Where an image that was placed is."""
        source = self.folder / entry.name
        if self.way == "none" or entry.verdict is None:
            return source
        target, other = self.places(entry)
        return next((path for path in (other, target) if path.is_file()), source)

    def places(self, entry: Entry) -> tuple[Path, Path]:
        """Where an image goes, and where if that place is taken."""
        target = self.output / str(entry.verdict) / entry.name
        return target, target.with_name(f"{target.stem}-{entry.key[:4].hex()}{target.suffix}")

    def _put(self, source: Path, target: Path) -> None:
        there = target.exists()
        if self.way == "move":
            if there:  # of a run that was killed in between
                os.unlink(source)
                return
            try:
                if not source.is_symlink():  # which from there would point elsewhere: its image is copied
                    os.rename(source, target)
                    return
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
        elif self.way == "link" and not there:
            try:
                os.link(os.path.realpath(source), target)
                return
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
        if not there:
            with open(source, "rb") as read, atomic_write(target, reserve=os.fstat(read.fileno()).st_size) as f:
                shutil.copyfileobj(read, f, 1 << 20)
            shutil.copystat(source, target)
        if self.way == "move":
            os.unlink(source)


def _same(one: Path, two: Path) -> bool:
    return os.path.samefile(one, two) or filecmp.cmp(one, two, shallow=False)


def heatmap_name(name: str, key: bytes) -> str:
    """The picture of an image, relative to the output folder; of another file of this name it is another."""
    picture = PictureNames(Path()).of(Path(name))
    return f"heatmaps/{picture.with_name(f'{picture.stem}-{key[:4].hex()}.png')}"


def draw(path: Path, prediction: Prediction, scale: tuple[float, float], target: Path) -> None:
    """Write the heat map over its photograph, as predict does (`report.images.overlay`).

    Raises
    ------
    DataError, OSError : the image cannot be read again, or the picture not be written.
    """
    image = photograph(path)
    heat = prediction.full_map((image.shape[0], image.shape[1]))
    target.parent.mkdir(parents=True, exist_ok=True)
    save_png(target, overlay(image, heat, vmin=scale[0], vmax=scale[1]))
