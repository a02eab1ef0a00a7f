"""Whether Triton's products on a device's tensor cores are what the bounds of tf32x3 and half assume
(device/tensor_cores.py).

The tile is one that compiles to what the hot kernels use: wgmma on 9.0, tcgen05 on 10.x, mma.sync elsewhere.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..device.precision import FIRST_HALF
from ..device.tensor_cores import BFLOAT16, FLOAT16, TF32, Probe, Questions
from .launch import capability, launch_errors, on_device
from .precision import PROBED, Arithmetic
from .primitives import inner


@triton.jit
def products_kernel(
    x_ptr,  # [tiles, M, K] float32 or halves
    y_ptr,  # [tiles, N, K]
    start_ptr,  # [tiles, M, N]
    answers_ptr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    MODE: tl.constexpr,
):
    """Products on tensor cores whose sums show every bit that is lost: a program a tile."""
    tile = tl.program_id(0)
    row, other, column = tl.arange(0, M)[:, None], tl.arange(0, N)[:, None], tl.arange(0, K)[None, :]
    x = tl.load(x_ptr + (tile * M + row) * K + column)
    y = tl.load(y_ptr + (tile * N + other) * K + column)
    place = (tile * M + row) * N + tl.arange(0, N)[None, :]
    tl.store(answers_ptr + place, inner(x, y, tl.load(start_ptr + place), MODE))


def ask(asked: Questions, device: torch.device) -> Tensor:
    """Answers [T, M, N] on the CPU.

    Raises
    ------
    RuntimeError : the kernel could not be launched.
    """
    x, y, start = (t.to(device) for t in (asked.x, asked.y, asked.start))
    out = torch.empty_like(start)
    rows, others, depth = PROBED
    mode = "tf32" if asked.numbers == TF32 else "half"
    try:
        with on_device(device):
            products_kernel[(len(asked.kinds),)](
                x, y, start, out, M=rows, N=others, K=depth, MODE=mode, num_warps=4, enable_fp_fusion=True
            )
            return out.cpu()
    except launch_errors() as e:
        raise RuntimeError(str(e)) from e


TENSOR_CORES = Probe("the Triton backend", PROBED, ask)
HALF_CORES = {n.dtype: Probe("the Triton backend", PROBED, ask, n) for n in (FLOAT16, BFLOAT16)}


def trusted(arithmetic: Arithmetic, device: torch.device) -> Arithmetic:
    """The arithmetic, or "ieee" for a tf32x3 that this device's tensor cores do not bear out."""
    if arithmetic.mode != "tf32x3" or device.type != "cuda" or TENSOR_CORES.refusal(device) is None:
        return arithmetic
    return Arithmetic("ieee")


def halves_trusted(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether products of float16 or bfloat16 rows are what the bound of "half" assumes; the interpreter's are better.

    Not before 8.0, whose tensor cores take float16 only.
    """
    if device.type != "cuda":
        return True
    return capability(device) >= FIRST_HALF and HALF_CORES[dtype].refusal(device) is None
