"""The fastest of the table's tiles on this very card, found by timing them. It changes speed only.

Asked for by PATCHCORE_FAST_AUTOTUNE=1, when a kernel first wants a tile, or by `patchcore-fast warmup --autotune`.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence

import torch

from ..backends.device.precision import FIRST_HALF, WIDEST_TF32X3
from ..backends.triton_kernels.launch import capability, launch_errors, on_device
from ..backends.triton_kernels.precision import choose_arithmetic
from ..backends.triton_kernels.tile_table import KERNELS, Tile, candidates
from ..backends.triton_kernels.tiles import forced, keep
from . import measure

Measure = Callable[[str, int, str, Tile], float]  # kernel, columns, mode, tile -> seconds
_log = logging.getLogger("patchcore_fast.kernels")


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


def tune_where_asked(gpu: str, card: tuple[int, int], kernel: str, dim: int, mode: str) -> Tile | None:
    """The tuner that `choose_tile` asks where no winner is known; None where the environment does not want one."""
    if not autotuning() or torch.cuda.is_current_stream_capturing():
        return None
    return tune(gpu, card, kernel, dim, mode, measure.seconds)


def tune(gpu: str, card: tuple[int, int], kernel: str, dim: int, mode: str, seconds: Measure) -> Tile:
    """Time the table's tiles and keep the fastest, in memory and on disk. A tile that cannot run is passed over.

    gpu, card : name and compute capability of the current CUDA device. dim : columns. mode : as precision.Arithmetic.
    """
    offered = candidates(kernel, card, dim, mode)
    taken: dict[Tile, float] = {}
    for tile in offered:
        try:
            with forced(kernel, tile):
                taken[tile] = seconds(kernel, dim, mode, tile)
        except launch_errors() as e:  # too little shared memory, registers or memory
            _log.debug("autotune: %s does not run %s: %s", gpu, tile, e)
    taken = {tile: s for tile, s in taken.items() if math.isfinite(s)}
    if not taken:
        _log.warning("autotune: no tile of %s ran on %s, the table's first is taken", kernel, gpu)
        return offered[0]
    best = min(taken, key=lambda tile: taken[tile])
    _log.debug("autotune: %s, %d columns, %s on %s: %s, %.3g s", kernel, dim, mode, gpu, best, taken[best])
    keep(gpu, card, kernel, dim, mode, best, taken[best])
    return best


def tune_all(
    device: torch.device,
    dims: Sequence[int],
    precisions: Sequence[str],
    seconds: Measure = measure.seconds,
    halves: bool = False,
) -> int:
    """Time the tiles of both kernels for these widths on a CUDA device; how many choices were made.

    halves : also for float16 and bfloat16 rows, where this card multiplies them as they are.
    """
    made = 0
    with on_device(device):
        gpu, card = torch.cuda.get_device_name(device), capability(device)
        for dim in dims:
            modes = [choose_arithmetic(p, card, dim).mode for p in precisions]
            if halves and "float32" in precisions and card >= FIRST_HALF and dim <= WIDEST_TF32X3:
                modes.append("half")
            for mode in dict.fromkeys(modes):
                for kernel in KERNELS:
                    tune(gpu, card, kernel, dim, mode, seconds)
                    made += 1
    return made
