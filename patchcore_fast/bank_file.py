"""Bank files as bytes (docs/bank-file.md): safetensors read into our own memory, and a digest over all that is in it.

A mapped file would change under a running model, or kill it, when somebody writes over it or cuts it: so nothing is
mapped, and the header is held against the size of the file before memory is asked for.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import IO, Any

import torch

from patchcore_fast.errors import BankError

HEADER_BYTES = 100_000_000  # safetensors' own limit
DEPTH = 32  # of lists and objects in each other; a bank needs 4
_SAID = 300  # characters of an error message: what it repeats of a file may be of any length
# The tensors of a bank, and the types that they may have; a bank for each layer has them after its number and a dot.
TENSORS = {
    "features": ("F32", "F16", "BF16"),
    "indices": ("I64",),
    "positions": ("I32",),
    "projection": ("F32",),
    "support": ("F32",),
    "normal_scores": ("F64",),
    "normal_pixels": ("F32",),
    "reduction_mean": ("F32",),
    "reduction_matrix": ("F32",),
    "index": ("U8",),
    "index_centres": ("F32",),
    "index_words": ("F32",),
}
QUANTILES = 33  # numbers that are kept of a held-out image's map
Span = tuple[torch.dtype, list[int], int, int]  # type, shape and offsets of a tensor
_NUMBER = re.compile(r"^(0|[1-9][0-9]?)\.")  # of a layer
TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8,
}  # fmt: skip


def bank_error(path: str | os.PathLike[str], what: object) -> BankError:
    """A BankError in one line of bounded length: `what` may repeat what a stranger wrote into the file."""
    text = " ".join(str(what).split())
    return BankError(f"{os.fspath(path)}: {text if len(text) <= _SAID else text[:_SAID] + ' ...'}")


def digest(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """BLAKE2b over name, type, shape and bytes of each tensor and over all metadata but the digest itself; hex."""
    names = sorted(tensors)
    described = [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in names]
    facts = sorted(item for item in metadata.items() if item[0] != "digest")
    found = hashlib.blake2b(json.dumps([described, facts]).encode(), digest_size=32)
    for name in names:
        found.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def check_quantiles(owner: str, q: torch.Tensor | None) -> None:
    """ValueError: they are none of maps."""
    if q is None:
        return
    if q.ndim != 2 or not len(q) or q.shape[1] != QUANTILES or q.dtype != torch.float32:
        raise ValueError(f"{owner}: normal_pixels must be [n, {QUANTILES}] float32, got "
                         f"{tuple(q.shape)} {q.dtype}")  # fmt: skip
    if not bool(torch.isfinite(q).all()) or bool((q.diff(dim=1) < 0).any()):
        raise ValueError(f"{owner}: normal_pixels must be finite, and each row ascending")


def ordered_header(content: bytes) -> tuple[bytes, int]:
    """The header of a safetensors file with its metadata in order, and where the tensors' bytes begin in `content`.

    safetensors writes metadata in an order that differs from process to process: equal banks are to be equal files.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **header}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, start


def read_json(text: str) -> Any:
    """JSON as we write it: finite numbers, nothing nested deeper than DEPTH. ValueError says what is wrong."""
    try:
        value = json.loads(text, parse_constant=_refused)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    if not _shallow(value, DEPTH):
        raise ValueError("its JSON is nested too deeply")
    return value


def read_header(f: IO[bytes], path: Path) -> tuple[dict[str, str], dict[str, Any], int]:
    """Metadata, the other entries, and where the tensors' bytes begin.

    Raises
    ------
    BankError : no safetensors header, or one that the file has no room for.
    """
    size = os.fstat(f.fileno()).st_size
    length = int.from_bytes(f.read(8), "little")
    try:
        if size < 8 or length > min(size - 8, HEADER_BYTES):
            raise ValueError("its header does not fit into it")
        header = read_json(f.read(length).decode("utf-8"))
        metadata = header.pop("__metadata__", {}) if isinstance(header, dict) else None
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            raise ValueError("its header is none of safetensors")
    except ValueError as error:
        raise _damaged(path, error) from error
    return metadata, header, 8 + length


