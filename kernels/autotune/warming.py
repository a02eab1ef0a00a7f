"""First calls made beforehand: compile what the public functions launch, and time it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..backends.triton_kernels.clock import compile_clock
from ..backends.triton_kernels.launch import capability, on_device, triton_version
from ..backends.triton_kernels.probe import HALF_CORES, TENSOR_CORES
from ..backends.triton_kernels.tile_cache import add
from ..kcenter import k_center_greedy
from ..knn import knn

NEIGHBOURS = (1, 9)
# Rows: triton compiles again for sizes that are no multiples of 16. The interpreter is for tests of this module.
_SIZES = {"cuda": (4096, 4001), "cpu": (48,)}
_PICKS = {"cuda": 64, "cpu": 4}


@dataclass(frozen=True)
class FirstCall:
    """A public function called for the first time in this process, and once more."""

    call: str
    first: float  # seconds
    again: float
    kernels: dict[str, float]  # seconds to compile, or to load what was compiled in an earlier process


def warm_up(
    device: torch.device, dims: Sequence[int], dtypes: Sequence[torch.dtype], precisions: Sequence[str]
) -> list[FirstCall]:
    """Call `k_center_greedy` and `knn` on small random rows in each combination, and keep the times in the cache file.

    Weights, starting distances and other numbers of neighbours than NEIGHBOURS compile at their own first call.
    """
    found = []
    with on_device(device):
        for dim in dims:
            for dtype in dtypes:
                for precision in precisions:
                    for name, call in _calls(device, dim, dtype, precision):
                        found.append(_timed(name, call, device))
    if device.type == "cuda":
        place = "{}|{}.{}|{}|".format(torch.cuda.get_device_name(device), *capability(device), triton_version())
        add("first_calls", {place + f.call: {k: v for k, v in asdict(f).items() if k != "call"} for f in found})
        asked, reason = TENSOR_CORES.known(device)
        halves = {probe.numbers.name: probe.known(device) for probe in HALF_CORES.values()}
        told = {name: {"reason": why} for name, (known, why) in halves.items() if known}
        if asked or told:
            add("tensor_cores", {place: {"asked": asked, "reason": reason, "halves": told}})
    return found


def _calls(
    device: torch.device, dim: int, dtype: torch.dtype, precision: str
) -> list[tuple[str, Callable[[], object]]]:
    calls: list[tuple[str, Callable[[], object]]] = []
    generator = torch.Generator("cpu").manual_seed(0)
    what = f"{dim} columns, {str(dtype).removeprefix('torch.')}, {precision}"
    for rows in _SIZES[device.type]:
        x = torch.randn(rows, dim, generator=generator, device="cpu").to(device, dtype)
        calls.append((f"k_center_greedy, {rows} rows, {what}", _greedy(x, precision)))
        calls += [(f"knn, k = {k}, {rows} rows, {what}", _search(x, k, precision)) for k in NEIGHBOURS]
    return calls


def _greedy(x: Tensor, precision: str) -> Callable[[], object]:
    return lambda: k_center_greedy(x, _PICKS[x.device.type], start=0, backend="triton", precision=precision)


def _search(x: Tensor, k: int, precision: str) -> Callable[[], object]:
    return lambda: knn(x, x, k, backend="triton", precision=precision)


def _timed(name: str, call: Callable[[], object], device: torch.device) -> FirstCall:
    taken = []
    with compile_clock() as kernels:
        for _ in range(2):
            begin = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append(time.perf_counter() - begin)
    return FirstCall(name, taken[0], taken[1], dict(sorted(kernels.items(), key=lambda item: -item[1])))
