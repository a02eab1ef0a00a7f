"""A method's file on the command line: where a bank is taken, and where only a bank will do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from patchcore_fast.cli import main
from patchcore_fast.methods import load_any, make_method

from ..evaluated import rows_of
from ..methods.tiny import config

pytestmark = pytest.mark.usefixtures("no_drawing")


@pytest.fixture(scope="module")
def padim(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("padim") / "padim.safetensors"
    make_method("padim", config(image_size=32), progress=False).fit(place / "weave").save(path)
    return path


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main([str(a) for a in args])
    said = capsys.readouterr()
    return code, said.out, said.err


SAID = "PaDiM, 56 of 56 channels, fitted on 6 images"


def test_predict_evaluate_and_report_take_it_and_say_what_it_is(padim, weave, tmp_path, capsys):
    code, out, _ = run(capsys, "predict", padim, weave / "test", "--output", tmp_path / "out")
    assert code == 0 and SAID in out and "6 images scored" in out
    model = load_any(padim, progress=False)
    wanted = {str(p.path): p.score for p in model.predict(weave / "test")}
    assert {r["path"]: float(r["score"]) for r in rows_of(tmp_path / "out/scores.csv")} == pytest.approx(wanted)
    json_file = tmp_path / "all.json"
    code, out, _ = run(capsys, "evaluate", weave, "--bank", padim, "--output", tmp_path / "eval", "--json", json_file)
    assert code == 0 and SAID in out and "padim" in out and "image AUROC" in out and "in use" in out
    found = json.loads(json_file.read_text())
    assert found["config"]["method"] == "padim" and found["config"]["padim"]["dim"] == 100
    assert found["metrics"]["image_auroc"] == model.evaluate(weave).metrics["image_auroc"]
    assert run(capsys, "report", tmp_path / "eval")[0] == 0
    page = (tmp_path / "eval/report.html").read_text()
    assert f"{SAID}: a method without a memory bank." in page and "padim.dim" in page


def test_typed_settings_go_before_the_file_s_or_are_refused(padim, weave, tmp_path, capsys):
    good = weave / "test/good"
    code, out, _ = run(capsys, "predict", padim, good, "--output", tmp_path / "a", "--threshold", "1e9")
    assert code == 0 and "0 anomalous (above the threshold 1e+09)" in out
    code, out, _ = run(capsys, "predict", padim, good, "--output", tmp_path / "b", "--image-score", "top:0.5")
    assert code == 0 and "anomalous" not in out  # another score takes the threshold away
    code, _, err = run(capsys, "predict", padim, good, "--output", tmp_path / "c", "--scorer", "noising")
    assert code == 2 and "scoring.scorer means nothing to method 'padim', got 'noising'" in err


def test_threshold_shows_and_changes_it(padim, tmp_path, capsys):
    code, out, _ = run(capsys, "threshold", padim)
    assert code == 0 and "padim, fitted on 6 images." in out and "images above" in out
    copy = tmp_path / "copy.safetensors"
    code, out, _ = run(capsys, "threshold", padim, "12.5", "--output", copy)
    assert code == 0 and "Threshold 12.5 (was" in out
    assert load_any(copy, progress=False).threshold == 12.5
    assert run(capsys, "threshold", padim, "--max-false-alarms", "0.2", "--output", copy)[0] == 0
    model = load_any(copy, progress=False)
    assert model.config.max_false_alarms == 0.2 and model.threshold < load_any(padim, progress=False).threshold


@pytest.mark.parametrize(
    "argv",
    [
        ("update", "MODEL", "DATA", "--output", "made.safetensors"),
        ("merge", "MODEL", "MODEL", "--output", "made.safetensors"),
        ("inspect", "DATA", "--bank", "MODEL", "--output", "made"),
    ],
    ids=lambda argv: argv[0],
)
def test_what_is_of_banks_alone_refuses_it(argv, padim, weave, tmp_path, capsys):
    named = {"MODEL": padim, "DATA": weave}
    args = [named.get(a, tmp_path / a if a.startswith("made") else a) for a in argv]
    code, _, err = run(capsys, *args)
    assert code == 2 and "a model of the method padim, and a memory bank is wanted" in err
    assert not list(tmp_path.glob("made.*"))


def test_fit_refuses_the_settings_of_another_method(weave, tmp_path, capsys):
    from patchcore_fast.config.methods import default_config

    default_config("padim").to_toml(file := tmp_path / "padim.toml")
    code, _, err = run(capsys, "fit", weave, "--config", file, "--output", tmp_path / "b")
    assert code == 2 and "padim.toml: is of the method 'padim'" in err
