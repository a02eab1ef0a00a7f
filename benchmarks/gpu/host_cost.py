"""What a k-center call costs the host: everything but the kernels, which do nothing here. Needs no GPU.

    python -m benchmarks.gpu.host_cost [--repeats 300]

Tensors are on the CPU, where an operator of torch costs about as much as enqueuing it for a card does.
"""

from __future__ import annotations

import argparse
import platform
import re
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from patchcore_fast.kernels import k_center_greedy
from patchcore_fast.kernels.backends.cuda_kernels import frame, kcenter, library
from patchcore_fast.kernels.backends.device import layout

_ARRAYS = Path(__file__).parents[2] / "csrc" / "cuda" / "kcenter_arrays.h"
_ROWS, _COLUMNS, _K = 20_000, 128, 2


class Idle:
    """The library of CUDA kernels, without kernels: a pass makes all picks at once."""

    KCenterPass = dict

    def __init__(self) -> None:
        self.driver: Any = None
        self._arrays = re.findall(r"X\((?:const )?\w+, (?!name\b)(\w+),", _ARRAYS.read_text())

    def kcenter_arrays(self) -> list[str]:
        """The real names: each costs a description."""
        return self._arrays

    def kcenter_sizes(self, rows: int, processors: int) -> dict[str, int]:
        """Some."""
        return {"parts": 8 * processors, "tile_rows": 128, "span": 1024 * -(-rows // (4096 * processors))}

    def kcenter_pass(self, of: dict[str, Any], levels: int, device: int, stream: int) -> None:
        """What a pass leaves for the host to read."""
        control = self.driver.control
        control[layout.COUNT] = control[layout.END]
        control[layout.PASSES] += 1
        control[layout.DISTANCES] += 1

    def nothing(self, *arguments: Any, **named: Any) -> None:
        """A kernel."""

    look = pack = kcenter_refresh_all = nothing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=300)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    idle, allocate = Idle(), kcenter.CudaKCenter._allocate

    def remember(driver: kcenter.CudaKCenter, block: int) -> None:
        idle.driver = driver
        allocate(driver, block)

    x = torch.zeros(_ROWS, _COLUMNS)
    with ExitStack() as patches:
        for where, name, value in (
            (kcenter.CudaKCenter, "_allocate", remember),
            (kcenter, "library", lambda device: idle),
            (frame, "library", lambda device: idle),
            (library, "refusal", lambda device: None),
            (kcenter, "capability", lambda device: (8, 6)),
        ):
            patches.enter_context(mock.patch.object(where, name, value))
        seconds = []
        for _ in range(repeats):
            begun = time.perf_counter()
            k_center_greedy(x, _K, backend="cuda", precision="ieee")
            seconds.append(time.perf_counter() - begun)
    quiet = statistics.median(seconds[len(seconds) // 10 :])  # the first ones warm up
    machine = f"torch {torch.__version__}, {platform.machine()}"
    print(f"k-center, kernels that do nothing: {1e3 * quiet:.3f} ms a call ({machine})")


if __name__ == "__main__":
    main()
