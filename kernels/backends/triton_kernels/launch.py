"""What every launch needs to know of the device, whether there is one, and launches that are repeated."""

from __future__ import annotations

import os
from typing import Any

from ..device.launch import capability, on_device, processors

__all__ = [
    "Launch", "capability", "interpreted", "launch_errors", "older_triton", "on_device", "processors",
    "triton_version",
]  # fmt: skip


class Launch:
    """A launch that is made again and again with the very same arguments, on one device.

    The first goes through triton's own way: it looks at every argument and at every global that the kernel reads, and
    finds or compiles what fits. That is most of what a launch costs the host (docs/kernels.md). The same arguments fit
    the same kernel, so the next launches go there at once.
    """

    def __init__(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        """`arguments` in the order of the kernel's; `options`: its constants and those of the compiler."""
        self.kernel, self.grid, self.arguments, self.options = kernel, grid, arguments, options
        self._again: Any = None
        self._all: list[Any] = []

    def __call__(self) -> None:
        """Launch, in the current stream of the current device."""
        if self._again is not None:
            self._again(*self._all)
            return
        compiled = self.kernel[self.grid](*self.arguments, **self.options)
        if not hasattr(type(compiled), "__getitem__"):  # the interpreter has nothing to give
            return
        names = self.kernel.arg_names
        given = {**dict(zip(names, self.arguments, strict=False)), **self.options}
        self._all = [given[name] for name in names]
        self._again = compiled[(*self.grid, 1, 1)[:3]]


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels: decided by TRITON_INTERPRET when triton is first imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "y", "yes")


def launch_errors() -> tuple[type[Exception], ...]:
    """What a launch raises that asks for more shared memory, registers or memory than the card has."""
    from triton.runtime.errors import OutOfResources

    return RuntimeError, MemoryError, OutOfResources


def older_triton() -> bool:
    """Before 3.8: its compiler takes more registers, and counts a histogram bin by bin, with ballots of a warp."""
    return tuple(int(part) for part in triton_version().split("+")[0].split(".")[:2]) < (3, 8)


def triton_version() -> str:
    """The version that is imported: what was compiled or measured by another may not hold."""
    import triton

    return str(triton.__version__)
