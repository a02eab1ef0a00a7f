"""The price of unsupported rows: what it goes by, scores against the formula in float64, and what becomes of it.

    score(x) = mean over the k smallest j of sqrt(|x - b_j|^2 + (c s_j)^2)

with s_j the distance of bank row j to the nearest training row of another image.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from patchcore_fast.bank_file import digest
from patchcore_fast.layered_bank import LayeredBank
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore
from patchcore_fast.samplers import make_sampler
from patchcore_fast.scorers import make_scorer
from patchcore_fast.scorers.noise import NoiseProposal
from patchcore_fast.scores import support_distance
from patchcore_fast.search import build_index, with_price

from ..patches import normal
from .priced import TEST, TRAIN, fitted, formula, images_of, patches, priced, table, to_others


@pytest.fixture(scope="module")
def model() -> PatchCore:
    return fitted()


@pytest.mark.parametrize("changes", [
    {}, {"neighbours": 1}, {"neighbours": 5, "price": 0.25}, {"precision": "float16"}, {"sampler": "random"},
    {"distance": "squared"}, {"metric": "cosine"}, {"metric": "cosine", "precision": "bfloat16"},
    {"image_score": "top:0.2"},
], ids=str)  # fmt: skip
def test_scores_are_those_of_the_formula(changes: dict[str, Any]) -> None:
    model = fitted(**changes)
    rows, found, scores = patches(model)
    bank, k = model.bank, model.config.search.neighbours
    assert isinstance(bank, MemoryBank)
    far = priced(rows, bank, model.config.search.price).sort(dim=1).values[:, :k]
    if model.config.squared:
        far = far.square()
    want = far.mean(dim=1)
    if changes.get("metric") == "cosine":
        want = want / 2
    np.testing.assert_allclose(found.numpy(), want.numpy(), rtol=2e-6)
    by_image = want.view(len(TEST), -1)
    top = by_image.topk(int(0.2 * by_image.shape[1]) if "image_score" in changes else 1, dim=1).values.mean(dim=1)
    np.testing.assert_allclose(scores.numpy(), top.numpy(), rtol=2e-6)
    # The whole way, where the backbone sees all images at once.
    np.testing.assert_allclose([p.score for p in model.predict(TEST)], top.numpy(), rtol=1e-4)
    unpriced = table(rows, bank.features).sort(dim=1).values[:, :k].mean(dim=1)
    assert not np.allclose(unpriced.numpy(), formula(rows, bank, model.config.search.price, k).numpy(), rtol=1e-2)


@pytest.mark.parametrize("index", ["faiss-flat", "faiss-ivfpq"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_every_index_searches_by_it(index: str, precision: str, tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed")
    model = fitted(index=index, precision=precision, ratio=0.5)
    bank = model.bank
    assert isinstance(bank, MemoryBank) and bank.searcher is not None and bank.searcher.kind == index
    rows, found, _ = patches(model)
    far = priced(rows, bank, 2.0)
    distance, near = bank.search(rows, 3)
    np.testing.assert_allclose(distance.numpy(), far.gather(1, near).numpy(), rtol=2e-6)
    np.testing.assert_allclose(found.numpy(), far.gather(1, near).mean(dim=1).numpy(), rtol=2e-6)
    exact = far.sort(dim=1).values[:, :3]
    hit = np.isclose(distance.numpy(), exact.numpy(), rtol=1e-5).mean()
    assert hit == 1 if index == "faiss-flat" else hit > 0.6  # without a price .71 of these few rows
    assert float(distance.mean()) < (1 + 1e-6 if index == "faiss-flat" else 1.03) * float(exact.mean())
    model.save(tmp_path / "b")
    again = MemoryBank.load(tmp_path / "b")
    assert again.searcher is not None and torch.equal(again.search(rows, 3)[0], distance)


def gradient(x: Tensor, bank: MemoryBank, price: float, k: int) -> Tensor:
    """Of the mean of the k smallest priced distances, by autograd in float64."""
    assert bank.support is not None
    with torch.enable_grad():
        x = x.double().requires_grad_()
        squared = (x[:, None] - bank.features.double()).square().sum(dim=2) + (bank.support.double() * price).square()
        squared.sqrt().sort(dim=1).values[:, :k].mean(dim=1).sum().backward()
        assert x.grad is not None
        return x.grad


def test_influence_is_of_the_priced_distance_and_unusual_as_without_a_price() -> None:
    model = fitted(scorer="influence")
    rows, found, _ = patches(model)
    bank = model.bank
    assert isinstance(bank, MemoryBank)
    weight = make_scorer("influence", bank.features, k=3).weight  # type: ignore[attr-defined]
    assert bank.support is not None
    squared = (rows.double()[:, None] - bank.features.double()).square().sum(dim=2)
    near = (squared + (2 * bank.support.double()).square()).argsort(dim=1)[:, :3]
    away = rows.double()[:, None] - bank.features.double()[near]
    slope = (away / away.norm(dim=2, keepdim=True)).mean(dim=1).abs()  # of the distances to these rows
    np.testing.assert_allclose(found.numpy(), (formula(rows, bank, 2.0) * (slope @ weight.double())).numpy(), rtol=1e-4)


def test_noise_goes_along_the_priced_distance_and_is_scored_by_it() -> None:
    model = fitted(scorer="noising")
    rows, found, _ = patches(model)
    bank, c = model.bank, model.config
    assert isinstance(bank, MemoryBank)
    proposal = NoiseProposal(bank.features, c.scoring.noise_scale, c.scoring.noise_draws, c.selection.seed)
    spread = proposal.spread(rows, gradient(rows, bank, 2.0, 3).float())
    moved = [formula(rows + sign * spread * z, bank, 2.0) for z in proposal.table for sign in (1, -1)]
    np.testing.assert_allclose(found.numpy(), torch.stack(moved).mean(dim=0).numpy(), rtol=1e-4)


def test_eq_7_is_of_distances_without_price() -> None:
    model = fitted(image_score="reweighted", reweight_neighbours=4, neighbours=1)
    rows, found, scores = patches(model)
    bank = model.bank
    assert isinstance(bank, MemoryBank)
    far, each = priced(rows, bank, 2.0), len(rows) // len(TEST)
    for i, score in enumerate(scores.tolist()):
        at = i * each + int(found.view(len(TEST), -1)[i].argmax())
        star = int(far[at].argmin())  # nearest by price
        around = table(bank.features[star : star + 1], bank.features)[0].argsort(stable=True)[:4]
        e = torch.exp(table(rows[at : at + 1], bank.features[around])[0])
        wanted = (1 - e[around == star].sum() / e.sum()) * far[at, star]
        assert score == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize("sampler", ["greedy", "identity"])
def test_held_out_scores_are_by_a_bank_and_a_price_without_the_image(sampler: str) -> None:
    model = fitted(TRAIN[:4], sampler=sampler, ratio=0.2)
    rows, image = images_of(model, TRAIN[:4])
    wanted = []
    for out in range(4):
        rest, of = rows[image != out], image[image != out]
        chosen = make_sampler(sampler, ratio=0.2, seed=0).select(rest)
        bank = MemoryBank(rest[chosen], chosen, support=to_others(chosen, rest, of).float())
        wanted.append(float(formula(rows[image == out], bank, 2.0).max()))
    assert model.bank.normal_scores is not None
    np.testing.assert_allclose(model.bank.normal_scores.numpy(), wanted, rtol=1e-5)


def test_without_a_price_all_is_as_it_was(tmp_path: Path) -> None:
    model = fitted(price=0.0, neighbours=1)
    bank = model.bank
    assert isinstance(bank, MemoryBank) and bank.support is None and bank.searched is bank.features
    rows, found, _ = patches(model)
    np.testing.assert_allclose(found.numpy(), table(rows, bank.features).amin(dim=1).numpy(), rtol=1e-6)
    model.save(tmp_path / "b")
    assert "support" not in safetensors.torch.load_file(tmp_path / "b")
    priced_one = fitted(neighbours=1)
    assert torch.equal(priced_one.bank.parts[0].indices, bank.indices)  # it changes no selection
    priced_one.rescore(price=0.0)
    assert torch.equal(patches(priced_one)[1], found)


@pytest.mark.parametrize("banks", ["joint", "layer"])
def test_a_single_image_has_no_price(banks: str) -> None:
    model = fitted(TRAIN[:1], banks=banks, ratio=0.5)
    assert all(part.support is None and part.searched is part.features for part in model.bank.parts)
    assert model.threshold is None and all(p.score > 0 for p in model.predict(TEST))
    model.rescore(neighbours=1)  # which asks for no other price
    with pytest.raises(ValueError, match=r"price: the bank does not know how far .* fit several images with a price"):
        model.rescore(price=1.0)


@pytest.mark.parametrize("banks", ["joint", "layer"])
def test_saved_and_read_again(banks: str, tmp_path: Path) -> None:
    model = fitted(banks=banks)
    model.save(tmp_path / "b")
    again = PatchCore.load(tmp_path / "b", "cpu", progress=False)
    assert again.config.search == model.config.search and again.threshold == model.threshold
    for one, other in zip(again.bank.parts, model.bank.parts, strict=True):
        assert one.support is not None and other.support is not None and torch.equal(one.support, other.support)
    assert [p.score for p in again.predict(TEST)] == [p.score for p in model.predict(TEST)]


@pytest.mark.parametrize("version", [1, 2, 3, 4])
@pytest.mark.parametrize("neighbours", [None, 2])
def test_banks_of_earlier_versions_have_no_price(
    version: int, neighbours: int | None, model: PatchCore, tmp_path: Path
) -> None:
    model.save(tmp_path / "new")
    with safetensors.safe_open(str(tmp_path / "new"), framework="pt") as f:
        metadata, tensors = f.metadata(), {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    del tensors["support"], metadata["digest"]
    facts = json.loads(metadata["facts"])
    search = {"index": "exact"} | ({} if neighbours is None else {"neighbours": neighbours})
    config = facts["config"] | {"search": search}
    facts["config"] = config if version > 2 else {k: v for group in config.values() for k, v in group.items()}
    metadata |= {"facts": json.dumps(facts), "format_version": str(version)}
    if version > 1:
        metadata["digest"] = digest(tensors, metadata)
    (tmp_path / "old").write_bytes(safetensors.torch.save(tensors, metadata))
    old = PatchCore.load(tmp_path / "old", "cpu", progress=False)
    k = neighbours or 1
    assert (old.config.search.neighbours, old.config.search.price) == (k, 0.0)
    rows, found, _ = patches(old)
    nearest = table(rows, old.bank.parts[0].features).sort(dim=1).values[:, :k].mean(dim=1)
    np.testing.assert_allclose(found.numpy(), nearest.numpy(), rtol=2e-6)


@pytest.mark.parametrize("changes", [{}, {"index": "faiss-flat"}, {"index": "faiss-ivfpq"}, {"banks": "layer"},
                                     {"banks": "layer", "index": "faiss-flat"}], ids=str)  # fmt: skip
def test_another_price_for_a_fitted_model(changes: dict[str, Any], tmp_path: Path) -> None:
    if "index" in changes:
        pytest.importorskip("faiss", reason="faiss is not installed")
    model = fitted(**changes)
    before = [p.score for p in model.predict(TEST)]
    model.rescore(price=2.0)  # the same
    assert model.threshold is not None
    model.rescore(price=0.5)
    assert model.threshold is None and model.bank.normal_scores is None
    fresh = fitted(**(changes | {"price": 0.5}))
    if isinstance(model.bank, LayeredBank):  # scales are those of the fit
        assert isinstance(fresh.bank, LayeredBank)
        model._bank = LayeredBank(model.bank.parts, fresh.bank.scales, model.bank.config)
        model._scorer = None
    after = [p.score for p in model.predict(TEST)]
    assert after == [p.score for p in fresh.predict(TEST)] and after != before
    model.save(tmp_path / "b")
    again = PatchCore.load(tmp_path / "b", "cpu", progress=False)
    assert again.config.search.price == 0.5 and [p.score for p in again.predict(TEST)] == after
    with pytest.raises(ValueError, match=r"search\.price must lie between 0 and 1000, got -1"):
        model.rescore(price=-1.0)
    assert model.config.search.price == 0.5


@pytest.mark.parametrize("banks", ["joint", "layer"])
def test_a_bank_that_was_fitted_without_cannot_have_one(banks: str) -> None:
    model = fitted(price=0.0, banks=banks)
    before = copy.copy(model.config)
    with pytest.raises(ValueError, match="price: the bank does not know how far its rows are from other images"):
        model.rescore(price=0.5)
    assert model.config == before and model.threshold is not None


@pytest.mark.parametrize("index", ["exact", "faiss-flat"])
def test_a_bank_of_foreign_features(index: str, tmp_path: Path) -> None:
    """The way without a model: what `support_distance` finds goes into the bank, the price into its settings."""
    if index != "exact":
        pytest.importorskip("faiss", reason="faiss is not installed")
    x, ids = normal(400, 6, 0), torch.arange(400) // 40
    chosen = make_sampler("greedy", ratio=0.1, seed=0).select(x)
    support = support_distance(x, chosen, image_ids=ids).distance
    config = {"search": {"price": 0.5}}
    bank = MemoryBank(x[chosen], chosen, support=support, config=config).with_index(index)
    query = normal(50, 6, 1)
    for one in (bank, _again(bank, tmp_path / "b")):
        distance, row = one.search(query, 3)
        want = priced(query, bank, 0.5).sort(dim=1)
        assert torch.equal(row, want.indices[:, :3])
        np.testing.assert_allclose(distance.numpy(), want.values[:, :3].numpy(), rtol=1e-6)
    with pytest.raises(ValueError, match=r"query must be \[Q, 6\]"):
        bank.search(normal(5, 7, 0), 1)
    free = MemoryBank(x[chosen], chosen, support=support)  # no price asked
    assert torch.equal(free.search(query, 3)[1], table(query, x[chosen]).argsort(dim=1)[:, :3])


def _again(bank: MemoryBank, path: Path) -> MemoryBank:
    bank.save(path)
    return MemoryBank.load(path)


@pytest.mark.parametrize("price", ["much", None, True, -0.5, float("nan"), 1001.0])
def test_a_price_that_is_none(price: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"search\.price must"):
        MemoryBank(normal(4, 3, 0), torch.arange(4), support=torch.ones(4), config={"search": {"price": price}})


@pytest.mark.parametrize("support", [torch.ones(3), torch.ones(4, 1), torch.ones(4).double(), -torch.ones(4),
                                     torch.full((4,), torch.nan), torch.full((4,), torch.inf)], ids=str)  # fmt: skip
def test_a_support_that_is_none(support: Tensor) -> None:
    with pytest.raises(ValueError, match=r"MemoryBank: support must be"):
        MemoryBank(normal(4, 3, 0), torch.arange(4), support=support)


def test_a_price_beyond_a_half_stays_finite() -> None:
    bank = torch.ones(2, 3).half()
    wide = with_price(bank, torch.tensor([1e6, 1.0]), 1000.0)
    assert wide.dtype == torch.float16 and wide[:, 3].tolist() == [65504.0, 1000.0]
    assert build_index("exact", wide).search(torch.nn.functional.pad(bank, (0, 1)), 2)[1][0].tolist() == [1, 0]
