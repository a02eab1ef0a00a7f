"""train: one set and several, resumed, logged, tested, and what is refused at once."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from patchcore_fast.cli import main
from patchcore_fast.cli.parser import build_parser
from patchcore_fast.methods import load_any
from patchcore_fast.methods.checkpoint import read_about
from patchcore_fast.methods.simplenet import SimpleNet

from ..pictures import write_mvtec

pytestmark = pytest.mark.usefixtures("no_drawing")

TINY = ["--backbone", "test_efficientnet", "--layers", "1,2", "--weights", "random", "--image-size", "64"]
SHORT = ["--epochs", "2", "--steps", "1", *TINY]


@pytest.fixture(scope="module")
def weave(tmp_path_factory) -> Path:
    return write_mvtec(tmp_path_factory.mktemp("data") / "weave", train=8, good=2, bad=2)


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["train", *argv]) == 2
    return capsys.readouterr().err


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    loss, done = SimpleNet._loss, []

    def counted(*args):
        done.append(0)
        if len(done) > steps:
            raise KeyboardInterrupt
        return loss(*args)

    monkeypatch.setattr(SimpleNet, "_loss", counted)


def test_a_model_its_curve_and_what_to_do_next(weave, tmp_path, capsys, monkeypatch):
    output = tmp_path / "m.safetensors"
    command = ["train", "simplenet", str(weave), "--output", str(output), *SHORT, "--evaluate-every", "1"]
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert main(command) == 130
    assert "the same command goes on from what is done" in capsys.readouterr().err
    assert not output.exists()
    assert main(command) == 0
    said = capsys.readouterr().out
    folder = Path(f"{output}.training")
    assert read_about(folder)["epoch"] == 2
    assert "Epoch 2 of 2: loss " in said and "Epoch 1 of 2" not in said and "went on after epoch 1" in said
    assert "fitted on 8 images" in said and "of 2 held-out training images lie above it" in said
    assert f"Next, its accuracy:   patchcore-fast evaluate {weave} --bank {output}" in said
    with (folder / "curves.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [row["epoch"] for row in rows] == ["1", "2"] and (folder / "curves.png").is_file()
    tops = [float(row["image_auroc"]) for row in rows]
    assert f"image AUROC {tops[1]:.3f} (best {max(tops):.3f}, epoch {1 + tops.index(max(tops))})" in said
    assert load_any(output, weights="random").settings.epochs == 2
    assert main(command) == 0
    assert "all of them were there, nothing was trained again" in capsys.readouterr().out

    assert main(["train", str(weave), "--mode", "test", "--checkpoint", str(output), "--weights", "random"]) == 0
    by_file = capsys.readouterr().out
    assert main(["train", str(weave), "--mode", "test", "--checkpoint", str(folder), "--weights", "random",
                 "--output", str(tmp_path / "tested")]) == 0  # fmt: skip
    by_folder = capsys.readouterr().out
    assert by_file.split("\n")[:3] == by_folder.split("\n")[:3] and f"{tops[1]:.3f}" in by_file
    assert "At the threshold in use" in by_file and "No threshold" in by_folder
    assert (tmp_path / "tested/report.json").is_file()


def test_the_curve_goes_to_tensorboard(weave, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    command = ["train", "simplenet", str(weave), "--output", str(tmp_path / "m.safetensors"), *SHORT]
    command += ["--checkpoint", str(tmp_path / "c"), "--evaluate-every", "2", "--log", "tensorboard"]
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert main(command) == 130
    assert main(command) == 0
    found = EventAccumulator(str(tmp_path / "c/tensorboard/curves"))
    found.Reload()
    steps = {tag: [event.step for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    assert steps["loss"] == steps["learning_rate_adapter"] == [0, 1]
    assert steps["image_auroc"] == steps["best/image_auroc"] == [1]


def test_several_categories_are_gone_on_with_and_tested(tmp_path, capsys, monkeypatch):
    root = tmp_path / "root"
    for name in ("bolt", "nut"):
        write_mvtec(root / name, train=4, good=1, bad=1)
    output = tmp_path / "out"
    command = ["train", "simplenet", str(root), "--output", str(output), *SHORT]
    with monkeypatch.context() as patch:
        stop_after(patch, 3)  # in the second epoch of the second category
        assert main(command) == 130
    assert (output / "bolt/model.safetensors").is_file() and read_about(output / "nut/checkpoint")["epoch"] == 1
    capsys.readouterr()
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "[1/2] bolt: image AUROC" in said and "bolt: image AUROC 0.000" not in said
    assert said.count("taken from") == 1 and "went on after epoch 1" in said
    results = json.loads((output / "results.json").read_text())
    assert [c["status"] for c in results["categories"]] == ["done", "done"] and results["config"][
        "method"
    ] == "simplenet"
    values = [c["metrics"]["image_auroc"] for c in results["categories"]]
    assert results["mean"]["image_auroc"] == {"value": sum(values) / 2, "categories": 2}
    assert values[0] == values[1]  # the same images
    tested = ["train", str(root), "--mode", "test", "--checkpoint", str(output), "--weights", "random"]
    assert "give --output DIR" in refused(capsys, *tested[1:])
    assert main([*tested, "--output", str(tmp_path / "tested")]) == 0
    again = json.loads((tmp_path / "tested/results.json").read_text())
    assert [c["metrics"]["image_auroc"] for c in again["categories"]] == values
    (output / "nut/model.safetensors").unlink()  # as of a training that has not ended: its checkpoint is tested
    about = output / "nut/checkpoint/checkpoint.json"
    for kept in (0, 2, 0):
        capsys.readouterr()
        assert main([*tested, "--output", str(tmp_path / "tested")]) == 0
        assert capsys.readouterr().out.count("taken from") == kept
        if kept:
            about.write_text(about.read_text() + "\n")  # the training went on


def test_a_method_of_one_pass_by_a_file_of_settings(weave, tmp_path, capsys):
    file = tmp_path / "s.toml"
    assert main(["train", "subspace", "--print-config", *TINY, "--variance", "0.9"]) == 0
    file.write_text(capsys.readouterr().out)
    output = tmp_path / "m.safetensors"
    assert main(["train", str(weave), "--config", str(file), "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert "Subspace, " in said and "Curve" not in said and not Path(f"{output}.training").exists()
    assert load_any(output, weights="random").settings.variance == 0.9
    assert "METHOD is padim, and --config" in refused(
        capsys, "padim", str(weave), "--config", str(file), "--output", "x"
    )


@pytest.mark.parametrize(
    "argv, said",
    [
        (["DIR", "--output", "m"], "METHOD is wanted, one of padim, subspace, simplenet, rd"),
        (["simplenett", "DIR"], "did you mean simplenet?"),
        (["simplenet", "--output", "m"], "DIR is wanted"),
        (["simplenet", "DIR"], "--output is wanted"),
        (["simplenet", "gone", "--output", "m"], "gone: no such folder"),
        (
            ["padim", "DIR", "--output", "m", "--epochs", "3"],
            "--epochs: padim has no such setting; it has --dim, --ridge",
        ),
        (["padim", "DIR", "--output", "m", "--checkpoint", "c"], "--checkpoint: padim looks at the images once"),
        (["simplenet", "DIR", "--output", "m", "--noise", "0"], "simplenet.noise must lie in (0, 1000], got 0.0"),
        (["simplenet", "DIR", "--output", "m", "--scorer", "noising"], "scoring.scorer means nothing to method"),
        (["simplenet", "DIR", "--output", "m", "--evaluate-every", "0"], "--evaluate-every must be at least 1, got 0"),
        (["DIR", "--mode", "test"], "--checkpoint FOLDER or FILE is wanted"),
        (["DIR", "--mode", "test", "--checkpoint", "gone"], "gone: no such file or folder"),
        (["DIR", "--mode", "test", "--checkpoint", "DIR", "--noise", "1"], "--noise: belongs to training"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_is_refused_before_anything_is_imported(argv, said, weave, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, *(str(weave) if part == "DIR" else part for part in argv))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["rd DIR --epochs 3", "rd --epochs 3 DIR", "--epochs 3 rd DIR"])
def test_options_may_stand_between_method_and_folder(words):
    args = build_parser().parse_args(["train", *words.split(), "--output", "m"])
    assert (args.method, args.folder, args.epochs) == ("rd", "DIR", 3)


def test_wrong_arguments_are_told_without_torch(weave):
    code = ("import sys; from patchcore_fast.cli import main; "
            f"code = main(['train', 'padim', {str(weave)!r}, '--output', 'm', '--log', 'wandb']); "
            "sys.exit(9 if {'torch', 'timm'} & set(sys.modules) else code)")  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 2
