"""Outputs that would fall on each other, or on what is read: refused before the work."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from patchcore_fast.errors import DataError
from patchcore_fast.names import shown
from patchcore_fast.written import FILES, FOLDERS

Named = tuple[str, str | os.PathLike[str]]  # (what to call it, path)


def check_apart(outputs: Iterable[Named | None], inputs: Iterable[Named | None] = ()) -> None:
    """Refuse two output files at one path, and an output file at the path of an input.

    Links count as what they lead to. None is left out.

    Raises
    ------
    DataError : names both.
    """
    taken: dict[str, str] = {}
    for name, path in filter(None, inputs):
        taken.setdefault(os.path.realpath(path), f"{name} {shown(path)}, which is read")
    for name, path in filter(None, outputs):
        real = os.path.realpath(path)
        if real in taken:
            raise DataError(f"{name} {shown(path)}: is the same file as {taken[real]}")
        taken[real] = f"{name} {shown(path)}"


def check_folder(output: str, files: Iterable[Named | None] = (), folders: Iterable[Named] = ()) -> None:
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
            raise DataError(f"--output {shown(output)}: is the folder of {name}, give another one")
    for name, path in filter(None, files):
        real = Path(os.path.realpath(path))
        if real.parent == root and real.name in FILES:
            raise DataError(f"--output {shown(output)}: would write its {real.name} over {name} {shown(path)}")
        if any(real.is_relative_to(root / folder) for folder in FOLDERS):
            raise DataError(f"--output {shown(output)}: writes its pictures where {name} {shown(path)} is")
