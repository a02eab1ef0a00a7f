"""Room for large matrices: in memory, or in a file without a name where they would take half of what is free."""

from __future__ import annotations

import errno
import logging
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from patchcore_fast.memory import available_memory

log = logging.getLogger(__name__)
SMALL = 64 << 20  # bytes for which nobody asks how much memory is free
_IN_MEMORY = ("tmpfs", "ramfs")  # file systems that are no help


def room_for(shape: tuple[int, ...], dtype: torch.dtype, folder: str | os.PathLike[str] | None = None) -> torch.Tensor:
    """A CPU tensor of undefined values.

    In a file its pages go to the disk and come back as they are needed, so that they count as the system's cache and
    not as this process's memory; the file is gone with the tensor, or with the process. The disk's room is taken at
    once: a full one is an error now, and not a signal later.

    Parameters
    ----------
    folder : where a file would be; None: `scratch_folder()`.

    Raises
    ------
    OSError : the disk is full, or nothing can be written there; names the folder.  MemoryError : no more addresses.
    """
    size = math.prod(shape) * dtype.itemsize
    if size <= SMALL or size <= available_memory() // 2:
        return torch.empty(shape, dtype=dtype, device="cpu")
    place = Path(folder) if folder is not None else scratch_folder()
    log.info("%s bytes are more than half of the memory that is free: kept in a file in %s", f"{size:,}", place)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            os.posix_fallocate(file.fileno(), 0, size)
            pages = np.memmap(file, np.uint8, "r+", shape=(size,))
    except OSError as error:
        if error.errno == errno.ENOMEM:  # addresses, not the disk
            raise MemoryError(f"unable to allocate {size:,} bytes") from error
        raise OSError(error.errno, f"{error.strerror} ({size:,} bytes wanted for features)", str(place)) from error
    return torch.from_numpy(pages).view(dtype).view(shape)


def placed(sizes: Sequence[int], memory: int) -> tuple[int, int]:
    """Bytes in memory and in files, of matrices that are made one after the other (`room_for`)."""
    held = 0
    for size in sizes:
        held += size if size <= (memory - held) // 2 else 0
    return held, sum(sizes) - held


def refusal(
    sizes: Sequence[int], more: int, memory: int, disk: int, folder: Path, instead: str, elsewhere: str | None = None
) -> str | None:
    """Why large matrices cannot be had, and what would make them fit; None if they can.

    Parameters
    ----------
    sizes : bytes of the matrices, in their order.  more : other bytes of memory.
    memory, disk : free bytes, those of the disk in `folder`, where what does not fit into memory is kept.
    instead : what would make it fit.  elsewhere : the same where the disk is what is short; `instead` when None.
    """
    held, on_disk = placed(sizes, memory)
    if held + more > memory:
        wanted, free, what = held + more, memory, "memory"
    elif on_disk > disk:
        wanted, free, what, instead = on_disk, disk, f"disk in {folder}", elsewhere or instead
    else:
        return None
    return f"{wanted / 1e9:.1f} GB of {what} are wanted, {free / 1e9:.1f} GB are free: {instead} would make it fit"


def refuse(name: str, why: str | None) -> None:
    """MemoryError, before the long work begins, where `refusal` says why."""
    if why is not None:
        raise MemoryError(f"{name}: out of memory before it begins: {why}")


def scratch_folder() -> Path:
    """The folder for temporary files (TMPDIR), or /var/tmp where that one lies in memory."""
    usual, other = Path(tempfile.gettempdir()), Path("/var/tmp")
    if _kind(usual) in _IN_MEMORY and os.access(other, os.W_OK) and _kind(other) not in _IN_MEMORY:
        return other
    return usual


def _kind(folder: Path) -> str:
    """The file system that a folder lies on; "" where that cannot be known."""
    best, kind = -1, ""
    try:
        real = os.path.realpath(folder)
        for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
            _, where, found, *_ = line.split(" ")
            inside = real == where or real.startswith(where.rstrip("/") + "/")
            if inside and len(where) >= best:
                best, kind = len(where), found
    except (OSError, ValueError):
        return ""
    return kind
