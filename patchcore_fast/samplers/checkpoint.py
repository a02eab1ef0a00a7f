"""A long selection on disk: the picks so far, from which it goes on after a crash and ends with the same picks."""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..files import atomic_write

_KIND = "patchcore_fast selection 1"
_SAMPLE = 256  # rows that tell one matrix from another


class Checkpoint:
    """Picks of one selection in a file.

    Parameters
    ----------
    path : the file, .npz; it is written whole, or not at all.
    about : what the selection is of; a file about something else is refused.
    every : seconds between writes.

    Raises
    ------
    DataError : the file is damaged, foreign, or of another selection; names the path.
    """

    def __init__(self, path: str | os.PathLike[str], about: dict[str, Any], every: float = 30.0) -> None:
        self.path, self.about, self.every = Path(path), about, every
        self.rows, self.squared = self._read() if self.path.exists() else (_EMPTY_ROWS, _EMPTY_SQUARED)
        self._new: list[tuple[Tensor, Tensor]] = []
        self._written = time.monotonic()

    def add(self, rows: Tensor, squared: Tensor) -> None:
        """The next picks [P] int64 and their squared distances [P] float64; written when it is time."""
        self._new.append((rows.cpu(), squared.cpu()))
        if time.monotonic() - self._written >= self.every:
            self.write()

    def write(self) -> None:
        """Write what has been added."""
        if self._new:
            rows, squared = zip(*self._new, strict=True)
            self.rows, self.squared = torch.cat([self.rows, *rows]), torch.cat([self.squared, *squared])
            self._new = []
            with atomic_write(self.path, size=16 * len(self.rows)) as f:
                about = np.frombuffer(json.dumps({"kind": _KIND, **self.about}).encode(), np.uint8)
                np.savez(f, about=about, rows=self.rows.numpy(), squared=self.squared.numpy())
        self._written = time.monotonic()

    def _read(self) -> tuple[Tensor, Tensor]:
        try:
            with np.load(self.path, allow_pickle=False) as file:
                about = json.loads(bytes(file["about"]).decode())
                rows, squared = torch.from_numpy(file["rows"]), torch.from_numpy(file["squared"])
        except (ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.path}: is no checkpoint of a selection, or a damaged one: {error}") from error
        good = rows.dtype == torch.int64 and squared.dtype == torch.float64 and rows.shape == squared.shape
        if not isinstance(about, dict) or about.pop("kind", None) != _KIND or not good or rows.ndim != 1:
            raise DataError(f"{self.path}: is no checkpoint of a selection")
        wanted = json.loads(json.dumps(self.about))
        different = sorted(k for k in {*about, *wanted} if about.get(k) != wanted.get(k))
        if different:
            told = ", ".join(f"{k} {about.get(k)!r} there and {wanted.get(k)!r} here" for k in different)
            raise DataError(f"{self.path}: is of another selection: {told}")
        return rows, squared


_EMPTY_ROWS, _EMPTY_SQUARED = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float64)


def sampled(total: int) -> Tensor:
    """Numbers of some rows [S] int64, evenly spaced."""
    return torch.arange(0, total, -(-total // _SAMPLE))


def fingerprint(rows: Tensor) -> str:
    """Of the rows `sampled` [S, D]."""
    return hashlib.sha256(rows.cpu().contiguous().view(torch.uint8).numpy().data).hexdigest()[:16]
