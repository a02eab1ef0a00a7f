"""What is wrong with the arguments, or not installed, is told before torch is imported; settings from a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from patchcore_fast.cli import main
from patchcore_fast.memory_bank import MemoryBank

from ..evaluated import TINY

pytestmark = pytest.mark.usefixtures("no_drawing")

FIT = ["fit", "data", "--output", "x.safetensors"]
# Arguments, a module that is not installed or None, what is said.
CASES: dict[str, tuple[list[str], str | None, str]] = {
    "ratio": ([*FIT, "--ratio", "10"], None, "selection.ratio must be in (0, 1), got 10.0"),
    "layers": ([*FIT, "--layers", "2,x"], None, "argument --layers: invalid"),
    "device": ([*FIT, "--device", "nonsense"], None, "argument --device: invalid"),
    "score": ([*FIT, "--score", "bogus"], None, "must be max, reweighted or top:SHARE, got 'bogus'"),
    "dim": ([*FIT, "--dim", "8"], None, 'features.dim belongs to fusion="amazon"'),
    "threshold": ([*FIT, "--threshold", "nan"], None, "--image-threshold must be a finite number"),
    "config": ([*FIT, "--config", "bad.toml"], None, "bad.toml: selection.ratio must be in"),
    "no config": ([*FIT, "--config", "no.toml"], None, "no.toml: no such file"),
    "output": (["fit", "data", "--output", "no/x"], None, "the folder no does not exist"),
    "folder": (["fit", "nowhere", "--output", "x"], None, "nowhere: no such folder"),
    "timm": (FIT, "timm", 'needs timm: pip install "patchcore_fast[pipeline]"'),
    "faiss": ([*FIT, "--index", "faiss-flat"], "faiss", 'needs faiss: pip install "patchcore_fast[faiss]"'),
    "evaluate output": (["evaluate", "data", "--output", "file/x"], None, "file/x: Not a directory"),
    "evaluate bank": (["evaluate", "data", "--bank", "no"], None, "no: no such bank file"),
    "bank and config": (["evaluate", "data", "--bank", "file", "--config", "a"], None, "--config: belongs to fitting"),
    "wandb": (["evaluate", "data", "--output", "o", "--log", "wandb"], "wandb", 'pip install "patchcore_fast[wandb]"'),
    "log": (["evaluate", "data", "--log", "wandb"], None, "--output is not given"),
    "onnx": (["export", "file", "--output", "x.onnx"], "onnx", 'needs onnx: pip install "patchcore_fast[export]"'),
    "suffix": (["export", "file", "--output", "x.pth"], None, "must end in .pt2, .onnx or .xml"),
    "openvino": (["export", "file", "--output", "x.xml"], "openvino", 'pip install "patchcore_fast[openvino]"'),
    "int8": (["export", "file", "--output", "x.onnx", "--precision", "int8"], None, "int8 wants --calibrate DIR"),
    "int8 of pt2": (["export", "file", "--output", "x.pt2", "--precision", "int8"], None, ".onnx and .xml, got x.pt2"),
    "predict images": (["predict", "file", "no.png", "--output", "o"], None, "no.png: no such file"),
    "watch": (["watch", "file", "nowhere", "--output", "o"], None, "nowhere: no such folder"),
    "watchdog": (["watch", "file", "data", "--output", "o"], "watchdog", 'pip install "patchcore_fast[watch]"'),
    "inspect": (["inspect", "data", "--output", "o", "--shots", "2"], None, "whole training sets"),
    "threshold output": (["threshold", "file", "--output", "o"], None, "there is nothing to write"),
    "demo": (["demo"], "skimage", 'needs scikit-image: pip install "patchcore_fast[demo]"'),
}  # fmt: skip


def test_torch_is_not_imported_before_the_arguments_are_right(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "bad.toml").write_text("[selection]\nratio = 10\n")
    code = (
        "import sys, io, contextlib\n"
        "from patchcore_fast.cli import main\n"
        f"for name, (args, missing, words) in {CASES!r}.items():\n"
        "    sys.modules.update({missing: None} if missing else {})\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as said:\n"
        "        assert main(args) == 2, name\n"
        "    assert words in said.getvalue(), (name, said.getvalue())\n"
        "    assert not {'torch', 'torchvision', 'matplotlib'} & set(sys.modules), name\n"
        "    sys.modules.pop(missing, None)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"data", "file", "bad.toml"}


@pytest.mark.parametrize("command", ["fit", "evaluate", "inspect"])
def test_settings_from_a_file(command: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "settings.toml", tmp_path / "out"
    file.write_text(
        '[features]\nbackbone = "test_resnet"\nlayers = [1, 2]\nweights = "random"\nimage_size = 64\n'
        '[selection]\nratio = 0.1\n[scoring]\nimage_score = "reweighted"\n'
    )
    assert main([command, str(place / "weave"), "--output", str(out), "--config", str(file), "--ratio", "0.2"]) == 0
    told = capsys.readouterr().out
    if command == "fit":
        config = MemoryBank.load(out).config
        assert (config["selection"]["ratio"], config["scoring"]["image_score"]) == (0.2, "reweighted")
        typed = [*TINY, "--ratio", "0.2", "--score", "reweighted"]  # as it was called
        assert main(["fit", str(place / "weave"), "--output", str(tmp_path / "b"), *typed]) == 0
        assert MemoryBank.load(tmp_path / "b").config == config
    assert {"fit": "Fitted on 6 images", "evaluate": "reweighted", "inspect": "picked (greedy;"}[command] in told
