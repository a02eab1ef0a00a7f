"""What went wrong, in one line for the user, or the finding that it is no user's business: a bug."""

from __future__ import annotations

import errno
import math
import re
import traceback

from patchcore_fast.names import printable

# Of torch, CUDA, the dynamic loader and Python's threads, which have no class of their own for it.
_MEMORY = re.compile(
    r"out of memory|can(?:not|'t) allocate memory|not enough memory|failed to map segment|bad_alloc"
    r"|can't start new thread|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
_WANTED = re.compile(r"(?:tried to allocate|unable to allocate) ([\d.,]+ ?[KMGTPE]?i?B(?:ytes)?)", re.IGNORECASE)
_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EFBIG: "a file may not be that large here",
    errno.EROFS: "nothing can be written there",
    errno.EIO: "the device fails",
}


def explain(error: BaseException, subject: str | None = None) -> str | None:
    """One line without control characters, or None for what is a bug or a broken installation.

    Parameters
    ----------
    subject : what the command worked on, for errors of memory that do not say which file it was.
    """
    from patchcore_fast.errors import PatchcoreFastError, RankError

    if is_out_of_memory(error):
        return _memory(error, subject)
    if isinstance(error, OSError):
        return _system(error)
    if isinstance(error, ImportError):
        # An extra that is missing; anything else is a broken installation.
        return _flat(error) if "pip install" in str(error) else None
    if isinstance(error, (PatchcoreFastError, RankError)):
        return printable(str(error)) or type(error).__name__
    return _flat(error) if isinstance(error, ValueError) and _is_ours(error) else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the machine, of its process or of a GPU ran out, by whatever class of whatever library."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError | ImportError) and bool(_MEMORY.search(str(error)))


def _memory(error: BaseException, subject: str | None) -> str:
    text = str(error)
    if isinstance(error, MemoryError) and "out of memory" in text:  # said by this package, with file and bytes
        return printable(text)
    named = getattr(error, "filename", None) or subject
    what = "out of GPU memory" if re.search(r"\b(CUDA|CUBLAS|HIP)", text) else "out of memory"
    wanted = ""
    shape, dtype = getattr(error, "shape", None), getattr(error, "dtype", None)  # numpy's _ArrayMemoryError
    if shape is not None and dtype is not None:
        wanted = f"{math.prod(shape) * dtype.itemsize:,} bytes"
    elif found := _WANTED.search(text):
        number, unit = re.fullmatch(r"([\d.,]+) ?(\w+)", found[1]).groups()  # type: ignore[union-attr]
        wanted = f"{int(number):,} bytes" if unit.lower() == "bytes" and number.isdecimal() else f"{number} {unit}"
    if "thread" in text:
        what += " or of threads"
    return printable((f"{named}: " if named else "") + what + (f", {wanted} wanted" if wanted else ""))


def _system(error: OSError) -> str:
    if not error.strerror:
        named = f"{printable(str(error.filename))}: " if error.filename else ""
        return named + (_flat(error) or type(error).__name__)
    named = error.filename2 or error.filename
    if isinstance(named, bytes):
        named = named.decode("utf-8", "surrogateescape")
    more = f": {_ROOM[error.errno]}" if error.errno in _ROOM else ""
    return (f"{printable(str(named))}: " if named else "") + printable(error.strerror) + more


def _is_ours(error: ValueError) -> bool:
    """A ValueError out of torch or NumPy is a bug of ours, not an explanation."""
    frames = [frame for frame, _line in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and str(frames[-1].f_globals.get("__name__", "")).startswith("patchcore_fast")


def _flat(error: BaseException) -> str:
    """A text of others: its lines become one."""
    return printable(" ".join(str(error).split())) or type(error).__name__
