"""accuracy/settings.py: rows are of the settings that they name, and pages show the committed results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ROOT
from benchmarks.accuracy import settings
from benchmarks.accuracy.sets import NEAREST
from patchcore_fast.data import scan
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.zeroshot import ZeroShot

from ..pictures import write_mvtec

COMMITTED = sorted(ROOT.glob("benchmarks/results/*/settings/*.json"))
CONFIG = PatchCoreConfig(weights="random", device="cpu", **NEAREST)


@pytest.fixture(scope="module")
def weave(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec(tmp_path_factory.mktemp("settings") / "weave", train=4, good=1, bad=1, side=64)


@pytest.fixture
def measured(weave: Path, tmp_path: Path, run: Callable[..., str]) -> Callable[..., dict[str, Any]]:
    """measured("layers", ...): the result file of a run on 3 of the 4 training images."""

    def go(question: str, *options: object) -> dict[str, Any]:
        said = run(settings, question, weave, "--weights", "random", "--max-train", 3, *options,
                   "--json", tmp_path / "r.json")  # fmt: skip
        result = json.loads((tmp_path / "r.json").read_text())
        assert settings.table(result["rows"]) in said and result["environment"]["commit"]
        assert result["question"] == question and result["options"]["max_train"] == 3
        assert str(tmp_path.parent) not in json.dumps(result["options"])
        assert all(r["seconds"] > 0 and (r["test"], r["anomalous"]) == (2, 1) for r in result["rows"])
        return result

    return go


def same(row: dict[str, Any], model: PatchCore | ZeroShot, folder: Path) -> bool:
    metrics = model.evaluate(scan(folder)).metrics
    return {name: row[name] for name in settings.METRICS} == pytest.approx({n: metrics[n] for n in settings.METRICS})


def test_layers(weave: Path, measured: Callable[..., dict[str, Any]]) -> None:
    rows = measured("layers", "--timed", 1)["rows"]
    arms = ["joint, euclidean", "layer, euclidean", "joint, cosine", "layer, cosine"]
    assert [(r["arm"], r["train"]) for r in rows] == [(arm, 3) for arm in arms]
    config = CONFIG.replace(banks="layer", metric="cosine")
    model = PatchCore(config, progress=False).fit(scan(weave), shots=3)
    assert same(rows[3], model, weave)
    assert rows[3]["bank_bytes"] == rows[0]["bank_bytes"] == 30 * 152 * 4  # twice the rows, of one layer


def test_zeroshot(weave: Path, measured: Callable[..., dict[str, Any]]) -> None:
    rows = measured("zeroshot", "--runs", 1)["rows"]
    assert [(r["arm"], r["train"]) for r in rows] == [("zero-shot", 0), ("PatchCore", 3)]
    assert same(rows[0], ZeroShot(CONFIG, progress=False), weave)
    assert same(rows[1], PatchCore(CONFIG, progress=False).fit(scan(weave), shots=3), weave)


def test_backbones(weave: Path, measured: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    some = ("cosine", "block 11, cosine")  # of options that differ only in what other tests fit with
    monkeypatch.setattr(settings, "VIT", "vit_tiny_patch16_224")  # which takes any size, too
    monkeypatch.setattr(settings, "VARIANTS", {name: settings.VARIANTS[name] for name in some})
    rows = measured("backbones", "--vit", "random", "--image-size", 144, "--variants", "--timed", 1)["rows"]
    names = ["Lite0, 256 px", "ViT-S/14, 144 px", *(f"ViT-S/14, 144 px, {name}" for name in settings.VARIANTS)]
    assert list(dict.fromkeys(r["arm"] for r in rows)) == names
    assert [r["image_score"] for r in rows[:4]] == ["max", "top:0.01"] * 2
    config = CONFIG.replace(
        backbone=settings.VIT, image_size=144, metric="cosine", layers=(11,), image_score=settings.TOP
    )
    assert same(rows[-1], PatchCore(config, progress=False).fit(scan(weave), shots=3), weave)
    assert rows[-1]["image_score"] == settings.TOP


def test_the_table_says_what_a_set_does_not_have() -> None:
    row = {"set": "a", "train": 0, "test": 9, "anomalous": 3, "arm": "zero-shot", "image_score": "max", "aupro": None,
           "image_auroc": 0.5, "pixel_auroc": None, "pixel_ap": None, "seconds": 0.1234, "bank_bytes": 0}  # fmt: skip
    lines = settings.table([row, {**row, "arm": "PatchCore", "bank_bytes": 123_456}]).splitlines()
    assert lines[2:] == ["| a | 0 | 9, 3 | zero-shot | max | 0.500 |  |  |  | 0.123 | none |",
                         "| a | 0 | 9, 3 | PatchCore | max | 0.500 |  |  |  | 0.123 | 0.12 |"]  # fmt: skip
    assert {line.count("|") for line in lines} == {12}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_the_page_shows_the_committed_result(path: Path) -> None:
    result = json.loads(path.read_text())
    page = (ROOT / f"docs/{result['question']}.md").read_text(encoding="utf-8")
    assert settings.table(result["rows"]) in page, path
