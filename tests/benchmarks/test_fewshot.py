"""accuracy/fewshot.py and variants.py on small folders: that what they report is what the pipeline gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ROOT
from benchmarks.accuracy import fewshot, variants
from patchcore_fast.data import scan
from patchcore_fast.model import PatchCore, PatchCoreConfig

from ..pictures import write_mvtec

NEAREST: dict[str, Any] = {"neighbours": 1, "price": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec(tmp_path_factory.mktemp("bench") / "weave", train=4, good=4, bad=4, side=64)


def test_fewshot(folder: Path, tmp_path: Path, run: Callable[..., str]) -> None:
    out, picture = tmp_path / "few.json", tmp_path / "few.png"
    text = run(fewshot, folder, "--shots", "1", "2", "--draws", "1", "--weights", "random",
                "--image-size", "64", "--output", str(out), "--plot", str(picture))  # fmt: skip
    result: dict[str, Any] = json.loads(out.read_text())
    assert result["benchmark"] == "fewshot" and result["environment"]["commit"]
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(result["cells"]) == 2 * 6 and len(result["means"]) == 2 * 6 and "rotate x 7" in text
    rows = {(c["shots"], c["arm"]): c["rows"] for c in result["cells"] if c["seed"] == 0}
    assert rows[2, "rotate x 3"] == pytest.approx(4 * rows[2, "none"], abs=4)
    assert rows[2, "rotate x 3, same rows"] == pytest.approx(rows[2, "none"], abs=1)
    # The script's arms are what fit does with the same draw.
    changed: dict[str, dict[str, Any]] = {
        "none": {},
        "rotate x 3": {"augment": "rotate"},
        "graph, rotate x 3": {"augment": "rotate", "fusion": "graph"},
    }
    for arm, changes in changed.items():
        config = PatchCoreConfig(weights="random", image_size=64, ratio=0.1, shots=2, seed=0, **changes, **NEAREST)
        found = PatchCore(config).fit(folder).evaluate(scan(folder))
        cell = next(c for c in result["cells"] if (c["seed"], c["shots"], c["arm"]) == (0, 2, arm))
        assert cell["image_auroc"] == pytest.approx(found.metrics["image_auroc"], abs=1e-9), arm


def test_variants(folder: Path, tmp_path: Path, run: Callable[..., str]) -> None:
    out = tmp_path / "variants.json"
    run(variants, folder, "--variants", "float16", "three layers, projected to 64", "--weights", "random",
         "--image-size", "64", "--output", str(out))  # fmt: skip
    rows = {row["variant"]: row for row in json.loads(out.read_text())["rows"]}
    assert list(rows) == ["float32", "float16", "three layers, projected to 64"]
    assert rows["float32"]["bank_bytes"] == 2 * rows["float16"]["bank_bytes"]
    assert rows["float32"]["score_off_most"] == 0 < rows["float16"]["score_off_most"] < 0.1
    assert rows["three layers, projected to 64"]["dim"] == 64
    config = PatchCoreConfig(weights="random", image_size=64, **NEAREST)
    found = PatchCore(config).fit(folder).evaluate(scan(folder))
    assert rows["float32"]["image_auroc"] == pytest.approx(found.metrics["image_auroc"], abs=1e-9)


def test_the_page_shows_what_the_results_hold():
    """Every row of docs/fewshot.md's first table, to the last digit shown."""
    found = {}
    for path in sorted((ROOT / "benchmarks" / "results" / "xeon-2-cores-amx" / "fewshot").glob("fewshot*.json")):
        for mean in json.loads(path.read_text())["means"]:
            numbers = (
                "{:.3f} ± {:.3f}".format(*mean[name]) for name in ("image_auroc", "turned_image_auroc", "pixel_ap")
            )
            found[(mean["set"], str(mean["shots"]), mean["arm"])] = [f"{mean['rows']:,}", *numbers]
    rows = [line.strip("| \n").split(" | ") for line in (ROOT / "docs" / "fewshot.md").read_text().splitlines()]
    shown = [row for row in rows if len(row) == 7 and "±" in row[4]]
    assert len(shown) == 32
    for row in shown:
        assert row[3:] == found[(row[0], row[1], row[2])], row
