"""Which tile a kernel takes: the table's first choice, or what was measured to be fastest on this very card.

Measuring is asked for by PATCHCORE_FAST_AUTOTUNE=1 or `patchcore-fast warmup --autotune`. It changes speed only.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from .tile_cache import add, as_entry, as_tile, cache_file, read, tile_key
from .tile_table import Tile, bucket, candidates

__all__ = ["Tile", "autotuning", "choose_tile", "forced", "forget", "tune"]

Measure = Callable[[str, int, str, Tile], float]  # kernel, columns, mode, tile -> seconds
_log = logging.getLogger("patchcore_fast.kernels")
_lock = threading.RLock()
_winners: dict[tuple[Path, str], Tile | None] = {}  # None: looked up, not measured yet
_mine = threading.local()  # a tile being timed holds for the calls of the thread that times it


def autotuning() -> bool:
    """Whether PATCHCORE_FAST_AUTOTUNE asks for it.

    Raises
    ------
    ValueError : it is neither 0 nor 1.
    """
    value = os.environ.get("PATCHCORE_FAST_AUTOTUNE", "0")
    if value not in ("", "0", "1"):
        raise ValueError(f"PATCHCORE_FAST_AUTOTUNE must be 0 or 1, got {value!r}")
    return value == "1"


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
    if won is None and autotuning() and not torch.cuda.is_current_stream_capturing():
        from .measure import seconds

        won = tune(gpu, capability, kernel, dim, mode, seconds)
    return won or offered[0]


def tune(gpu: str, capability: tuple[int, int], kernel: str, dim: int, mode: str, measure: Measure) -> Tile:
    """Time the table's tiles and keep the fastest, in memory and on disk. A tile that cannot run is passed over."""
    offered = candidates(kernel, capability, dim, mode)
    taken: dict[Tile, float] = {}
    for tile in offered:
        try:
            with forced(kernel, tile):
                taken[tile] = measure(kernel, dim, mode, tile)
        except (RuntimeError, MemoryError, _triton_error()) as e:  # too little shared memory, registers or memory
            _log.debug("autotune: %s does not run %s: %s", gpu, tile, e)
    taken = {tile: s for tile, s in taken.items() if math.isfinite(s)}
    if not taken:
        _log.warning("autotune: no tile of %s ran on %s, the table's first is taken", kernel, gpu)
        return offered[0]
    best = min(taken, key=lambda tile: taken[tile])
    _log.debug("autotune: %s, %d columns, %s on %s: %s, %.3g s", kernel, dim, mode, gpu, best, taken[best])
    key = tile_key(gpu, capability, _triton_version(), kernel, bucket(dim), mode)
    with _lock:
        _winners[cache_file(), key] = best
        add("tiles", {key: as_entry(best, taken[best])})
    return best


def _winner(gpu: str, capability: tuple[int, int], kernel: str, dim: int, mode: str) -> Tile | None:
    key = tile_key(gpu, capability, _triton_version(), kernel, bucket(dim), mode)
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


def _triton_version() -> str:
    import triton

    return str(triton.__version__)


def _triton_error() -> type[Exception]:
    """What triton raises for a kernel that asks for more than the card has."""
    from triton.runtime.errors import OutOfResources

    found: type[Exception] = OutOfResources
    return found
