"""Arrays in .npy files of others: what the header says is checked against the file before anything is allocated, and
the numbers are read, not mapped, so that a file which another process cuts short is an error and not a SIGBUS.

The format: numpy.lib.format, NEP 1.
"""

from __future__ import annotations

import ast
import io
import math
import os
import re
import stat
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from patchcore_fast.errors import DataError

Array = np.ndarray[Any, Any]

MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 10_000  # bytes, as in NumPy: reading Python literals takes memory and stack that grow with the text
STEP = 64 << 20  # bytes read at a time, so that Ctrl-C gets a turn


class NpyFile:
    """One array of plain numbers in a .npy file, open for reading; a context manager.

    Attributes
    ----------
    name : its path.  shape, dtype : of the array.  fortran_order : first index fastest.  nbytes : size of the array.

    Raises
    ------
    DataError : no such file, no .npy file, a damaged or truncated one, or one of Python objects; names the path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        found = Path(path)
        if not found.is_file():
            raise DataError(f"{self.name}: {'is not a file' if found.exists() else 'no such file'}")
        self._file = io.FileIO(path)
        self._fd = self._file.fileno()
        try:
            self._begin = os.fstat(self._fd)
            if not stat.S_ISREG(self._begin.st_mode):
                raise DataError(f"{self.name}: is not a file")
            self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> NpyFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self) -> Array:
        """The whole array, in memory of its own.

        Raises
        ------
        DataError : the file is cut short or written to meanwhile.  MemoryError : names the path and the bytes wanted.
        """
        flat = self._numbers(math.prod(self.shape), self._offset)
        self.check_same()
        return flat.reshape(self.shape, order="F" if self.fortran_order else "C")

    def rows(self, low: int, high: int) -> Array:
        """Rows low to high of a matrix [N, D]: [high - low, D]. Raises as `read`, but asks not whether it changed."""
        n, dim = self.shape
        if not self.fortran_order:
            return self._numbers((high - low) * dim, self._offset + low * dim * self.dtype.itemsize).reshape(-1, dim)
        out = np.empty((high - low, dim), self.dtype)
        for j in range(dim):
            out[:, j] = self._numbers(high - low, self._offset + (j * n + low) * self.dtype.itemsize)
        return out

    def take(self, indices: Array) -> Array:
        """Some rows of a matrix [N, D]: [k] -> [k, D]. Raises as `read`."""
        n, dim = self.shape
        out = np.empty((len(indices), dim), self.dtype)
        if self.fortran_order:
            for j in range(dim):
                out[:, j] = self._numbers(n, self._offset + j * n * self.dtype.itemsize)[indices]
        else:
            for place, row in zip(out, indices.tolist(), strict=True):
                place[:] = self.rows(row, row + 1)[0]
        self.check_same()
        return out

    def mapped(self) -> Array:
        """The array on the pages of the file, for one that is larger than memory: nobody may cut it short meanwhile."""
        order = "F" if self.fortran_order else "C"
        return np.memmap(self.name, self.dtype, "r", self._offset, self.shape, order)  # type: ignore[call-overload]

    def check_same(self) -> None:
        """DataError: the file was written to, or cut short, since it was opened."""
        now = os.fstat(self._fd)
        if now.st_size < self._offset + self.nbytes:
            raise DataError(f"{self.name}: was truncated while it was read")
        if (now.st_size, now.st_mtime_ns) != (self._begin.st_size, self._begin.st_mtime_ns):
            raise DataError(f"{self.name}: was changed while it was read")

    def _numbers(self, count: int, offset: int) -> Array:
        size = count * self.dtype.itemsize
        try:
            out = np.empty(count, self.dtype)
        except (MemoryError, ValueError) as error:  # ValueError: more than an address can say
            raise MemoryError(f"{self.name}: out of memory, {size:,} bytes wanted") from error
        view = out.view(np.uint8).data if size else memoryview(b"")
        done = 0
        while done < size:
            got = self._pread(view[done : done + STEP], offset + done)
            if not got:
                raise DataError(f"{self.name}: was truncated while it was read")
            done += got
        return out

    def _pread(self, into: memoryview, offset: int) -> int:
        try:
            return os.preadv(self._fd, [into], offset)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.name) from error

    def _bytes(self, count: int, offset: int) -> bytes:
        buffer = bytearray(count)
        done = 0
        while done < count and (got := self._pread(memoryview(buffer)[done:], offset + done)):
            done += got
        return bytes(buffer[:done])

    def _read_header(self) -> None:
        start = self._bytes(12, 0)
        if start[:2] == b"PK":
            raise DataError(f"{self.name}: is an .npz archive, a single .npy array is wanted")
        if start[:6] != MAGIC:  # NumPy would take any other file for a pickle
            raise DataError(f"{self.name}: is no .npy file")
        version, width = tuple(start[6:8]), 2 if start[6:7] == b"\1" else 4
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise self._damaged("its version is unknown" if len(start) > 7 else "it ends in the header")
        length = int.from_bytes(start[8 : 8 + width], "little")
        self._offset = 8 + width + length
        if self._begin.st_size < self._offset:
            raise self._damaged("it ends in the header")
        if length > LONGEST_HEADER:
            raise self._damaged(f"its header has {length:,} bytes")
        text = self._bytes(length, 8 + width).decode("utf-8" if version == (3, 0) else "latin-1", "replace")
        self.shape, self.dtype, self.fortran_order = self._meaning(text)
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize
        there = self._begin.st_size - self._offset
        if self.nbytes > there:
            raise self._damaged(f"shape {self.shape} of {self.dtype} is {self.nbytes:,} bytes, {there:,} are there")

    def _meaning(self, text: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
        text = re.sub(r"\b(\d+)L\b", r"\1", text)  # Python 2 wrote long numbers so
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about the literals of a foreign text
                header = ast.literal_eval(text.strip())
        except (SyntaxError, ValueError, TypeError, OverflowError, MemoryError, RecursionError) as error:
            raise self._damaged("its header cannot be read") from error
        if not isinstance(header, dict) or {*header} != {"descr", "fortran_order", "shape"}:
            raise self._damaged("its header has other fields")
        shape, order, kind = header["shape"], header["fortran_order"], header["descr"]
        if not isinstance(shape, tuple) or any(type(n) is not int or not 0 <= n < 2**63 for n in shape):
            raise self._damaged("its shape is no tuple of sizes")
        if len(shape) > 32 or math.prod(n or 1 for n in shape) >= 2**60:  # what NumPy of any version can hold
            raise self._damaged(f"its shape is {shape}")
        if type(order) is not bool:
            raise self._damaged("its order is neither True nor False")
        return shape, self._dtype(kind), order

    def _dtype(self, kind: Any) -> np.dtype[Any]:
        if not isinstance(kind, str):
            raise DataError(f"{self.name}: holds records of several fields, plain numbers are wanted")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dtype = np.dtype(kind)
        except Exception as error:  # a small language of its own, with its own parser
            raise self._damaged("its type is unknown") from error
        if dtype.hasobject:
            raise DataError(f"{self.name}: holds Python objects")
        if dtype.fields is not None or dtype.subdtype is not None or not dtype.itemsize:
            raise DataError(f"{self.name}: holds {dtype}, plain numbers are wanted")
        return dtype

    def _damaged(self, why: str) -> DataError:
        return DataError(f"{self.name}: is damaged or truncated ({why})")


def read_npy(path: str | os.PathLike[str]) -> Array:
    """The array of a .npy file, in memory of its own. Raises as `NpyFile` and its `read`."""
    with NpyFile(path) as file:
        return file.read()
