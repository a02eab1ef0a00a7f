"""accuracy/threshold.py: its rates are those of models that fit makes, and its page shows the committed results, with
those of pixel_threshold.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import ROOT
from benchmarks.accuracy import pixel_threshold, threshold
from patchcore_fast.data import scan
from patchcore_fast.model import PatchCore, PatchCoreConfig

from ..pictures import write_mvtec


def test_rates_are_those_of_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., str]) -> None:
    folder = write_mvtec(tmp_path / "weave", train=6, good=4, bad=4, side=64)
    monkeypatch.setattr(threshold, "FEWEST", 4)
    arguments = ["--weights", "random", "--image-size", "64", "--ratio", "0.1", "--train", "5", "--draws", "2"]
    run(threshold, folder, *arguments, "--json", tmp_path / "r.json")
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["environment"]["commit"] and not any(str(tmp_path) in str(v) for v in result["options"].values())
    normal, bad = threshold.pool(str(folder))
    pooled = [normal[i] for i in np.random.default_rng(0).permutation(len(normal))]
    assert len(normal) == 10 and len(bad) == sum(r.label == 1 for r in scan(folder).test)
    for row in result["rows"]:
        order = torch.randperm(10, generator=torch.Generator().manual_seed(row["seed"])).tolist()
        model = PatchCore(PatchCoreConfig(weights="random", image_size=64, ratio=0.1, device="cpu"), progress=False)
        model.fit([pooled[i] for i in order[:5]])
        good = [p.is_anomalous for p in model.predict([pooled[i] for i in order[5:]])]
        found = [p.is_anomalous for p in model.predict(bad)]
        assert row["now"] == pytest.approx({"false_alarms": sum(good) / 5, "found": sum(found) / len(bad)})


def test_the_page_shows_the_committed_results() -> None:
    results = [json.loads(r.read_text()) for r in ROOT.glob("benchmarks/results/*/threshold/*.json")]
    page = (ROOT / "docs/threshold.md").read_text(encoding="utf-8")
    scripts = {"threshold": threshold, "pixel_threshold": pixel_threshold}
    assert {r["benchmark"] for r in results} == scripts.keys()
    assert all(scripts[r["benchmark"]].table(r["rows"]) in page for r in results)
