"""Whether there is room for a fit, in memory and on the disk: asked before the long work, and not found out in it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

from patchcore_fast.memory import available_memory
from patchcore_fast.samplers import IdentitySampler
from patchcore_fast.samplers.space import STATE, is_blind, projected_columns
from patchcore_fast.scratch import refusal, refuse, scratch_folder

FIT = "a smaller --image-size, --precision float16, fewer images (--shots) or more machines (torchrun)"
FIT_DISK = f"another folder (TMPDIR), {FIT}"


def check_fit(
    sampler: Any, rows: int, widths: Sequence[int], itemsize: int, stored: bool = False, views: int = 0
) -> None:
    """Refuse a fit of so many rows that there is no room for here.

    Parameters
    ----------
    sampler : of the fit.  widths : columns of what it selects from, one after the other; together those of a row.
    stored : whether the rows lie in a store, and are read from there.
    views : how many times the rows are there once more, of changed images.

    Raises
    ------
    MemoryError : says what is wanted, what is free, and what would help.
    """
    found = [projected_columns(sampler, columns) for columns in widths]
    blind = is_blind(sampler)
    matrix = rows * sum(widths) * itemsize
    sizes = [] if stored and (all(found) or blind) else [matrix] * (1 + views)
    sizes += [4 * rows * width] if (width := max(n or 0 for n in found)) else []
    share = 1.0 if type(sampler) is IdentitySampler else getattr(sampler, "percentage", None) or 0.0
    more = (0 if blind else STATE * rows) + int(matrix * share)
    folder = scratch_folder()
    disk = shutil.disk_usage(folder).free
    refuse("PatchCore.fit", refusal(sizes, more, available_memory(), disk, folder, FIT, FIT_DISK))


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
