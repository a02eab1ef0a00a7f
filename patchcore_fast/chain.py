"""Files by which commands follow each other on a store of features: clusters, dynamics, scores, picks (docs/chain.md).

A file is a .safetensors of named arrays. Its metadata says what it is ("kind", "version"), which store it is of (a
digest, and the name that the store had), how it was made ("settings", JSON), and has a digest of all of it: a file that
was changed or cut short is refused, as is one of another store.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from patchcore_fast.errors import DataError
from patchcore_fast.feature_store import KIND, FeatureStore
from patchcore_fast.files import atomic_write
from patchcore_fast.matrix_files import INDEX
from patchcore_fast.npy import Array

# What there is, and which command writes it; "training" is what train-proxy goes on from.
KINDS = {"clusters": "cluster", "training": "train-proxy", "dynamics": "train-proxy", "scores": "score",
         "picks": "select"}  # fmt: skip
VERSION = "1"
_CODES = {"float32": "F32", "float64": "F64", "int64": "I64", "uint8": "U8"}
_TYPES = {code: np.dtype(name).newbyteorder("<") for name, code in _CODES.items()}
_HEADER, _INDEX = 1 << 20, 1 << 30  # bytes of a header, and of the index of a store, at most
_SAMPLE = 64  # rows that the digest of a store looks at


def digest(store: FeatureStore) -> str:
    """What tells a store from others, 32 hexadecimal digits: what it says of itself, its images, and 64 of its rows.

    How the rows are cut into files does not matter: a store that several processes wrote, or that was written in two
    goes, is that of one.

    Raises
    ------
    DataError : the store was changed or cut short.
    """
    rows = np.linspace(0, store.shape[0] - 1, min(store.shape[0], _SAMPLE)).astype(np.int64)
    facts = json.dumps([store.about, store.shape, store.images, store.grids, store.unread], sort_keys=True)
    found = hashlib.blake2b(facts.encode("utf-8", "surrogatepass"), digest_size=16)
    found.update(np.ascontiguousarray(store.take(rows)).data)
    return found.hexdigest()


@dataclass(frozen=True)
class ChainFile:
    """What such a file holds.

    kind : one of KINDS.  store : digest of the store that it is of.  store_name : how that was called.
    settings : how it was made, as JSON types.  arrays : by name, of at most two dimensions and types of _CODES.
    """

    kind: str
    store: str
    store_name: str
    settings: Mapping[str, Any]
    arrays: Mapping[str, Array] = field(repr=False)

    @classmethod
    def of(cls, kind: str, store: FeatureStore, settings: Mapping[str, Any], arrays: Mapping[str, Array]) -> ChainFile:
        """A new one of a store."""
        held = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
        name = Path(os.path.abspath(store.name)).name
        return cls(kind, digest(store), name, json.loads(json.dumps(settings)), held)

    @cached_property
    def digest(self) -> str:
        """Of all that it holds."""
        return _digest(self._facts(), self.arrays)

    def _facts(self) -> dict[str, str]:
        return {
            "kind": f"patchcore_fast {self.kind}", "version": VERSION, "store": self.store,
            "store_name": self.store_name, "settings": json.dumps(self.settings),
        }  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it, whole. OSError: whatever the file system says."""
        header: dict[str, Any] = {"__metadata__": self._facts() | {"digest": self.digest}}
        at = 0
        for name, values in self.arrays.items():
            end = at + values.nbytes
            code = _CODES[values.dtype.name]
            header[name] = {"dtype": code, "shape": list(values.shape), "data_offsets": [at, end]}
            at = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # numbers lie at multiples of their size
        with atomic_write(path, size=8 + len(text) + at) as f:
            f.write(len(text).to_bytes(8, "little") + text)
            for values in self.arrays.values():
                f.write(np.ascontiguousarray(values, _TYPES[_CODES[values.dtype.name]]).tobytes())

    def check_store(self, store: FeatureStore, path: str | os.PathLike[str]) -> None:
        """DataError: it is of another store."""
        if digest(store) != self.store:
            raise DataError(
                f"{os.fspath(path)}: is of another store, {self.store_name!r} ({self.store[:8]}), not of {store.name} "
                f"({digest(store)[:8]}): run {KINDS[self.kind]} on this one"
            )

    def array(self, name: str, dtype: str, shape: tuple[int, ...], path: str | os.PathLike[str]) -> Array:
        """One of the arrays. DataError: it is not there, or of another type or shape (-1: of any length)."""
        found = self.arrays.get(name)
        if found is None:
            raise DataError(f"{os.fspath(path)}: has no {name}; it has {', '.join(self.arrays) or 'nothing'}")
        fits = len(found.shape) == len(shape) and all(b in (-1, a) for a, b in zip(found.shape, shape, strict=True))
        if found.dtype.name != dtype or not fits:
            raise DataError(f"{os.fspath(path)}: {name} must be {dtype} of shape {list(shape)}, "
                            f"got {found.dtype.name} of {list(found.shape)}")  # fmt: skip
        return found


