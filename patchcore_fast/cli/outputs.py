"""Outputs are checked before the long work and not after it: they can be written, and no two are one file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from patchcore_fast.errors import DataError
from patchcore_fast.files import own_descriptor
from patchcore_fast.written import FILES, FOLDERS, LIST

# Of a folder that predict or `evaluate --output` wrote (a test compares): no other output may take one of these places.
EVALUATED = (*sorted(FILES), LIST, "report.html")

Named = tuple[str, str | os.PathLike[str]]  # what messages call a file, and its path


def writable_file(name: str | os.PathLike[str]) -> Path:
    """The path of an output file that can be made; links are followed, devices, pipes and descriptors of this process
    (/dev/stdout) are taken as they are.

    Raises
    ------
    DataError : a folder, a socket, a file in a folder that is missing or not writable.
    OSError : a name that the file system refuses (too long, a loop of links).
    """
    path = Path(name)
    if own_descriptor(path) is not None:
        return path
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = 0  # a new file, or a link to one
    if stat.S_ISDIR(mode):
        raise DataError(f"{path}: is a folder, a file name is wanted")
    if stat.S_ISSOCK(mode):
        raise DataError(f"{path}: is a socket, a file name is wanted")
    if mode and not stat.S_ISREG(mode):
        if not os.access(path, os.W_OK):
            raise DataError(f"{path}: is not writable")
        return path
    folder = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
    if not folder.is_dir():
        raise DataError(f"{path}: the folder {folder} does not exist")
    if not os.access(folder, os.W_OK):
        raise DataError(f"{path}: the folder {folder} is not writable")
    return path


def output_folder(name: str | os.PathLike[str]) -> Path:
    """Make an output folder now. DataError: a file is there, or it is not writable."""
    path = Path(name)
    if path.exists() and not path.is_dir():
        raise DataError(f"{path}: is a file, a folder is wanted")
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK):
        raise DataError(f"{path}: the folder is not writable")
    return path


def check_outputs_differ(outputs: Mapping[str, str | os.PathLike[str] | None], read: Iterable[Named] = ()) -> None:
    """Refuse two outputs that are one file, under whatever names: the later would replace the earlier. And one that is
    a file that is read.

    Parameters
    ----------
    outputs : what messages call it ("--indices") -> path, None for one that was not asked for. A character device
        (/dev/null, a terminal) may be named more than once.
    read : the inputs.

    Raises
    ------
    DataError : names both options and the file.
    """
    seen: dict[tuple[object, ...], str] = {}
    for what, path in outputs.items():
        if path is None:
            continue
        for key in _identities(path):
            if seen.setdefault(key, what) != what:
                raise DataError(f"{seen[key]} and {what} are one file, {os.fspath(path)}: give two names")
    for what, path in read:
        if taken := next((seen[key] for key in _identities(path) if key in seen), None):
            raise DataError(f"{taken} and {what} {os.fspath(path)}, which is read, are one file: give another name")


def check_folder(output: str, files: Iterable[Named] = (), folders: Iterable[Named] = ()) -> None:
    """Refuse an output folder whose files would fall on other files, or that is a folder which is read.

    Parameters
    ----------
    output : what --output says; predict and evaluate write `written.FILES` and `written.FOLDERS` there.
    files : other outputs, and files that are read.
    folders : that are read. The output may lie below them: what was written is no data.

    Raises
    ------
    DataError : names both.
    """
    root = Path(os.path.realpath(output))
    for name, path in folders:
        if os.path.isdir(path) and Path(os.path.realpath(path)) == root:
            raise DataError(f"--output {output}: is the folder of {name}, give another one")
    files = list(files)
    check_outputs_differ({f"{name} of --output": root / name for name in EVALUATED}, files)
    for name, path in files:
        if any(Path(os.path.realpath(path)).is_relative_to(root / folder) for folder in FOLDERS):
            raise DataError(f"--output {output}: writes its pictures where {name} {os.fspath(path)} is")


def say_saved(output: Path, folder: str, has_test: bool) -> None:
    """The model of a folder is in its file: what to do next."""
    print(f"Saved {output} ({output.stat().st_size / 1e6:.1f} MB).")
    if has_test:
        print(f"Next, its accuracy:   patchcore-fast evaluate {folder} --bank {output} --output report")
    else:
        print(f"{folder} has no test images, so there is nothing to measure accuracy on.")
    print(f"Next, heat maps:      patchcore-fast predict {output} IMAGES --output out")


def _identities(path: str | os.PathLike[str]) -> list[tuple[object, ...]]:
    """What a path shares with every other path of its file: the place after all links, and the inode (hard links)."""
    keys: list[tuple[object, ...]] = []
    try:
        found = os.stat(path)
        if stat.S_ISCHR(found.st_mode):
            return []
        keys.append(("inode", found.st_dev, found.st_ino))
    except OSError:
        pass  # not there yet
    real = os.path.realpath(path)
    try:
        folder = os.stat(os.path.dirname(real))  # a folder may be mounted at two places
        keys.append(("entry", folder.st_dev, folder.st_ino, os.path.basename(real)))
    except OSError:
        keys.append(("path", real))
    return keys
