"""What a small call costs the host: torch operators before, between and behind the kernels, and questions asked."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from patchcore_fast.kernels.backends.cuda_kernels import knn as host
from patchcore_fast.kernels.backends.cuda_kernels import library
from patchcore_fast.kernels.backends.device import knn as searching
from patchcore_fast.kernels.tuning import Budget

from ..kernels.cases import gaussian
from .kcenter_runs import select
from .knn_runs import DEVICE, EXACT, check, engine  # noqa: F401

MOST = {"knn": 36, "kcenter": 71}  # torch operators of a call; versions of torch differ by a few


@pytest.fixture(autouse=True)
def known_tensor_cores(monkeypatch):
    """A card is asked once, the emulator at each call."""
    monkeypatch.setitem(library.TENSOR_CORES._known, torch.device("cpu"), None)


class Operators(TorchDispatchMode):
    """Counts what torch is asked to do."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.seen[str(operator)] += 1
        return operator(*args, **(kwargs or {}))

    def asked(self):
        """Without the poison that tests fill new memory with."""
        del self.seen["aten.fill_.Scalar"]
        return self.seen


def operators(query, bank, k):
    query, bank = query.to(DEVICE), bank.to(DEVICE)
    host.knn(query, bank, k, Budget())  # asks the tensor cores
    with Operators() as counted:
        host.knn(query, bank, k, Budget())
    return counted.asked()


def test_torch_operators_of_a_small_search():
    # On a card each of them is a launch, an allocation or a view, beside which the kernels of a small search are short.
    # Most choose the frame, on the device.
    seen = operators(gaussian(20, 16, seed=1), gaussian(70, 16), 3)
    assert seen.total() <= MOST["knn"], seen
    assert seen["aten.empty.memory_format"] == 5  # distances, rows, norms, a count, and the workspace
    assert seen["aten._local_scalar_dense.default"] == 1  # waits for the number of crowded queries, and for no more


def test_torch_operators_do_not_grow_with_the_matrices():
    small = operators(gaussian(20, 16, seed=1), gaussian(70, 16), 3)
    assert operators(gaussian(140, 40, seed=1), gaussian(300, 40), 3).total() == small.total()


def selecting(rows, k, precision):
    x = gaussian(rows, 16, seed=1).to(DEVICE)
    select(x, k, precision=precision)  # asks the tensor cores
    with Operators() as counted:
        select(x, k, precision=precision)
    return counted.asked()


@pytest.mark.parametrize("precision", ["ieee", "tf32x3"])
def test_torch_operators_of_a_small_selection(precision):
    # About half of them allocate. What waits: the values of the rows, once, and `control`, once every few passes.
    seen = selecting(50, 3, precision)
    assert seen.total() <= MOST["kcenter"], seen
    assert seen["aten._to_copy.default"] <= (2 if precision == "ieee" else 4), seen
    assert selecting(1500, 3, precision).total() == seen.total()


def test_torch_operators_do_not_grow_with_the_picks():
    few, many = selecting(1500, 40, "ieee"), selecting(1500, 400, "ieee")
    assert many.total() - few.total() <= 16, (few, many)  # two views a wait


def test_free_memory_is_asked_for_by_large_searches_only(monkeypatch):
    asked = []
    monkeypatch.setattr(searching, "memory_limit", lambda device: asked.append(device) or 1 << 24)
    query, bank = gaussian(20, 16, seed=1), gaussian(70, 16)
    check(query, bank, 3)
    assert not asked
    monkeypatch.setattr(searching, "UNASKED", 1000)  # bytes: less than this search takes
    check(query, bank, 3, EXACT[:1], memory_limit=1 << 22)
    assert not asked
    check(query, bank, 3, EXACT[:1])
    assert [device.type for device in asked] == [DEVICE]
