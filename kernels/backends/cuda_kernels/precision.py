"""Which arithmetic the CUDA kernels take; device/precision.py has the bounds and their proofs."""

from __future__ import annotations

from ..device.precision import TF32X3_CARDS, WIDEST_TF32X3, Arithmetic

FIRST_TF32 = (8, 0)


def choose_arithmetic(precision: str, capability: tuple[int, int], dim: int, exact: str = "ffma") -> Arithmetic:
    """What `precision` means on a card of this compute capability.

    "float32" is the faster of the two exact ways, "ieee" and "tf32x3" ask for one; there is none that gives less than
    the exact result, so "tf32" and "bf16" are "float32". `exact`: the mode in float32, "ffma" or "ieee".
    """
    wanted = capability in TF32X3_CARDS if precision != "tf32x3" else capability >= FIRST_TF32
    if precision == "ieee" or not wanted or dim > WIDEST_TF32X3:
        return Arithmetic(exact)
    return Arithmetic("tf32x3")
