"""accuracy/reverse_distillation.py: its rows are those of the trained model, and the page shows the committed ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import ROOT
from benchmarks.accuracy import reverse_distillation
from patchcore_fast.config.methods import MethodConfig
from patchcore_fast.data import scan
from patchcore_fast.methods import make_method

from ..pictures import write_mvtec


def test_the_last_epoch_is_the_models_by_every_scorer(tmp_path: Path, run: Callable[..., str]) -> None:
    folder = write_mvtec(tmp_path / "weave", train=4, good=2, bad=2, side=64)
    arguments = ["--backbone", "test_efficientnet", "--weights", "random", "--image-size", "64", "--epochs", "2"]
    arguments += ["--seeds", "0", "--evaluate-every", "2", "--batch-size", "2"]
    said = run(reverse_distillation, folder, *arguments, "--json", tmp_path / "r.json", "--plot", tmp_path / "r.png")
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["environment"]["commit"] and reverse_distillation.table(result["rows"]) in said
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert [("image_auroc" in row) for row in result["curves"]] == [False, True]
    data, config = scan(folder), MethodConfig.from_dict(result["config"])
    for row in result["rows"]:
        scorer, _, scale = row["scorer"].partition(", scale ")
        base = config.base.replace(scorer=scorer, **({"noise_scale": float(scale)} if scale else {}))
        model = make_method("rd", base, config.settings, progress=False).fit(data)
        found = model.evaluate(data).metrics
        for metric in reverse_distillation.METRICS:
            assert row[metric] == pytest.approx(float(found[metric]), rel=1e-4)


def test_the_page_shows_the_committed_results() -> None:
    results = sorted(ROOT.glob("benchmarks/results/*/methods/reverse_distillation*.json"))
    page = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    assert results and reverse_distillation.table(reverse_distillation.together(results)["rows"]) in page
