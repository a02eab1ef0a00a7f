"""bench: stages add up, images of one's own or made up, and the model is afterwards what it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from patchcore_fast.cli import main
from patchcore_fast.model import PatchCore
from patchcore_fast.model.speed import speeds

from ..pictures import quiet_scan

STAGES = ["decode", "features", "search", "map", "write", "other"]


def test_stages_of_each_batch_and_thread(weave: Path, bank: Path) -> None:
    model, records = PatchCore.load(bank), quiet_scan(weave).test
    before, count = model.config, torch.get_num_threads()
    drawn: list[Path] = []
    found = speeds(model, records, (1, 2), (1, 3), lambda record, _: drawn.append(record.path), rounds=2)
    assert [(s.threads, s.batch) for s in found] == [(1, 1), (1, 3), (2, 1), (2, 3)]
    assert drawn == [r.path for r in records] * 2 * 3 * 4  # one by one and overlapped, a round more, four ways
    for s in found:
        assert list(s.milliseconds) == STAGES and s.images_per_second > 0
        assert all(0 <= ms < 60_000 for ms in s.milliseconds.values()) and s.milliseconds["features"] > 0
    assert model.config == before and torch.get_num_threads() == count


def test_the_command_prints_and_writes(
    weave: Path, bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "speed.json"
    argv = [
        "bench",
        str(bank),
        str(weave / "test"),
        "--limit",
        "2",
        "--rounds",
        "1",
        "--batches",
        "2",
        "--threads",
        "1",
    ]
    assert main([*argv, "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "2 images; medians of 1" in out and "1 thread, batch 2" in out and "images/s" in out
    kept = json.loads(file.read_text())
    assert list(kept["speeds"][0]["milliseconds"]) == STAGES and kept["images"] == 2 and not kept["made_up"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["speed.json"]


def test_pictures_are_made_up(bank: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchcore_fast.cli.bench.SIDE", 64)
    assert main(["bench", str(bank), "--limit", "1", "--rounds", "1", "--batches", "1"]) == 0
    assert "1 image, made up, 64 x 64 pixels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("--rounds", "0", "--rounds must lie in"), ("--batches", "0", "invalid numbers")],
)
def test_bad_options(bank: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, said: str) -> None:
    assert main(["bench", str(bank), option, value]) == 2
    assert said in capsys.readouterr().err
