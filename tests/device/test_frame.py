"""The frame as the host decides it and as the device does, which cannot ask: the same."""

import pytest
import torch

from patchcore_fast.kernels.backends.device.frame import decide_frame
from patchcore_fast.kernels.backends.device.precision import Arithmetic, halves
from patchcore_fast.kernels.exact import power_of_two, squared_weights

from ..kernels.cases import gaussian, integers

ROWS = {
    "plain": gaussian(60, 9), "integers": integers(60, 9), "large integers": integers(60, 9) * 1000,
    "zero": torch.zeros(60, 9), "far": gaussian(60, 9) + 100, "far integers": integers(60, 9) + 900,
    "tiny": gaussian(60, 9) * 1e-30, "subnormal": gaussian(60, 9).double() * 1e-310,
    "huge": gaussian(60, 9).double() * 1e140, "double": gaussian(60, 9).double() + 100,
}  # fmt: skip


def look(x, largest, broken):
    size = largest.view(torch.float64)
    size.copy_(torch.maximum(size, x.double().abs().max()))
    broken |= int(not bool((x == x.round()).all()))


@pytest.mark.parametrize("mode", ["ieee", "tf32x3", "bf16", "ffma"])
@pytest.mark.parametrize("name", ROWS)
def test_host_and_device_decide_alike(name, mode):
    x = ROWS[name]
    for more in ({}, {"query": x.flip(0) * 3}, {"query": integers(9, 9)}):
        host, device = (
            decide_frame("test", Arithmetic(mode), checked, look, bank=x, **more) for checked in (True, False)
        )
        assert torch.equal(host.params, device.params) and torch.equal(host.centre, device.centre)
        assert host.params[0].log2().frac() == 0 and host.params[4].log2().frac() == 0
        assert host.exact == bool(device.params[1] == 0)
        assert host.unchanged == (float(device.squared_scale) == 1 and not bool(device.centre.any()))
        assert not (device.exact or device.unchanged)  # the careful answer


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", ["ieee", "tf32x3", "ffma"])
def test_halves_stay_as_they_are_unless_a_frame_is_needed(dtype, mode):
    for name, stays in {
        "plain": True,
        "integers": True,
        "zero": True,
        "far": False,
        "tiny": dtype == torch.float16,
    }.items():
        x = ROWS[name].to(dtype)
        frame = decide_frame("test", Arithmetic(mode), True, look, halves=True, bank=x)
        without = decide_frame("test", Arithmetic(mode), True, look, bank=x)
        if stays:
            assert frame.arithmetic.mode == "half" and frame.unchanged
            bound = Arithmetic("half").bound(9, 20)
            assert frame.exact == (name != "plain")
            assert frame.exact or frame.params[1:4].tolist() == [bound.relative, bound.norm, bound.absolute]
        else:
            assert frame.arithmetic.mode == mode and torch.equal(frame.params, without.params)
            assert torch.equal(frame.centre, without.centre) and frame.unchanged == without.unchanged
    assert decide_frame("test", Arithmetic(mode), False, look, halves=True, bank=x).arithmetic.mode == mode  # unasked


def test_what_are_halves():
    x = gaussian(9, 9).half()
    assert halves("float32", x) and halves("float32", x, x) and halves("float32", x.bfloat16())
    assert not halves("float32", x, x.bfloat16()) and not halves("float32", x, x.float())
    assert not halves("ieee", x) and not halves("float32", x.new_zeros(2, 1).expand(2, (1 << 16) + 1))


def test_powers_of_two():
    exponents = range(-1022, 1024)
    assert power_of_two(torch.tensor(exponents)).tolist() == [2.0**n for n in exponents]


@pytest.mark.parametrize("largest", [1.7e308, 1.0, 3e-310])
def test_squared_weights_keep_their_order(largest):
    weights = torch.tensor([1.0, 0.75, 0.5, 1e-3, 0.0], dtype=torch.float64) * largest
    squared = squared_weights(weights)
    assert bool(squared.isfinite().all()) and bool((squared.diff() < 0).all()) and squared[-1] == 0
    assert float(squared[0] / squared[2]) == pytest.approx(4, rel=1e-9)


def test_rows_that_are_not_finite_are_refused():
    x = gaussian(60, 9)
    x[7, 3] = torch.inf
    with pytest.raises(ValueError, match="test: query must be finite; 1 of 60 rows are not finite, the first is row 7"):
        decide_frame("test", Arithmetic("ieee"), True, look, bank=gaussian(60, 9), query=x)
