"""A bank for each layer as one file: what it keeps, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from patchcore_fast.bank_file import digest
from patchcore_fast.errors import BankError
from patchcore_fast.layered_bank import LayeredBank, load_bank
from patchcore_fast.memory_bank import MemoryBank

CONFIG = {"selection": {"banks": "layer"}}


def _part(width: int, rows: int, seed: int, **changes: object) -> MemoryBank:
    generator = torch.Generator().manual_seed(seed)
    positions = torch.stack([torch.arange(rows) % 3, torch.arange(rows) % 4, torch.arange(rows) % 5], dim=1).int()
    facts = {"config": CONFIG, "images": ["a", "b", "c"], "grid": (4, 5), "patches": 60, "weights": "w", "radius": 0.5}
    return MemoryBank(torch.randn(rows, width, generator=generator), torch.arange(rows), positions,
                      **(facts | changes))  # type: ignore[arg-type]  # fmt: skip


def _bank(**changes: object) -> LayeredBank:
    parts = (_part(3, 7, 0, projection=torch.ones(3, 2), support=torch.arange(7.0)), _part(5, 7, 1, radius=None))
    whole = LayeredBank(parts, (0.5, 2.0), CONFIG, 3.5, torch.tensor([1.0, 2.0], dtype=torch.float64))
    return replace(whole, **changes)  # type: ignore[arg-type]


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    bank = _bank()
    bank.save(tmp_path / "b")
    back = load_bank(tmp_path / "b")
    assert isinstance(back, LayeredBank)
    assert (back.scales, back.threshold, back.config) == (bank.scales, bank.threshold, bank.config)
    assert back.normal_scores is not None and back.normal_scores.tolist() == [1.0, 2.0]
    assert (back.images, back.grid, back.patches, back.weights) == (["a", "b", "c"], (4, 5), 60, "w")
    assert [part.radius for part in back.parts] == [0.5, None] and back.versions["torch"]
    for got, want in zip(back.parts, bank.parts, strict=True):
        assert torch.equal(got.features, want.features) and torch.equal(got.indices, want.indices)
        assert (got.projection is None) == (want.projection is None)
    assert back.parts[0].support is not None and back.parts[0].support.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert back.parts[1].support is None
    assert (len(back), back.width, back.spans) == (14, 8, [(0, 3), (3, 8)])
    assert back.positions is not None and back.positions.shape == (14, 3)


def test_files_of_one_bank_are_read_too_and_not_the_other_way(tmp_path: Path) -> None:
    _part(3, 7, 0).save(tmp_path / "one")
    assert isinstance(load_bank(tmp_path / "one"), MemoryBank)
    _bank().save(tmp_path / "layers")
    with pytest.raises(BankError, match=r"layers: has a bank for each layer"):
        MemoryBank.load(tmp_path / "layers")


def test_an_index_for_each_layer(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed")
    bank = _bank().with_index("faiss-flat")
    bank.save(tmp_path / "b")
    back = load_bank(tmp_path / "b")
    assert [part.searcher.kind for part in back.parts if part.searcher] == ["faiss-flat"] * 2
    exact = load_bank(tmp_path / "b", "exact")
    assert [part.searcher for part in exact.parts] == [None, None]
    for one, other in zip(back.parts, exact.parts, strict=True):
        assert torch.equal(one.search(one.features, 2)[1], other.search(other.features, 2)[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": (1.0,)}, "as many scales"),
        ({"scales": (1.0, 0.0)}, "positive and finite"),
        ({"scales": (1.0, float("nan"))}, "positive and finite"),
        ({"parts": (), "scales": ()}, "1 to 100 parts"),
        ({"parts": (_part(3, 7, 0), _part(5, 7, 1, patches=120))}, "differ in patches"),
        ({"parts": (_part(3, 7, 0), _part(5, 7, 1, weights="other"))}, "differ in weights"),
        ({"threshold": float("inf")}, "threshold must be a finite number"),
        ({"normal_scores": torch.ones(4, dtype=torch.float64)}, "4 normal_scores of 3 images"),
    ],
)
def test_parts_that_do_not_belong_together(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _bank(**changes)


def _rewritten(
    path: Path, what: dict[str, str], without: tuple[str, ...] = (), more: dict[str, torch.Tensor] | None = None
) -> None:
    """The file with other metadata and tensors, and a digest that is right."""
    with safetensors.safe_open(path, "pt") as f:
        metadata = f.metadata() | what
        tensors = {name: f.get_tensor(name) for name in f.keys() if name not in without}  # noqa: SIM118
    tensors |= more or {}
    safetensors.torch.save_file(tensors, path, metadata | {"digest": digest(tensors, metadata)})


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("[]", "1 to 100 layers"),
        ("{}", "1 to 100 layers"),
        ("[[", "inconsistent"),
        ('[{"scale": 1.0, "radius": null}]', r"tensor '1\.features' is of none of 1 layers"),
        ('[{"scale": 1.0, "radius": null}, {"scale": 1.0}]', "radius' is missing"),
        ('[{"scale": "1", "radius": null}, {"scale": 1.0, "radius": null}]', "positive"),
        ('[{"scale": -1.0, "radius": null}, {"scale": 1.0, "radius": null}]', "positive"),
        (json.dumps([{"scale": 1.0, "radius": None}] * 3), "features' is missing"),
        (json.dumps([{"scale": 1.0, "radius": None}] * 101), "1 to 100 layers"),
    ],
)
def test_files_with_other_layers_than_they_say(layers: str, message: str, tmp_path: Path) -> None:
    _bank().save(tmp_path / "b")
    _rewritten(tmp_path / "b", {"layers": layers})
    with pytest.raises(BankError, match=message) as caught:
        load_bank(tmp_path / "b")
    assert "\n" not in str(caught.value) and str(tmp_path / "b") in str(caught.value)


@pytest.mark.parametrize("name", ["features", "2.features", "23.features"])
def test_tensors_of_no_layer(name: str, tmp_path: Path) -> None:
    _bank().save(tmp_path / "b")
    _rewritten(tmp_path / "b", {}, more={name: torch.ones(2)})
    with pytest.raises(BankError, match=f"tensor '{name}' is of none of 2 layers"):
        load_bank(tmp_path / "b")


def test_damage_is_noticed(tmp_path: Path) -> None:
    _bank().save(tmp_path / "b")
    whole = bytearray((tmp_path / "b").read_bytes())
    whole[-3] ^= 1
    (tmp_path / "b").write_bytes(whole)
    with pytest.raises(BankError, match="damaged or changed"):
        load_bank(tmp_path / "b")
    _bank().save(tmp_path / "c")
    _rewritten(tmp_path / "c", {}, without=("1.features",))
    with pytest.raises(BankError, match="features' is missing"):
        load_bank(tmp_path / "c")
