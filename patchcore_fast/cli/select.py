"""The bare sampler: a feature matrix in, its coreset out."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from patchcore_fast.cli.outputs import check_outputs_differ, writable_file
from patchcore_fast.errors import DataError
from patchcore_fast.files import atomic_write
from patchcore_fast.memory import available_memory
from patchcore_fast.npy import STEP, NpyFile
from patchcore_fast.progress import bar

if TYPE_CHECKING:
    from torch import Tensor

    from patchcore_fast.samplers import Sampler

log = logging.getLogger(__name__)

HEADER = 128  # bytes of a .npy file before its numbers
PROJECTION = 128  # dimensions that distances are measured in
MEASURE_WORK = 2 * 10**11  # multiplications: seconds on two cores


def read_features(name: str) -> NpyFile:
    """A file of a real matrix [N, D], open.

    Raises
    ------
    DataError : missing, damaged, truncated or foreign file, pickled objects, not 2-D, empty, or not real numbers.
    """
    file = NpyFile(name)
    try:
        if len(file.shape) != 2:
            raise DataError(f"{name}: features must be 2-D [rows, dimensions], got shape {file.shape}")
        if not file.nbytes:
            raise DataError(f"{name}: features are empty, shape {file.shape}")
        if file.dtype.kind not in "fiu" or file.dtype.itemsize > 8:
            raise DataError(f"{name}: features must be real numbers of at most 64 bits, got dtype {file.dtype}")
    except DataError:
        file.close()
        raise
    return file


def _write_npy(path: Path, array: np.ndarray[Any, Any]) -> None:
    with atomic_write(path, size=array.nbytes + HEADER) as f:
        np.save(f, array, allow_pickle=False)


def select(args: argparse.Namespace) -> None:
    """Pick rows, write them (and their numbers), say how long it took and how far the picks reach."""
    output = writable_file(args.output)
    numbers = None if args.indices is None else writable_file(args.indices)
    check_outputs_differ({"--output": output, "--indices": numbers}, [("FEATURES", args.features)])
    with read_features(args.features) as features:
        _select(args, features, output, numbers)


def _select(args: argparse.Namespace, features: NpyFile, output: Path, numbers: Path | None) -> None:
    n, dim = features.shape
    if not 0 < args.ratio < 1:
        raise DataError(f"--ratio must lie in (0, 1), got {args.ratio}")
    if int(n * args.ratio) == 0:
        raise DataError(f"--ratio {args.ratio} of {n} rows keeps none; the smallest is {1 / n:.3g}")

    from patchcore_fast.samplers import make_sampler

    sampler = make_sampler(args.method, args.ratio, seed=args.seed, device=args.device,
                           projection=None if args.no_projection else PROJECTION)  # fmt: skip
    begin = time.perf_counter()
    array = features.read() if _fits(features) else None
    with bar(int(n * args.ratio), "select") as shown:
        sampler.progress = shown.at
        try:
            indices = (_choose(sampler, features) if array is None else sampler.select(_floating(array))).numpy()
        except DataError:
            raise
        except ValueError as error:  # rows that are not finite: values are checked where they are first read
            raise DataError(f"{features.name}: {error}") from error
    seconds = time.perf_counter() - begin
    _write_npy(output, features.take(indices) if array is None else np.ascontiguousarray(array[indices]))
    if numbers is not None:
        _write_npy(numbers, indices)
    print(f"Picked {len(indices):,} of {n:,} rows of {dim} numbers in {seconds:.2f} s.")
    print(_reach(array, indices, sampler))
    print(f"Saved {output}" + ("." if numbers is None else f" and {numbers}."))


def _fits(features: NpyFile) -> bool:
    """Whether the matrix, and a floating copy where one is needed, take less than half of the memory that is free."""
    native = features.dtype.kind == "f" and features.dtype.isnative
    size = features.dtype.itemsize if features.dtype.kind == "f" else 4
    copy = 0 if native else features.shape[0] * features.shape[1] * size
    return features.nbytes + copy <= available_memory() // 2


def _choose(sampler: Sampler, features: NpyFile) -> Tensor:
    """Row numbers [k] from a file that is larger than memory.

    What selects in a projection gets the projected rows, made part by part from plain reads: equal picks, for each row
    is rounded on its own. Other methods look at all rows again and again, on the pages of the file.
    """
    import torch

    from patchcore_fast.inputs import as_tensor
    from patchcore_fast.samplers import ApproximateGreedyCoresetSampler, GreedyCoresetSampler, RandomSampler
    from patchcore_fast.samplers.projection import project, random_projection

    n, dim = features.shape
    greedy = type(sampler) in (GreedyCoresetSampler, ApproximateGreedyCoresetSampler)
    if not greedy or sampler.dimension_to_project_features_to in (None, dim):  # type: ignore[attr-defined]
        if not isinstance(sampler, RandomSampler):  # which looks at no row
            log.warning("%s: is larger than half of the memory that is free, and so is not read but mapped: it must "
                        "not be cut short while this runs", features.name)  # fmt: skip
        return sampler.select(_floating(features.mapped()))
    matrix = random_projection(dim, PROJECTION, sampler.seed)  # type: ignore[attr-defined]
    device = sampler.device or torch.device("cpu")  # type: ignore[attr-defined]
    reduced = torch.empty(n, PROJECTION, dtype=torch.float32, device=device)
    step = max(1, STEP // (dim * features.dtype.itemsize))
    for low in range(0, n, step):
        part = as_tensor(_floating(features.rows(low, min(n, low + step))))
        reduced[low : low + step] = project(part, matrix, device)
    features.check_same()
    indices = sampler.select(reduced)  # of the projection's width: taken as they are
    sampler.projection_ = matrix
    return indices


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
        space = "" if sampler.projection_ is None else f" after projection to {sampler.projection_.shape[1]} dimensions"
        return f"Every row lies within {float(sampler.radii_[-1]):.6g} of a picked row{space}."
    return "The covering radius was not measured: that would take longer than the selection."
