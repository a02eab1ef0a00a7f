"""One broken file among many: the others are scored, it is named, and the exit code is 3."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchcore_fast.cli import main
from patchcore_fast.data import ImageRecord
from patchcore_fast.errors import DataError
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore

from ..evaluated import TINY

pytestmark = pytest.mark.usefixtures("no_drawing")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: min(200, path.stat().st_size // 2)])


def text(path: Path) -> None:
    path.write_text("no picture")


def bomb(path: Path) -> None:
    """A few bytes that claim 400 million pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


def vanished(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BREAK = {f.__name__: f for f in (cut, text, bomb)}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


@pytest.mark.parametrize("how", BREAK)
def test_predict_scores_the_others(place: Path, data: Path, how: str, tmp_path: Path, capsys: Any) -> None:
    bad = data / "test/good/001.png"
    BREAK[how](bad)
    out = tmp_path / "out"
    assert main(["predict", str(place / "bank.safetensors"), str(data / "test"), "--output", str(out)]) == 3
    said = capsys.readouterr()
    assert "1 file could not be used" in said.err and str(bad) in said.err and "5 images scored" in said.out
    rows = rows_of(out / "scores.csv")
    assert [r["path"] for r in rows] == [str(p) for p in sorted((data / "test").rglob("*.png"))], "in their order"
    (row,) = [r for r in rows if not r["score"]]
    assert row["path"] == str(bad) and bad.name in row["error"] and row["heatmap"] == row["is_anomalous"] == ""
    assert all((out / r["heatmap"]).is_file() and r["error"] == "" for r in rows if r["score"])
    alone = PatchCore.load(place / "bank.safetensors").predict(data / "test/good/002.png")[0].score
    (same,) = [r for r in rows if r["path"].endswith("good/002.png")]
    assert np.float32(same["score"]) == np.float32(alone), "a broken neighbour changes no score"


@pytest.mark.parametrize("how", [vanished, a_folder], ids=["vanished", "folder"])
def test_predict_outlives_what_changes_after_the_scan(
    place: Path, data: Path, how: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import patchcore_fast.data as package

    whole = package.scan_images

    def scan(source: Any) -> list[ImageRecord]:
        found = whole(source)
        how(data / "test/good/001.png")
        return found

    monkeypatch.setattr(package, "scan_images", scan)
    args = ["predict", str(place / "bank.safetensors"), str(data / "test"), "--output", str(tmp_path / "out")]
    assert main(args) == 3
    assert "001.png" in capsys.readouterr().err and len(rows_of(tmp_path / "out/scores.csv")) == 6


def test_predict_with_nothing_readable(place: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    for path in (data / "test").rglob("*.png"):
        cut(path)
    args = ["predict", str(place / "bank.safetensors"), str(data / "test"), "--output", str(tmp_path / "out")]
    assert main(args) == 2
    assert "none of 6 images can be read; " in capsys.readouterr().err
    assert all(r["error"] for r in rows_of(tmp_path / "out/scores.csv"))


def test_workers_bring_errors_too(place: Path, data: Path) -> None:
    cut(data / "test/good/001.png")
    model = PatchCore.load(place / "bank.safetensors", workers=1)
    found = model.predict(data / "test", on_error="return")
    assert [p.error is None for p in found] == [True, False, True, True, True, True]
    assert np.isnan(found[1].score) and np.isnan(found[1].anomaly_map).all() and found[1].is_anomalous is None
    with pytest.raises(DataError, match=r"001\.png"):
        model.predict(data / "test")


@pytest.mark.parametrize("how", BREAK)
@pytest.mark.parametrize("name", ["good/001.png", "spot/001.png"])
def test_evaluate_measures_the_others(
    place: Path, data: Path, how: str, name: str, tmp_path: Path, capsys: Any
) -> None:
    BREAK[how](data / "test" / name)
    out, file = tmp_path / "out", tmp_path / "m.json"
    bank = str(place / "bank.safetensors")
    assert main(["evaluate", str(data), "--bank", bank, "--output", str(out), "--json", str(file)]) == 3
    said = capsys.readouterr()
    assert "1 image could not be read: these numbers are of the other 5." in said.out and name in said.err
    found = json.loads(file.read_text())
    assert found["metrics"]["n_test"] == 5 and found["metrics"]["n_unread"] == 1
    (unread,) = found["unread"]
    assert unread["path"] == f"test/{name}" and "001.png" in unread["error"]
    (row,) = [r for r in rows_of(out / "scores.csv") if not r["score"]]
    assert row["path"] == f"test/{name}" and row["error"]
    (data / "test" / name).unlink()
    assert main(["evaluate", str(data), "--bank", bank, "--json", str(file)]) == 0
    without = json.loads(file.read_text())["metrics"]
    assert {k: v for k, v in without.items() if k != "n_unread"} == {
        k: v for k, v in found["metrics"].items() if k != "n_unread"
    }
    assert main(["report", str(out)]) == 0
    assert "1 test images could not be read" in (out / "report.html").read_text()


def test_evaluate_without_a_mask_that_cannot_be_read(place: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    cut(data / "ground_truth/spot/001_mask.png")
    out = tmp_path / "out"
    args = ["evaluate", str(data), "--bank", str(place / "bank.safetensors"), "--output", str(out)]
    assert main(args) == 3
    assert "001_mask.png" in capsys.readouterr().err
    found = json.loads((out / "metrics.json").read_text())
    assert found["metrics"]["n_test"] == 6 and found["metrics"]["n_masks"] == 2 and found["unread"] == []
    (row,) = [r for r in found["images"] if r["error"]]
    assert row["path"] == "test/spot/001.png" and row["score"] > 0 and "001_mask.png" in row["error"]
    (row,) = [r for r in rows_of(out / "scores.csv") if r["error"]]
    assert row["score"] and "001_mask.png" in row["error"]
    assert main(["report", str(out)]) == 0


def test_evaluate_with_nothing_readable(place: Path, data: Path, capsys: Any) -> None:
    for path in (data / "test").rglob("*.png"):
        cut(path)
    assert main(["evaluate", str(data), "--bank", str(place / "bank.safetensors")]) == 2
    err = capsys.readouterr().err
    assert "none of 6 test images can be read; " in err and "Traceback" not in err


def test_fit_leaves_a_broken_image_out(place: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    cut(data / "train/good/002.png")
    bank = tmp_path / "b.safetensors"
    assert main(["fit", str(data), "--output", str(bank), *TINY]) == 3
    said = capsys.readouterr()
    assert "train/good/002.png" in said.err and "Fitted on 5 images" in said.out
    names = MemoryBank.load(bank).images
    assert names == [f"train/good/{i:03d}.png" for i in (0, 1, 3, 4, 5)]
    (data / "train/good/002.png").unlink()
    assert main(["fit", str(data), "--output", str(tmp_path / "c.safetensors"), *TINY]) == 0
    first, second = MemoryBank.load(bank), MemoryBank.load(tmp_path / "c.safetensors")
    assert (first.features == second.features).all() and first.threshold == second.threshold
    assert (first.positions == second.positions).all()


def test_fit_with_nothing_readable(data: Path, tmp_path: Path, capsys: Any) -> None:
    for path in (data / "train").rglob("*.png"):
        cut(path)
    assert main(["fit", str(data), "--output", str(tmp_path / "b.safetensors"), *TINY]) == 2
    assert "none of 6 images can be read; " in capsys.readouterr().err and not (tmp_path / "b.safetensors").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(place: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    (data / "test/good/001.png").chmod(0)
    args = ["predict", str(place / "bank.safetensors"), str(data / "test"), "--output", str(tmp_path / "out")]
    assert main(args) == 3
    assert "001.png" in capsys.readouterr().err


def test_a_broken_file_of_many_names_is_one_line_each(place: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    for i in range(14):
        (data / f"test/good/x{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Image.new("RGB", (64, 64)).save(data / "test/good/zz.png")
    args = ["predict", str(place / "bank.safetensors"), str(data / "test"), "--output", str(tmp_path / "out")]
    assert main(args) == 3
    lines = capsys.readouterr().err.splitlines()
    assert (
        lines[0] == "patchcore-fast: 14 files could not be used:" and lines[-1] == "  and 4 more" and len(lines) == 12
    )
