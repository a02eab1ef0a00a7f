"""Files are written whole: into a nameless or hidden file of the same folder that then takes the old one's place."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter, TextIOWrapper
from typing import IO, Any

from patchcore_fast.files.appending import Appending
from patchcore_fast.files.places import open_through, own_descriptor
from patchcore_fast.files.temporary import Temporary
from patchcore_fast.files.writer import NamedWriter

__all__ = ["Appending", "atomic_write", "own_descriptor"]


@contextmanager
def atomic_write(
    path: str | os.PathLike[str],
    mode: str = "wb",
    *,
    size: int | None = None,
    reserve: int = 0,
    encoding: str | None = None,
    newline: str | None = None,
) -> Iterator[IO[Any]]:
    """Write a file that appears at `path` once the block succeeds, whole.

    On any error (a full disk, Ctrl-C) nothing is left and an older file at `path` stays as it was; a process that is
    killed leaves nothing either, or one hidden file that the next write into that folder removes.

    A link stays, and the file that it names is replaced, in its own folder. The new file has the mode of the old one
    and, where that is permitted, its owner. Other hard links of the old file keep the old content. Devices and pipes,
    and descriptors of this process (/dev/stdout), are written to as they are, and there is nothing to take back.

    Parameters
    ----------
    path : file to write; its folder must exist, and be writable.
    mode : "wb" or "w".
    size : bytes that will be written, where that is known: for the message about a full disk.
    reserve : bytes of the disk to take at once, so that other files cannot; what is not used is given back.
    encoding, newline : as `open` takes them.

    Raises
    ------
    ValueError : another mode.  OSError : whatever the file system says, with `path` as its name; that of a write that
    failed also says how many bytes were wanted.
    """
    if mode not in ("wb", "w"):
        raise ValueError(f'atomic_write: mode must be "wb" or "w", got {mode!r}')
    fd = open_through(path)
    if fd is not None:
        with _closing(NamedWriter(fd, os.fspath(path), size), mode, encoding, newline) as f:
            yield f
        return
    with Temporary(path) as temporary:
        writer = NamedWriter(temporary.fd, os.fspath(path), size)
        with _closing(writer, mode, encoding, newline) as f:
            taken = _reserved(temporary.fd, reserve, path)
            yield f
            f.flush()
            if taken:
                writer.truncate()
            temporary.place()


def _reserved(fd: int, size: int, path: str | os.PathLike[str]) -> bool:
    """Whether the room was taken; OSError where the disk has not that much."""
    if not size or not hasattr(os, "posix_fallocate"):
        return False
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, f"{error.strerror} ({size:,} bytes wanted)", os.fspath(path)) from error
        return False  # the file system cannot, or there is a limit that the real size may keep
    return True


@contextmanager
def _closing(raw: NamedWriter, mode: str, encoding: str | None, newline: str | None) -> Iterator[IO[Any]]:
    """The buffered stream over `raw`, closed in the end; after an error without another try to write the rest."""
    f: IO[Any] = BufferedWriter(raw)
    if mode == "w":
        f = TextIOWrapper(f, encoding, newline=newline)
    try:
        yield f
        f.close()
    except BaseException:
        raw.failed = True
        with suppress(Exception):
            f.close()
        raise
