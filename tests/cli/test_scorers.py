"""Every scorer through the model, its file and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from patchcore_fast.cli import main
from patchcore_fast.model import PatchCore
from patchcore_fast.scorers import SCORERS

from ..evaluated import TINY

pytestmark = pytest.mark.usefixtures("no_drawing")


@pytest.mark.parametrize("name", SCORERS)
def test_the_command_line_runs_every_scorer(
    name: str, weave: Path, bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, table = tmp_path / "own.safetensors", tmp_path / "m.json"
    assert main(["fit", str(weave), "--output", str(own), "--scorer", name, *TINY]) == 0
    model = PatchCore.load(own)
    assert model.config.scorer == name and model.threshold is not None
    capsys.readouterr()
    assert main(["evaluate", str(weave), "--bank", str(own), "--json", str(table)]) == 0
    text, result = capsys.readouterr().out, json.loads(table.read_text())
    row = dict(zip(text.splitlines()[0].split(), text.splitlines()[2].split(), strict=False))
    assert row["scorer"] == name == result["config"]["scoring"]["scorer"]
    assert result["metrics"]["image_auroc"] == 1.0
    # The same bank, another scorer: the same scores, and no threshold that was found with other scores.
    assert main(["evaluate", str(weave), "--bank", str(bank), "--scorer", name, "--json", str(table)]) == 0
    again = json.loads(table.read_text())
    assert [r["score"] for r in again["images"]] == pytest.approx([r["score"] for r in result["images"]], rel=1e-5)
    assert (again["metrics"]["threshold"] is None) == (name != "distance")
    assert main(["predict", str(bank), str(weave / "test"), "--scorer", name, "--output", str(tmp_path / "o")]) == 0
    assert ("above the threshold" in capsys.readouterr().out) == (name == "distance")


def test_rescore(bank: Path, weave: Path, tmp_path: Path) -> None:
    model = PatchCore.load(bank)
    before = [p.score for p in model.predict(weave / "test")]
    model.rescore(scorer="distance")
    assert model.threshold is not None, "nothing changed"
    model.rescore(scorer="noising", noise_scale=2.0)
    noisy = [p.score for p in model.predict(weave / "test")]
    assert noisy != before and model.threshold is None
    model.save(tmp_path / "noising.safetensors")
    back = PatchCore.load(tmp_path / "noising.safetensors")
    assert back.config.scorer == "noising" and back.config.noise_scale == 2.0
    assert [p.score for p in back.predict(weave / "test")] == pytest.approx(noisy, rel=1e-5)
    with pytest.raises(ValueError, match="settings of the scoring are wanted, got backbone"):
        model.rescore(backbone="x")
    with pytest.raises(ValueError, match="scorer must be one of"):
        model.rescore(scorer="x")
