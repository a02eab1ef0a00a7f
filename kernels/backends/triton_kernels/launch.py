"""What every launch needs to know of the device, and whether there is one."""

from __future__ import annotations

import os

from ..device.launch import capability, on_device, processors

__all__ = ["capability", "interpreted", "launch_errors", "on_device", "processors", "triton_version"]


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels: decided by TRITON_INTERPRET when triton is first imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "y", "yes")


def launch_errors() -> tuple[type[Exception], ...]:
    """What a launch raises that asks for more shared memory, registers or memory than the card has."""
    from triton.runtime.errors import OutOfResources

    return RuntimeError, MemoryError, OutOfResources


def triton_version() -> str:
    """The version that is imported: what was compiled or measured by another may not hold."""
    import triton

    return str(triton.__version__)
