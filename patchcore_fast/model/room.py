"""Whether there is room for a fit, in memory and on the disk: asked before the long work, and not found out in it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

from patchcore_fast.memory import available_memory
from patchcore_fast.samplers import IdentitySampler, PrecomputedSampler, RandomSampler
from patchcore_fast.samplers.space import STATE, projected_columns
from patchcore_fast.scratch import placed, scratch_folder

_HELP = "a smaller --image-size, --precision float16, fewer images (--shots) or more machines (torchrun) make it fit"


def refusal(sizes: Sequence[int], more: int, memory: int, disk: int) -> str | None:
    """Why it cannot be done, and what would make it fit; None if it can.

    Parameters
    ----------
    sizes : bytes of the large matrices, in their order.  more : other bytes of memory.
    memory, disk : free bytes, on the disk where what does not fit into memory is kept.
    """
    held, on_disk = placed(sizes, memory)
    if held + more > memory:
        wanted, free, what = held + more, memory, "memory"
    elif on_disk > disk:
        wanted, free, what = on_disk, disk, f"disk in {scratch_folder()} (TMPDIR)"
    else:
        return None
    return f"{wanted / 1e9:.1f} GB of {what} are wanted, {free / 1e9:.1f} GB are free: {_HELP}"


def check_fit(sampler: Any, rows: int, widths: Sequence[int], itemsize: int, stored: bool = False) -> None:
    """Refuse a fit of so many rows that there is no room for here.

    Parameters
    ----------
    sampler : of the fit.  widths : columns of what it selects from, one after the other; together those of a row.
    stored : whether the rows lie in a store, and are read from there.

    Raises
    ------
    MemoryError : says what is wanted, what is free, and what would help.
    """
    found = [projected_columns(sampler, columns) for columns in widths]
    blind = type(sampler) in (RandomSampler, IdentitySampler, PrecomputedSampler)
    matrix = rows * sum(widths) * itemsize
    sizes = [] if stored and (all(found) or blind) else [matrix]
    sizes += [4 * rows * width] if (width := max(n or 0 for n in found)) else []
    share = 1.0 if type(sampler) is IdentitySampler else getattr(sampler, "percentage", 0.0)
    more = (0 if blind else STATE * rows) + int(matrix * share)
    why = refusal(sizes, more, available_memory(), shutil.disk_usage(scratch_folder()).free)
    if why is not None:
        raise MemoryError(f"PatchCore.fit: out of memory before it begins: {why}")


def check_disk(folder: str | os.PathLike[str], rows: int, columns: int, kind: str) -> None:
    """Refuse to begin a store that the disk has no room for.

    Raises
    ------
    OSError : says what is wanted, what is free, and what would help.
    """
    wanted, free = rows * columns * np.dtype(kind).itemsize, shutil.disk_usage(folder).free
    if wanted > free:
        less = "--store-dtype float16, " if kind == "float32" else ""
        raise OSError(
            errno.ENOSPC,
            f"{wanted / 1e9:.1f} GB are wanted for features, {free / 1e9:.1f} GB are free; {less}a smaller "
            "--image-size or another folder would make it fit",
            os.fspath(folder),
        )
