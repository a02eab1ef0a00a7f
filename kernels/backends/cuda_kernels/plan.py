"""How a search is cut into pieces that fit the memory it may use."""

from __future__ import annotations

from dataclasses import dataclass

# The first five are the kernels' own (csrc/cuda/knn.h, tile_inner.h; tests/cuda compares them).
MOST_NEIGHBOURS = 64  # in slots
MOST_ROWS = (1 << 32) - 1  # of a bank: row numbers are uint32
TILE = 128  # queries that a block takes at a time; bank rows come in tiles of half as many
ALIGNED = 8  # columns of packed rows are a multiple
CROWDED = 16  # crowded queries that a block takes at a time
_SPARE = 3  # slots beyond k, at least; up to twice as many in all, slots being a power of two
_RESCUERS = 4  # blocks of a multiprocessor that take crowded queries
_SPLIT_ROWS, _MOST_SPLITS, _WAVES = 512, 64, 4  # of the bank: least rows of a split
_MOST = 1 << 30  # rows of a piece
# Multiply-adds of a launch: a second or two on the smallest cards, as those that drive a display end a kernel after a
# few. And numbers of a chunk of the bank: few enough that thousands of queries meet it in one launch.
_MOST_WORK, _MOST_CHUNK = 1 << 40, 1 << 27


@dataclass(frozen=True)
class Plan:
    """Sizes of a search; results do not depend on them."""

    slots: int
    pitch: int  # columns of packed rows
    queries: int  # at a time
    bank: int  # rows at a time
    splits: int  # of the bank among blocks, where queries are too few to fill the device
    rescuers: int  # blocks that take crowded queries


def make_plan(queries: int, bank: int, dim: int, k: int, processors: int, limit: int) -> Plan:
    """For `queries` x `bank` rows of `dim` columns, k neighbours, on so many multiprocessors, in `limit` bytes.

    The limit is kept but for the least pieces, of a tile each; so is the work of a launch.
    """
    slots = 1 << (k + _SPARE - 1).bit_length()
    pitch = -(-dim // ALIGNED) * ALIGNED
    chunk = _rounded(min(limit * 3 // 8 // 4, _MOST_CHUNK) // pitch, bank)
    held = 4 * pitch + 4 + 8 + 8  # of a query: packed row, norm, reach, place in the list of the crowded
    some = _rounded(min(limit // 2 // (held + 8 * slots), _MOST_WORK // (chunk * pitch)), queries)
    wanted = _WAVES * processors // -(-some // TILE)
    splits = max(1, min(wanted, chunk // _SPLIT_ROWS, _MOST_SPLITS))
    if splits > 1:
        splits = max(1, min(splits, (limit // 2 - held * some) // (some * slots * 8)))
    rescuers = max(1, min(_RESCUERS * processors, limit // 8 // (CROWDED * k * 12)))
    return Plan(slots, pitch, some, chunk, splits, rescuers)


def _rounded(rows: int, most: int) -> int:
    return min(most, _MOST, max(TILE, rows // TILE * TILE))
