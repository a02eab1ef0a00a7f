"""Features of images on disk: shards of rows with the names and grids of their images, and an index (docs/scale.md).

A shard is a .safetensors file of the images from one number of their list to another: rows, and an embedding of each
image. It appears whole or not at all, so what is there after a crash is what need not be made again. The index,
`shards.json`, says from the first what is stored, and lists the shards once all are there: before, nobody takes a part
for the whole.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.errors import DataError
from patchcore_fast.files import atomic_write
from patchcore_fast.matrix_files import INDEX, SafetensorsFile, ShardedMatrix
from patchcore_fast.npy import Array

KIND = "patchcore_fast feature store 1"
SHARD_BYTES = 128 << 20  # from which on a shard is written; a thousand files can be open at a time
TYPES = ("float16", "float32")
EMBEDDINGS = "embeddings"
_CODES = {"float16": "F16", "float32": "F32"}
_LARGEST = 1 << 30  # bytes of an index


@dataclass
class ImageBlock:
    """What a shard says of images first to last of the list.

    images : names of those that could be read.  grids : (h, w) of each of them and, where they have copies, of these.
    unread : (name, why) of the others.
    """

    first: int
    last: int
    images: list[str] = field(default_factory=list)
    grids: list[tuple[int, int]] = field(default_factory=list)
    unread: list[tuple[str, str]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows of these images."""
        return sum(h * w for h, w in self.grids)


