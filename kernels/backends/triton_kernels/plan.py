"""How a search is cut into pieces that fit the memory it may use."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..device.memory import memory_limit
from .launch import capability, processors
from .tiles import Tile, choose_tile

__all__ = ["CROWDED", "MOST_NEIGHBOURS", "Plan", "make_plan", "memory_limit", "slot_tile"]

MOST_NEIGHBOURS = 64  # in slots; more registers than these hold would spill
_SPARE = 3  # slots beyond k, at least; up to twice as many in all, slots being a power of two
_SLOT_ELEMENTS, _MANY_SLOTS = 4096, 64  # of one tile: queries times slots
CROWDED, _RESCUERS = 16, 4  # crowded queries that one program takes at a time; such programs of a multiprocessor
_ALIGNED = 16  # columns of packed rows: a multiple of what loads of 16 bytes and Triton's specialisation ask for
_SPLIT_TILES, _MOST_SPLITS, _WAVES = 8, 32, 4


@dataclass(frozen=True)
class Plan:
    """Sizes of a search; results do not depend on them."""

    tile: Tile
    slots: int
    pitch: int  # columns of packed rows
    queries: int  # at a time
    bank: int  # rows at a time
    splits: int  # of the bank among programs, where queries are too few to fill the device
    rescuers: int  # programs that take crowded queries


def make_plan(queries: int, bank: int, dim: int, k: int, mode: str, device: torch.device, limit: int) -> Plan:
    """For `queries` x `bank` rows of `dim` columns, k neighbours, in `limit` bytes; tiles set how small pieces get."""
    slots = 1 << (k + _SPARE - 1).bit_length()
    tile = slot_tile(choose_tile("search", capability(device), dim, mode), slots, capability(device))
    rows = tile.rows
    pitch = -(-dim // _ALIGNED) * _ALIGNED
    chunk = _rounded(limit * 3 // 8 // (4 * pitch), bank, tile.others)
    number = 4 if bank < 1 << 31 else 8
    # Packed row, norm, reach, place in the list of the crowded, exact distances.
    held = 4 * pitch + 4 + 8 + 8 + 8 * slots
    some = _rounded(limit // 2 // (held + slots * (4 + number)), queries, rows)
    wanted = _WAVES * processors(device) // -(-some // rows)
    splits = max(1, min(wanted, chunk // (_SPLIT_TILES * tile.others), _MOST_SPLITS))
    if splits > 1:
        splits = max(1, min(splits, (limit // 2 - held * some) // (some * slots * (4 + number))))
    rescuers = _RESCUERS * processors(device)
    rescuers = max(1, min(rescuers, limit // 8 // (CROWDED * slots * (8 + number))))
    return Plan(tile, slots, pitch, some, chunk, splits, rescuers)


def slot_tile(tile: Tile, slots: int, capability: tuple[int, int]) -> Tile:
    """Slots take registers as well: a smaller tile for many. The sizes were found by compiling: they do not spill."""
    rows = max(16, min(tile.rows, _SLOT_ELEMENTS // slots))
    if slots < _MANY_SLOTS:
        return Tile(rows, tile.others, tile.depth, tile.warps, tile.stages)
    depth = 16 if capability < (8, 0) else 32
    return Tile(min(rows, 32), min(tile.others, 64), depth, 8, tile.stages)


def _rounded(rows: int, most: int, multiple: int) -> int:
    return min(most, max(multiple, rows // multiple * multiple))
