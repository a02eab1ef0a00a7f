"""Which tile a kernel takes: the table's first choice, or what was measured to be fastest on this very card.

Measuring calls the public functions, which stand above the backends: what measures (kernels/autotune) is installed from
there, with `install_tuner`. Tiles change speed only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from .launch import triton_version
from .tile_cache import add, as_entry, as_tile, cache_file, read, tile_key
from .tile_table import Tile, bucket, candidates

__all__ = ["Tile", "choose_tile", "forced", "forget", "install_tuner", "keep"]

# Name of the GPU, its compute capability, kernel, columns, mode -> the tile to take; None: the table's first choice.
Tuner = Callable[[str, tuple[int, int], str, int, str], Tile | None]
_tuner: Tuner | None = None
_lock = threading.RLock()
_winners: dict[tuple[Path, str], Tile | None] = {}  # None: looked up, not measured yet
_mine = threading.local()  # a tile being timed holds for the calls of the thread that times it


def install_tuner(tuner: Tuner) -> None:
    """Have `choose_tile` ask `tuner` where no winner is known. `kernels` does so when it is imported."""
    global _tuner
    _tuner = tuner


@contextmanager
def forced(kernel: str, tile: Tile) -> Iterator[None]:
    """Inside the block and this thread, `choose_tile` gives this tile, and nothing is measured."""
    before = getattr(_mine, "tile", None)
    _mine.tile = (kernel, tile)
    try:
        yield
    finally:
        _mine.tile = before


def forget() -> None:
    """Read the cache file again when a tile is next asked for."""
    with _lock:
        _winners.clear()


def choose_tile(kernel: str, capability: tuple[int, int], dim: int, mode: str) -> Tile:
    """The tile for "update" (k-center) or "search" (k-NN) on a card; capability (0, 0) is the interpreter.

    dim : columns of the features. mode : as in precision.Arithmetic. On a CUDA device the current one is meant.
    """
    offered = candidates(kernel, capability, dim, mode)
    if capability == (0, 0):
        return offered[0]
    trial = getattr(_mine, "tile", None)
    if trial is not None:
        return trial[1] if trial[0] == kernel else offered[0]
    gpu = _gpu(capability)
    if gpu is None:
        return offered[0]
    won = _winner(gpu, capability, kernel, dim, mode)
    if won is None and _tuner is not None:
        won = _tuner(gpu, capability, kernel, dim, mode)
    return won or offered[0]


def keep(gpu: str, capability: tuple[int, int], kernel: str, dim: int, mode: str, tile: Tile, seconds: float) -> None:
    """Take this tile from now on, here and in later processes: it was the fastest."""
    key = tile_key(gpu, capability, triton_version(), kernel, bucket(dim), mode)
    with _lock:
        _winners[cache_file(), key] = tile
        add("tiles", {key: as_entry(tile, seconds)})


def _winner(gpu: str, capability: tuple[int, int], kernel: str, dim: int, mode: str) -> Tile | None:
    key = tile_key(gpu, capability, triton_version(), kernel, bucket(dim), mode)
    place = (cache_file(), key)
    with _lock:
        if place not in _winners:
            _winners[place] = as_tile(read(place[0])["tiles"].get(key), candidates(kernel, capability, dim, mode))
        return _winners[place]


def _gpu(capability: tuple[int, int]) -> str | None:
    """The name of the current CUDA device, if it is one of this capability."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != capability:
        return None
    return torch.cuda.get_device_name()
