"""Feature matrices on disk: a .npy file, a tensor of a .safetensors file, or a folder of such files, row below row.

All are read by plain reads, part by part, after what their headers say was held against their sizes (`npy`).
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from patchcore_fast.errors import DataError
from patchcore_fast.npy import Array, NpyFile

SUFFIXES = (".npy", ".safetensors")
INDEX = "shards.json"
_TYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I8": "<i1", "U8": "<u1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
_LONGEST_HEADER = 100_000_000  # bytes: safetensors' own limit


class MatrixFile(Protocol):
    """Rows [N, D] of plain numbers on disk, open for reading. DataError names what is damaged, truncated or changed."""

    name: str
    nbytes: int

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def read(self) -> Array: ...

    def rows(self, low: int, high: int) -> Array: ...

    def take(self, indices: Array) -> Array: ...

    def mapped(self) -> Array: ...

    def check_same(self) -> None: ...

    def close(self) -> None: ...


class SafetensorsFile(NpyFile):
    """One tensor of a .safetensors file: the one named "features", or the only one with two dimensions.

    Attributes and errors as of `NpyFile`; `metadata` is the header's own, {} where it has none.
    """

    metadata: dict[str, Any]
    TENSOR = "features"

    def _read_header(self) -> None:
        there = self._begin.st_size
        length = int.from_bytes(self._bytes(8, 0), "little")
        if there < 8 or length > min(there - 8, _LONGEST_HEADER):
            raise self._damaged("it is no .safetensors file, or ends in its header")
        try:
            header = json.loads(self._bytes(length, 8))
        except (ValueError, RecursionError) as error:
            raise self._damaged("its header cannot be read") from error
        found = header.get("__metadata__") if isinstance(header, dict) else None
        self.metadata = found if isinstance(found, dict) else {}
        entries = {k: v for k, v in header.items() if k != "__metadata__"} if isinstance(header, dict) else {}
        self._offset, self.shape, self.dtype = self._place(entries, 8 + length, there)
        self.fortran_order, self.nbytes = False, self.shape[0] * self.shape[1] * self.dtype.itemsize

    def _place(self, entries: dict[str, Any], start: int, there: int) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
        flat = {k: v for k, v in entries.items() if isinstance(v, dict) and _is_matrix(v.get("shape"))}
        name = self.TENSOR if self.TENSOR in flat else next(iter(flat), None)
        if name is None or (name != self.TENSOR and len(flat) > 1):
            raise DataError(
                f"{self.name}: a tensor named {self.TENSOR}, or one alone with two dimensions, is wanted; "
                f"it has {', '.join(sorted(map(str, entries))[:9]) or 'none'}"
            )
        entry, shape = flat[name], tuple(flat[name]["shape"])
        if entry.get("dtype") not in _TYPES:
            raise DataError(f"{self.name}: {name} is of type {entry.get('dtype')}, wanted {', '.join(_TYPES)}")
        dtype, offsets = np.dtype(_TYPES[entry["dtype"]]), entry.get("data_offsets")
        wanted = shape[0] * shape[1] * dtype.itemsize
        pair = offsets if isinstance(offsets, list) and [type(o) for o in offsets] == [int, int] else [-1, -1]
        low, high = pair
        if low < 0 or high - low != wanted or start + high > there:
            raise self._damaged(f"{name} of shape {shape} does not fit into it")
        return start + low, shape, dtype


class ShardedMatrix:
    """Files of one width and type, one below the other: those of a folder, by name.

    A file `shards.json` in it names them instead, in order: {"shards": ["a.npy", ...]}.

    Attributes
    ----------
    name : its path.  parts : the files, open.  nbytes : of all.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open them all."""
        self.name = os.fspath(folder)
        self.parts: list[NpyFile] = []
        try:
            for path in _shards(Path(folder)):
                self.parts.append(open_file(path))
                self._check(self.parts[-1])
        except BaseException:
            self.close()
            raise
        self._ends = list(accumulate(part.shape[0] for part in self.parts))
        self.nbytes = sum(part.nbytes for part in self.parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D) of all."""
        return self._ends[-1], self.parts[0].shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of all."""
        return self.parts[0].dtype

    def __enter__(self) -> ShardedMatrix:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for part in self.parts:
            part.close()

    def read(self) -> Array:
        """All rows, in memory."""
        out = self.rows(0, self.shape[0])
        self.check_same()
        return out

    def rows(self, low: int, high: int) -> Array:
        """Rows low to high: [high - low, D]."""
        out = np.empty((high - low, self.shape[1]), self.dtype)
        begin = 0
        for part, end in zip(self.parts, self._ends, strict=True):
            first, last = max(low, begin), min(high, end)
            if first < last:
                out[first - low : last - low] = part.rows(first - begin, last - begin)
            begin = end
        return out

    def take(self, indices: Array) -> Array:
        """Some rows: [k] -> [k, D]."""
        out = np.empty((len(indices), self.shape[1]), self.dtype)
        for place, row in zip(out, indices.tolist(), strict=True):
            which = bisect_right(self._ends, row)
            at = row - (self._ends[which - 1] if which else 0)
            place[:] = self.parts[which].rows(at, at + 1)[0]
        self.check_same()
        return out

    def mapped(self) -> Array:
        """DataError: several files cannot be one array without being copied."""
        raise DataError(
            f"{self.name}: is larger than half of the memory that is free; a folder of files can then be selected from "
            "in its projection only: leave --no-projection away, or make one file of it"
        )

    def check_same(self) -> None:
        """DataError: one of the files was written to, or cut short, since it was opened."""
        for part in self.parts:
            part.check_same()

    def _check(self, part: NpyFile) -> None:
        first = self.parts[0]
        if len(part.shape) != 2:
            raise DataError(f"{part.name}: features must be 2-D [rows, dimensions], got shape {part.shape}")
        if part.shape[1] != first.shape[1] or part.dtype != first.dtype:
            raise DataError(
                f"{part.name}: has {part.shape[1]} columns of {part.dtype}, "
                f"{first.name} {first.shape[1]} of {first.dtype}"
            )


def open_matrix(path: str | os.PathLike[str]) -> NpyFile | ShardedMatrix:
    """A file or a folder of files, open.

    Raises
    ------
    DataError : missing, damaged, truncated or foreign.
    """
    return ShardedMatrix(path) if Path(path).is_dir() else open_file(path)


def open_file(path: str | os.PathLike[str]) -> NpyFile:
    """One file, by its suffix. Raises as `open_matrix`."""
    return SafetensorsFile(path) if Path(path).suffix == ".safetensors" else NpyFile(path)


def _is_matrix(shape: Any) -> bool:
    return isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and 0 <= n < 2**48 for n in shape)


def _shards(folder: Path) -> Sequence[Path]:
    listed = folder / INDEX
    if listed.is_file():
        try:
            names = json.loads(listed.read_bytes()[:_LONGEST_HEADER])["shards"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f'{listed}: {{"shards": [names]}} is wanted: {error}') from error
        if names == []:
            raise DataError(f"{listed}: names no files yet: what writes them has not ended")
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise DataError(f"{listed}: shards must be names of files, got {str(names)[:60]}")
        if outside := [n for n in names if Path(n).name != n]:
            raise DataError(f"{listed}: shards lie in the folder itself, got {outside[0]}")
        return [folder / name for name in names]
    found = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and not p.name.startswith("."))
    if not found:
        raise DataError(f"{folder}: holds no file of features ({' or '.join(SUFFIXES)})")
    return found
