"""AnomalyDINO's search and SuperADD's thinning on our engine, on stand-ins for anomalib's modules.

tests/peers/test_anomalib_models.py does it on the real ones.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest
import torch

from patchcore_fast.compat import _anomalib_models as models
from patchcore_fast.compat import anomalib as fast
from patchcore_fast.compat._anomalib_models import Bank, thinned
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference
from patchcore_fast.samplers.measures import farthest_from_mean


def unit(n, d, seed):
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


class _Dino(torch.nn.Module):
    """Has a memory bank and scores by it as AnomalyDINO does."""

    def __init__(self, bank, k):
        super().__init__()
        self.register_buffer("memory_bank", bank)
        self.num_neighbours = k
        self.products = 0  # columns of the last product

    def forward(self, rows):
        assert self.memory_bank.dtype == rows.dtype and self.memory_bank.numel()
        similarity = torch.matmul(rows, self.memory_bank.T)
        self.products = similarity.shape[1]
        distances = (torch.ones_like(similarity) - similarity).clamp(min=0, max=2)
        return torch.topk(distances, k=self.num_neighbours, dim=1, largest=False).values.mean(1)


class _SuperADD:
    def subsampling_distance_based_fast(self, features, target_number_of_samples, **_):
        return features[:target_number_of_samples]


class _KCenterGreedy:
    def __init__(self, embedding, sampling_ratio):
        if not int(len(embedding) * sampling_ratio):
            raise ValueError("coreset_size")

    def select_coreset_idxs(self):
        raise NotImplementedError


@pytest.fixture
def anomalib(monkeypatch):
    """A package with both models and KCenterGreedy; its classes are made anew each time."""
    for name in [n for n in sys.modules if n.split(".")[0] == "anomalib"]:
        monkeypatch.delitem(sys.modules, name)
    image, home = "anomalib.models.image", "anomalib.models.components.sampling"
    for name in ("anomalib", "anomalib.models", image, f"{image}.anomaly_dino", f"{image}.super_add",
                 "anomalib.models.components", home, f"{home}.k_center_greedy", f"{image}.anomaly_dino.torch_model",
                 f"{image}.super_add.torch_model"):  # fmt: skip
        module = ModuleType(name)
        module.__path__ = []
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules[f"{home}.k_center_greedy"].KCenterGreedy = _KCenterGreedy
    dino, superadd = type("AnomalyDINOModel", (_Dino,), {}), type("SuperADDModel", (_SuperADD,), {})
    sys.modules[f"{image}.anomaly_dino.torch_model"].AnomalyDINOModel = dino
    sys.modules[f"{image}.super_add.torch_model"].SuperADDModel = superadd
    yield dino, superadd
    fast.unpatch()


@pytest.mark.parametrize("k", [1, 3])
def test_the_search_has_the_same_results_without_the_matrix(anomalib, k):
    dino, _ = anomalib
    model, rows = dino(unit(50, 8, 0), k).eval(), unit(20, 8, 1)
    wanted = model(rows)
    assert model.products == 50
    with fast.patch():
        found = model(rows)
        assert model.products == k
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    assert "memory_bank" not in vars(model) and model.state_dict()["memory_bank"].shape == (50, 8)
    assert torch.equal(model(rows), wanted) and model.products == 50


def test_the_bank_is_put_back_after_an_error(anomalib):
    dino, _ = anomalib
    model = dino(unit(9, 4, 0), 1).eval()
    with fast.patch(), pytest.raises(AssertionError):
        model(unit(3, 4, 1).double())
    assert "memory_bank" not in vars(model) and type(model.memory_bank) is torch.Tensor


def test_threads_may_share_a_model(anomalib, monkeypatch):
    """The pass that ends second finds the bank put back already."""
    dino, _ = anomalib
    model, rows = dino(unit(50, 8, 0), 2).eval(), unit(20, 8, 1)
    wanted, both, look = model(rows), threading.Barrier(2, timeout=30), models._searchable

    def together(bank):
        found = look(bank)
        both.wait()  # both see the buffer, before either puts its own in front
        return found

    monkeypatch.setattr(models, "_searchable", together)
    with fast.patch(), ThreadPoolExecutor(2) as pool:
        for found in pool.map(model, [rows, rows]):
            torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    assert "memory_bank" not in vars(model) and model.state_dict()["memory_bank"].shape == (50, 8)


def test_loading_a_state_takes_nothing_from_the_dict_however_often_or_badly(anomalib):
    dino, _ = anomalib
    state = dino(unit(9, 4, 0), 1).state_dict()
    names, before = list(state), state["memory_bank"].clone()
    model = dino(unit(9, 4, 1), 1).eval()
    with fast.patch():
        for _ in range(2):
            model.load_state_dict(state)
            model(unit(3, 4, 2))
        with pytest.raises(RuntimeError, match="size mismatch"):
            dino(unit(5, 4, 1), 1).load_state_dict(state)
    assert list(state) == names and torch.equal(state["memory_bank"], before)
    assert torch.equal(model.memory_bank, before)


@pytest.mark.parametrize("case", ["longer rows", "half", "training"])
def test_what_the_search_is_not_for_is_left_to_anomalib(anomalib, case):
    dino, _ = anomalib
    bank, rows = unit(30, 4, 0), unit(6, 4, 1)
    if case == "longer rows":
        bank = bank * 2
    if case == "half":
        bank, rows = bank.half(), rows.half()
    model = dino(bank, 1).train(case == "training")
    with fast.patch():
        model(rows)
    assert model.products == 30


def test_a_bank_is_a_tensor_for_all_else():
    rows = unit(12, 5, 0)
    bank, query = Bank(rows, 2), unit(4, 5, 1)
    assert bank.shape == rows.shape and len(bank) == 12 and torch.equal(bank[3], rows[3])
    assert bank.T.shape == (5, 12) and torch.equal(torch.cdist(query, bank), torch.cdist(query, rows))
    best = (query @ rows.T).topk(2).values
    for product in (torch.matmul(query, bank.T), query @ bank.T, torch.mm(query, bank.T)):
        torch.testing.assert_close(product, best, atol=1e-6, rtol=0)
    assert torch.equal(torch.matmul(bank, rows.T), rows @ rows.T)
    assert Bank(rows, 50).T.products(query).shape == (4, 12)


def test_superadd_selects_by_exact_greedy_when_asked(anomalib):
    _, superadd = anomalib
    rows, model = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)), superadd()
    first = rows[:20]
    with fast.patch():
        assert torch.equal(model.subsampling_distance_based_fast(rows, 20), first)
        with fast.patch(superadd=True):
            found = model.subsampling_distance_based_fast(rows, 20, iterations=100, normalize=False, knn_neighbors=100)
        assert torch.equal(model.subsampling_distance_based_fast(rows, 20), first)
    picks = k_center_greedy_reference(rows, 20, start=farthest_from_mean(rows))[0]
    assert torch.equal(found, rows[picks.sort().values]) and not torch.equal(found, first)


def test_thinning_of_few_rows_of_halves_and_by_direction(capsys):
    rows = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    assert thinned(None, rows, 30) is rows and thinned(None, rows, 100_000) is rows
    half = thinned(None, rows.half(), 5)
    assert half.dtype == torch.float16 and len(half) == 5
    scaled = rows * torch.rand(30, 1, generator=torch.Generator().manual_seed(1)).add(0.5)
    by_direction = torch.nn.functional.normalize(rows, dim=1)
    picks = k_center_greedy_reference(by_direction, 8, start=farthest_from_mean(by_direction))[0]
    assert torch.equal(thinned(None, scaled, 8, normalize=True), scaled[picks.sort().values])


def test_an_anomalib_without_superadd_is_named(anomalib):
    del sys.modules["anomalib.models.image.super_add.torch_model"].SuperADDModel
    with pytest.raises(ImportError, match=r"superadd=True wants anomalib 2\.6 or later"):
        fast.patch(superadd=True)
    fast.patch()
