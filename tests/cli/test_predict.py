"""predict with a pixel threshold: masks and regions beside the scores, whatever happens to them."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchcore_fast.cli import main
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore

from ..evaluated import files, predict, rows_of

pytestmark = pytest.mark.usefixtures("no_drawing")


@pytest.fixture(scope="module")
def decided(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bank of `place` with a pixel threshold that the defects of its test images exceed, and little else."""
    model = PatchCore.load(place / "bank.safetensors", progress=False)
    normal = np.concatenate([p.anomaly_map.ravel() for p in model.predict(place / "weave/test/good")])
    root = tmp_path_factory.mktemp("decided")
    replace(model.bank, pixel_threshold=float(np.quantile(normal, 0.99))).save(root / "bank.safetensors")
    return root


def test_predict_writes_masks_and_regions(decided: Path, weave: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert predict(decided, weave / "test", out) == 0
    said = capsys.readouterr().out
    model = PatchCore.load(decided / "bank.safetensors", progress=False)
    want = model.predict(weave / "test")
    rows = rows_of(out / "regions.csv")
    assert f"{len(rows)} regions above the pixel threshold {model.pixel_threshold:.4g}" in said
    for p, score in zip(want, rows_of(out / "scores.csv"), strict=True):
        mine = [r for r in rows if r["path"] == score["path"] == str(p.path)]
        assert p.regions is not None and [int(r["area"]) for r in mine] == [r.area for r in p.regions]
        assert [int(r["region"]) for r in mine] == list(range(1, len(mine) + 1))
        with Image.open(out / "masks" / Path(score["heatmap"]).relative_to("heatmaps")) as im:
            assert np.array_equal(np.asarray(im) > 0, p.mask)
    assert any(r["path"].endswith("spot/000.png") for r in rows)
    read = json.loads((out / "regions.json").read_text())
    assert [a["area"] for a in read["annotations"]] == [int(r["area"]) for r in rows]
    assert [i["file_name"] for i in read["images"]] == [str(p.path) for p in want]
    assert predict(decided, weave / "test", out, "--min-area", "1000000") == 0
    assert rows_of(out / "regions.csv") == [] and "0 regions" in capsys.readouterr().out


def test_settings_of_the_bank_hold_unless_others_are_typed(decided: Path, weave: Path, tmp_path: Path) -> None:
    bank = MemoryBank.load(decided / "bank.safetensors")
    decision = bank.config["decision"] | {"hysteresis": 0.8, "min_area": 5}
    replace(bank, config=bank.config | {"decision": decision}).save(tmp_path / "bank.safetensors")
    areas = {}
    for name, more in {"bank": (), "typed": ("--hysteresis", "1", "--min-area", "1")}.items():
        assert predict(tmp_path, weave / "test/spot", tmp_path / name, *more) == 0
        areas[name] = sum(int(r["area"]) for r in rows_of(tmp_path / name / "regions.csv"))
    assert areas["bank"] > areas["typed"] > 0


def test_without_a_pixel_threshold_one_line_says_what_to_do(
    decided: Path, weave: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    assert predict(decided, weave / "test/good", out) == 0
    assert (out / "masks/000.png").is_file()
    shutil.copy(decided / "bank.safetensors", tmp_path)
    bank = MemoryBank.load(tmp_path / "bank.safetensors")
    replace(bank, pixel_threshold=None).save(tmp_path / "bank.safetensors")
    capsys.readouterr()
    assert predict(tmp_path, weave / "test/good", out) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "pixel threshold" in line]
    assert len(lines) == 1 and "--pixel-threshold" in lines[0] and "calibrate" in lines[0]
    assert not [name for name in files(out) if "mask" in name or "regions" in name]  # nor those of the run before


@pytest.mark.parametrize("what", ["mask", "open", "close"])
def test_scores_and_pictures_come_without_regions(
    what: str, decided: Path, weave: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    import patchcore_fast.report.region_files as region_files

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    places = {
        "mask": (region_files, "save_png"),
        "open": (region_files, "append_scores"),
        "close": (region_files.shutil, "copyfileobj"),
    }
    monkeypatch.setattr(*places[what], full)
    assert predict(decided, weave / "test", tmp_path / "out") == 3
    said = capsys.readouterr().err
    assert "No space left on device" in said and ("the regions of" if what == "mask" else "regions.csv and") in said
    rows = rows_of(tmp_path / "out/scores.csv")
    assert len(rows) == 6 and all(r["score"] and r["heatmap"] for r in rows)
    assert (tmp_path / "out/regions.csv").is_file() == (what != "open")
    assert (tmp_path / "out/regions.json").is_file() == (what == "mask")


def test_a_run_that_is_stopped_keeps_its_regions(
    decided: Path, weave: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    import patchcore_fast.cli.predict as command
    from patchcore_fast.report.gallery import Gallery

    monkeypatch.setattr(command, "SCALE_IMAGES", 1)
    whole, left = Gallery.add, iter(range(2))

    def add(*args: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(Gallery, "add", add)
    assert predict(decided, weave / "test/spot", tmp_path / "out") == 130
    rows, read = rows_of(tmp_path / "out/regions.csv"), json.loads((tmp_path / "out/regions.json").read_text())
    assert len(read["images"]) == 3 and len(read["annotations"]) == len(rows) >= 3
    assert "the scores of 3 of 3 images" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "words"), [
    ("--min-area=0", "min_area must be at least 1"), ("--min-area=1.5", "invalid int value"),
    ("--hysteresis=0", r"hysteresis must be in (0, 1], got 0"), ("--hysteresis=1.1", r"must be in (0, 1], got 1.1"),
])  # fmt: skip
def test_settings_that_are_none(
    option: str, words: str, decided: Path, weave: Path, tmp_path: Path, capsys: Any
) -> None:
    try:
        code = main(["predict", str(decided / "bank.safetensors"), str(weave), "--output", str(tmp_path / "o"), option])
    except SystemExit as error:  # argparse's
        code = int(str(error.code))
    assert code == 2 and words in capsys.readouterr().err
