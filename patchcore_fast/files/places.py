"""What stands at a path: a file to replace, or something that is written to as it is."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import time

PATIENCE = 10.0  # seconds for the reader of a named pipe to start
_LINKS = 40  # the kernel's own limit


def own_descriptor(path: str | os.PathLike[str]) -> int | None:
    """Number of the descriptor of this process that a path like /dev/stdout or /dev/fd/3 is, None for other paths."""
    name = os.path.abspath(path)
    for _ in range(_LINKS):
        folder, base = os.path.realpath(os.path.dirname(name)), os.path.basename(name)
        if re.fullmatch(rf"/proc/{os.getpid()}(/task/\d+)?/fd", folder) and base.isdecimal():
            return int(base)
        name = os.path.join(folder, base)
        if not os.path.islink(name):
            return None
        name = os.path.join(folder, os.readlink(name))
    return None


def open_through(path: str | os.PathLike[str]) -> int | None:
    """A descriptor for writing to a device, a pipe or a descriptor of this process; None where a file is to be made.

    Raises
    ------
    OSError : a folder or socket, or one that may not be written to; names the path.
    """
    number = own_descriptor(path)
    if number is not None:
        for stream in (sys.stdout, sys.stderr):  # what was printed before comes before
            if stream is not None:
                stream.flush()
        try:
            return os.dup(number)
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISSOCK(mode):
        raise OSError(errno.ENXIO, "is a socket, no file can be written there", os.fspath(path))
    return _open_pipe(path) if stat.S_ISFIFO(mode) else os.open(path, os.O_WRONLY | os.O_CLOEXEC)


def _open_pipe(path: str | os.PathLike[str]) -> int:
    """open() would wait for a reader for ever, after all the work; a reader that is just starting is waited for."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() >= end:
                raise OSError(errno.ENXIO, f"no program reads from this pipe (waited {PATIENCE:g} s)", error.filename
                              ) from error  # fmt: skip
            time.sleep(0.05)
        else:
            os.set_blocking(fd, True)
            return fd
