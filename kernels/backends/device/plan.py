"""How a search is cut into pieces that fit the memory it may use. Results do not depend on it.

A program is what takes one tile: a block of CUDA, a program of Triton.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_NEIGHBOURS = 64  # in slots; more registers than these hold would spill
CROWDED = 16  # crowded queries that a program takes at a time
_SPARE = 3  # slots beyond k, at least; up to twice as many in all, slots being a power of two
_RESCUERS = 4  # programs of a multiprocessor that take crowded queries
_WAVES = 4  # of programs, that splits make of few queries
_MOST = 1 << 30  # rows of a piece
# Multiply-adds of a launch: a second or two on the smallest cards, as those that drive a display end a kernel after a
# few. And numbers of a chunk of the bank: few enough that thousands of queries meet it in one launch.
_MOST_WORK, _MOST_CHUNK = 1 << 40, 1 << 27


@dataclass(frozen=True)
class Needs:
    """What a backend's kernels ask of a plan, and what they write."""

    queries: int  # of a tile: pieces are a multiple
    others: int  # bank rows of a tile: chunks are a multiple
    aligned: int  # columns of packed rows: a multiple
    split: int  # least bank rows of a split
    most_splits: int
    query: int  # bytes of a query, beside its packed row, norm, reach and place in the list of the crowded
    slot: int  # bytes of a slot
    part: int  # bytes of a crowded query's neighbours in a part of the bank
    value: int = 4  # bytes of a value in a packed row


@dataclass(frozen=True)
class Plan:
    """Sizes of a search."""

    slots: int
    pitch: int  # columns of packed rows
    queries: int  # at a time
    bank: int  # rows at a time
    splits: int  # of the bank among programs, where queries are too few to fill the device
    rescuers: int  # programs that take crowded queries


def slots_of(k: int) -> int:
    """Rows kept for a query while the bank is searched."""
    return 1 << (k + _SPARE - 1).bit_length()


def make_plan(queries: int, bank: int, dim: int, k: int, processors: int, limit: int, needs: Needs) -> Plan:
    """For `queries` x `bank` rows of `dim` columns, k neighbours, on so many multiprocessors, in `limit` bytes.

    The limit is kept but for the least pieces, of a tile each; so is the work of a launch.
    """
    slots = slots_of(k)
    pitch = -(-dim // needs.aligned) * needs.aligned
    chunk = _rounded(min(limit * 3 // 8 // needs.value, _MOST_CHUNK) // pitch, bank, needs.others)
    held, kept = needs.value * pitch + 20 + needs.query, needs.slot * slots  # bytes of a query, and of it in a split
    some = _rounded(min(limit // 2 // (held + kept), _MOST_WORK // (chunk * pitch)), queries, needs.queries)
    wanted = _WAVES * processors // -(-some // needs.queries)
    splits = max(1, min(wanted, chunk // needs.split, needs.most_splits))
    if splits > 1:
        splits = max(1, min(splits, (limit // 2 - held * some) // (some * kept)))
    rescuers = max(1, min(_RESCUERS * processors, limit // 8 // (CROWDED * needs.part)))
    return Plan(slots, pitch, some, chunk, splits, rescuers)


def _rounded(rows: int, most: int, tile: int) -> int:
    return min(most, _MOST, max(tile, rows // tile * tile))
