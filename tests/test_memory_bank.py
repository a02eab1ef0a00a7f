"""The bank file: a round trip, and everything that can be wrong with it."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from patchcore_fast.bank_file import digest
from patchcore_fast.errors import BankError
from patchcore_fast.memory_bank import FORMAT_VERSION, MemoryBank


def _bank(**changes: Any) -> MemoryBank:
    generator = torch.Generator().manual_seed(0)
    facts: dict[str, Any] = {
        "features": torch.randn(12, 5, generator=generator),
        "indices": torch.arange(12) * 3,
        "positions": torch.stack([torch.arange(12) % 2, torch.arange(12) % 8, torch.arange(12) % 9], 1).int(),
        "projection": torch.randn(5, 3, generator=generator),
        "config": {"layers": [2, 3], "ratio": 0.1},
        "threshold": 1.25,
        "images": ["train/good/ä b.png", "train/good/c.png"],
        "grid": (8, 9),
        "patches": 144,
        "weights": "abc",
    }
    return MemoryBank(**(facts | changes))


@pytest.mark.parametrize(
    "changes", [{}, {"positions": None, "projection": None, "threshold": None, "grid": None}], ids=["full", "bare"]
)
def test_round_trip(changes: dict[str, Any], tmp_path: Path) -> None:
    bank = _bank(**changes)
    bank.save(tmp_path / "bank.safetensors")
    back = MemoryBank.load(tmp_path / "bank.safetensors")
    for name in ("features", "indices", "positions", "projection"):
        want, got = getattr(bank, name), getattr(back, name)
        assert got is None if want is None else torch.equal(got, want), name
    for name in ("config", "threshold", "images", "grid", "patches", "weights"):
        assert getattr(back, name) == getattr(bank, name), name
    assert back.versions["torch"] and back.versions["numpy"]


def test_search_finds_brute_force_neighbours() -> None:
    bank, query = _bank(), torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    dist, index = bank.search(query, 4)
    want = torch.cdist(query.double(), bank.features.double()).sort(dim=1)
    assert torch.equal(index, want.indices[:, :4])
    torch.testing.assert_close(dist, want.values[:, :4].float())


def _rewrite(path: Path, metadata: dict[str, str | None] | None = None, **tensors: torch.Tensor | None) -> None:
    with safetensors.safe_open(str(path), framework="pt") as f:
        held = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
        meta = f.metadata()
    held = {k: v for k, v in (held | tensors).items() if v is not None}
    meta = {k: v for k, v in (meta | (metadata or {})).items() if v is not None}
    if "digest" in meta and "digest" not in (metadata or {}):
        meta["digest"] = digest(held, meta)  # as a stranger would who knows how
    path.write_bytes(safetensors.torch.save(held, meta))


def _facts(path: Path, **changes: Any) -> None:
    with safetensors.safe_open(str(path), framework="pt") as f:
        facts = json.loads(f.metadata()["facts"])
    facts = {k: v for k, v in (facts | changes).items() if v != "gone"}
    _rewrite(path, {"facts": json.dumps(facts)})


def _cut(path: Path, part: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])


NAN = torch.full((12, 5), float("nan"))
DAMAGE = {
    "truncated in the tensors": (lambda p: _cut(p, 0.9), "damaged"),
    "truncated in the header": (lambda p: _cut(p, 0.1), "damaged"),
    "empty": (lambda p: p.write_bytes(b""), "damaged"),
    "a picture": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 400), "no safetensors"),
    "gone": (lambda p: p.unlink(), "no such bank file"),
    "a folder": (lambda p: (p.unlink(), p.mkdir()), "no such bank file"),
    "foreign safetensors": (lambda p: p.write_bytes(safetensors.torch.save({"w": torch.ones(2)})), "not a memory bank"),
    "another format": (lambda p: _rewrite(p, {"format": "other"}), "not a memory bank"),
    "newer format": (lambda p: _rewrite(p, {"format_version": str(FORMAT_VERSION + 1)}), "newer than"),
    "format that is no number": (lambda p: _rewrite(p, {"format_version": "x"}), "not a number"),
    "no facts": (lambda p: _rewrite(p, {"facts": None}), "'facts' is missing"),
    "facts that are no JSON": (lambda p: _rewrite(p, {"facts": "{"}), "inconsistent"),
    "a fact missing": (lambda p: _facts(p, threshold="gone"), "'threshold' is missing"),
    "threshold that is text": (lambda p: _facts(p, threshold="high"), "threshold"),
    "config that is a list": (lambda p: _facts(p, config=[]), "config"),
    "NaN rows": (lambda p: _rewrite(p, features=NAN), "12 of 12 feature rows are not finite"),
    "no rows": (lambda p: _rewrite(p, features=None), "'features' is missing"),
    "half precision rows": (lambda p: _rewrite(p, features=torch.ones(12, 5).half()), "float32"),
    "rows of one axis": (lambda p: _rewrite(p, features=torch.ones(12)), r"\[M, D\]"),
    "too few indices": (lambda p: _rewrite(p, indices=torch.arange(11)), r"indices must be \[12\]"),
    "indices out of range": (lambda p: _rewrite(p, indices=torch.arange(12) + 140), r"lie in \[0, 144\)"),
    "positions of another bank": (lambda p: _rewrite(p, positions=torch.ones(3, 3).int()), "positions"),
    "projection of another width": (lambda p: _rewrite(p, projection=torch.ones(4, 3)), "projection"),
    "NaN projection": (lambda p: _rewrite(p, projection=NAN[:5, :3].contiguous()), "projection must be finite"),
    "another digest": (lambda p: _rewrite(p, {"digest": "0" * 64}), "not those that were written"),
    "no digest": (lambda p: _rewrite(p, {"digest": None}), "not those that were written"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    _bank().save(path)
    damage, message = DAMAGE[kind]
    damage(path)
    with pytest.raises(BankError, match=message) as caught:
        MemoryBank.load(path)
    assert str(path) in str(caught.value)


def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bank.safetensors"
    _bank().save(path)
    before = path.read_bytes()

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace(_bank(), threshold=9.0).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["bank.safetensors"]
