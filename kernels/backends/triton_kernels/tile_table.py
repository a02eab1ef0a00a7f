"""Tiles by compute capability and shape, in the order in which they are preferred. docs/kernels.md gives the reasons.

First choices are those that compile (offline.py) without spills, where one does, and with at least eight warps on a
multiprocessor; the catalogue's shapes are held to it by tests/triton/test_compiled.py, with triton 3.8. None has been
timed on a device.
"""

from __future__ import annotations

from dataclasses import dataclass

from .launch import older_triton

KERNELS = ("update", "search")
MODES = ("ieee", "tf32x3", "half", "tf32", "bf16")
BUCKETS = (32, 64, 128, 256)  # of columns, up to and including; the last stands for all wider ones
# Bytes of shared memory that a block may take, and that a multiprocessor has.
SHARED = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}


@dataclass(frozen=True)
class Tile:
    """Rows of features or queries, rows compared with (picks, bank), columns taken at a time; warps; stages."""

    rows: int
    others: int
    depth: int
    warps: int
    stages: int


_SLOT_ELEMENTS, _MANY_SLOTS = 4096, 64  # of one tile: queries times slots
INTERPRETER = Tile(64, 64, 64, 4, 1)

_FMA = Tile(128, 64, 16, 8, 3)
_FMA_TURING = Tile(128, 64, 16, 8, 2)  # no asynchronous copies: a third stage would only take registers
_FMA_SMALL = Tile(64, 64, 16, 8, 3)
_FMA_SMALL_TURING = Tile(64, 64, 16, 8, 2)
_MMA = Tile(128, 64, 32, 8, 3)
_MMA_SHORT = Tile(128, 64, 16, 8, 3)
_MMA_SMALL = Tile(64, 64, 32, 8, 3)
_HALF = Tile(128, 64, 64, 8, 3)  # 64 halves are the bytes of 32 floats
_HALF_SHORT = Tile(128, 64, 32, 8, 3)
Row = tuple[Tile, Tile, Tile, Tile]  # one a bucket


def _always(tile: Tile) -> Row:
    return (tile, tile, tile, tile)


def _held(rows: tuple[int, ...], wider: Tile) -> Row:
    """Tiles whose depth holds all columns, for the first buckets, with so many rows; chunks for wider ones."""
    tiles = [Tile(rows[i], 64, b, 8, 2) if i < len(rows) else wider for i, b in enumerate(BUCKETS)]
    return (tiles[0], tiles[1], tiles[2], tiles[3])


# kernel -> mode -> family -> the tile of each bucket. "update" always takes chunks of columns; "search" loads narrow
# queries once, with all their columns, where that leaves enough registers.
_FIRST: dict[str, dict[str, dict[str, Row]]] = {
    "update": {
        "ieee": {"turing": _always(_FMA_TURING), "other": _always(_FMA)},
        "tf32x3": {"large": _always(_MMA), "other": _always(_MMA_SHORT)},
        "half": {"other": (_HALF_SHORT, _HALF, _HALF, _HALF)},
        "tf32": {"other": _always(_MMA)},
        "bf16": {"turing": _always(_FMA_SMALL_TURING), "other": _always(_MMA)},
    },
    "search": {
        "ieee": {
            "turing": _held((128, 128), _FMA_TURING),
            "small": _held((128, 128), _FMA_SMALL),
            "sm_12x": _held((128, 128), _FMA_TURING),  # a third stage would spill
            "large": _always(_FMA_TURING),  # a third stage would spill on sm_90, 64 rows on sm_100
            "other": _always(_FMA_SMALL),
        },
        "tf32x3": {
            "ampere": (Tile(64, 64, 32, 8, 2), Tile(128, 32, 64, 8, 2), _MMA_SHORT, _MMA_SHORT),
            "large": _held((128, 64), _MMA),
            "other": _always(_MMA_SHORT),
        },
        "half": {
            "large": _held((128, 128, 128), _HALF),
            "other": _held((128, 64, 128), _HALF),  # 128 rows of 64 columns would spill
        },
        "tf32": {
            "ampere": _held((64, 128, 128), _MMA),
            "small": _held((64, 128, 128), _MMA_SMALL),
            "sm_12x": _held((64, 128, 128), _MMA_SMALL),
            "other": _held((128, 128, 128), _MMA),
        },
        "bf16": {
            "turing": _always(_FMA_SMALL_TURING),
            "ampere": (Tile(128, 32, 32, 8, 3), Tile(128, 64, 64, 8, 2), Tile(64, 64, 128, 8, 2), _MMA),
            "other": _held((128, 128, 64), _MMA),
        },
    },
}
# With triton before 3.8 a third stage, or 128 rows of a search, would spill: what "ieee" takes instead of chunks of 16
# columns.
_OLDER: dict[str, dict[str, Tile]] = {
    "update": {"ampere": _FMA_TURING, "small": _FMA_TURING},
    "search": dict.fromkeys(("ampere", "small", "sm_12x", "large"), _FMA_SMALL_TURING),
}
# What autotuning tries beside the first choice.
_OTHERS = {
    "ieee": (_FMA, _FMA_SMALL, Tile(64, 32, 16, 4, 3), Tile(128, 32, 16, 8, 3), Tile(128, 128, 8, 8, 3)),
    "tf32x3": (_MMA, _MMA_SHORT, _MMA_SMALL, Tile(64, 32, 32, 4, 3), Tile(128, 32, 32, 8, 3)),
    "half": (_HALF, _HALF_SHORT, Tile(64, 64, 64, 8, 3), Tile(128, 128, 32, 8, 3), Tile(128, 64, 128, 8, 2)),
    "tf32": (_MMA, _MMA_SMALL, Tile(128, 64, 32, 8, 2), Tile(128, 128, 32, 8, 2), Tile(64, 64, 64, 8, 2)),
    "bf16": (_MMA, _MMA_SMALL, Tile(128, 64, 32, 8, 2), Tile(128, 128, 32, 8, 2), Tile(64, 64, 64, 8, 2)),
}


