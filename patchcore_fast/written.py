"""What this program wrote into an output folder: so that it is not read as data, and goes when it is out of date.

`LIST` has one name a line, relative to the folder. A name is appended before its file is written, so that the list
holds all files even when a run is killed; a line that is cut off is ignored.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path, PurePosixPath

from patchcore_fast.files import atomic_write

LIST = ".patchcore_fast_files"
FOLDERS = ("heatmaps", "layers", "masks")
FILES = frozenset((  # of predict and evaluate
    "scores.csv", "metrics.json", "report.json", "contact_sheet.png", "roc.png", "pr.png", "histogram.png",
    "provenance.png", "regions.csv", "regions.json",
))  # fmt: skip


INSPECTED = frozenset((
    "distributions.png", "plane.png", "patches.png", "provenance.png", "selection.json", "signals.png",
    "signal_maps.png", "signal_correlations.png", "pool_plane.png", "pool_patches.png",
))  # fmt: skip
SCORED = (FILES | frozenset(FOLDERS)) - INSPECTED


def listed(folder: Path) -> set[str]:
    """Names of the list of a folder, without those that no run writes; empty without a list."""
    try:
        lines = (folder / LIST).read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return set()
    return {line for line in lines[:-1] if _possible(PurePosixPath(line))}


def _possible(name: PurePosixPath) -> bool:
    if name.is_absolute() or ".." in name.parts:
        return False
    if len(name.parts) == 1:
        return name.name in FILES | INSPECTED
    return len(name.parts) > 1 and name.parts[0] in FOLDERS and name.suffix in (".png", ".jpg")


@contextmanager
def writing(folder: Path, replaces: frozenset[str] = SCORED) -> Iterator[Callable[[str], None]]:
    """Gives a function that takes the name of each file of this run before it is written.

    When the block ends without an error, files of earlier runs that this one did not name are removed: only those that
    the list has, and never through a link. After an error the list holds both.

    Parameters
    ----------
    replaces : names of files and folders that a run of this kind writes; others that are listed stay.
    """
    before, now = listed(folder), dict[str, None]()
    with (folder / LIST).open("a+b", buffering=0) as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)  # a line that was cut off goes

        def note(name: str) -> None:
            if name not in now:
                _append(file, f"{name}\n".encode())
                now[name] = None

        yield note
    others = {name for name in before if PurePosixPath(name).parts[0] not in replaces}
    for name in sorted(before - others - now.keys()):
        _remove(folder, folder / name)
    with suppress(OSError), atomic_write(folder / LIST) as whole:  # of a full disk the longer list stays
        whole.writelines(f"{name}\n".encode() for name in sorted(others | now.keys()))


def _append(file: FileIO, line: bytes) -> None:
    """A whole line or none."""
    end = os.fstat(file.fileno()).st_size
    try:
        if file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), LIST)
    except OSError:
        file.truncate(end)
        raise


def _remove(folder: Path, path: Path) -> None:
    root, above = Path(os.path.realpath(folder)), Path(os.path.realpath(path.parent))
    if above != root / path.parent.relative_to(folder) or path.is_dir():
        return
    with suppress(OSError):
        path.unlink()
        while above != root:  # folders that are empty now
            above.rmdir()
            above = above.parent
