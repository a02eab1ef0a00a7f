"""Files are written whole: under a temporary name in the same folder, flushed to disk, then renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb", **kwargs: Any) -> Iterator[IO[Any]]:
    """Open a temporary neighbour of `path` for writing and rename it to `path` once the block succeeds.

    On any error (a full disk, Ctrl-C) the temporary file is removed and an older file at `path` stays as it was.

    Parameters
    ----------
    path : file to write; its folder must exist.
    mode : "wb" or "w".
    kwargs : passed to `open` (encoding, newline).

    Raises
    ------
    ValueError : another mode.  OSError : whatever the file system says.
    """
    if mode not in ("wb", "w"):
        raise ValueError(f'atomic_write: mode must be "wb" or "w", got {mode!r}')
    target = Path(path)
    name = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # the mode that open() would give
    try:
        with os.fdopen(fd, mode, **kwargs) as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(name, target)
    except BaseException:
        with suppress(FileNotFoundError):
            name.unlink()
        raise
