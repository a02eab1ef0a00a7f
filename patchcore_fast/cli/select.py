"""The bare sampler: a feature matrix in, its coreset out; a store goes on to `select_stored`."""

from __future__ import annotations

import argparse
import logging
import math
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from patchcore_fast.chain import is_store
from patchcore_fast.cli.options import sampler_options
from patchcore_fast.cli.outputs import check_outputs_differ, writable_file
from patchcore_fast.cli.sampling import report_table
from patchcore_fast.cli.selecting import made_sampler, rows_wanted, write_npy
from patchcore_fast.cli.together import joined, rank_here
from patchcore_fast.config.budget import percentage_of
from patchcore_fast.config.selection import SIZES
from patchcore_fast.errors import DataError
from patchcore_fast.matrix_files import MatrixFile, ShardedMatrix, open_matrix
from patchcore_fast.memory import available_memory
from patchcore_fast.npy import NpyFile
from patchcore_fast.progress import bar

if TYPE_CHECKING:
    from torch import Tensor

    from patchcore_fast.samplers import Sampler

log = logging.getLogger(__name__)

INDICES = (".npy", ".safetensors")  # suffixes of the file that fit --indices reads
MEASURE_WORK = 2 * 10**11  # multiplications: seconds on two cores


def read_features(name: str) -> NpyFile | ShardedMatrix:
    """A file of a real matrix [N, D], or a folder of such files, open.

    Raises
    ------
    DataError : missing, damaged, truncated or foreign file, pickled objects, not 2-D, empty, or not real numbers.
    """
    file = open_matrix(name)
    try:
        if len(file.shape) != 2:
            raise DataError(f"{name}: features must be 2-D [rows, dimensions], got shape {file.shape}")
        if not file.nbytes:
            raise DataError(f"{name}: features are empty, shape {file.shape}")
        if file.dtype.kind not in "fiu" or file.dtype.itemsize > 8:
            raise DataError(f"{name}: features must be real numbers of at most 64 bits, got dtype {file.dtype}")
    except BaseException:
        file.close()
        raise
    return file


def select(args: argparse.Namespace) -> None:
    """Pick rows, write them (and their numbers), say how long it took and how far the picks reach."""
    stored = is_store(args.features)
    wanted = (args.output, args.indices, args.checkpoint)
    output, numbers, checkpoint = (None if name is None else writable_file(name) for name in wanted)
    if output is None and numbers is None:
        raise DataError("one of the arguments --output --indices is required")
    if numbers is not None and numbers.suffix not in INDICES and (numbers.is_file() or not numbers.exists()):
        raise DataError(f"--indices must end in {' or '.join(INDICES)}, got {numbers.name}")
    if not stored and args.ratio is args.budget is args.count is None:
        raise DataError("one of the arguments --ratio --budget --count is required")
    outputs = {"--output": output, "--indices": numbers, "--checkpoint": checkpoint}
    check_outputs_differ(outputs, [("FEATURES", args.features)])
    if checkpoint is not None and args.sampler not in ("greedy", "approximate"):
        raise DataError(f"--checkpoint: greedy and approximate have one, --sampler {args.sampler} has none")
    if args.radius is not None and args.sampler != "greedy":
        raise DataError(f"--radius: only greedy ends at a radius, --sampler {args.sampler} does not")
    if args.radius is not None and not 0 <= args.radius < math.inf:
        raise DataError(f"--radius must be finite and not negative, got {args.radius}")
    if checkpoint is not None and checkpoint.exists() and not checkpoint.is_file():
        raise DataError(f"{checkpoint}: is not a file, which a checkpoint must be")
    options = sampler_options(args, args.sampler)
    if args.scores is not None and args.sampler != "composite":
        raise DataError(f"--scores: is for --sampler composite; {args.sampler} measures what it selects by itself")
    if stored:
        from patchcore_fast.cli.select_stored import select_stored

        return select_stored(args, options, output, numbers, checkpoint)
    if args.scores is not None or (numbers is not None and numbers.suffix == ".safetensors"):
        what = "--scores" if args.scores is not None else f"--indices {numbers}"
        raise DataError(f"{what}: goes with a store of features, which extract writes; {args.features} is none")
    with joined(args.rank_timeout) as group, read_features(args.features) as features:
        _select(args, options, features, output, numbers, checkpoint, group)


