"""accuracy/living.py: its banks are those of fit, update and merge, and its page shows the committed results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ROOT
from benchmarks.accuracy import living
from benchmarks.accuracy.sets import NEAREST
from patchcore_fast.data import scan
from patchcore_fast.model import PatchCore, PatchCoreConfig

from ..pictures import write_mvtec


def test_rows_are_of_the_banks_that_they_name(tmp_path: Path, run: Callable[..., str]) -> None:
    folder = write_mvtec(tmp_path / "weave", train=6, good=3, bad=3, side=64)
    arguments = ["--weights", "random", "--image-size", "64", "--ratio", "0.1", "--draws", "1"]
    said = run(living, folder, *arguments, "--json", tmp_path / "r.json")
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["environment"]["commit"] and living.table(result["rows"]) in said
    assert not any(str(tmp_path) in str(value) for value in result["options"].values())
    rows = {row["arm"]: row for row in result["rows"]}
    assert tuple(rows) == living.ARMS
    config = PatchCoreConfig(weights="random", image_size=64, ratio=0.1, device="cpu", **NEAREST)
    found = scan(folder)
    images = [found.train[i] for i in np.random.default_rng(0).permutation(6)]
    whole, half = (PatchCore(config, progress=False).fit(part) for part in (images, images[:3]))
    first = len(half.bank)
    half.update(images[3:])
    for arm, model in ((living.ARMS[0], whole), (living.ARMS[2], half)):
        metrics = model.evaluate(found).metrics
        want = {"bank": len(model.bank), "radius": model.bank.radius, "pixel_auroc": metrics["pixel_auroc"]}
        assert {key: rows[arm][key] for key in want} == pytest.approx(want)
    sizes = [rows[arm]["bank"] for arm in living.ARMS]
    assert sizes[1] == sizes[6] == first and sizes[3] == sizes[4] == sizes[0] and sizes[5] == 2 * first
    assert rows[living.ARMS[6]]["false_alarms"] is None


def test_the_page_shows_the_committed_results() -> None:
    results = list(ROOT.glob("benchmarks/results/*/living/*.json"))
    page = (ROOT / "docs/living-banks.md").read_text(encoding="utf-8")
    assert results and all(living.table(json.loads(r.read_text())["rows"]) in page for r in results)
