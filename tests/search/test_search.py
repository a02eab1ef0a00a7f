"""Search indexes: the same answers where they are exact, true distances always, and the way into the bank file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from patchcore_fast.errors import BankError
from patchcore_fast.kernels import knn
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.search import INDEXES, build_index, load_index, settle

faiss = pytest.importorskip("faiss", reason="faiss is not installed")


def rows(count: int, dim: int = 20, seed: int = 0) -> torch.Tensor:
    """Clustered, as features are, and far from the origin, where expanded squares cancel."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(12, dim, generator=torch.Generator().manual_seed(9)) * 3
    return centres[torch.randint(12, (count,), generator=g)] + torch.randn(count, dim, generator=g) + 50


def bank_of(features: torch.Tensor) -> MemoryBank:
    return MemoryBank(features, torch.arange(len(features)), patches=len(features))


@pytest.mark.parametrize("dim", [1, 7, 20])
@pytest.mark.parametrize("k", [1, 3])
def test_flat_is_the_exact_search(dim: int, k: int) -> None:
    bank, query = rows(500, dim), rows(200, dim, 1)
    bank[100:110] = bank[7]  # ties
    query[:5] = bank[7]
    want, got = knn(query, bank, k), build_index("faiss-flat", bank).search(query, k)
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1][5:], want[1][5:])


def test_ivfpq_names_true_distances_and_misses_few() -> None:
    bank, query = rows(3000), rows(400, seed=1)
    distance, index = build_index("faiss-ivfpq", bank).search(query, 2)
    true, neighbours = knn(query, bank, 2)
    direct = (query[:, None].double() - bank[index].double()).square().sum(2).sqrt().float()
    torch.testing.assert_close(distance, direct, rtol=1e-6, atol=0)
    assert bool((distance >= true).all()) and bool((distance[:, 1:] >= distance[:, :-1]).all())
    recall = (index[:, :, None] == neighbours[:, None]).any(2).double().mean()
    assert 0.9 < recall <= 1


@pytest.mark.parametrize("count", [2, 3, 40, 300])
def test_ivfpq_of_small_banks(count: int, capfd: pytest.CaptureFixture[str]) -> None:
    bank = rows(count, 5)
    distance, index = build_index("faiss-ivfpq", bank).search(bank, min(2, count))
    assert distance.shape == index.shape == (count, 2)
    assert bool((distance[:, 0] == 0).all()) and bool(torch.isfinite(distance).all())
    assert capfd.readouterr() == ("", "")  # faiss has nothing to warn of


def test_queries_that_reach_too_few_rows_are_searched_exactly() -> None:
    bank, query = rows(400), rows(50, seed=1)
    found = build_index("faiss-ivfpq", bank)
    found.index.nprobe = 1
    distance, index = found.search(query, 200)
    assert bool((index >= 0).all()) and bool(torch.isfinite(distance).all())
    lists = [found.index.invlists.list_size(i) for i in range(found.index.nlist)]
    reached = torch.tensor(found.index.quantizer.search(query_padded(query), 1)[1][:, 0]).long()
    short = torch.tensor(lists)[reached] < 200
    assert bool(short.any())
    assert torch.equal(distance[short], knn(query[short], bank, 200)[0])


def query_padded(query: torch.Tensor):
    return torch.nn.functional.pad(query, (0, -query.shape[1] % 8)).numpy()


def test_ivfpq_is_deterministic_by_seed() -> None:
    bank = rows(1000)
    first, second, other = (build_index("faiss-ivfpq", bank, seed).to_bytes() for seed in (3, 3, 4))
    assert first is not None and second is not None and other is not None
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_half_precision_banks() -> None:
    bank, query = rows(500).half(), rows(50, seed=1).half()
    want = knn(query, bank, 2)
    assert torch.equal(build_index("faiss-flat", bank).search(query, 2)[0], want[0])


@pytest.mark.parametrize("kind", INDEXES)
def test_bank_file_keeps_the_index(kind: str, tmp_path: Path) -> None:
    bank, query = bank_of(rows(600)).with_index(kind, 5), rows(80, seed=1)
    bank.save(path := tmp_path / "bank.safetensors")
    back = MemoryBank.load(path)
    assert (back.searcher.kind if back.searcher else "exact") == kind
    for want, got in zip(bank.search(query, 3), back.to("cpu").search(query, 3), strict=True):
        assert torch.equal(want, got)
    assert ("index" in safetensors.torch.load_file(path)) == (kind == "faiss-ivfpq")
    assert MemoryBank.load(path, index="exact").searcher is None


def rewrite(path: Path, index: torch.Tensor | None, **entry: str) -> None:
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(str(path), framework="pt") as f:
        metadata = f.metadata()
    metadata["index"] = json.dumps(json.loads(metadata["index"]) | entry)
    tensors.pop("index", None)
    tensors |= {} if index is None else {"index": index}
    safetensors.torch.save_file(tensors, str(path), metadata)


def test_damaged_and_foreign_indexes(tmp_path: Path) -> None:
    bank_of(rows(600)).with_index("faiss-ivfpq").save(path := tmp_path / "bank.safetensors")
    content = safetensors.torch.load_file(path)["index"]
    flipped = content.clone()
    flipped[len(flipped) // 2] ^= 1
    for changed, entry, message in (
        (flipped, {}, "not those that were written"),
        (content[:-5], {}, "not those that were written"),
        (None, {}, "content of 'faiss-ivfpq' must be"),
        (content, {"kind": "annoy"}, "kind must be one of"),
        (content, {"kind": "faiss-flat"}, "is its rows"),
    ):
        rewrite(path, changed, **entry)
        with pytest.raises(BankError, match=message):
            MemoryBank.load(path)
        rewrite(path, content, kind="faiss-ivfpq")
    assert MemoryBank.load(path).searcher is not None


def test_load_index_says_what_is_wrong() -> None:
    bank = rows(600)
    content = build_index("faiss-ivfpq", bank).to_bytes()
    assert content is not None
    with pytest.raises(ValueError, match="must index 500 rows"):
        load_index("faiss-ivfpq", bank[:500], content)
    with pytest.raises(ValueError, match="no faiss index"):
        load_index("faiss-ivfpq", bank, torch.zeros(50, dtype=torch.uint8))
    flat = torch.from_numpy(faiss.serialize_index(faiss.IndexFlatL2(24)))
    with pytest.raises(ValueError, match="must be a faiss IndexIVFPQ"):
        load_index("faiss-ivfpq", bank, flat)


def test_bad_input() -> None:
    bank = rows(50)
    with pytest.raises(ValueError, match="kind must be one of exact, faiss-flat, faiss-ivfpq, got 'hnsw'"):
        build_index("hnsw", bank)
    with pytest.raises(ValueError, match="bank must be a floating tensor"):
        build_index("faiss-flat", bank.long())
    with pytest.raises(ValueError, match="seed must be an integer >= 0"):
        build_index("faiss-ivfpq", bank, -1)
    with pytest.raises(ValueError, match="at least 2 bank rows"):
        build_index("faiss-ivfpq", bank[:1])
    found = build_index("faiss-flat", bank)
    for query, k, message in (
        (bank[:, :3], 1, r"query must be floating \[Q, 20\]"),
        (bank, 51, r"k must lie in 1\.\.50"),
        (bank * torch.nan, 1, "50 of 50 query rows are not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            found.search(query, k)
    with pytest.raises(ValueError, match="candidates must be"):
        settle(bank, bank, torch.zeros(3, 2, dtype=torch.int64), 1)