def _select(
    args: argparse.Namespace,
    options: dict[str, Any],
    features: MatrixFile,
    output: Path | None,
    numbers: Path | None,
    checkpoint: Path | None,
    group: Any,
) -> None:
    n, dim = features.shape
    count = rows_wanted(args, n, dim * features.dtype.itemsize)
    sampler = made_sampler(args, options)
    sampler.percentage = percentage_of(count, n) if args.ratio is None else args.ratio
    sampler.group = group
    sampler.checkpoint = checkpoint
    if args.radius is not None:
        sampler.radius = args.radius
    place = output or numbers
    assert place is not None
    scratch = place.parent if place.is_file() or not place.exists() else None
    rank, size = rank_here()
    _check_room(sampler, features, -(-n // size), scratch)
    begin = time.perf_counter()
    array = features.read() if group is None and _fits(features) else None
    with bar(count, "select", False if rank > 0 else None) as shown:
        sampler.progress = shown.at
        sampler.show_progress = False if rank > 0 else None
        try:
            if array is not None:
                indices = sampler.select(_floating(array)).numpy()
            else:
                indices = _choose(sampler, features, n * rank // size, n * (rank + 1) // size, scratch).numpy()
        except DataError:
            raise
        except ValueError as error:  # rows that are not finite: values are checked where they are first read
            raise DataError(f"{features.name}: {error}") from error
    seconds = time.perf_counter() - begin
    if rank > 0:
        return
    if output is not None:
        write_npy(output, features.take(indices) if array is None else np.ascontiguousarray(array[indices]))
    if numbers is not None:
        write_npy(numbers, indices)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    ranks = f" on {size} ranks" if size > 1 else ""
    print(f"Picked {len(indices):,} of {n:,} rows of {dim} numbers in {seconds:.2f} s{ranks}.")
    if args.verbose and (table := report_table([getattr(sampler, "report_", {})])):
        print(table)
    if args.radius is not None and len(indices) < count:
        most = f"{count:,} of --{next(name for name in SIZES if getattr(args, name) is not None)}"
        print(f"All rows are within {args.radius:g} of these{_space(sampler)}: fewer than the {most} were needed.")
    print(_reach(array, indices, sampler))
    print(f"Saved {' and '.join(str(path) for path in (output, numbers) if path is not None)}.")


def _fits(features: MatrixFile) -> bool:
    """Whether the matrix, and a floating copy where one is needed, take less than half of the memory that is free."""
    native = features.dtype.kind == "f" and features.dtype.isnative
    size = features.dtype.itemsize if features.dtype.kind == "f" else 4
    copy = 0 if native else features.shape[0] * features.shape[1] * size
    return features.nbytes + copy <= available_memory() // 2


def _check_room(sampler: Sampler, features: MatrixFile, rows: int, scratch: Path | None) -> None:
    """MemoryError: so many rows, the share of a process, cannot be selected from here."""
    from patchcore_fast.samplers import RandomSampler
    from patchcore_fast.samplers.space import STATE, projected_columns
    from patchcore_fast.scratch import refusal, refuse, scratch_folder

    if isinstance(sampler, RandomSampler):
        return
    width = projected_columns(sampler, features.shape[1])
    place, sizes = scratch or scratch_folder(), [4 * rows * width] if width else []
    less, disk = "more machines (torchrun), fewer rows or --sampler random", shutil.disk_usage(place).free
    why = refusal(sizes, STATE * rows, available_memory(), disk, place, less, f"an --output on another disk, {less}")
    refuse(features.name, why)


def _choose(sampler: Sampler, features: MatrixFile, first: int, last: int, scratch: Path | None) -> Tensor:
    """Row numbers [k] from a file that is larger than memory, or of which other ranks have other rows.

    This process has rows first to last; `scratch` is a folder for what does not fit into memory.

    What selects in a projection gets the projected rows, made part by part from plain reads. Other methods look at all
    rows again and again, on the pages of the file.
    """
    from patchcore_fast.inputs import as_tensor
    from patchcore_fast.samplers.space import space_of

    def read(low: int, high: int) -> Tensor:
        return as_tensor(_floating(features.rows(first + low, first + high)))

    reduced, matrix = space_of(sampler, last - first, features.shape[1], read, scratch)
    if reduced is None:
        if not _fits(features):
            log.warning("%s: is larger than half of the memory that is free, and so is not read but mapped: it must "
                        "not be cut short while this runs", features.name)  # fmt: skip
        own = features.rows(first, last) if _fits(features) else features.mapped()[first:last]
        return sampler.select(_floating(own))
    features.check_same()
    indices = sampler.select(reduced)  # of the projection's width: taken as they are
    sampler.projection_ = matrix
    return indices


def _space(sampler: Any) -> str:
    return "" if sampler.projection_ is None else f" after projection to {sampler.projection_.shape[1]} dimensions"


def _floating(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """As the samplers take it: floating, of this machine's byte order. Copies only what has to change."""
    kind = array.dtype.newbyteorder("=") if array.dtype.kind == "f" else np.dtype(np.float32)
    return array if array.dtype == kind and array.dtype.isnative else array.astype(kind)


def _reach(array: np.ndarray[Any, Any] | None, indices: np.ndarray[Any, Any], sampler: Any) -> str:
    """The covering radius, how far the farthest row is from its nearest pick: measured where that is cheap."""
    import torch

    from patchcore_fast.inputs import as_tensor
    from patchcore_fast.kernels import knn
    from patchcore_fast.samplers import GreedyCoresetSampler

    if array is not None and array.shape[0] * array.shape[1] * len(indices) <= MEASURE_WORK:
        rows = as_tensor(_floating(array))
        distance, _ = knn(rows, rows[torch.from_numpy(indices)], 1)
        return f"Every row lies within {float(distance.max()):.6g} of a picked row (covering radius)."
    if type(sampler) is GreedyCoresetSampler and sampler.radii_ is not None and len(indices) > 1:
        # The last pick was the farthest row of all, so no row is farther from a pick than it was.
        return f"Every row lies within {float(sampler.radii_[-1]):.6g} of a picked row{_space(sampler)}."
    return "The covering radius was not measured: that would take longer than the selection."
