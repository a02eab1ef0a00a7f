"""The bare sampler: a feature matrix in, its coreset out."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from patchcore_fast.cli.outputs import check_outputs_differ, writable_file
from patchcore_fast.errors import DataError
from patchcore_fast.files import atomic_write
from patchcore_fast.progress import bar

MEASURE_WORK = 2 * 10**11  # multiplications: seconds on two cores


def read_features(name: str) -> np.ndarray[Any, Any]:
    """[N, D] real array, mapped and not read: it may be larger than memory.

    Raises
    ------
    DataError : missing, truncated or foreign file, pickled objects, not 2-D, empty, or not real numbers.
    """
    path = Path(name)
    if not path.is_file():
        raise DataError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
    with path.open("rb") as f:
        start = f.read(6)
    if start[:2] == b"PK":
        raise DataError(f"{path}: is an .npz archive, a single .npy array is wanted")
    if start != b"\x93NUMPY":  # NumPy would take any other file for a pickle
        raise DataError(f"{path}: is no .npy file")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as e:
        reason = "holds Python objects" if "object" in str(e).lower() else "is damaged or truncated"
        raise DataError(f"{path}: {reason}") from e
    if array.ndim != 2:
        raise DataError(f"{path}: features must be 2-D [rows, dimensions], got shape {array.shape}")
    if not array.size:
        raise DataError(f"{path}: features are empty, shape {array.shape}")
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        raise DataError(f"{path}: features must be real numbers of at most 64 bits, got dtype {array.dtype}")
    return array


def _write_npy(path: Path, array: np.ndarray[Any, Any]) -> None:
    with atomic_write(path) as f:
        np.save(f, array, allow_pickle=False)


def select(args: argparse.Namespace) -> None:
    """Pick rows, write them (and their numbers), say how long it took and how far the picks reach."""
    output = writable_file(args.output)
    numbers = None if args.indices is None else writable_file(args.indices)
    check_outputs_differ({"--output": output, "--indices": numbers}, [("FEATURES", args.features)])
    array = read_features(args.features)
    if not 0 < args.ratio < 1:
        raise DataError(f"--ratio must lie in (0, 1), got {args.ratio}")
    if int(len(array) * args.ratio) == 0:
        raise DataError(f"--ratio {args.ratio} of {len(array)} rows keeps none; the smallest is {1 / len(array):.3g}")

    from patchcore_fast.samplers import make_sampler

    sampler = make_sampler(args.method, args.ratio, seed=args.seed, device=args.device,
                           projection=None if args.no_projection else 128)  # fmt: skip
    begin = time.perf_counter()
    with bar(int(len(array) * args.ratio), "select") as shown:
        sampler.progress = shown.at
        indices = sampler.select(_floating(array)).numpy()
    seconds = time.perf_counter() - begin
    _write_npy(output, np.ascontiguousarray(array[indices]))
    if numbers is not None:
        _write_npy(numbers, indices)
    print(f"Picked {len(indices):,} of {len(array):,} rows of {array.shape[1]} numbers in {seconds:.2f} s.")
    print(_reach(array, indices, sampler))
    print(f"Saved {output}" + ("." if numbers is None else f" and {numbers}."))


def _floating(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """As the samplers take it: floating, of this machine's byte order. Copies only what has to change."""
    kind = array.dtype.newbyteorder("=") if array.dtype.kind == "f" else np.dtype(np.float32)
    return array if array.dtype == kind and array.dtype.isnative else array.astype(kind)


def _reach(array: np.ndarray[Any, Any], indices: np.ndarray[Any, Any], sampler: Any) -> str:
    """The covering radius, how far the farthest row is from its nearest pick: measured where that is cheap."""
    import torch

    from patchcore_fast.kernels import knn
    from patchcore_fast.samplers import GreedyCoresetSampler

    if array.shape[0] * array.shape[1] * len(indices) <= MEASURE_WORK:
        rows = torch.from_numpy(np.array(_floating(array)))
        distance, _ = knn(rows, rows[torch.from_numpy(indices)], 1)
        return f"Every row lies within {float(distance.max()):.6g} of a picked row (covering radius)."
    if type(sampler) is GreedyCoresetSampler and sampler.radii_ is not None and len(indices) > 1:
        # The last pick was the farthest row of all, so no row is farther from a pick than it was.
        space = "" if sampler.projection_ is None else f" after projection to {sampler.projection_.shape[1]} dimensions"
        return f"Every row lies within {float(sampler.radii_[-1]):.6g} of a picked row{space}."
    return "The covering radius was not measured: that would take longer than the selection."
