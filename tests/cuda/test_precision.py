"""The proven bound of the difference form, attacked: its derivation is in kernels/backends/device/precision.py."""

import numpy as np
import pytest
import torch

from patchcore_fast.kernels.backends.device.frame import decide_frame
from patchcore_fast.kernels.backends.device.precision import Arithmetic
from patchcore_fast.kernels.exact import squared_distance
from patchcore_fast.kernels.rounding import UNIT

from ..kernels.cases import gaussian

FFMA = Arithmetic("ffma")
EXPONENT = 20


def look(x, largest, broken):
    """As the kernels do."""
    largest.view(torch.float64).copy_(torch.maximum(largest.view(torch.float64), x.double().abs().max()))
    broken |= int((x != x.round()).any())


def framed(x, frame):
    """[N, D] float32, as `framed` in csrc/cuda/rows.h."""
    first, last = frame.params[0], frame.params[4]
    if x.dtype == torch.float64:
        return ((x - frame.centre.double()) * first * last).float()
    return (x.float() - frame.centre) * first.float() * last.float()


def fast(x, y):  # [P, D] float32 each -> [P] float32
    """The sum as one thread takes it: a rounded difference, then one fused multiply-add a column."""
    x, y = x.numpy(), y.numpy()
    total = np.zeros(len(x), dtype=np.float32)
    for i in range(x.shape[1]):
        difference = (x[:, i] - y[:, i]).astype(np.float64)
        # The product of two float32 numbers is exact in float64; the sum's second rounding is 2^-29 of the first.
        total = (total + difference * difference).astype(np.float32)
    return torch.from_numpy(total).double()


def errors(x, y, dtype):
    """|F - d^2| in the frame over what is allowed, pair by pair; and over d^2."""
    x, y = x.to(dtype), y.to(dtype)
    frame = decide_frame("test", FFMA, True, look, x=x, y=y)
    relative, norm, absolute = frame.params[1:4]
    found, true = fast(framed(x, frame), framed(y, frame)), squared_distance(x, y) * frame.squared_scale
    off = (found - true).abs()
    size = framed(x, frame).double().square().sum(1).float().double()
    if relative == 0:
        assert not off.any()
        return off, off
    return off / (relative * true + norm * size + absolute), off / true


CASES = {
    "gaussian": lambda d: (gaussian(50, d), gaussian(50, d).flip(0)),
    "far from the origin": lambda d: (gaussian(50, d) + 1e5, gaussian(50, d).flip(0) + 1e5),
    "near": lambda d: (gaussian(50, d), gaussian(50, d) * (1 + 2.0**-20)),
    "neighbours in float32": lambda d: (1 + gaussian(50, d) * 0, torch.full((50, d), 1 + 2.0**-23)),
    "mixed sizes": lambda d: (
        gaussian(50, d) * torch.logspace(-9, 6, d),
        gaussian(50, d).flip(0) * torch.logspace(6, -9, d),
    ),
    "large": lambda d: (gaussian(50, d) * 1e30, gaussian(50, d).flip(0) * 1e30),
    "tiny": lambda d: (gaussian(50, d) * 1e-30, gaussian(50, d).flip(0) * 1e-30),
    "integers": lambda d: ((gaussian(50, d) * 9).round(), (gaussian(50, d).flip(0) * 9).round()),
}

TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
BEYOND_HALF = ("large", "far from the origin", "mixed sizes")


@pytest.mark.parametrize("d", [1, 2, 33, 512])
@pytest.mark.parametrize(
    "name, dtype", [(n, t) for n in CASES for t in TYPES if t != torch.float16 or n not in BEYOND_HALF], ids=str
)
def test_the_bound_holds(name, d, dtype):
    share, _ = errors(*CASES[name](d), dtype)
    assert float(share.nan_to_num().max()) <= 1


@pytest.mark.parametrize("d", [64, 1024, 16384])
def test_the_bound_holds_where_every_addition_loses(d):
    """Squares a little below half a unit in the last place of the sum: each addition rounds the same way."""
    worst = 0.0
    for start, step in ((1.0, 2.0**-24), (1.0, 2.0**-24 * 0.99), (1.0, 2.0**-24 * 1.01), (1.5, 2.0**-23 * 0.49)):
        y = torch.full((1, d), float(np.sqrt(step)))
        y[:, 0] = start
        share, relative = errors(torch.zeros(1, d), y, torch.float32)
        assert float(share.max()) <= 1
        worst = max(worst, float(relative.max()) / (d * UNIT))
    assert worst > 0.2  # the attack bites: rounding is as bad, within a factor of five, as the bound says it can be


@pytest.mark.parametrize("d", [1, 16, 300])
def test_the_bound_holds_where_rounding_into_the_frame_loses(d):
    """float64 rows half a unit apart in float32, far from the origin: what is near there is not in the frame."""
    g = torch.Generator().manual_seed(1)
    base = 1 + torch.rand(200, d, generator=g, dtype=torch.float64)
    base[::2] *= 3  # two clusters, so that no centre helps
    for size in (2.0**-26, 2.0**-25, 2.0**-24, 2.0**-20, 1e-3):
        share, _ = errors(base, base + size * (torch.rand(200, d, generator=g) - 0.5).double(), torch.float64)
        assert float(share.max()) <= 1


def test_where_float32_holds_the_rows_the_norm_plays_no_part():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        x = (gaussian(40, 20) + 3).to(dtype)
        frame = decide_frame("test", FFMA, True, look, x=x)
        assert frame.params[2] == 0 and not frame.centre.any() and frame.params[1] == FFMA.bound(20, 20).relative
    frame = decide_frame("test", FFMA, True, look, x=gaussian(40, 20).double() * 1e-3 + 3)
    assert frame.params[2] == 2 * UNIT and bool(frame.centre.all())


def test_the_bound_is_tight_enough_to_be_of_use():
    ours, ieee = FFMA.bound(128, EXPONENT, False), Arithmetic("ieee").bound(128, EXPONENT)
    assert ours.norm == 0 and ours.relative < ieee.relative / 3
    assert FFMA.bound(1 << 21, EXPONENT).relative < 1 / 6
    assert FFMA.certified and FFMA.difference and not Arithmetic("tf32x3").difference
