"""Code for one compute capability on a later card, as drivers make it from PTX: what it lacks is not launched."""

import pytest
import torch

from patchcore_fast.kernels import k_center_greedy, knn
from patchcore_fast.kernels.backends.cuda_kernels import library
from patchcore_fast.kernels.backends.native_rows import describe
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference
from patchcore_fast.kernels.knn.reference import knn_reference

from ..kernels.cases import gaussian
from .addresses import BUFFERS, SIZES

CPU = torch.device("cpu")


@pytest.fixture
def runs(emulated, monkeypatch):
    """`runs(card, code)`: the emulator is such a card, and its code was compiled for that."""

    def pretend(card, code):
        monkeypatch.setenv("PATCHCORE_FAST_CUDA_EMULATED_ARCH", str(card))
        monkeypatch.setenv("PATCHCORE_FAST_CUDA_EMULATED_CODE", str(code))
        return emulated

    return pretend


# The tensor cores of 8.6 are still no faster.
CHOICES = [
    (75, 75, (7, 5)),
    (90, 75, (7, 5)),
    (120, 75, (7, 5)),
    (90, 80, (9, 0)),
    (86, 80, (8, 6)),
    (103, 100, (10, 3)),
]


@pytest.mark.parametrize("card, code, chosen_by", CHOICES)
def test_arithmetic_is_chosen_by_what_runs(runs, card, code, chosen_by):
    told = runs(card, code).device_info(-1)
    assert (told["arch"], told["code"], told["lasting"]) == (card, code, True)
    assert library.capability(CPU) == chosen_by


@pytest.mark.parametrize("precision", ["float32", "tf32x3", "tf32"])
def test_results_of_code_without_tf32_on_a_card_that_has_it(runs, precision):
    runs(90, 75)
    x = gaussian(150, 20)
    assert k_center_greedy(x, 12, backend="cuda", precision=precision).indices.tolist() == (
        k_center_greedy_reference(x, 12)[0].tolist()
    )
    assert torch.equal(knn(x[:40], x, 3, backend="cuda", precision=precision)[1], knn_reference(x[:40], x, 3)[1])


@pytest.mark.parametrize("card, code", [(75, 75), (90, 75)])
def test_a_search_that_asks_for_tf32_is_refused(runs, card, code):
    module, bank = runs(card, code), gaussian(30, 5)
    # Nothing is launched: no address is looked at.
    search = module.KnnSearch(**BUFFERS, **SIZES, mode="tf32x3", bank=describe(bank), device=-1)
    with pytest.raises(RuntimeError, match=r"CUDA error 801 .* in search_kernel"):
        search.some(describe(bank[:3]), 64, 64, packed_already=False, stream=0)


def test_the_emulator_traps_as_such_code_does(runs):
    a, b, d = torch.ones(16, 8), torch.ones(8, 8), torch.zeros(16, 8)
    arguments = (a.data_ptr(), b.data_ptr(), d.data_ptr(), 0)
    runs(90, 80).test_mma(*arguments)
    assert bool((d == 8).all())
    with pytest.raises(RuntimeError, match="asks for tensor cores in code that has none"):
        runs(90, 75).test_mma(*arguments)
