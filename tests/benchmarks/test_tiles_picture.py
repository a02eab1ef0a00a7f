"""pages/tiles_picture.py: the picture and the numbers of docs/tiles.md."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from benchmarks.pages import tiles_picture


def test_picture(tmp_path: Path, run: Callable[..., str], monkeypatch) -> None:
    monkeypatch.setattr(tiles_picture, "WIDTH", 640)
    said = run(tiles_picture, tmp_path / "t.jpg", "--train", 1, "--backbone", "tf_efficientnet_lite0")
    lines = said.splitlines()
    assert [line.partition(":")[0] for line in lines] == list(tiles_picture.SETTINGS)
    assert all(float(re.search(r"at the cuts ([\d.]+) x", line)[1]) < 1.5 for line in lines[1:])
    with Image.open(tmp_path / "t.jpg") as picture:
        assert picture.size == (320, 4 * 280)
