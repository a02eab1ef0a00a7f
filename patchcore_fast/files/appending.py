"""A file that grows by whole pieces: the one way to keep results on the disk while a command runs for weeks."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path


class Appending:
    """A file that is there, open to grow until `close`; what a failed write left of a piece is taken back.

    Parameters
    ----------
    path : of a regular file that exists.
    alone : refuse it while another process has it so.

    Raises
    ------
    BlockingIOError : `alone`, and another process holds it.  OSError : what the file system says; names `path`.
    """

    def __init__(self, path: Path, alone: bool = False) -> None:
        """Open it; nothing is written yet."""
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if alone:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._end = os.fstat(self._fd).st_size
        except OSError as error:
            os.close(self._fd)
            raise type(error)(error.errno, error.strerror, os.fspath(path)) from error

    def cut(self, size: int) -> None:
        """Drop all behind the first `size` bytes."""
        os.ftruncate(self._fd, size)
        self._end = size

    def append(self, piece: bytes, sync: bool = False) -> None:
        """Write a piece at the end, and with `sync` wait until the disk has it. OSError names the file."""
        done = 0
        try:
            while done < len(piece):
                wrote = os.pwrite(self._fd, piece[done:], self._end + done)
                if not wrote:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                done += wrote
            if sync:
                os.fsync(self._fd)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._fd, self._end)
            raise OSError(error.errno, error.strerror, os.fspath(self._path)) from error
        self._end += done

    def close(self) -> None:
        """Close it; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
