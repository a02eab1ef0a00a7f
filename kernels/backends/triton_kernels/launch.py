"""What every launch needs to know of the device, and whether there is one."""

from __future__ import annotations

import os

from ..device.launch import capability, on_device, processors

__all__ = ["capability", "interpreted", "on_device", "processors"]


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels: decided by TRITON_INTERPRET when triton is first imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "y", "yes")
