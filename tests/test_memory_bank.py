"""The bank file: a round trip, and everything that can be wrong with it."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Callable
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
        "features": torch.randn(12, 5, generator=generator), "indices": torch.arange(12) * 3,
        "positions": torch.stack([torch.arange(12) % 2, torch.arange(12) % 8, torch.arange(12) % 9], 1).int(),
        "projection": torch.randn(5, 3, generator=generator), "support": torch.rand(12, generator=generator),
        "config": {"features": {"layers": [2, 3]}, "selection": {"ratio": 0.1}}, "threshold": 1.25,
        "images": ["train/good/ä b.png", "train/good/c.png"], "grid": (8, 9), "patches": 144, "weights": "abc",
        "radius": 0.75,
    }  # fmt: skip
    return MemoryBank(**(facts | changes))


@pytest.mark.parametrize(
    "changes",
    [{}, {"positions": None, "projection": None, "support": None, "threshold": None, "grid": None, "radius": None}],
    ids=["full", "bare"],
)
def test_round_trip(changes: dict[str, Any], tmp_path: Path) -> None:
    bank = _bank(**changes)
    bank.save(tmp_path / "bank.safetensors")
    back = MemoryBank.load(tmp_path / "bank.safetensors")
    for name in ("features", "indices", "positions", "projection", "support"):
        want, got = getattr(bank, name), getattr(back, name)
        assert got is None if want is None else torch.equal(got, want), name
    for name in ("config", "threshold", "images", "grid", "patches", "weights", "radius"):
        assert getattr(back, name) == getattr(bank, name), name
    assert back.versions["torch"] and back.versions["numpy"]


def test_a_file_of_an_earlier_version_knows_no_radius(tmp_path: Path) -> None:
    _bank().save(tmp_path / "bank.safetensors")
    _facts(tmp_path / "bank.safetensors", radius="gone")
    assert MemoryBank.load(tmp_path / "bank.safetensors").radius is None


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
    "support of another bank": (lambda p: _rewrite(p, support=torch.ones(11)), r"support must be \[12\] float32"),
    "support of one more axis": (lambda p: _rewrite(p, support=torch.ones(12, 1)), r"support must be \[12\] float32"),
    "support in float64": (lambda p: _rewrite(p, support=torch.ones(12).double()), "F64|support"),
    "NaN support": (lambda p: _rewrite(p, support=NAN[:, 0].contiguous()), "support must be finite and not negative"),
    "negative support": (lambda p: _rewrite(p, support=-torch.ones(12)), "support must be finite and not negative"),
    "price that is text": (lambda p: _facts(p, config={"search": {"price": "much"}}), "price must be a number"),
    "price that is nothing": (lambda p: _facts(p, config={"search": {"price": None}}), "price must be a number"),
    "negative price": (lambda p: _facts(p, config={"search": {"price": -1}}), "price must lie between 0 and 1000"),
    "price beyond floats": (lambda p: _facts(p, config={"search": {"price": 10**400}}), "price must be a number"),
    "another digest": (lambda p: _rewrite(p, {"digest": "0" * 64}), "not those that were written"),
    "no digest": (lambda p: _rewrite(p, {"digest": None}), "not those that were written"),
}


def refusal(path: Path, damage: Callable[[Path], Any], message: str) -> str:
    """What is said of a bank that was damaged so."""
    _bank().save(path)
    damage(path)
    with pytest.raises(BankError, match=message) as caught:
        MemoryBank.load(path)
    return str(caught.value)


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    assert str(path) in refusal(path, *DAMAGE[kind])


def _place(column: int, value: int) -> torch.Tensor:
    positions = torch.zeros(12, 3, dtype=torch.int32)
    positions[5, column] = value
    return positions


BOUNDS = {
    "an image there is not": (lambda p: _rewrite(p, positions=_place(0, 2)), "positions must lie in"),
    "2^31 images": (lambda p: _rewrite(p, positions=_place(0, 2**31 - 1)), "positions must lie in"),
    "2^31 images without names": (
        lambda p: (_facts(p, images=[], patches=8 * 9 * 2**33), _rewrite(p, positions=_place(0, 2**31 - 1))),
        "positions must lie in"),
    "a row outside of the grid": (lambda p: _rewrite(p, positions=_place(1, 8)), "positions must lie in"),
    "a column outside of the grid": (lambda p: _rewrite(p, positions=_place(2, 9)), "positions must lie in"),
    "a negative place": (lambda p: _rewrite(p, positions=_place(2, -1)), "positions must lie in"),
    "places without a grid": (
        lambda p: (_facts(p, grid=None), _rewrite(p, positions=_place(1, 2**31 - 1))), "positions must lie in"),
    "a grid without end": (lambda p: _facts(p, grid=[10**9, 10**9], patches=0), "grid must be"),
    "an infinite grid": (lambda p: _facts(p, grid=[float("inf"), 1]), "Infinity"),
    "a grid of one side": (lambda p: _facts(p, grid=[8]), "grid must be"),
    "a grid of text": (lambda p: _facts(p, grid="89"), "grid must be"),
    "a grid of truths": (lambda p: _facts(p, grid=[True, True]), "grid must be"),
    "no whole images": (lambda p: _facts(p, patches=145), "145 patches are not those"),
    "fewer patches than names": (lambda p: _facts(p, patches=72), "72 patches are not those"),
    "a number that no float has": (lambda p: _facts(p, threshold=10**400), "threshold"),
    "an infinite threshold": (lambda p: _text(p, '"threshold": 1e999'), "threshold"),
    "a threshold that is no number": (lambda p: _facts(p, threshold=float("nan")), "NaN"),
    "a negative radius": (lambda p: _facts(p, radius=-0.5), "radius must not be negative"),
    "a radius that is text": (lambda p: _facts(p, radius="near"), "radius must be a finite number"),
    "a truth for a threshold": (lambda p: _facts(p, threshold=True), "threshold"),
    "a number of 5,000 digits": (lambda p: _text(p, '"threshold": ' + "1" * 5000), "inconsistent"),
    "patches beyond int64": (lambda p: _facts(p, patches=2**63), "patches must lie in"),
    "names that are numbers": (lambda p: _facts(p, images=[1, 2]), "images must be names"),
    "versions that are lists": (lambda p: _facts(p, versions={"torch": []}), "versions texts"),
    "a precision that is a list": (lambda p: _facts(p, config={"precision": ["float32"]}), "features must be"),
    "infinite scores": (lambda p: _rewrite(p, normal_scores=torch.tensor([torch.inf]).double()), "normal_scores"),
    "more scores than images": (lambda p: _rewrite(p, normal_scores=torch.ones(3).double()), "3 normal_scores of 2"),
    "deep lists": (lambda p: _rewrite(p, {"facts": "[" * 100_000}), "nested too deeply"),
    "deep settings": (lambda p: _facts(p, config={"a": json.loads("[" * 900 + "]" * 900)}), "nested too deeply"),
    "a deep index": (lambda p: _rewrite(p, {"index": "[" * 100_000}), "nested too deeply"),
    "another tensor": (lambda p: _rewrite(p, extra=torch.ones(2)), "'extra' is no tensor of a bank"),
    "a long message": (lambda p: _facts(p, config=["x\n" * 100_000]), "config must be a dict"),
}  # fmt: skip


def _text(path: Path, text: str) -> None:
    """JSON that json.dumps would not write, in the place of the threshold."""
    with safetensors.safe_open(str(path), framework="pt") as f:
        facts = f.metadata()["facts"]
    _rewrite(path, {"facts": facts.replace('"threshold": 1.25', text)})


@pytest.mark.parametrize("kind", BOUNDS)
def test_no_number_goes_beyond_what_the_file_can_mean(kind: str, tmp_path: Path) -> None:
    """All with a right digest: a stranger can compute it."""
    path = tmp_path / "bank.safetensors"
    said = refusal(path, *BOUNDS[kind])
    assert len(said) < len(str(path)) + 400 and "\n" not in said


def test_a_loaded_bank_does_not_depend_on_its_file(tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    _bank().save(path)
    back, size = MemoryBank.load(path), path.stat().st_size
    with path.open("r+b") as f:  # the same inode, as cp does
        f.write(b"\0" * size)
    assert torch.equal(back.features, _bank().features) and torch.equal(back.indices, _bank().indices)
    os.truncate(path, 0)
    assert torch.equal(back.features, _bank().features)


def test_banks_of_format_1_load(tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    _bank().save(path)
    _rewrite(path, {"format_version": "1", "digest": None})
    _same(MemoryBank.load(path))


def _same(bank: MemoryBank) -> None:
    want = _bank()
    for name in ("features", "indices", "positions", "projection", "support"):
        assert torch.equal(getattr(bank, name), getattr(want, name)), name
    for name in ("config", "threshold", "images", "grid", "patches", "weights", "radius"):
        assert getattr(bank, name) == getattr(want, name), name


def test_every_flipped_bit_and_every_cut_is_found(tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    _bank().save(path)
    whole = path.read_bytes()
    for place in range(0, 8 * len(whole), 29):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(BankError):
            MemoryBank.load(path)
    for length in range(0, len(whole), 31):
        path.write_bytes(whole[:length])
        with pytest.raises(BankError):
            MemoryBank.load(path)


VALUES = [None, True, -1, 0, 3, 2**31, 2**63, 10**400, 0.5, 1e308]
VALUES += ["", "x", "x" * 9999, [], [1], [2**40, 2], {}, {"a": 1}]


def test_mutants_load_as_banks_or_are_refused(tmp_path: Path) -> None:
    """Seeded: facts, header entries and numbers in tensors, each with the digest that goes with them."""
    rng, path = random.Random(0), tmp_path / "bank.safetensors"
    _bank().save(path)
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(400):
        header, body = json.loads(whole[8:start]), bytearray(whole[start:])
        metadata = header["__metadata__"]
        facts = json.loads(metadata["facts"])
        name = rng.choice(sorted(set(header) - {"__metadata__"}))
        kind = rng.choice(("fact", "entry", "number"))
        if kind == "fact":
            facts[rng.choice(sorted(facts))] = rng.choice(VALUES)
            metadata["facts"] = json.dumps(facts)
        elif kind == "entry":
            header[name][rng.choice(("dtype", "shape", "data_offsets"))] = rng.choice(VALUES)
        else:
            at = header[name]["data_offsets"][0]
            body[at : at + 8] = rng.choice((b"\xff", b"\x7f", b"\x00", b"\x11")) * 8
        if kind != "entry":
            held = safetensors.torch.load(_packed(header, body))
            metadata["digest"] = digest(held, metadata)
        path.write_bytes(_packed(header, body))
        try:
            bank = MemoryBank.load(path)
        except BankError as error:
            assert "\n" not in str(error)
        else:
            assert len(bank) == 12 and bank.positions is not None and int(bank.positions[:, 0].max()) < 2**20


def _packed(header: dict[str, Any], body: bytes | bytearray) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(body)


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
