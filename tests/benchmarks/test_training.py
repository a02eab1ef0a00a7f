"""accuracy/training.py: the curve, the last epoch and the best one of a tiny training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from benchmarks import ROOT
from benchmarks.accuracy import training

from ..pictures import write_mvtec


def test_the_last_epoch_stands_beside_the_best_one(tmp_path: Path, run: Callable[..., str]) -> None:
    data = write_mvtec(tmp_path / "weave", train=8, good=2, bad=2)
    options = ["--method", "simplenet", "--epochs", 2, "--evaluate-every", 1, "--image-size", 64, "--weights", "random",
               "--backbone", "test_efficientnet", "--vary", "noise", 0.5]  # fmt: skip
    said = run(training, data, *options, "--output", tmp_path / "r.json")
    result = json.loads((tmp_path / "r.json").read_text())
    (found,) = result["runs"]
    assert training.table(result) in said and result["environment"]["commit"]
    assert (found["set"], found["train"], found["held_out"], found["test"]) == ("weave", 8, 2, 4)
    assert found["settings"]["simplenet"]["noise"] == found["varied"]["noise"] == 0.5
    assert [row["epoch"] for row in found["curve"]] == [1, 2]
    assert found["last"]["image_auroc"] == found["curve"][-1]["image_auroc"]
    top = found["best"]["image_auroc"]
    assert top["value"] == max(row["image_auroc"] for row in found["curve"]) and top["epoch"] in (1, 2)
    assert str(tmp_path) not in json.dumps(result)


def test_the_page_has_the_committed_results() -> None:
    page = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    found = sorted((ROOT / "benchmarks/results").glob("*/training/*.json"))
    assert found
    for path in found:
        head, line, *rows = training.table(json.loads(path.read_text(encoding="utf-8"))).split("\n")
        assert f"{head}\n{line}\n" in page and all(row in page for row in rows), path.name
