"""accuracy/compare.py: its cells are those of the command, and the page shows the committed result."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ROOT
from benchmarks.accuracy import compare
from patchcore_fast.comparison import models

from ..compared import Fake, cells_here
from ..pictures import write_mvtec

COMMITTED = sorted(ROOT.glob("benchmarks/results/*/compare/*.json"))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells of this process, of a method that takes no time; one fails."""

    def make(method: str, settings: Mapping[str, Any]) -> Any:
        if method == "rd":
            raise ValueError("no such thing")
        return Fake(method, settings)

    cells_here(monkeypatch.setattr)
    monkeypatch.setattr(models, "make_model", make)


def test_result_and_table(tmp_path: Path, here: None, run: Callable[..., str]) -> None:
    for name in ("bolt", "nut"):
        write_mvtec(tmp_path / name, train=1, good=1, bad=1)
    asked = [tmp_path / "bolt", tmp_path / "nut", "--output", tmp_path / "out", "--methods", "patchcore,simplenet,rd",
             "--seeds", 2, "--trained-seeds", 1, "--epochs", "simplenet=3", "--weights", "random", "--image-size", 64,
             "--json", tmp_path / "r.json", "--page", tmp_path / "page.md"]  # fmt: skip
    (tmp_path / "page.md").write_text("\n".join(["# Page", *compare.MARKS, "the rest"]))
    said = run(compare, *asked)
    result = json.loads((tmp_path / "r.json").read_text())
    assert compare.table(result) in said
    page = (tmp_path / "page.md").read_text()
    assert compare.said(result) in page and page.endswith("the rest") and "epochs: simplenet 3, others" in page
    assert [(r["set"], r["method"], r["seed"]) for r in result["rows"]] == [
        ("bolt", "patchcore", 0), ("bolt", "patchcore", 1), ("nut", "patchcore", 0), ("nut", "patchcore", 1),
        ("bolt", "simplenet", 0), ("bolt", "rd", 0), ("nut", "simplenet", 0), ("nut", "rd", 0),
    ]  # fmt: skip
    assert result["methods"]["simplenet"]["simplenet"]["epochs"] == 3 and result["environment"]["commit"]
    assert "| patchcore, 2 | 0.095 ± 0.007 |" in said and "| simplenet, 1 | 0.090 |" in said
    assert "* bolt, rd: no such thing" in said and str(tmp_path) not in json.dumps(result)
    assert "..." not in run(compare, *asked).replace("rd, seed 0 ...", "")  # what is finished is taken


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_the_page_shows_the_committed_result(path: Path) -> None:
    page = (ROOT / "docs/compare.md").read_text(encoding="utf-8")
    assert compare.said(json.loads(path.read_text())) in page, path
