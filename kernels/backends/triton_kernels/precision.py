"""Which arithmetic the Triton kernels take; device/precision.py has the bounds and their proofs."""

from __future__ import annotations

from ..device.precision import TF32X3_CARDS, WIDEST_TF32X3, Arithmetic

__all__ = ["PROBED", "Arithmetic", "choose_arithmetic"]
PROBED = (64, 16, 32)  # rows, others, depth: the tile that probe.py multiplies


def choose_arithmetic(precision: str, capability: tuple[int, int], dim: int) -> Arithmetic:
    """What `precision` means on a card of this compute capability; (0, 0) is the interpreter."""
    if precision == "float32":
        precision = "tf32x3" if capability in TF32X3_CARDS else "ieee"
    turing = (0, 0) < capability < (8, 0)  # its tensor cores know neither TF32 nor bfloat16
    if turing or (precision == "tf32x3" and dim > WIDEST_TF32X3):
        precision = "ieee"
    return Arithmetic(precision)