def family(capability: tuple[int, int]) -> str:
    """Which cards share a line: "turing", "ampere" (8.0), "large" (9.0, 10.x), "sm_12x", "small" (other 8.x)."""
    if capability < (8, 0):
        return "turing"
    if capability == (8, 0):
        return "ampere"
    return {9: "large", 10: "large", 12: "sm_12x"}.get(capability[0], "small")


def shared_limit(capability: tuple[int, int]) -> int:
    """Bytes of shared memory that a block may take; of a card unknown here, what the smallest of its kind has."""
    return SHARED.get(10 * capability[0] + capability[1], 64 if capability < (8, 0) else 99) << 10


def bucket(dim: int) -> int:
    """Widths that share a tile, by the largest of them; 256 stands for all wide ones."""
    return next((b for b in BUCKETS if dim <= b), BUCKETS[-1])


def candidates(kernel: str, capability: tuple[int, int], dim: int, mode: str) -> tuple[Tile, ...]:
    """Tiles to choose from, the one to take unmeasured first.

    Raises
    ------
    ValueError : a kernel or mode that the table does not have, or fewer than one column.
    """
    for what, value, known in (("kernel", kernel, KERNELS), ("mode", mode, MODES)):
        if value not in known:
            raise ValueError(f"candidates: {what} must be one of {', '.join(known)}, got {value!r}")
    if dim < 1:
        raise ValueError(f"candidates: dim must be at least 1, got {dim}")
    if capability == (0, 0):
        return (INTERPRETER,)
    families = _FIRST[kernel][mode]
    first = families.get(family(capability), families["other"])[BUCKETS.index(bucket(dim))]
    if mode == "ieee" and first.depth == _FMA.depth and older_triton():
        first = _OLDER[kernel].get(family(capability), first)
    fits = [t for t in _OTHERS[mode] if t != first and _staged(t, mode) <= shared_limit(capability)]
    return (first, *fits)


def _staged(tile: Tile, mode: str) -> int:
    """Bytes of shared memory that the stages of a pipeline take, about; the first choices are compiled instead."""
    return tile.stages * tile.depth * (tile.rows + tile.others) * (2 if mode == "half" else 4)


def slot_tile(tile: Tile, slots: int, capability: tuple[int, int]) -> Tile:
    """Slots take registers as well: a smaller tile for many. The sizes were found by compiling: they do not spill."""
    rows = max(16, min(tile.rows, _SLOT_ELEMENTS // slots))
    if slots < _MANY_SLOTS:
        return Tile(rows, tile.others, tile.depth, tile.warps, tile.stages)
    depth = 16 if capability < (8, 0) else 32
    return Tile(min(rows, 32), min(tile.others, 64), depth, 8, tile.stages)
