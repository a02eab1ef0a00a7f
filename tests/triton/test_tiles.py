"""Tile choice and the cache of measured tiles. No GPU: what measures is injected, and so is the card."""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from patchcore_fast.kernels.backends.triton_kernels import measure, tile_cache, tile_table, tiles
from patchcore_fast.kernels.backends.triton_kernels.precision import choose_arithmetic
from patchcore_fast.kernels.backends.triton_kernels.tile_table import INTERPRETER, KERNELS, Tile, candidates
from patchcore_fast.kernels.tuning import PRECISIONS

CARDS = [(7, 5), (8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0), (12, 1), (13, 0)]
GPU, CARD = "Imaginary 1000", (8, 6)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with a card that nobody has measured; gives the cache folder."""
    monkeypatch.setenv("PATCHCORE_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PATCHCORE_FAST_AUTOTUNE", raising=False)
    monkeypatch.setattr(tiles, "_gpu", lambda capability: GPU if capability == CARD else None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    tiles.forget()
    yield tmp_path / "cache"
    tiles.forget()


def fastest(wanted: Tile, asked: list[Tile] | None = None):
    def seconds(kernel: str, dim: int, mode: str, tile: Tile) -> float:
        assert tiles.choose_tile(kernel, CARD, dim, mode) == tile  # the tile is in force while it is timed
        if asked is not None:
            asked.append(tile)
        return 1.0 if tile == wanted else 2.0

    return seconds


@pytest.mark.parametrize("capability", CARDS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_card_width_and_precision_has_tiles(kernel: str, capability: tuple[int, int]) -> None:
    for precision in PRECISIONS:
        for dim in (1, 16, 31, 32, 33, 64, 100, 128, 129, 1536, 1 << 17):
            mode = choose_arithmetic(precision, capability, dim).mode
            offered = candidates(kernel, capability, dim, mode)
            assert len(set(offered)) == len(offered) > 1
            for tile in offered:
                assert all(v & (v - 1) == 0 for v in (tile.rows, tile.others, tile.depth, tile.warps))
                # What tl.dot takes at least, and rows for every warp of its layout.
                assert min(tile.rows, tile.others) >= 16 and tile.depth >= (8 if mode == "ieee" else 16)
                assert tile.warps in (4, 8) and 1 <= tile.stages <= 4
            for tile in offered[1:]:  # the first ones are compiled (test_compiled.py)
                assert tile.stages * tile.depth * (tile.rows + tile.others) * 4 <= tile_table.shared_limit(capability)


def test_interpreter_and_bad_arguments() -> None:
    assert tiles.choose_tile("update", (0, 0), 5000, "ieee") == INTERPRETER == Tile(64, 64, 64, 4, 1)
    with pytest.raises(ValueError, match=r"candidates: kernel must be one of update, search, got 'sort'"):
        tiles.choose_tile("sort", CARD, 128, "ieee")
    with pytest.raises(ValueError, match=r"candidates: mode must be one of .*, got 'fp8'"):
        tiles.choose_tile("update", CARD, 128, "fp8")
    with pytest.raises(ValueError, match=r"candidates: dim must be at least 1, got 0"):
        tiles.choose_tile("update", CARD, 0, "ieee")


def test_buckets_share_a_tile() -> None:
    assert [tile_table.bucket(d) for d in (1, 32, 33, 64, 65, 128, 129, 9999)] == [32, 32, 64, 64, 128, 128, 256, 256]
    for dim in (129, 4000):
        assert candidates("update", CARD, dim, "ieee") == candidates("update", CARD, 1536, "ieee")


def test_unmeasured_card_takes_the_first_and_writes_nothing(card: Path) -> None:
    assert tiles.choose_tile("update", CARD, 128, "ieee") == candidates("update", CARD, 128, "ieee")[0]
    assert tiles.choose_tile("update", (9, 0), 128, "tf32x3") == candidates("update", (9, 0), 128, "tf32x3")[0]
    assert not card.exists()


def test_winner_is_kept_in_memory_and_on_disk(card: Path) -> None:
    offered = candidates("update", CARD, 128, "ieee")
    asked: list[Tile] = []
    assert tiles.tune(GPU, CARD, "update", 128, "ieee", fastest(offered[2], asked)) == offered[2]
    assert asked == list(offered)
    assert tiles.choose_tile("update", CARD, 100, "ieee") == offered[2]  # the same bucket
    assert tiles.choose_tile("update", CARD, 129, "ieee") == candidates("update", CARD, 129, "ieee")[0]
    assert tiles.choose_tile("search", CARD, 128, "ieee") == candidates("search", CARD, 128, "ieee")[0]
    tiles.forget()  # another process
    assert tiles.choose_tile("update", CARD, 128, "ieee") == offered[2]
    found = json.loads((card / "triton.json").read_text())
    (key,) = found["tiles"]
    assert key.split("|")[:2] == [GPU, "8.6"] and key.split("|")[3:] == ["update", "128", "ieee"]
    assert [p.name for p in card.iterdir()] == ["triton.json"]  # no temporary file is left


def test_other_cards_and_versions_are_not_believed(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = candidates("update", CARD, 128, "ieee")
    tiles.tune(GPU, CARD, "update", 128, "ieee", fastest(offered[1]))
    tiles.forget()
    monkeypatch.setattr(tiles, "_triton_version", lambda: "99.0")
    assert tiles.choose_tile("update", CARD, 128, "ieee") == offered[0]
    monkeypatch.undo()
    monkeypatch.setenv("PATCHCORE_FAST_CACHE", str(card))
    monkeypatch.setattr(tiles, "_gpu", lambda capability: "Imaginary 2000")
    tiles.forget()
    assert tiles.choose_tile("update", CARD, 128, "ieee") == offered[0]


def test_environment_asks_for_measuring_once(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered, asked = candidates("search", CARD, 64, "ieee"), []
    monkeypatch.setattr(measure, "seconds", fastest(offered[1], asked))
    monkeypatch.setenv("PATCHCORE_FAST_AUTOTUNE", "1")
    assert tiles.choose_tile("search", CARD, 64, "ieee") == offered[1]
    assert tiles.choose_tile("search", CARD, 64, "ieee") == offered[1]
    assert asked == list(offered)
    monkeypatch.setenv("PATCHCORE_FAST_AUTOTUNE", "yes")
    with pytest.raises(ValueError, match=r"PATCHCORE_FAST_AUTOTUNE must be 0 or 1, got 'yes'"):
        tiles.choose_tile("search", CARD, 32, "ieee")


def test_nothing_is_measured_while_a_graph_is_captured(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHCORE_FAST_AUTOTUNE", "1")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(measure, "seconds", lambda *a: pytest.fail("measured inside a graph"))
    assert tiles.choose_tile("update", CARD, 64, "ieee") == candidates("update", CARD, 64, "ieee")[0]


def test_measuring_does_not_measure_what_it_calls(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHCORE_FAST_AUTOTUNE", "1")
    monkeypatch.setattr(measure, "seconds", lambda *a: pytest.fail("measured inside a measurement"))
    offered = candidates("update", CARD, 128, "ieee")

    def seconds(kernel: str, dim: int, mode: str, tile: Tile) -> float:
        assert tiles.choose_tile("search", CARD, dim, mode) == candidates("search", CARD, dim, mode)[0]
        return 1.0

    assert tiles.tune(GPU, CARD, "update", 128, "ieee", seconds) == offered[0]


def test_a_trial_holds_for_its_own_thread_only(card: Path) -> None:
    offered, seen = candidates("update", CARD, 128, "ieee"), []
    with tiles.forced("update", offered[1]):
        other = threading.Thread(target=lambda: seen.append(tiles.choose_tile("update", CARD, 128, "ieee")))
        other.start()
        other.join()
        assert tiles.choose_tile("update", CARD, 128, "ieee") == offered[1]
    assert seen == [offered[0]] and tiles.choose_tile("update", CARD, 128, "ieee") == offered[0]


def test_tiles_that_do_not_run_are_passed_over(card: Path, caplog: pytest.LogCaptureFixture) -> None:
    from triton.runtime.errors import OutOfResources

    offered = candidates("update", CARD, 128, "ieee")

    def seconds(kernel: str, dim: int, mode: str, tile: Tile) -> float:
        if tile == offered[0]:
            raise OutOfResources(200_000, 101_376, "shared memory")
        if tile == offered[1]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return float("nan") if tile == offered[2] else 3.0

    assert tiles.tune(GPU, CARD, "update", 128, "ieee", seconds) == offered[3]

    def nothing_runs(*args: object) -> float:
        raise RuntimeError("no kernel image is available")

    with caplog.at_level(logging.WARNING, "patchcore_fast"):
        assert tiles.tune(GPU, CARD, "update", 64, "ieee", nothing_runs) == candidates("update", CARD, 64, "ieee")[0]
    assert "no tile of update ran" in caplog.text
    assert len(tile_cache.read()["tiles"]) == 1


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
    tiles.tune(GPU, CARD, "update", 128, "ieee", fastest(offered[1]))
    tiles.forget()
    assert tiles.choose_tile("update", CARD, 128, "ieee") == offered[1]


@pytest.mark.parametrize("change", [{"rows": 7}, {"depth": None}, {"warps": "8"}, {"stages": 9}])
def test_a_tile_that_the_table_does_not_offer_is_not_taken(card: Path, change: dict[str, object]) -> None:
    offered = candidates("update", CARD, 128, "ieee")
    tiles.tune(GPU, CARD, "update", 128, "ieee", fastest(offered[1]))
    file = card / "triton.json"
    found = json.loads(file.read_text())
    next(iter(found["tiles"].values())).update(change)
    file.write_text(json.dumps(found))
    tiles.forget()
    assert tiles.choose_tile("update", CARD, 128, "ieee") == offered[0]


def test_a_folder_that_cannot_be_written_breaks_nothing(
    card: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    offered = candidates("update", CARD, 128, "ieee")
    blocked = card.parent / "file"
    blocked.write_text("not a folder")  # root may write into read-only folders, but not into a file
    monkeypatch.setenv("PATCHCORE_FAST_CACHE", str(blocked / "below"))
    tiles.forget()
    with caplog.at_level(logging.WARNING, "patchcore_fast"):
        assert tiles.tune(GPU, CARD, "update", 128, "ieee", fastest(offered[1])) == offered[1]
    assert "cannot be written" in caplog.text
    assert tiles.choose_tile("update", CARD, 128, "ieee") == offered[1]  # still known in this process


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only folders")
def test_read_only_folder(card: Path) -> None:
    card.mkdir()
    card.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert not tile_cache.add("tiles", {"a": {}})
    card.chmod(stat.S_IRWXU)


def test_entries_of_others_stay(card: Path) -> None:
    assert tile_cache.add("tiles", {"a": {"rows": 1}}) and tile_cache.add("first_calls", {"b": {"first": 2.0}})
    assert tile_cache.read() == {"tiles": {"a": {"rows": 1}}, "first_calls": {"b": {"first": 2.0}}}


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