def read_chain(path: str | os.PathLike[str], kind: str, store: FeatureStore | None = None) -> ChainFile:
    """Such a file, whole, in memory.

    Parameters
    ----------
    kind : the one that is wanted, of KINDS.  store : that it must be of, where it is given.

    Raises
    ------
    DataError : no file, a damaged, truncated or foreign one, of another kind or version, or of another store.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise DataError(f"{name}: {'is no file' if os.path.exists(name) else 'no such file'}")
    try:
        with open(name, "rb") as f:
            metadata, entries, start = _header(f)
            told = metadata.get("kind", "").removeprefix("patchcore_fast ")
            if told not in KINDS:
                raise ValueError("its metadata says no kind")
            if told != kind:
                raise DataError(
                    f"{name}: holds {told}, which {KINDS[told]} wrote; {kind} are wanted, which {KINDS[kind]} writes"
                )
            if metadata.get("version") != VERSION:
                raise DataError(f"{name}: is of version {metadata.get('version')!r}, this release reads {VERSION}")
            arrays = _arrays(f, entries, start)
            settings = json.loads(metadata["settings"])
            found = ChainFile(kind, metadata["store"], metadata["store_name"], settings, arrays)
            if not isinstance(settings, dict) or found.digest != metadata["digest"]:
                raise ValueError("it is not what its digest says")
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise DataError(
            f"{name}: is no file that {KINDS[kind]} wrote, or a damaged one ({str(error)[:200]})"
        ) from error
    if store is not None:
        found.check_store(store, path)
    return found


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether a folder says that it is a store, finished or not; no more of it is looked at."""
    try:
        with open(Path(path) / INDEX, "rb") as f:
            found = json.loads(f.read(_INDEX))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("kind") == KIND


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """The kind that a .safetensors file says it is of; it is not looked through. None where it says none of KINDS."""
    try:
        with open(path, "rb") as f:
            metadata, _, _ = _header(f)
    except (OSError, ValueError, RecursionError):
        return None
    kind = metadata.get("kind", "").removeprefix("patchcore_fast ")
    return kind if kind in KINDS else None


def _header(f: IO[bytes]) -> tuple[dict[str, str], dict[str, Any], int]:
    """Metadata, the entries of arrays, and where their bytes begin. ValueError: no header of safetensors."""
    size, length = os.fstat(f.fileno()).st_size, int.from_bytes(f.read(8), "little")
    if size < 8 or length > min(size - 8, _HEADER):
        raise ValueError("its header does not fit into it")
    header = json.loads(f.read(length).decode("utf-8"))
    metadata = header.pop("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its header is none of safetensors")
    return metadata, header, 8 + length


def _arrays(f: IO[bytes], entries: Mapping[str, Any], start: int) -> dict[str, Array]:
    """Each array, one behind the other to the end of the file. ValueError: they are not so."""
    found, at = dict[str, Array](), 0
    there = os.fstat(f.fileno()).st_size - start
    for name, entry in entries.items():
        dtype, shape, (low, high) = _TYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if not isinstance(shape, list) or len(shape) > 2 or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"{name} has the shape {shape}")
        if low != at or high - low != math.prod(shape) * dtype.itemsize or high > there:
            raise ValueError(f"{name} does not lie where it says")
        block = bytearray(high - low)
        f.seek(start + low)
        if f.readinto(block) != high - low:  # type: ignore[attr-defined]
            raise ValueError(f"it ends inside of {name}")
        found[name] = np.frombuffer(block, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
        at = high
    if at != there:
        raise ValueError(f"it has {there - at:,} bytes too many")
    return found


def _digest(facts: Mapping[str, str], arrays: Mapping[str, Array]) -> str:
    described = [[name, values.dtype.name, list(values.shape)] for name, values in arrays.items()]
    found = hashlib.blake2b(json.dumps([described, sorted(facts.items())]).encode(), digest_size=16)
    for values in arrays.values():
        found.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return found.hexdigest()
