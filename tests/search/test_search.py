"""Search indexes: the same answers where they are exact, true distances always, and the way into the bank file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from patchcore_fast.bank_file import digest
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
    first, second, other = (build_index("faiss-ivfpq", bank, seed).to_tensors() for seed in (3, 3, 4))
    assert set(first) == {"index_centres", "index_words"}
    for name in first:
        assert torch.equal(first[name], second[name]) and not torch.equal(first[name], other[name])
    build_index("faiss-ivfpq", bank[:50], 2**40)  # faiss keeps seeds in 31 bits


def test_a_stored_ivfpq_is_the_one_that_was_trained() -> None:
    bank, query = rows(3000), rows(200, seed=1)
    made = build_index("faiss-ivfpq", bank)
    again = load_index("faiss-ivfpq", bank, made.to_tensors())
    one, other = (faiss.serialize_index(x.index) for x in (made, again))
    assert (one != other).mean() < 0.001, "codes of the same rows by the same words"
    for want, got in zip(made.search(query, 3), again.search(query, 3), strict=True):
        assert torch.equal(want, got)


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
    assert ("index_words" in safetensors.torch.load_file(path)) == (kind == "faiss-ivfpq")
    assert MemoryBank.load(path, index="exact").searcher is None


def rewrite(path: Path, version: str, kind: str = "faiss-ivfpq", **parts: torch.Tensor | None) -> None:
    tensors = safetensors.torch.load_file(path) | parts
    with safetensors.safe_open(str(path), framework="pt") as f:
        metadata = f.metadata()
    metadata |= {"index": json.dumps({"kind": kind}), "format_version": version}
    tensors = {name: t for name, t in tensors.items() if t is not None}
    metadata["digest"] = digest(tensors, metadata)
    safetensors.torch.save_file(tensors, str(path), metadata)


def test_damaged_and_foreign_indexes(tmp_path: Path) -> None:
    bank_of(rows(600)).with_index("faiss-ivfpq").save(path := tmp_path / "bank.safetensors")
    held = safetensors.torch.load_file(path)
    centres, words = held["index_centres"], held["index_words"]
    for kind, parts, message in (
        ("faiss-ivfpq", {"index_words": None}, "words must be"),
        ("faiss-ivfpq", {"index_centres": centres[1:].contiguous()}, r"centres must be \(15, 24\)"),
        ("faiss-ivfpq", {"index_words": words * torch.nan}, "words must be"),
        ("annoy", {}, "kind must be one of"),
    ):
        rewrite(path, "2", kind, **parts)
        with pytest.raises(BankError, match=message):
            MemoryBank.load(path)
        rewrite(path, "2", index_centres=centres, index_words=words)
    assert MemoryBank.load(path).searcher is not None


def test_faiss_s_own_bytes_of_older_files_are_not_read(tmp_path: Path) -> None:
    bank = bank_of(rows(600)).with_index("faiss-ivfpq")
    bank.save(path := tmp_path / "bank.safetensors")
    rewrite(path, "1", index_centres=None, index_words=None, index=torch.full((99,), 255, dtype=torch.uint8))
    back, query = MemoryBank.load(path), rows(80, seed=1)
    for want, got in zip(bank.search(query, 3), back.search(query, 3), strict=True):
        assert torch.equal(want, got)


def test_load_index_says_what_is_wrong() -> None:
    bank = rows(600)
    parts = build_index("faiss-ivfpq", bank).to_tensors()
    with pytest.raises(ValueError, match="for 300 rows"):
        load_index("faiss-ivfpq", bank[:300], parts)
    with pytest.raises(ValueError, match="got none"):
        load_index("faiss-ivfpq", bank)


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
