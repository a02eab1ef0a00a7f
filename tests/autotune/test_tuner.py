"""Tiles that were timed, and when they are. No GPU: what measures is injected, and so is the card."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from patchcore_fast.kernels.autotune import measure, tuner
from patchcore_fast.kernels.backends.triton_kernels import tile_cache, tiles
from patchcore_fast.kernels.backends.triton_kernels.launch import interpreted
from patchcore_fast.kernels.backends.triton_kernels.tile_table import Tile, candidates

from ..triton.conftest import CARD, GPU


def fastest(wanted: Tile, asked: list[Tile] | None = None):
    def seconds(kernel: str, dim: int, mode: str, tile: Tile) -> float:
        assert tiles.choose_tile(kernel, CARD, dim, mode) == tile  # the tile is in force while it is timed
        if asked is not None:
            asked.append(tile)
        return 1.0 if tile == wanted else 2.0

    return seconds


def test_winner_is_kept_in_memory_and_on_disk(card: Path) -> None:
    offered = candidates("update", CARD, 128, "ieee")
    asked: list[Tile] = []
    assert tuner.tune(GPU, CARD, "update", 128, "ieee", fastest(offered[2], asked)) == offered[2]
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

    assert tuner.tune(GPU, CARD, "update", 128, "ieee", seconds) == offered[0]


def test_tiles_that_do_not_run_are_passed_over(card: Path, caplog: pytest.LogCaptureFixture) -> None:
    from triton.runtime.errors import OutOfResources

    offered = candidates("update", CARD, 128, "ieee")

    def seconds(kernel: str, dim: int, mode: str, tile: Tile) -> float:
        if tile == offered[0]:
            raise OutOfResources(200_000, 101_376, "shared memory")
        if tile == offered[1]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return float("nan") if tile == offered[2] else 3.0

    assert tuner.tune(GPU, CARD, "update", 128, "ieee", seconds) == offered[3]

    def nothing_runs(*args: object) -> float:
        raise RuntimeError("no kernel image is available")

    with caplog.at_level(logging.WARNING, "patchcore_fast"):
        assert tuner.tune(GPU, CARD, "update", 64, "ieee", nothing_runs) == candidates("update", CARD, 64, "ieee")[0]
    assert "no tile of update ran" in caplog.text
    assert len(tile_cache.read()["tiles"]) == 1


def test_a_folder_that_cannot_be_written_breaks_nothing(
    card: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    offered = candidates("update", CARD, 128, "ieee")
    blocked = card.parent / "file"
    blocked.write_text("not a folder")  # root may write into read-only folders, but not into a file
    monkeypatch.setenv("PATCHCORE_FAST_CACHE", str(blocked / "below"))
    tiles.forget()
    with caplog.at_level(logging.WARNING, "patchcore_fast"):
        assert tuner.tune(GPU, CARD, "update", 128, "ieee", fastest(offered[1])) == offered[1]
    assert "cannot be written" in caplog.text
    assert tiles.choose_tile("update", CARD, 128, "ieee") == offered[1]  # still known in this process


def test_tuning_goes_over_kernels_widths_and_arithmetics(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "capability", lambda device: CARD)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: GPU)
    asked = []

    def seconds(kernel, dim, mode, tile):
        asked.append((kernel, dim, mode))
        return float(len(asked))

    assert tuner.tune_all(torch.device("cpu"), [64, 1024], ["float32", "bf16"], seconds) == 8
    assert list(dict.fromkeys(asked)) == [
        (k, d, m) for d in (64, 1024) for m in ("ieee", "bf16") for k in ("update", "search")
    ]
    found = tile_cache.read()["tiles"]
    assert len(found) == 8 and all(key.startswith(f"{GPU}|8.6|") for key in found)
    first = candidates("update", CARD, 64, "ieee")[0]
    (key,) = [k for k in found if k.endswith("update|64|ieee")]
    assert tile_cache.as_tile(found[key], (first,)) == first


@pytest.mark.parametrize("card_of, precisions, modes", [
    (CARD, ["float32"], ["ieee", "half"]), (CARD, ["bf16"], ["bf16"]), ((7, 5), ["float32"], ["ieee"]),
])  # fmt: skip
def test_halves_are_tuned_where_they_are_multiplied(
    card: Path, monkeypatch: pytest.MonkeyPatch, card_of: tuple[int, int], precisions: list[str], modes: list[str]
) -> None:
    monkeypatch.setattr(tuner, "capability", lambda device: card_of)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: GPU)
    asked: list[str] = []

    def seconds(kernel, dim, mode, tile):
        asked.append(mode)
        return 1.0

    tuner.tune_all(torch.device("cpu"), [64], precisions, seconds, halves=True)
    assert list(dict.fromkeys(asked)) == modes


@pytest.mark.skipif(not interpreted(), reason="kernels run on a GPU here")
@pytest.mark.parametrize("precision", ["float32", "half"])
@pytest.mark.parametrize("kernel", ["update", "search"])
def test_what_autotuning_times(kernel: str, precision: str) -> None:
    """The call behind a measurement, on rows as few as the widest features leave."""
    result = measure._call(kernel, torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), precision)()
    sizes = [part.shape[0] for part in (result if isinstance(result, tuple) else (result.indices,))]
    assert sizes == ([12] if kernel == "update" else [6, 6]) or sizes == [12, 12]
