"""A selection made earlier: row numbers, the file that `select` wrote, or the chosen rows themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..chain import ChainFile, kind_of, read_chain
from ..errors import DataError
from ..inputs import as_numbers
from ..matrix_files import open_file
from ..npy import Array, read_npy
from .base import Sampler

_BLOCK_BYTES = 64 << 20


class PrecomputedSampler(Sampler):
    """A selection made earlier.

    Parameters
    ----------
    indices : the row numbers [k], no two alike; or a file:
        - .npy with integers [k], as `select --indices rows.npy` writes;
        - .safetensors of `select STORE --indices picks.safetensors`, which also says what chose them (below);
        - .npy or .safetensors with floats [k, D], the chosen rows themselves, a bank's for instance. Each must occur
          among the features, number for number; equal rows are taken in the order in which they lie there.

    Attributes
    ----------
    source : the file's name, "" without one.  rows : [k] int64 row numbers; None where rows themselves were given.
    picks : what the file of `select` says, else None. In `PatchCore(config, sampler)` the bank is then that of the
        sampler which is written there: settings and all, and held-out images are selected for by it.
    searches : whether it has to look for rows.

    Raises
    ------
    DataError : the file is missing, damaged or holds something else; a row twice. `select` raises it for a row number
    that the features have not, and for a row that does not occur.
    """

    registered = "precomputed"  # what a bank calls it

    def __init__(self, indices: str | os.PathLike[str] | Sequence[int] | np.ndarray | Tensor) -> None:
        super().__init__()
        self.source = ""
        self.picks: ChainFile | None = None
        found: Any = indices
        if isinstance(indices, (str, os.PathLike)):
            self.source = os.fspath(indices)
            found = self._read(Path(indices))
        said = self.source or "indices"
        if isinstance(found, ChainFile):
            self.picks = found
            found = found.array("indices", "int64", (-1,), said)
        self._given: Array | None = None
        self.rows: Tensor | None = None
        if isinstance(found, np.ndarray) and found.ndim == 2 and self.source:
            if found.dtype.kind != "f" or found.dtype.itemsize > 8 or not np.isfinite(found).all():
                raise DataError(f"PrecomputedSampler: {said} must hold finite floats [k, D], got {found.dtype}")
            self._given = found
        else:
            self.rows = torch.from_numpy(_numbers(found, said))

    @property
    def searches(self) -> bool:
        """See the class."""
        return self._given is not None

    @property
    def takes_group(self) -> bool:  # type: ignore[override]
        """Whether `group` may be set: rows themselves are looked for in one process."""
        return self._given is None

    @property
    def recorded(self) -> Mapping[str, Any] | None:
        """The settings of the selection as a config takes them; None where nobody wrote them down."""
        if self.picks is None:
            return None
        found = self.picks.settings.get("selection")
        if found is not None and not isinstance(found, dict):
            raise DataError(f"{self.source}: its settings of the selection are no settings")
        return found

    def without(self, members: Tensor) -> Tensor:
        """The rows of the last selection that are not in a mask of all rows: [N] bool -> [<= k] int64."""
        assert self.indices_ is not None
        return self.indices_[~members[self.indices_]]

    def _read(self, path: Path) -> Any:
        if path.suffix == ".safetensors":
            if kind_of(path) is not None:
                return read_chain(path, "picks")
            with open_file(path) as file:
                return file.read()
        try:
            return read_npy(path)
        except (OSError, DataError) as error:
            raise DataError(f"PrecomputedSampler: {path} is not a readable .npy file: {error}") from error

    def _select(self, features: Tensor) -> Tensor:
        total = self._total(features)
        if self.rows is None:
            return self._found(features)
        if self.rows.numel() and int(self.rows.max()) >= total:
            raise DataError(
                f"PrecomputedSampler: row {int(self.rows.max())} was selected, but features have "
                f"{total} rows; the selection was made on other features"
            )
        return self.rows.clone()

    def _found(self, features: Tensor) -> Tensor:
        """Row numbers of the given rows, by their numbers; as in Python 0.0 and -0.0 are one number."""
        assert self._given is not None
        given, (n, dim) = self._given, features.shape
        if given.shape[1] != dim:
            raise DataError(
                f"PrecomputedSampler: {self.source} has rows of {given.shape[1]} numbers, the features of {dim}"
            )
        kind = np.result_type(given.dtype, _kind(features))
        wanted, out = _words(given, kind), np.full(len(given), -1, np.int64)
        places: dict[bytes, list[int]] = {}
        for place, words in enumerate(wanted):
            places.setdefault(words.tobytes(), []).append(place)
        sums = np.unique(_sums(wanted))
        step = max(1, _BLOCK_BYTES // (8 * dim))
        for low in range(0, n, step):
            words = _words(_array(features[low : low + step]), kind)
            for at in np.flatnonzero(np.isin(_sums(words), sums)):
                if left := places.get(words[at].tobytes()):
                    out[left.pop(0)] = low + at
        if len(missing := np.flatnonzero(out < 0)):
            raise DataError(
                f"PrecomputedSampler: row {missing[0]} of {self.source} does not occur among the {n:,} features"
                f"{' so often' if _repeated(wanted, missing[0]) else ''}; {len(missing):,} of {len(given):,} do not"
            )
        return torch.from_numpy(out)


def _numbers(found: Any, said: str) -> Array:
    """Row numbers [k] int64. DataError: something else."""
    try:
        array = as_numbers(found)
    except ValueError as error:
        raise DataError(f"PrecomputedSampler: {said} must hold integers [k]: {error}") from error
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise DataError(f"PrecomputedSampler: {said} must hold integers [k], got {array.dtype} of shape {array.shape}")
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < 2**63:
        raise DataError(f"PrecomputedSampler: {said} holds {int(array.min())}..{int(array.max())}, no row numbers")
    rows, counts = np.unique(array, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"PrecomputedSampler: {said} holds row {int(rows[counts > 1][0])} more than once")
    return array.astype(np.int64)


def _kind(features: Tensor) -> np.dtype[Any]:
    """NumPy's type of the features; float32 for bfloat16, which it lacks."""
    return _array(features[:0]).dtype


def _array(features: Tensor) -> Array:
    rows = features.detach().cpu()
    return (rows.float() if rows.dtype == torch.bfloat16 else rows).numpy()


def _words(rows: Array, kind: np.dtype[Any]) -> Array:
    """Rows as integers that are equal where the numbers are: [n, D] -> [n, D]."""
    held = np.ascontiguousarray(rows, kind) + kind.type(0)  # -0.0 + 0.0 is 0.0
    return held.view(f"u{kind.itemsize}")


def _sums(words: Array) -> Array:
    """A checksum of each row: [n, D] -> [n] uint64; rows that have the same one are then compared."""
    factors = np.random.RandomState(0).randint(1, 2**62, words.shape[1], dtype=np.int64).astype(np.uint64)
    return (words.astype(np.uint64) * factors).sum(1, dtype=np.uint64)


def _repeated(words: Array, row: int) -> bool:
    return int((words == words[row]).all(1).sum()) > 1
