"""What select does alike of a matrix and of a store."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np

from patchcore_fast.config.budget import parse_budget
from patchcore_fast.errors import DataError
from patchcore_fast.files import atomic_write

log = logging.getLogger(__name__)

HEADER = 128  # bytes of a .npy file before its numbers
PROJECTION = 128  # dimensions that distances are measured in


def write_npy(path: Path, array: np.ndarray[Any, Any]) -> None:
    with atomic_write(path, size=array.nbytes + HEADER) as f:
        np.save(f, array, allow_pickle=False)


def made_sampler(args: argparse.Namespace, options: dict[str, Any]) -> Any:
    """The sampler of the arguments; its percentage is still to be set."""
    from patchcore_fast.samplers import make_sampler

    return make_sampler(args.sampler, seed=args.seed or 0, device=args.device, prune_support=args.prune_support,
                        projection=None if args.no_projection else PROJECTION, options=options)  # fmt: skip


def rows_wanted(args: argparse.Namespace, n: int, row: int) -> int:
    """Rows to pick of n with so many bytes each. DataError: none, or a budget of another kind."""
    if args.count is not None:
        if args.count < 1:
            raise DataError(f"--count must be at least 1, got {args.count}")
        if args.count > n:
            log.warning("--count %s: there are only %s rows, all are picked", f"{args.count:,}", f"{n:,}")
        return int(min(args.count, n))
    if args.ratio is not None:
        if not 0 < args.ratio < 1:
            raise DataError(f"--ratio must lie in (0, 1), got {args.ratio}")
        if int(n * args.ratio) == 0:
            raise DataError(f"--ratio {args.ratio} of {n} rows keeps none; the smallest is {1 / n:.3g}")
        return int(n * args.ratio)
    try:
        budget = parse_budget(args.budget)
    except ValueError as error:
        raise DataError(f"--budget {error}") from error
    if budget.kind == "seconds":
        raise DataError(f"--budget {args.budget}: select knows no images, whose search takes time; give rows or bytes")
    count = int(min(budget.amount if budget.kind == "rows" else budget.amount // row, n))
    if count == 0:
        raise DataError(f"--budget {args.budget} keeps no row; one has {row:,} bytes")
    return count
