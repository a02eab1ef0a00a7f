"""Bad input to the command line: each case with its exit code, its one line on stderr, and nothing left behind."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from patchcore_fast.cli import main

from ..pictures import write_mvtec

TINY = ["--backbone", "test_resnet", "--layers", "1,2", "--weights", "random", "--image-size", "64", "--ratio", "0.1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that can be wrong in it; the commands run inside."""
    root = tmp_path_factory.mktemp("bad")
    write_mvtec(root / "data")
    assert main(["fit", str(root / "data"), "--output", str(root / "bank.safetensors"), *TINY]) == 0
    (root / "empty").mkdir()
    (root / "text.txt").write_text("text")
    (root / "broken").mkdir()
    (root / "broken/cut.png").write_bytes((root / "data/train/good/000.png").read_bytes()[:99])
    safetensors.torch.save_file({"x": torch.ones(2)}, root / "foreign.safetensors")
    whole = (root / "bank.safetensors").read_bytes()
    (root / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    rng = np.random.default_rng(0)
    good = rng.random((50, 4), dtype=np.float32)
    np.save(root / "good.npy", good)
    np.save(root / "cube.npy", np.zeros((2, 3, 4), np.float32))
    np.save(root / "line.npy", np.zeros(7, np.float32))
    np.save(root / "empty.npy", np.zeros((0, 4), np.float32))
    np.save(root / "objects.npy", np.array([[{}], [1]], dtype=object), allow_pickle=True)
    np.save(root / "words.npy", np.array([["a"], ["b"]]))
    np.save(root / "complex.npy", good.astype(complex))
    np.save(root / "long.npy", good.astype(np.longdouble))
    good[[7, 9], 2] = np.nan
    np.save(root / "nan.npy", good)
    np.savez(root / "archive.npz", good)
    (root / "cut.npy").write_bytes((root / "good.npy").read_bytes()[:-40])
    (root / "head.npy").write_bytes((root / "good.npy").read_bytes()[:20])
    return root


SELECT = ["--ratio", "0.5", "--output", "out"]
CASES: dict[str, tuple[list[str], str]] = {
    "fit-no-folder": (["fit", "nowhere", "--output", "out"], "nowhere: no such folder"),
    "fit-a-file": (["fit", "text.txt", "--output", "out"], "text.txt: not a folder"),
    "fit-empty": (["fit", "empty", "--output", "out"], "empty: no images"),
    "fit-broken-image": (["fit", "broken", "--output", "out", *TINY], "cut.png: cannot be read as an image"),
    "fit-output-folder-missing": (["fit", "data", "--output", "no/out"], "the folder no does not exist"),
    "fit-output-is-folder": (["fit", "data", "--output", "empty"], "empty: is a folder"),
    "fit-backbone": (["fit", "data", "--output", "out", "--backbone", "resnet19"], "no model 'resnet19'"),
    "fit-layer-number": (["fit", "data", "--output", "out", *TINY, "--layers", "2,9"], "layers 0 to 4, got 9"),
    "fit-layer-name": (["fit", "data", "--output", "out", *TINY, "--layers", "layer9"], "no layer 'layer9'"),
    "fit-weights": (["fit", "data", "--output", "out", *TINY, "--weights", "no.pth"], "no.pth"),
    "fit-sampler": (["fit", "data", "--output", "out", *TINY, "--sampler", "best"], "invalid choice: 'best'"),
    "fit-ratio": (["fit", "data", "--output", "out", *TINY, "--ratio", "0"], "ratio must be in"),
    "fit-ratio-keeps-none": (["fit", "data", "--output", "out", *TINY, "--ratio", "1e-9"], "the coreset has 0 of"),
    "fit-neighbours": (["fit", "data", "--output", "out", *TINY, "--neighbours", "1000"], "at least 1000 wanted"),
    "fit-neighbours-zero": (["fit", "data", "--output", "out", *TINY, "--neighbours", "0"], "at least 1"),
    "fit-crop": (["fit", "data", "--output", "out", *TINY, "--crop", "65"], "crop 65 is larger"),
    "fit-image-size-text": (["fit", "data", "--output", "out", "--image-size", "1x2x3"], "invalid size value"),
    "fit-device": (["fit", "data", "--output", "out", "--device", "abacus"], "invalid device value"),
    "fit-no-output": (["fit", "data"], "required: --output"),
    "predict-no-bank": (["predict", "no.safetensors", "data", "--output", "out"], "no.safetensors: no such bank"),
    "predict-foreign-bank": (["predict", "foreign.safetensors", "data", "--output", "out"], "not a memory bank"),
    "predict-cut-bank": (["predict", "cut.safetensors", "data", "--output", "out"], "cut.safetensors: damaged"),
    "predict-text-bank": (["predict", "text.txt", "data", "--output", "out"], "text.txt: damaged"),
    "predict-no-image": (["predict", "bank.safetensors", "no.png", "--output", "out"], "no.png: no such file"),
    "predict-empty": (["predict", "bank.safetensors", "empty", "--output", "out"], "empty: no images"),
    "predict-output-is-file": (["predict", "bank.safetensors", "data", "--output", "text.txt"], "text.txt: is a file"),
    "predict-below-a-file": (["predict", "bank.safetensors", "data", "--output", "text.txt/a"], "Not a directory"),
    "predict-weights": (["predict", "bank.safetensors", "data", "--output", "out", "--weights", "no.pth"], "no.pth"),
    "evaluate-no-test": (["evaluate", "data/train", "--output", "new"], "no test images"),
    "evaluate-bank-and-model": (["evaluate", "data", "--bank", "bank.safetensors", "--seed", "1"], "--seed: belongs"),
    "evaluate-json-folder": (["evaluate", "data", "--json", "no/out"], "the folder no does not exist"),
    "select-missing": (["select", "no.npy", *SELECT], "no.npy: no such file"),
    "select-folder": (["select", "empty", *SELECT], "empty: holds no file of features"),
    "select-text": (["select", "text.txt", *SELECT], "text.txt: is no .npy file"),
    "select-truncated": (["select", "cut.npy", *SELECT], "cut.npy: is damaged or truncated"),
    "select-half-a-header": (["select", "head.npy", *SELECT], "head.npy: is damaged or truncated"),
    "select-objects": (["select", "objects.npy", *SELECT], "objects.npy: holds Python objects"),
    "select-archive": (["select", "archive.npz", *SELECT], "is an .npz archive"),
    "select-3d": (["select", "cube.npy", *SELECT], "must be 2-D [rows, dimensions], got shape (2, 3, 4)"),
    "select-1d": (["select", "line.npy", *SELECT], "must be 2-D [rows, dimensions], got shape (7,)"),
    "select-empty": (["select", "empty.npy", *SELECT], "features are empty, shape (0, 4)"),
    "select-words": (["select", "words.npy", *SELECT], "must be real numbers"),
    "select-complex": (["select", "complex.npy", *SELECT], "got dtype complex128"),
    "select-longdouble": (["select", "long.npy", *SELECT], "at most 64 bits"),
    "select-nan": (["select", "nan.npy", *SELECT], "2 of 50 rows"),
    "select-ratio-zero": (["select", "good.npy", "--ratio", "0", "--output", "out"], "--ratio must lie in (0, 1)"),
    "select-ratio-large": (["select", "good.npy", "--ratio", "1.5", "--output", "out"], "--ratio must lie in (0, 1)"),
    "select-ratio-nan": (["select", "good.npy", "--ratio", "nan", "--output", "out"], "--ratio must lie in (0, 1)"),
    "select-ratio-none": (["select", "good.npy", "--ratio", "0.01", "--output", "out"], "the smallest is 0.02"),
    "select-ratio-word": (["select", "good.npy", "--ratio", "half", "--output", "out"], "invalid float value"),
    "select-seed": (["select", "good.npy", *SELECT, "--seed", "-1"], "seed must lie in"),
    "select-method": (["select", "good.npy", *SELECT, "--method", "best"], "invalid choice"),
    "select-output": (["select", "good.npy", "--ratio", "0.5", "--output", "no/out"], "the folder no does not exist"),
    "select-indices": (["select", "good.npy", *SELECT, "--indices", "empty"], "empty: is a folder"),
    "select-indices-name": (["select", "good.npy", *SELECT, "--indices", "picks.txt"],
                            "--indices must end in .npy or .safetensors, got picks.txt"),
    "demo-foreign-folder": (["demo", "--output", "data"], "data: holds other files"),
    "demo-file": (["demo", "--output", "text.txt"], "text.txt: is a file"),
    "unknown-command": (["fly"], "invalid choice: 'fly'"),
    "near-command": (["bench-sampler", "good.npy"], "(did you mean bench-samplers?)"),
    "near-choice": (["select", "good.npy", *SELECT, "--sampler", "compsite"], "(did you mean composite?)"),
    "near-option": (["grid", "data", "--output", "out", "--stpes"], "arguments: --stpes (did you mean --steps?)"),
    "sampler-option": (["fit", "data", "--output", "out", "--sampler", "composite", "--sampler-option", "w_densty=1"],
                       "error: --sampler-option: sampler composite has no option 'w_densty' (did you mean w_density?)"),
    "no-command": ([], "usage: patchcore-fast"),
}  # fmt: skip


def listing(root: Path) -> dict[str, int]:
    return {p.relative_to(root).as_posix(): p.stat().st_mtime_ns if p.is_file() else 0 for p in root.rglob("*")}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(place: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    args, message = CASES[name]
    monkeypatch.chdir(place)
    before = listing(place)
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert message in err and "Traceback" not in err
    if args and "usage:" not in err:  # argparse puts its usage first
        assert err.startswith("patchcore-fast: error: ") and err.count("\n") == 1
    assert out == "" and listing(place) == before


def test_verbose_adds_the_traceback(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(place / "empty"), "--output", str(place / "out"), "--verbose"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("failing", ["rename", "fsync"])
def test_a_full_disk_keeps_the_old_file(
    place: Path, tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.npy").write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, {"rename": "replace", "fsync": "fsync"}[failing], full)
    assert main(["select", str(place / "good.npy"), "--ratio", "0.5", "--output", str(tmp_path / "c.npy")]) == 2
    said = "No space left on device: the disk is full"
    assert capsys.readouterr().err == f"patchcore-fast: error: {tmp_path / 'c.npy'}: {said}\n"
    assert (tmp_path / "c.npy").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
