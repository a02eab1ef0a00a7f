"""How long the host takes to launch a pass of the Triton k-center, with kernels that do nothing: no GPU is needed.

    TRITON_INTERPRET=0 python -m benchmarks.speed.launches

Triton's own code looks up each launch as on a device of compute capability 9.0; only the compiler, and the call of the
driver that would start the kernel, are left out. Compared are launches by triton's own way and repeated ones
(triton_kernels/launch.py), pass by pass in turn, after a check that both hand the same arguments to the same kernel.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from patchcore_fast.kernels import Tuning
from patchcore_fast.kernels.backends.base import KCenterJob
from patchcore_fast.kernels.backends.device.frame import DeviceFrame
from patchcore_fast.kernels.tuning import Budget

CARD = 90
Call = tuple[str, Any]  # name of the kernel; grid, launch state and arguments


@contextmanager
def idle_device(started: list[Call] | None = None) -> Iterator[None]:
    """Triton believes in a device, nothing is compiled, and kernels that are started are noted, or forgotten."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import CompiledKernel, compiler
    from triton.runtime.driver import driver

    def compiled(src: Any, target: Any = None, options: Any = None, **_: Any) -> Any:
        name = src.fn.__name__

        def start(*arguments: Any) -> None:  # grid, stream, function, its metadata, of the launch, hooks, arguments
            if started is not None:
                started.append((name, (*arguments[:6], *arguments[7:])))

        made = object.__new__(CompiledKernel)
        made.__dict__.update(
            src=src, name=name, module=None, function=name, packed_metadata=(), metadata=SimpleNamespace(), hash="",
            _run=start, _init_handles=lambda: None,
        )  # fmt: skip
        if not hasattr(CompiledKernel, "run"):  # before 3.5
            made.__dict__["run"] = start
        return made

    active = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", CARD, 32), get_current_device=lambda: 0,
        get_current_stream=lambda device=0: 0, get_active_torch_device=lambda: torch.device("cpu"),
    )  # fmt: skip
    kept = dict(vars(driver)), compiler.compile, triton.compiler.compile
    driver.set_active(active)
    compiler.compile = triton.compiler.compile = compiled
    try:
        yield
    finally:
        compiler.compile, triton.compiler.compile = kept[1:]
        vars(driver).update(kept[0])


def leaves(rows: int, dim: int) -> Any:
    """Leaves as a device has them, in CPU memory; their frame is made up, since nothing is computed."""
    from patchcore_fast.kernels.backends.triton_kernels import kcenter

    params = torch.tensor([1.0, 1e-4, 1e-4, 1e-30, 1.0], dtype=torch.float64)

    class Idle(kcenter.TritonKCenter):
        def _prepare(self) -> None:
            super()._prepare()
            self.frame = DeviceFrame(torch.zeros(dim), params, self.arithmetic, unchanged=True)

    x = torch.zeros(rows, dim)
    initial = torch.full((rows,), torch.inf, dtype=torch.float64)
    return Idle(KCenterJob("launches", x, initial, None, 0, 100, Tuning(), Budget()))


def measure(runs: int) -> dict[str, Any]:
    """Microseconds a pass, by way of launching.

    Raises
    ------
    AssertionError : a repeated launch hands over other arguments.
    """
    import triton

    started: list[Call] = []
    with idle_device(started):
        made = leaves(4096, 128)
        made._enqueue(2)
        launches = made._launches[2]
        ways: dict[str, Callable[[], object]] = {
            "looked up": lambda: [la.kernel[la.grid](*la.arguments, **la.options) for la in launches],
            "repeated": lambda: [la() for la in launches],
        }
        told = {}
        for name, way in ways.items():
            started.clear()
            way()
            told[name] = list(started)
        assert len(told["repeated"]) == len(launches)
        for one, other in zip(*told.values(), strict=True):
            assert one[0] == other[0] and len(one[1]) == len(other[1]), one[0]
            assert all(a is b or a == b for a, b in zip(one[1], other[1], strict=True)), one[0]
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(runs):
            for name, way in ways.items():
                started.clear()
                begin = time.perf_counter()
                way()
                taken[name].append(1e6 * (time.perf_counter() - begin))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    return {
        "triton": triton.__version__, "launches": len(launches), "microseconds": medians,
        "ratio": medians["looked up"] / medians["repeated"],
    }  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400, metavar="N", help="passes of each kind (default 400)")
    args = parser.parse_args(argv)
    from patchcore_fast.kernels.backends.triton_kernels.launch import interpreted

    if interpreted():
        parser.error("TRITON_INTERPRET must be 0: the interpreter has launches of its own")
    print(json.dumps(measure(args.runs)))


if __name__ == "__main__":
    main()
