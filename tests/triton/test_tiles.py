"""Tile choice and the cache of measured tiles. No GPU: the card is injected."""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from patchcore_fast.kernels.backends.triton_kernels import launch, tile_cache, tile_table, tiles
from patchcore_fast.kernels.backends.triton_kernels.precision import choose_arithmetic
from patchcore_fast.kernels.backends.triton_kernels.tile_table import INTERPRETER, KERNELS, Tile, candidates
from patchcore_fast.kernels.tuning import PRECISIONS

from .conftest import CARD, GPU

CARDS = [(7, 5), (8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0), (12, 1), (13, 0)]


@pytest.mark.parametrize("capability", CARDS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_card_width_and_precision_has_tiles(kernel: str, capability: tuple[int, int]) -> None:
    for precision in (*PRECISIONS, "half"):
        for dim in (1, 16, 31, 32, 33, 64, 100, 128, 129, 1536, 1 << 17):
            mode = precision if precision == "half" else choose_arithmetic(precision, capability, dim).mode
            offered = candidates(kernel, capability, dim, mode)
            assert len(set(offered)) == len(offered) > 1
            for tile in offered:
                assert all(v & (v - 1) == 0 for v in (tile.rows, tile.others, tile.depth, tile.warps))
                # What tl.dot takes at least, and rows for every warp of its layout.
                assert min(tile.rows, tile.others) >= 16 and tile.depth >= (8 if mode == "ieee" else 16)
                assert tile.warps in (4, 8) and 1 <= tile.stages <= 4
            for tile in offered[1:]:  # the first ones are compiled (test_compiled.py)
                staged = tile.stages * tile.depth * (tile.rows + tile.others) * (2 if mode == "half" else 4)
                assert staged <= tile_table.shared_limit(capability)


def test_interpreter_and_bad_arguments() -> None:
    assert tiles.choose_tile("update", (0, 0), 5000, "ieee") == INTERPRETER == Tile(64, 64, 64, 4, 1)
    with pytest.raises(ValueError, match=r"candidates: kernel must be one of update, search, got 'sort'"):
        tiles.choose_tile("sort", CARD, 128, "ieee")
    with pytest.raises(ValueError, match=r"candidates: mode must be one of .*, got 'fp8'"):
        tiles.choose_tile("update", CARD, 128, "fp8")
    with pytest.raises(ValueError, match=r"candidates: dim must be at least 1, got 0"):
        tiles.choose_tile("update", CARD, 0, "ieee")


def test_compilers_that_take_more_registers_get_smaller_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, older in (("3.3.1", True), ("3.7.0+git12", True), ("3.8.0", False), ("3.10.0", False), ("4.0", False)):
        monkeypatch.setattr(launch, "triton_version", lambda version=version: version)
        assert launch.older_triton() == older
        offered = candidates("search", (9, 0), 128, "ieee")
        assert offered[0].rows == (64 if older else 128) and len(set(offered)) == len(offered)
        assert candidates("update", (8, 6), 128, "ieee")[0].stages == (2 if older else 3)
        assert candidates("search", (8, 6), 64, "ieee")[0] == Tile(128, 64, 64, 8, 2)  # resident: no chunks
        assert candidates("search", (7, 5), 128, "ieee")[0].rows == 128


def test_buckets_share_a_tile() -> None:
    assert [tile_table.bucket(d) for d in (1, 32, 33, 64, 65, 128, 129, 9999)] == [32, 32, 64, 64, 128, 128, 256, 256]
    for dim in (129, 4000):
        assert candidates("update", CARD, dim, "ieee") == candidates("update", CARD, 1536, "ieee")


def test_unmeasured_card_takes_the_first_and_writes_nothing(card: Path) -> None:
    assert tiles.choose_tile("update", CARD, 128, "ieee") == candidates("update", CARD, 128, "ieee")[0]
    assert tiles.choose_tile("update", (9, 0), 128, "tf32x3") == candidates("update", (9, 0), 128, "tf32x3")[0]
    assert not card.exists()


def test_other_cards_and_versions_are_not_believed(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = candidates("update", CARD, 128, "ieee")
    tiles.keep(GPU, CARD, "update", 128, "ieee", offered[1], 1.0)
    tiles.forget()
    monkeypatch.setattr(tiles, "triton_version", lambda: "99.0")
    assert tiles.choose_tile("update", CARD, 128, "ieee") == offered[0]
    monkeypatch.undo()
    monkeypatch.setenv("PATCHCORE_FAST_CACHE", str(card))
    monkeypatch.setattr(tiles, "_gpu", lambda capability: "Imaginary 2000")
    tiles.forget()
    assert tiles.choose_tile("update", CARD, 128, "ieee") == offered[0]


def test_a_trial_holds_for_its_own_thread_only(card: Path) -> None:
    offered, seen = candidates("update", CARD, 128, "ieee"), []
    with tiles.forced("update", offered[1]):
        other = threading.Thread(target=lambda: seen.append(tiles.choose_tile("update", CARD, 128, "ieee")))
        other.start()
        other.join()
        assert tiles.choose_tile("update", CARD, 128, "ieee") == offered[1]
    assert seen == [offered[0]] and tiles.choose_tile("update", CARD, 128, "ieee") == offered[0]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"\xff\xfe\x00", b'{"format": 99, "tiles": {}, "first_calls": {}}', b'{"format": 1}',
     b'{"format": 1, "tiles": {"a": 3}, "first_calls": {}}', b"[" * 100_000],
)  # fmt: skip
def test_damaged_file_is_ignored_said_once_and_rewritten(
    card: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    card.mkdir()
    (card / "triton.json").write_bytes(content)
    offered = candidates("update", CARD, 128, "ieee")
    with caplog.at_level(logging.WARNING, "patchcore_fast"):
        assert tiles.choose_tile("update", CARD, 128, "ieee") == offered[0]
        assert tiles.choose_tile("update", CARD, 128, "ieee") == offered[0]
    (record,) = caplog.records
    assert "left aside" in record.getMessage() and "\n" not in record.getMessage()
    tiles.keep(GPU, CARD, "update", 128, "ieee", offered[1], 1.0)
    tiles.forget()
    assert tiles.choose_tile("update", CARD, 128, "ieee") == offered[1]


@pytest.mark.parametrize("change", [{"rows": 7}, {"depth": None}, {"warps": "8"}, {"stages": 9}])
def test_a_tile_that_the_table_does_not_offer_is_not_taken(card: Path, change: dict[str, object]) -> None:
    offered = candidates("update", CARD, 128, "ieee")
    tiles.keep(GPU, CARD, "update", 128, "ieee", offered[1], 1.0)
    file = card / "triton.json"
    found = json.loads(file.read_text())
    next(iter(found["tiles"].values())).update(change)
    file.write_text(json.dumps(found))
    tiles.forget()
    assert tiles.choose_tile("update", CARD, 128, "ieee") == offered[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only folders")
def test_read_only_folder(card: Path) -> None:
    card.mkdir()
    card.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert not tile_cache.add("tiles", {"a": {}})
    card.chmod(stat.S_IRWXU)


def test_entries_of_others_stay(card: Path) -> None:
    assert tile_cache.add("tiles", {"a": {"rows": 1}}) and tile_cache.add("first_calls", {"b": {"first": 2.0}})
    kept = {"tiles": {"a": {"rows": 1}}, "first_calls": {"b": {"first": 2.0}}, "tensor_cores": {}}
    assert tile_cache.read() == kept


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATCHCORE_FAST_CACHE", str(tmp_path))
    assert tile_cache.cache_file() == tmp_path / "triton.json"
    monkeypatch.delenv("PATCHCORE_FAST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert tile_cache.cache_file() == tmp_path / "x" / "patchcore_fast" / "triton.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tile_cache.cache_file() == tmp_path / ".cache" / "patchcore_fast" / "triton.json"
    assert not list(tmp_path.iterdir())