class StoreWriter:
    """Writes a store, or goes on with one.

    Parameters
    ----------
    folder : is made where it is not there.
    about : what is stored, as JSON: settings, weights, "widths" (columns of each layer, in their order), "type" (one of
        TYPES), "count" of the images of the list, and "embedding" (columns of an embedding) where images have one.
    first : whether this process is the only one that writes, or the first of several that write different images.

    Raises
    ------
    DataError : a folder with other things, a store of other settings, a damaged one, one that another process writes.
    """

    def __init__(self, folder: str | os.PathLike[str], about: Mapping[str, Any], first: bool = True) -> None:
        self.folder, self.about = Path(folder), json.loads(json.dumps(about))
        self._lock: int | None = None
        self._pending, self._held, self._embedded = ImageBlock(0, 0), list[Array](), list[Array]()
        try:
            if first:
                self._open()
            elif (told := read_index(self.folder)["about"]) != self.about:
                raise DataError(f"{self.folder}: {_different(told, self.about)}")
            self.blocks = self._there()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise DataError(f"{self.folder}: is a file, a folder is wanted")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f"{self.folder}: another process writes to this store") from None
        if (self.folder / INDEX).exists():
            if (told := read_index(self.folder)["about"]) != self.about:
                raise DataError(f"{self.folder}: {_different(told, self.about)}")
            return
        if others := [name for name in sorted(os.listdir(self.folder)) if not name.startswith(".")]:
            raise DataError(f"{self.folder}: is no store of features, and holds {others[0]}: give another folder")
        self._write_index([])

    def close(self) -> None:
        """Let others write."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def missing(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Runs of images among first to last that no shard has."""
        at = first
        for block in self.blocks:
            if at < min(block.first, last):
                yield at, min(block.first, last)
            at = max(at, block.last)
        if at < last:
            yield at, last

    def add(self, block: ImageBlock, rows: Array, embeddings: Array | None = None) -> None:
        """The next images and their rows [N, D]: a shard once there are enough, or where they do not follow.

        embeddings : [grids of the block, E], E as `about` says; None where it says nothing of them.
        """
        columns = self.about.get("embedding")
        wanted = None if columns is None else (len(block.grids), columns)
        if len(rows) and (None if embeddings is None else embeddings.shape) != wanted:
            raise ValueError(f"{self.folder}: embeddings of shape {wanted} are wanted")
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(rows, self.about["type"])
        if not np.isfinite(rows).all():
            raise ValueError(f"{self.folder}: features are not finite in {self.about['type']}; take float32")
        if block.first != self._pending.last:
            self.flush()
        if self._pending.first == self._pending.last:
            self._pending = ImageBlock(block.first, block.first)
        pending = self._pending
        pending.last = block.last
        pending.images += block.images
        pending.grids += block.grids
        pending.unread += block.unread
        if len(rows):
            self._held.append(rows)
            if embeddings is not None:
                self._embedded.append(np.ascontiguousarray(embeddings, "<f4"))
        if sum(part.nbytes for part in self._held) >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was added."""
        pending, held, embedded = self._pending, self._held, self._embedded
        self._pending, self._held, self._embedded = ImageBlock(0, 0), [], []
        if pending.first == pending.last:
            return
        facts = {"kind": KIND, "about": json.dumps(self.about), "block": json.dumps(vars(pending))}
        columns = held[0].shape[1] if held else 0
        # Embeddings come first: the rows are the end of the file, whose loss is then seen by whoever reads them.
        begin, size = (sum(part.nbytes for part in parts) for parts in (embedded, held))
        header: dict[str, Any] = {"__metadata__": facts}
        if held:
            header["features"] = {"dtype": _CODES[self.about["type"]], "shape": [pending.rows, columns],
                                  "data_offsets": [begin, begin + size]}  # fmt: skip
        if embedded:
            header[EMBEDDINGS] = {"dtype": "F32", "shape": [len(pending.grids), self.about["embedding"]],
                                  "data_offsets": [0, begin]}  # fmt: skip
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # numbers lie at multiples of their size
        with atomic_write(self.folder / _shard_name(pending.first), size=8 + len(text) + begin + size) as f:
            f.write(len(text).to_bytes(8, "little") + text)
            for part in (*embedded, *held):
                f.write(part.data)

    def finish(self) -> None:
        """List the shards; by one process, once all have written theirs.

        Raises
        ------
        DataError : images are missing, or two shards have the same ones.
        """
        self.flush()
        self.blocks = self._there()
        if gap := next(self.missing(0, self.about["count"]), None):
            raise DataError(f"{self.folder}: images {gap[0]} to {gap[1]} are missing")
        names = [_shard_name(block.first) for block in self.blocks if block.rows]
        if not names:
            raise DataError(f"{self.folder}: none of {self.about['count']} images can be read; "
                            f"{next(why for block in self.blocks for _, why in block.unread)}")  # fmt: skip
        self._write_index(names)

    def _write_index(self, names: Sequence[str]) -> None:
        with atomic_write(self.folder / INDEX, "w", encoding="utf-8") as f:
            json.dump({"kind": KIND, "about": self.about, "shards": names}, f)

    def _there(self) -> list[ImageBlock]:
        found: list[ImageBlock] = []
        for path in sorted(self.folder.glob("images-*.safetensors")):
            block, about = read_block(path)
            if about != self.about:
                raise DataError(f"{path}: {_different(about, self.about)}")
            if found and block.first < found[-1].last:
                raise DataError(f"{path}: has images that another file has too: remove it")
            found.append(block)
        return found


class FeatureStore:
    """A finished store, open for reading; a context manager.

    Attributes
    ----------
    name : its path.  about : what is stored, as it was given to the writer.
    images, grids, unread : of all images, as of `ImageBlock`.
    embeddings : of all images, read when first asked for.

    Raises
    ------
    DataError : no store, an unfinished, damaged, truncated or foreign one; names the file.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.name = os.fspath(folder)
        index = read_index(Path(folder))
        self.about: dict[str, Any] = index["about"]
        if not index["shards"]:
            raise DataError(f"{self.name}: is not finished: the command that began it goes on with it")
        blocks = [block for block, _ in map(read_block, sorted(Path(folder).glob("images-*.safetensors")))]
        listed = [_shard_name(block.first) for block in blocks if block.rows]
        if listed != index["shards"] or [b.first for b in blocks] != [0, *(b.last for b in blocks)][:-1]:
            raise DataError(f"{self.name}: its files are not those that its {INDEX} lists")
        self.images = [name for block in blocks for name in block.images]
        self.grids = [grid for block in blocks for grid in block.grids]
        self.unread = [pair for block in blocks for pair in block.unread]
        self._blocks = blocks
        self._embeddings: Array | None = None
        self._matrix = ShardedMatrix(folder)
        try:
            self._check(sum(block.rows for block in blocks))
        except BaseException:
            self.close()
            raise

    def _check(self, wanted: int) -> None:
        """Whether the matrix is of so many rows, of the type and columns that the index says."""
        rows, columns = self.shape
        if rows != wanted or str(self._matrix.dtype) != self.about["type"]:
            raise DataError(
                f"{self.name}: has {rows:,} rows of {self._matrix.dtype}, its images have {wanted:,} of "
                f"{self.about['type']}"
            )
        if columns != sum(self.widths):
            said = " + ".join(map(str, self.widths))
            raise DataError(f"{self.name}: has {columns} columns, its {INDEX} says {said} by layer")

    @property
    def widths(self) -> tuple[int, ...]:
        """Columns of each layer, side by side in a row; one number where layers are mixed."""
        return tuple(self.about["widths"])

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return self._matrix.shape[0], self._matrix.shape[1]

    @property
    def config(self) -> PatchCoreConfig:
        """The settings that the features were made with, and defaults. DataError: this version has others."""
        try:
            return PatchCoreConfig.from_dict({name: self.about[name] for name in ("features", "selection")})
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{self.name}: its settings are wrong: {error}") from error

    def rows(self, low: int, high: int) -> Array:
        """Rows low to high: [high - low, D]. DataError: a file was changed or cut short."""
        out = self._matrix.rows(low, high)
        self._matrix.check_same()
        return out

    @property
    def embeddings(self) -> Array:
        """[I, E] float32, the global embedding of each image and, as `grids`, of each copy: `FeatureSource.embed`.

        DataError: a store of an earlier version, which has none; a file that was changed or damaged.
        """
        if self._embeddings is None:
            columns = self.about.get("embedding")
            if columns is None:
                raise DataError(
                    f"{self.name}: an earlier version wrote it without embeddings: extract into a new folder"
                )
            parts = [_read_embeddings(Path(self.name), block, columns) for block in self._blocks if block.rows]
            self._embeddings = np.concatenate(parts)
        return self._embeddings

    def take(self, indices: Array) -> Array:
        """Some rows: [k] -> [k, D]. Raises as `rows`."""
        return self._matrix.take(indices)

    def close(self) -> None:
        """Close the files."""
        self._matrix.close()

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_index(folder: Path) -> dict[str, Any]:
    """{"kind", "about", "shards"} of a store. DataError: no store, or a damaged index."""
    path = folder / INDEX
    if not path.is_file():
        what = "holds no features of images" if folder.is_dir() else "is not a folder" if folder.exists() else ""
        raise DataError(f"{folder}: {what or 'no such folder'} (a store has a file {INDEX})")
    try:
        with open(path, "rb") as f:
            found = json.loads(f.read(_LARGEST))
        if found["kind"] != KIND:
            raise ValueError("of another kind or version")
        about, names = found["about"], found["shards"]
        widths = about["widths"]
        known = isinstance(widths, list) and widths and all(type(n) is int and n > 0 for n in widths)
        if about["type"] not in TYPES or type(about["count"]) is not int or not known:
            raise ValueError("it does not say what is stored")
        if type(about.get("embedding", 1)) is not int or about.get("embedding", 1) < 1:
            raise ValueError("it does not say what embeddings are stored")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("its shards are no names")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: is no index of a feature store, or a damaged one ({error})") from error
    return {"kind": KIND, "about": about, "shards": names}


