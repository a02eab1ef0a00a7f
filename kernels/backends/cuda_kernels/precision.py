"""Which arithmetic the CUDA kernels take; device/precision.py has the bounds and their proofs."""

from __future__ import annotations

from torch import Tensor

from ..device.precision import TF32X3_CARDS, WIDEST_TF32X3, Arithmetic

FIRST_TF32 = (8, 0)
PERMITTED = ("tf32", "bf16")  # to give less than the exact result, which these kernels do not: as "float32"


def choose_arithmetic(precision: str, capability: tuple[int, int], dim: int, exact: str = "ffma") -> Arithmetic:
    """What `precision` means on a card of this compute capability.

    "float32" is the fastest of the exact ways, "tf32x3" asks for one, and "ieee" for the one that k-center takes where
    the others' bounds are of no use, `exact`: "ffma", the difference form, or for k-NN "ieee" as else. There is none
    that gives less than the exact result, so "tf32" and "bf16" are "float32".
    """
    wanted = capability in TF32X3_CARDS if precision != "tf32x3" else capability >= FIRST_TF32
    if precision == "ieee" or dim > WIDEST_TF32X3:
        return Arithmetic(exact)
    return Arithmetic("tf32x3" if wanted else "ieee")


def in_place(x: Tensor) -> bool:
    """Whether rows can be read 16 bytes at a time as they lie: csrc/cuda/rows_in_place.h."""
    of_16 = 16 // x.element_size()
    aligned = x.stride(0) % of_16 == 0 and x.shape[1] % of_16 == 0 and x.data_ptr() % 16 == 0
    return x.stride(1) == 1 and aligned
