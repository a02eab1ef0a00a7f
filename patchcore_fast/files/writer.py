"""The bottom of every file that is written: errors of the file system get the file's name and the bytes wanted."""

from __future__ import annotations

import io
import os
import stat
from typing import Any


class NamedWriter(io.RawIOBase):
    """A descriptor to write to, closed with this object.

    It has no `fileno()`: Pillow and NumPy would write to the descriptor themselves, and then a full disk is
    "encoder error -2" or "25600 requested and 16352 written".

    Parameters
    ----------
    fd : open for writing.  name : for messages, None for none.  size : bytes that will be written, None if unknown.

    Attributes
    ----------
    failed : once true, what is still in buffers above is dropped.
    """

    def __init__(self, fd: int, name: str | os.PathLike[str] | None, size: int | None = None) -> None:
        """Nothing is written yet."""
        super().__init__()
        self.failed = False
        self._fd, self._name, self._size, self._done = fd, name, size, 0
        self._regular = stat.S_ISREG(os.fstat(fd).st_mode)

    def writable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """A pipe is not; a device may take a position and not mean it."""
        return self._regular

    def write(self, data: Any) -> int:
        """All of it, or an OSError."""
        view = memoryview(data).cast("B")
        rest = view[len(view) :] if self.failed else view
        try:
            while rest:
                done = os.write(self._fd, rest)
                self._done += done
                rest = rest[done:]
        except OSError as error:
            raise self._named(error, self._done + len(rest)) from error
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file."""
        if not self._regular:
            raise io.UnsupportedOperation("not a regular file")
        return os.lseek(self._fd, offset, whence)

    def truncate(self, size: int | None = None) -> int:
        """As of any file."""
        size = self.tell() if size is None else size
        os.ftruncate(self._fd, size)
        return size

    def close(self) -> None:
        """Close the descriptor."""
        if not self.closed:
            super().close()
            os.close(self._fd)

    def _named(self, error: OSError, seen: int) -> OSError:
        wanted = f"at least {seen:,}" if self._size is None else f"{max(self._size, seen):,}"
        text = f"{error.strerror} ({wanted} bytes wanted, {self._done:,} written)"
        return OSError(error.errno, text, self._name)