def read_block(path: Path) -> tuple[ImageBlock, dict[str, Any]]:
    """What a shard says of its images, held against its rows, and of the store. DataError: damaged or foreign."""
    file = _Shard(path)
    with file:
        try:
            if file.metadata.get("kind") != KIND:
                raise ValueError("of another kind or version")
            about, told = json.loads(file.metadata["about"]), json.loads(file.metadata["block"])
            block = ImageBlock(int(told["first"]), int(told["last"]), [str(name) for name in told["images"]],
                               [(int(h), int(w)) for h, w in told["grids"]],
                               [(str(name), str(why)) for name, why in told["unread"]])  # fmt: skip
            if not 0 <= block.first < block.last or any(min(grid) < 1 for grid in block.grids):
                raise ValueError("numbers that cannot be")
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            raise DataError(f"{path}: is no part of a feature store, or a damaged one ({error})") from error
        if file.shape[0] != block.rows or _shard_name(block.first) != path.name:
            raise DataError(f"{path}: has {file.shape[0]:,} rows, and says {block.rows:,}; or it has another's name")
        return block, about


class _Shard(SafetensorsFile):
    """A shard, perhaps of images that could not be read, and so without rows."""

    def _place(self, entries: dict[str, Any], start: int, there: int) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
        return super()._place(entries, start, there) if entries else (start, (0, 0), np.dtype(np.float32))


class _Embeddings(SafetensorsFile):
    """The embeddings of a shard."""

    TENSOR = EMBEDDINGS

    def _place(self, entries: dict[str, Any], start: int, there: int) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
        return super()._place({name: entry for name, entry in entries.items() if name == self.TENSOR}, start, there)


def _read_embeddings(folder: Path, block: ImageBlock, columns: int) -> Array:
    """[grids of the block, E] float32 of its shard."""
    with _Embeddings(folder / _shard_name(block.first)) as file:
        found, wanted = file.read(), (len(block.grids), columns)
    if found.shape != wanted or found.dtype != np.float32 or not np.isfinite(found).all():
        raise DataError(f"{file.name}: its embeddings are not {wanted[0]} x {columns} finite numbers of float32")
    return found


def _shard_name(first: int) -> str:
    return f"images-{first:09d}.safetensors"


def _different(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Which facts of two stores differ, in a message."""
    one, two = _flat(there), _flat(here)
    names = [name for name in {**one, **two} if one.get(name) != two.get(name)]
    told = ", ".join(f"{name} {_short(one.get(name))} there and {_short(two.get(name))} here" for name in names[:3])
    return f"is of other features: {told}; give another folder"


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value) if isinstance(value, Mapping) else {name: value}
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
