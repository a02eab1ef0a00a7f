"""The probe of tensor cores by mma.sync: the emulated ones pass, worse ones are refused, and results stay right."""

import pytest
import torch

from patchcore_fast.kernels import explain_backends
from patchcore_fast.kernels.backends.cuda_kernels import library
from patchcore_fast.kernels.backends.device.tensor_cores import BFLOAT16, FLOAT16, TF32, questions

from ..kernels.cases import gaussian
from . import kcenter_runs, knn_runs
from .kcenter_runs import DEVICE, leaves

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="the kernels run on a card here, not on the emulator")
CPU = torch.device("cpu")
BITS, OF_HALVES = "PATCHCORE_FAST_CUDA_EMULATED_MMA", "PATCHCORE_FAST_CUDA_EMULATED_MMA_HALF"
HALVES = (torch.float16, torch.bfloat16)
# Bits of addends, sums and products; what the reason says.
WORSE = [
    ("22 24 22", "keep fewer than 24 bits"),
    ("23 24 22", "keep fewer than 24 bits"),
    ("24 22 22", "keep fewer than 24 bits"),
    ("24 23 22", "keep fewer than 24 bits"),
    ("24 24 21", "products of 11-bit numbers are not exact"),
    ("24 24 11", "products of 11-bit numbers are not exact"),
]


def line():
    """What explain_backends says of the CUDA kernels on the emulator."""
    return next(s.reason for s in explain_backends() if (s.backend, s.device) == ("cuda", "cpu"))


@pytest.mark.parametrize("numbers", [TF32, FLOAT16, BFLOAT16])
def test_the_kernel_multiplies(emulated, numbers):
    asked = questions(16, 8, 8 if numbers is TF32 else 16, numbers)
    generator = torch.Generator().manual_seed(0)
    x, y, start = (torch.randint(-9, 9, t.shape, generator=generator) for t in (asked.x, asked.y, asked.start))
    x, y, start = x.to(numbers.dtype), y.to(numbers.dtype), start.float()
    out = torch.full_like(start, torch.nan)
    addresses = [t.data_ptr() for t in (x, y, start, out)]
    emulated.tensor_core_products(*addresses, x.shape[0], numbers.name, device=-1, stream=0)
    assert torch.equal(out, start + x.float() @ y.float().mT)
    with pytest.raises(ValueError, match=r"tiles must lie in 1\.\.65536, got 0"):
        emulated.tensor_core_products(*addresses, 0, numbers.name, device=-1, stream=0)
    with pytest.raises(ValueError, match="numbers must be TF32, float16 or bfloat16, got float64"):
        emulated.tensor_core_products(*addresses, 1, "float64", device=-1, stream=0)


def test_the_emulated_ones_pass(emulated):
    assert library.tensor_core_refusal(CPU) is None
    assert library.capability(CPU) == (8, 0)
    assert all(library.half_refusal(CPU, dtype) is None and library.takes_halves(CPU, dtype) for dtype in HALVES)
    assert "not taken" not in line()
    assert leaves(gaussian(100, 8), 5).arithmetic.mode == "tf32x3"


@pytest.mark.parametrize(("bits", "words"), WORSE)
def test_worse_ones_are_refused(emulated, monkeypatch, caplog, bits, words):
    monkeypatch.setenv(BITS, bits)
    reason = library.tensor_core_refusal(CPU)
    assert reason is not None and words in reason
    assert library.capability(CPU) == (7, 5)
    assert f"tf32x3 is not taken: {reason}" in line()
    assert any(f"tf32x3 is not taken on cpu: {reason}" in r.message for r in caplog.records)
    monkeypatch.setenv(BITS, "24 24 22")
    assert library.tensor_core_refusal(CPU) is None


# Bits of addends, sums and products, and whether subnormal numbers count; which type minds; what the reason says.
WORSE_HALVES = [
    ("22 24 22 1", HALVES, "keep fewer than 24 bits"),
    ("24 23 22 1", HALVES, "keep fewer than 24 bits"),
    ("24 24 21 1", HALVES[:1], "products of 11-bit numbers are not exact"),
    ("24 24 15 1", HALVES[1:], "products of 8-bit numbers are not exact"),
    ("24 24 22 0", HALVES[:1], "products of subnormal numbers are not exact"),
]


@pytest.mark.parametrize(("bits", "minding", "words"), WORSE_HALVES)
def test_halves_are_refused_by_themselves(emulated, monkeypatch, caplog, bits, minding, words):
    monkeypatch.setenv(OF_HALVES, bits)
    for dtype in minding:
        reason = library.half_refusal(CPU, dtype)
        assert reason is not None and words in reason and not library.takes_halves(CPU, dtype)
        name = str(dtype).removeprefix("torch.")
        assert f"half for {name} rows is not taken: {reason}" in line()
        assert any(f"half for {name} rows is not taken on cpu: {reason}" in r.message for r in caplog.records)
    if minding == HALVES[1:]:  # products of 11 bits suffer as well, and are found first
        assert "11-bit" in library.half_refusal(CPU, torch.float16)
    elif len(minding) == 1:
        assert library.takes_halves(CPU, torch.bfloat16)
    assert library.tensor_core_refusal(CPU) is None and "tf32x3" not in line()
    monkeypatch.setenv(OF_HALVES, "24 24 22 1")
    assert all(library.takes_halves(CPU, dtype) for dtype in HALVES)


def test_tf32x3_is_refused_by_itself(emulated, monkeypatch):
    monkeypatch.setenv(BITS, "22 24 22")
    assert library.tensor_core_refusal(CPU) is not None
    assert all(library.takes_halves(CPU, dtype) for dtype in HALVES)
    assert "half" not in line()


@pytest.mark.parametrize("precision", ["float32", "tf32x3"])
def test_what_is_taken_in_their_place_is_right(emulated, monkeypatch, precision):
    monkeypatch.setenv(BITS, "22 24 22")
    x = gaussian(200, 20)
    assert leaves(x, 5).arithmetic.mode == "ieee"
    kcenter_runs.check(x, 12, precisions=(precision,))
    knn_runs.check(x[:40], x, 3, precisions=(precision,))


def test_code_without_tf32_is_not_asked(emulated, monkeypatch):
    for probe in (library.TENSOR_CORES, *library.HALF_CORES.values()):
        monkeypatch.setattr(probe, "refusal", lambda device: pytest.fail("asked"))
    for card, code in ((75, 75), (90, 75)):
        monkeypatch.setenv("PATCHCORE_FAST_CUDA_EMULATED_ARCH", str(card))
        monkeypatch.setenv("PATCHCORE_FAST_CUDA_EMULATED_CODE", str(code))
        assert library.tensor_core_refusal(CPU) is None and library.capability(CPU) == (7, 5)
        assert all(library.half_refusal(CPU, t) is None and not library.takes_halves(CPU, t) for t in HALVES)
    with pytest.raises(RuntimeError, match=r"CUDA error 801 .* in products_kernel"):
        emulated.tensor_core_products(64, 64, 64, 64, 1, "float16", device=-1, stream=0)
