"""How long a public function takes with a given tile on this card: what autotuning compares."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from ..backends.triton_kernels.tile_table import Tile
from ..kcenter import k_center_greedy
from ..knn import knn

_ELEMENTS = 1 << 24  # of the features: 64 MB
_ROWS, _PICKS = 1 << 17, 4096  # k-center: most rows, and picks
_QUERIES, _NEIGHBOURS = 1 << 14, 9
_RUNS = 5


def seconds(kernel: str, dim: int, mode: str, tile: Tile) -> float:
    """Median of a few calls of the public function on random rows of the current CUDA device; `tile` is in force.

    The kernels around the one that is tuned are timed with it: they cost the same for every tile.
    """
    generator = torch.Generator("cuda").manual_seed(0)
    rows = max(_NEIGHBOURS + 1, min(_ROWS, _ELEMENTS // dim))
    x = torch.randn(rows, dim, generator=generator, device="cuda")
    return _median(_call(kernel, x, mode))


def _call(kernel: str, x: torch.Tensor, precision: str) -> Callable[[], object]:
    if precision == "half":  # no precision of the public functions: what they do with such rows by themselves
        x, precision = x.half(), "float32"
    if kernel == "update":
        picks = min(_PICKS, x.shape[0])
        return lambda: k_center_greedy(x, picks, start=0, backend="triton", precision=precision)
    half = min(_QUERIES, x.shape[0] // 2)
    query, bank = x[:half], x[half : 2 * half] if half >= _NEIGHBOURS else x
    return lambda: knn(query, bank, _NEIGHBOURS, backend="triton", precision=precision)


def _median(call: Callable[[], object]) -> float:
    call()  # compiles
    taken = []
    for _ in range(_RUNS):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        call()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)