def read_tensors(
    f: IO[bytes], entries: Mapping[str, Any], start: int, path: Path, span: Callable[[str, Any], Span]
) -> dict[str, torch.Tensor]:
    """Each tensor in memory of its own; nothing of it depends on the file afterwards.

    Parameters
    ----------
    f : the file, open.  entries : the header's, by name.  start : where the tensors' bytes begin.
    span : name, entry -> what it says, checked; ValueError where such a file has no such tensor.

    Raises
    ------
    BankError : entries that are not those of a bank, or that do not cover the bytes of the file one after the other.
    """
    spans = {}
    try:
        for name, entry in entries.items():
            spans[name] = span(name, entry)
        order = sorted(spans, key=lambda name: spans[name][2:])
        ends = [0, *(spans[name][3] for name in order)]
        body = os.fstat(f.fileno()).st_size - start
        if [spans[name][2] for name in order] != ends[:-1] or ends[-1] != body:
            raise ValueError(f"its tensors are said to take {ends[-1]:,} bytes, the file has {body:,} for them")
        f.seek(start)
        found = {}
        for name in order:
            kind, shape, begin, end = spans[name]
            block = torch.empty(end - begin, dtype=torch.uint8)
            if f.readinto(block.numpy()) != end - begin:  # type: ignore[attr-defined]
                raise ValueError(f"it ends inside of {name}: it was cut, or is being written")
            found[name] = block.view(kind).view(shape)
    except ValueError as error:
        raise _damaged(path, error) from error
    return found


def read_file(
    path: Path, check: Callable[[Path, dict[str, str]], int], span: Callable[[str, Any], Span]
) -> tuple[dict[str, str], dict[str, torch.Tensor], int]:
    """Metadata, tensors and format version of a file.

    Parameters
    ----------
    check : path, metadata -> version of the format; BankError where it is another one.  span : see `read_tensors`.

    Raises
    ------
    BankError : damaged, cut, changed, or of another format.  OSError, MemoryError, RuntimeError : see `told`.
    """
    with open(path, "rb") as f:
        metadata, entries, start = read_header(f, path)
        version = check(path, metadata)
        tensors = read_tensors(f, entries, start, path, span)
    if (version > 1 or "digest" in metadata) and metadata.get("digest") != digest(tensors, metadata):
        raise bank_error(path, "its bytes are not those that were written: it was damaged or changed")
    return metadata, tensors, version


@contextmanager
def told(path: Path, what: str = "bank") -> Iterator[None]:
    """A missing file, and what the system says while one is read, as BankErrors."""
    if not path.is_file():
        raise BankError(f"{path}: no such {what} file")
    try:
        yield
    except OSError as error:
        raise bank_error(path, f"cannot be read ({error.strerror or error})") from error
    except (MemoryError, RuntimeError) as error:  # torch's own word for no memory is a RuntimeError
        size = path.stat().st_size if path.is_file() else 0
        raise bank_error(path, f"cannot be taken into memory, it has {size:,} bytes ({error})") from error


def version_of(path: Path, metadata: Mapping[str, str], what: str, newest: int) -> int:
    """The version of the format, 1 to `newest`. BankError: no number, or newer."""
    version = metadata.get("format_version", "")
    if not re.fullmatch("[1-9][0-9]{0,5}", version):
        raise bank_error(path, f"format version {version!r} is not a number")
    if int(version) > newest:
        raise BankError(
            f"{path}: {what} format {version} is newer than {newest}, the newest this version reads; "
            "update patchcore_fast"
        )
    return int(version)


def bank_span(name: str, entry: Any) -> Span:
    """An entry of a bank; see `span_of`."""
    plain = _NUMBER.sub("", name)
    if plain not in TENSORS:
        raise ValueError(f"{name!r} is no tensor of a bank")
    return span_of(name, entry, TENSORS[plain], 2)


def span_of(name: str, entry: Any, kinds: Collection[str], most: int) -> Span:
    """Type, shape and offsets of an entry.

    Parameters
    ----------
    kinds : types that it may have, as safetensors names them.  most : dimensions.

    Raises
    ------
    ValueError : it is none of safetensors, or the numbers do not fit each other.
    """
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} is no tensor of a bank")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if kind not in kinds:
        raise ValueError(f"{name} must be {' or '.join(kinds)}, got {kind!r}")
    for numbers, count in ((shape, most), (offsets, 2)):
        if not isinstance(numbers, list) or len(numbers) > count or not all(type(n) is int and n >= 0 for n in numbers):
            said = "two" if most == 2 else str(most)
            raise ValueError(f"{name} must have a shape and offsets of at most {said} whole numbers, got {numbers!r}")
    dtype = TYPES[kind]
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} of {kind} {shape} cannot lie at {offsets}")
    return dtype, shape, offsets[0], offsets[1]


def _damaged(path: Path, error: object) -> BankError:
    return bank_error(path, f"damaged, or no safetensors file ({error})")


def _refused(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _shallow(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inner is None or (levels > 0 and all(_shallow(x, levels - 1) for x in inner))


def is_finite(value: object) -> bool:
    """A number, and none that is infinite or NaN."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def installed_versions() -> dict[str, str]:
    """Package -> version, of those that numbers may depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("patchcore_fast", "torch", "timm", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
