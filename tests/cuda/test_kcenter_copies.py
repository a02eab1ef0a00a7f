"""Rows that k-center cannot read as they lie, or that the frame changes: copied once, where there is memory."""

import pytest
import torch

from patchcore_fast.kernels.backends.cuda_kernels import kcenter as host
from patchcore_fast.kernels.backends.cuda_kernels.frame import pack
from patchcore_fast.kernels.tuning import Budget

from ..kernels.cases import gaussian, integers
from ..kernels.tiled_kcenter import options
from .kcenter_runs import DEVICE, EXACT, check, engine, leaves  # noqa: F401

pytestmark = pytest.mark.usefixtures("engine")
F16, F32 = torch.float16, torch.float32
# Rows, and the type of their copy by precision; None: they are read as they are.
CASES = {
    "float32": (lambda: gaussian(150, 20), {"ieee": None, "tf32x3": None}),
    "float32 off-centre": (lambda: gaussian(150, 20) + 50, {"ieee": None, "tf32x3": F32}),
    "float32, large": (lambda: gaussian(150, 20) * 1e30, {"ieee": F32, "tf32x3": F32}),
    "float32, odd width": (lambda: gaussian(150, 21), {"ieee": F32, "tf32x3": F32}),
    "float32, every other column": (lambda: gaussian(150, 40)[:, ::2], {"ieee": F32, "tf32x3": F32}),
    "float32, columns first": (lambda: gaussian(20, 152).t(), {"ieee": F32, "tf32x3": F32}),
    "float32, off 16 bytes": (lambda: gaussian(151, 20).flatten()[1:-19].view(150, 20), {"ieee": F32, "tf32x3": F32}),
    "float64": (lambda: gaussian(150, 20).double() * torch.pi, {"ieee": F32, "tf32x3": F32}),
    "float64 off-centre": (lambda: gaussian(150, 21).double() + 1e6, {"ieee": F32, "tf32x3": F32}),
    "integers, odd width": (lambda: integers(150, 3), {"ieee": F32, "tf32x3": F32}),
    "float16": (lambda: gaussian(150, 24).half(), {"ieee": None, "tf32x3": None, "float32": None}),
    "float16, odd width": (lambda: gaussian(150, 21).half(), {"ieee": F32, "tf32x3": F32, "float32": F16}),
    "float16 off-centre": (lambda: (gaussian(150, 24) + 50).half(), {"ieee": None, "tf32x3": F32, "float32": F32}),
}


@pytest.mark.parametrize("name, precision", [(name, p) for name, (_, taken) in CASES.items() for p in taken])
def test_what_is_copied_and_that_picks_are_right(name, precision):
    x, taken = CASES[name][0](), CASES[name][1][precision]
    made = leaves(x, 3, precision=precision)
    assert made.copied == taken
    if taken is not None:
        framed = torch.zeros_like(made.copy)
        pack(made.features, made.frame, torch.empty_like(made.norm), framed)
        assert torch.equal(made.copy, framed) and not made.copy[:, x.shape[1] :].any()
        assert made.copy.numel() == x.shape[0] * -(-x.shape[1] // 16) * 16
    check(x, 20, key=("copies", name), precisions=(precision,))


@pytest.mark.parametrize("name", [name for name, (_, taken) in CASES.items() if F32 in taken.values()])
@pytest.mark.parametrize("precision", EXACT)
def test_without_memory_for_a_copy(name, precision, monkeypatch):
    x = CASES[name][0]()
    made = leaves(x, 20, precision=precision)
    size = made._copy_bytes(F32)
    with_copy = made.bytes(16) + (0 if made.copied else size)
    assert leaves(x, 20, precision=precision, memory_limit=with_copy).copied == made.copied
    made = leaves(x, 20, precision=precision, memory_limit=with_copy - 1)
    assert made.copied is None and made.bytes(16) == with_copy - size
    monkeypatch.setattr(host, "free_memory", lambda device: 0)
    assert leaves(x, 20, precision=precision).copied is None
    check(x, 20, key=("copies", name), precisions=(precision,))


@pytest.mark.skipif(DEVICE != "cpu", reason="the emulator's own switch")
def test_without_memory_for_a_centred_copy_rows_are_not_centred(monkeypatch):
    monkeypatch.setenv("PATCHCORE_FAST_CUDA_EMULATED_ARCH", "86")
    x = gaussian(150, 20) + 50
    made = leaves(x, 3)
    assert made.arithmetic.mode == "ieee" and made.copied == F32 and made.frame.centre.any()
    check(x, 20, key=("copies", "float32 off-centre"), precisions=("float32",))
    monkeypatch.setattr(host, "free_memory", lambda device: 0)
    made = leaves(x, 3)
    assert made.arithmetic.mode == "ffma" and made.copied is None and made.plain
    check(x, 20, key=("copies", "float32 off-centre"), precisions=("float32",))


def test_a_copy_takes_half_of_what_is_free_at_most(monkeypatch):
    x = gaussian(150, 21)
    size = 150 * 32 * 4
    for free, copied in ((2 * size, F32), (2 * size - 1, None)):
        monkeypatch.setattr(host, "free_memory", lambda device, free=free: free)
        assert leaves(x, 3).copied == copied
    monkeypatch.setattr(host, "free_memory", lambda device: pytest.fail("asked"))
    assert leaves(gaussian(150, 24), 3, precision="ieee").copied is None  # nothing is to be copied: nobody asks


@pytest.mark.parametrize("name", ["float64", "float32, odd width", "float32 off-centre", "float16, odd width"])
def test_a_second_try_does_without_a_copy_if_it_can(name, monkeypatch):
    x, refused, true = CASES[name][0](), [], torch.empty

    def scarce(*shape, **options):
        if shape == (16, 16) and not refused:  # of a block: the copy is there by then
            refused.append(shape)
            raise torch.OutOfMemoryError("there is no more, says the test")
        return true(*shape, **options)

    def scarce_sizes(first, *more, **options):
        return scarce(*first, *more, **options) if isinstance(first, tuple) else scarce(first, *more, **options)

    monkeypatch.setattr(torch, "empty", scarce_sizes)
    made = leaves(x, 3)
    assert refused and made.copied == (F16 if "float16" in name else None)
    refused.clear()
    check(x, 20, key=("copies", name), precisions=("float32",))
    assert refused


@pytest.mark.parametrize("name", ["float64 off-centre", "float32, odd width", "float16, odd width"])
def test_options_on_copied_rows(name):
    x = CASES[name][0]()[:70]
    check(x, 15, precisions=("float32", "ieee"), **options(x))


def test_bytes_are_those_that_are_held():
    assert Budget().memory_limit is None
    for x in (gaussian(150, 21), gaussian(150, 21).half(), gaussian(150, 21).double()):
        made = leaves(x, 3)
        held = [v for v in vars(made).values() if isinstance(v, torch.Tensor)]
        own = {v.data_ptr(): v.numel() * v.element_size() for v in held if v.data_ptr() != made.features.data_ptr()}
        assert made.copy.data_ptr() in own and sum(own.values()) <= made.bytes(16) + 150 * 16 + 4096
