"""What a bank keeps of its budget: there and back, and nothing that no fit gives."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from patchcore_fast.bank_size import BankSize, Step, size_of
from patchcore_fast.errors import BankError
from patchcore_fast.layered_bank import LayeredBank, load_bank
from patchcore_fast.memory_bank import MemoryBank

SIZE = BankSize("5ms", 40, 4000, "a device", 1.0, 0.1, (Step(20, (2.0,), 3.5), Step(40, (), None)))


def bank(**more: Any) -> MemoryBank:
    return MemoryBank(torch.ones(4, 3), torch.arange(4), **more)


def test_there_and_back(tmp_path: Path) -> None:
    assert BankSize.from_dict(json.loads(json.dumps(SIZE.to_dict()))) == SIZE == size_of({"size": SIZE.to_dict()})
    assert BankSize.from_dict(SIZE.to_dict() | {"later": 1}) == SIZE and size_of({}) is None
    assert SIZE.search_ms == pytest.approx(5.0) and BankSize("20MB", 40, 4000).search_ms is None
    assert (SIZE.bytes_said, replace(SIZE, bytes=12_345_678).bytes_said) == ("4.0 KB", "12.3 MB")
    layered = LayeredBank((bank(), bank()), (1.0, 2.0), {}, size=SIZE)
    for made in (bank(size=SIZE), layered, bank()):
        made.save(tmp_path / "b.safetensors")
        found = load_bank(tmp_path / "b.safetensors")
        assert found.size == made.size and all(part.size is None for part in layered.parts)


def test_a_bank_without_a_budget_says_nothing_of_it() -> None:
    assert "size" not in bank().facts() and bank(size=SIZE).facts()["size"] == SIZE.to_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": "many"}, "must be a number of rows"), ({"budget": 3}, "budget must be a text"),
        ({"device": "x" * 201}, "device must be a text of at most 200"), ({"rows": 0}, "rows must be a positive"),
        ({"rows": 2.0}, "rows must be a positive"), ({"bytes": 1 << 63}, "bytes must be a positive"),
        ({"rows": True}, "rows must be a positive"), ({"fixed_ms": -1}, "fixed_ms must be finite"),
        ({"row_ms": "1"}, "row_ms must be finite"), ({"row_ms": 10**400}, "row_ms must be finite"),
        ({"curve": [{"rows": 1, "radius": [], "score": None}] * 17}, "at most 16 steps"),
        ({"curve": [{"rows": 0, "radius": [], "score": None}]}, r"curve\.rows must be a positive"),
        ({"curve": [{"rows": 1, "radius": [0.0] * 101, "score": None}]}, r"curve\.radius must be at most 100"),
        ({"curve": [{"rows": 1, "radius": [None], "score": None}]}, "curve must be finite"),
        ({"curve": [{"rows": 1, "radius": [], "score": -1.0}]}, "curve must be finite"),
        ({"curve": [{"rows": 1}]}, "KeyError"), ({"curve": 3}, "TypeError"),
    ],
)  # fmt: skip
def test_a_file_may_hold_anything(changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch) -> None:
    wrong = SIZE.to_dict() | changes
    with pytest.raises(ValueError, match=message):
        BankSize.from_dict(wrong)
    monkeypatch.setattr(BankSize, "to_dict", lambda self: wrong)
    bank(size=SIZE).save(tmp_path / "b.safetensors")
    with pytest.raises(BankError, match=r"b\.safetensors: inconsistent memory bank"):
        MemoryBank.load(tmp_path / "b.safetensors")


def test_no_mapping_at_all() -> None:
    for wrong in (3, [], "x", True):
        with pytest.raises(ValueError, match="size: "):
            size_of({"size": wrong})
