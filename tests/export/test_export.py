"""Exported models: the numbers of the Python model, for every feature path, and without this package."""

from __future__ import annotations

import csv
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from patchcore_fast.cli import main
from patchcore_fast.config.methods import METHODS
from patchcore_fast.errors import BankError
from patchcore_fast.export import TOLERANCE, ExportedPatchCore, export_model, module, patches
from patchcore_fast.export.programs import facts
from patchcore_fast.methods import make_method
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.report.scores_csv import COLUMNS

from ..pictures import write_mvtec

EXAMPLE = Path(__file__).parents[2] / "examples" / "run_exported.py"
# Runs a script in an interpreter that cannot import this package or timm.
WITHOUT = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("patchcore_fast", "timm"):
            raise ImportError(name + " is out of reach")
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def fitted(**changes: Any) -> PatchCore:
    base: dict[str, Any] = {
        "backbone": "test_efficientnet", "layers": (1, 2), "weights": "random", "image_size": 64, "ratio": 0.3,
        "device": "cpu",
    }  # fmt: skip
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return PatchCore(PatchCoreConfig(**(base | changes)), progress=False).fit(images)


CASES: dict[str, dict[str, Any]] = {
    "default": {}, "amazon": {"fusion": "amazon", "dim": 40, "layer_dim": 48, "distance": "squared", "neighbours": 2},
    "anomalib": {"score": "reweighted", "neighbours": 3, "upsample": "nearest", "border": "mirror"},
    "projected": {"fusion": "interpolated", "dim": 16},
    "whitened": {"reduction": "whiten", "dim": 12, "metric": "cosine", "image_score": "top:0.1"},
    "pca": {"fusion": "interpolated", "reduction": "pca", "dim": 12, "neighbours": 2},
    "cosine": {"metric": "cosine", "image_score": "reweighted"},
    "vit": {"backbone": "test_vit", "layers": (1, 3), "image_score": "top:0.2"},
    "pooled": {"fusion": "interpolated", "dim": 16, "reduction": "pool", "sigma": 0.0},
    "nearest": {"neighbours": 1, "price": 0.0}, "dear": {"price": 4.0, "neighbours": 2},
    "dear and reweighted": {"price": 4.0, "neighbours": 1, "image_score": "reweighted"},
    "dear and squared": {"price": 4.0, "distance": "squared"}, "dear and cosine": {"price": 4.0, "metric": "cosine"},
    "dear layers": {"price": 4.0, "banks": "layer"}, "noising": {"scorer": "noising", "neighbours": 2},
    "noising squared": {"scorer": "noising", "distance": "squared", "price": 4.0}, "influence": {"scorer": "influence"},
    "dear influence": {"scorer": "influence", "price": 4.0, "neighbours": 3, "image_score": "reweighted"},
    "cosine influence": {"scorer": "influence", "metric": "cosine", "banks": "layer"},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_module_gives_the_models_numbers(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "CHUNK", 50)  # several chunks, the last one short
    model = fitted(**CASES[case])
    assert all((part.support is None) == (case == "nearest") for part in model.bank.parts)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    exported = ExportedPatchCore(model).eval()
    with torch.no_grad():
        scores, maps = exported(images)
    for score, heat, want in zip(scores, maps, model.predict(images), strict=True):
        assert float(score) == pytest.approx(want.score, rel=1e-5)
        np.testing.assert_allclose(heat.numpy(), want.anomaly_map, atol=1e-5 * float(want.anomaly_map.max()))


PRICED = [pytest.param(changes, suffix, marks=[pytest.mark.thorough] * ((suffix == ".onnx") == (changes == {})))
          for changes in ({}, {"banks": "layer"}) for suffix in (".pt2", ".onnx")]  # fmt: skip


@pytest.mark.parametrize("changes, suffix", PRICED, ids=str)
def test_files_have_the_price(changes: dict[str, Any], suffix: str, tmp_path: Path) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    model = fitted(price=4.0, **changes)
    before = model.predict(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)))[0].score
    found = export_model(model, tmp_path / f"m{suffix}")  # which holds the file against the model
    assert found.score <= TOLERANCE and found.map <= TOLERANCE
    model.rescore(price=0.0)
    after = model.predict(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)))[0].score
    assert before > 1.01 * after  # the price is no small part of it


@pytest.mark.thorough
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("name", ["test_vit", "eva02_tiny_patch14_224"])
def test_files_of_transformers(name: str, suffix: str, tmp_path: Path) -> None:
    """Position embeddings of another size than the network's own; learned in one, rotary in the other."""
    if suffix == ".onnx":
        pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    side = 64 if name == "test_vit" else 56
    config = PatchCoreConfig(backbone=name, layers=(1, 2), weights="random", image_size=side, ratio=0.3, device="cpu")
    model = PatchCore(config, progress=False).fit(torch.rand(4, 3, side, side))
    assert export_model(model, tmp_path / f"m{suffix}").score <= TOLERANCE and (tmp_path / f"m{suffix}").is_file()


def test_search_finds_the_neighbours_far_from_the_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "CHUNK", 64)
    g = torch.Generator().manual_seed(2)
    bank = torch.randn(300, 24, generator=g) + 100
    query = torch.randn(90, 24, generator=g) + 100
    distance, index = patches.Search(bank, 4)(query)
    want = torch.cdist(query.double(), bank.double()).sort(dim=1)
    assert torch.equal(index, want.indices[:, :4])
    torch.testing.assert_close(distance, want.values[:, :4].float(), rtol=1e-5, atol=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec(tmp_path_factory.mktemp("export") / "weave", train=4, good=2, bad=2, side=80)


@pytest.fixture(scope="module")
def bank(folder: Path) -> Path:
    path = folder.parent / "bank.safetensors"
    assert main(["fit", str(folder), "--output", str(path), "--backbone", "test_efficientnet", "--layers", "1,2",
                 "--weights", "random", "--image-size", "72", "--crop", "64", "--ratio", "0.1"]) == 0  # fmt: skip
    return path


@pytest.mark.parametrize("suffix", [pytest.param(".pt2", marks=pytest.mark.thorough), ".onnx"])
def test_command_and_example_without_this_package(
    suffix: str, folder: Path, bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if suffix == ".onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason="the extra `export` is not installed")
    path = tmp_path / f"model{suffix}"
    assert main(["export", str(bank), "--output", str(path), "--images", str(folder / "test")]) == 0
    assert "on 4 images: scores within" in capsys.readouterr().out
    images = sorted((folder / "test").rglob("*.png"))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(EXAMPLE), str(path), *map(str, images), "--maps", str(tmp_path / "maps")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = csv.DictReader(done.stdout.splitlines())
    assert tuple(table.fieldnames or ()) == COLUMNS
    for row, want in zip(table, PatchCore.load(bank, "cpu", progress=False).predict(images), strict=True):
        assert row["path"] == str(want.path) and row["is_anomalous"] == str(want.is_anomalous)
        assert float(row["score"]) == pytest.approx(want.score, rel=TOLERANCE)
    last = np.load(tmp_path / "maps" / f"{images[-1].stem}.npy")
    np.testing.assert_allclose(last, want.anomaly_map, atol=TOLERANCE * float(want.anomaly_map.max()))

    # And by predict, in place of the bank: the same files, to the last row.
    tables = []
    for name, file in (("of_bank", bank), ("of_file", path)):
        argv = ["predict", str(file), str(folder / "test"), "--output", str(tmp_path / name)]
        assert main([*argv, "--threshold", str(want.score)]) == 0
        assert (tmp_path / name / "contact_sheet.png").is_file()
        tables.append(list(csv.DictReader((tmp_path / name / "scores.csv").open())))
    assert len(tables[0]) == len(images)
    for ours, theirs in zip(*tables, strict=True):
        assert float(theirs.pop("score")) == pytest.approx(float(ours.pop("score")), rel=TOLERANCE)
        if ours["path"] != str(want.path):  # which is the threshold
            assert theirs == ours and (tmp_path / "of_file" / theirs["heatmap"]).is_file()
    said = capsys.readouterr().out
    assert "Exported in fp32 of a bank of " in said and f"{len(images)} images scored" in said
    assert main(["predict", str(path), str(folder), "--output", str(tmp_path / "no"), "--image-score", "top:0.1"]) != 0
    assert "--image-score: " in (told := capsys.readouterr().err) and "which scores as it was exported" in told


def test_example_reads_images_as_this_package_does(folder: Path) -> None:
    from patchcore_fast.data import load_image

    read = runpy.run_path(str(EXAMPLE))["read_image"]
    path = next((folder / "test").rglob("*.png"))
    for crop in (None, [64, 60]):
        got = read(path, {"resize": [72, 70], "crop": crop})
        assert np.array_equal(got, load_image(path, (72, 70), None if crop is None else (64, 60)).numpy())


def test_a_file_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fitted()
    before = module.ExportedPatchCore.__init__

    def spoiled(self: ExportedPatchCore, *args: Any) -> None:
        before(self, *args)
        self.mean += 0.01

    monkeypatch.setattr(module.ExportedPatchCore, "__init__", spoiled)
    with pytest.raises(BankError, match="gives other numbers than the model"):
        export_model(model, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.pt2, \.onnx or \.xml, got 'model\.pth'"):
        export_model(fitted(), tmp_path / "model.pth")
    with pytest.raises(ValueError, match="precision must be one of fp32, fp16, int8, got 'bf16'"):
        export_model(fitted(), tmp_path / "model.pt2", precision="bf16")
    with pytest.raises(ValueError, match=r'precision "int8" is for \.onnx and \.xml, got \.pt2'):
        export_model(fitted(), tmp_path / "model.pt2", precision="int8")
    with pytest.raises(ValueError, match="needs calibration images, and no other takes them"):
        export_model(fitted(), tmp_path / "model.onnx", precision="int8")
    with pytest.raises(BankError, match='fusion must not be "graph"'):
        export_model(fitted(fusion="graph", dim=16), tmp_path / "model.pt2")
    with pytest.raises(BankError, match="no dynamic size: test_vit has position embeddings or windows"):
        export_model(fitted(backbone="test_vit", layers=(1, 3)), tmp_path / "model.pt2", dynamic=True)
    with pytest.raises(BankError, match=r"sides must be multiples of \d+ .* images have 68 x 68 pixels"):
        export_model(fitted(image_size=68), tmp_path / "model.pt2", dynamic=True)
    with pytest.raises(BankError, match="no dynamic size: sigma 30 is too wide for"):
        export_model(fitted(sigma=30.0), tmp_path / "model.pt2", dynamic=True)
    with pytest.raises(BankError, match=r"no dynamic size: image_score 'top:0\.1' counts the patches"):
        export_model(fitted(image_score="top:0.1"), tmp_path / "model.pt2", dynamic=True)
    with pytest.raises(ValueError, match=r"images must be \[B, 3, 64, 64\]"):
        export_model(fitted(), tmp_path / "model.pt2", torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="evaluate takes no model that works in tiles"):
        export_model(fitted(tile=32, overlap=8), tmp_path / "model.pt2", evaluate=tmp_path)


def test_a_file_of_tiles_is_not_for_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(tile=32, overlap=8).save(tmp_path / "bank.safetensors")
    assert main(["export", str(tmp_path / "bank.safetensors"), "--output", str(tmp_path / "m.pt2")]) == 0
    out = capsys.readouterr().out
    assert "images [B, 3, 32, 32] in" in out and "docs/tiles.md" in out and "Next:" not in out
    argv = ["predict", str(tmp_path / "m.pt2"), str(tmp_path), "--output", str(tmp_path / "out")]
    assert main(argv) != 0
    assert "it takes single tiles of 32 pixels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "suffix"),
    [(name, suffix) if name in ("subspace", "simplenet") and suffix == ".pt2" else
     pytest.param(name, suffix, marks=pytest.mark.thorough) for name in METHODS for suffix in (".pt2", ".onnx")],
)  # fmt: skip
def test_files_of_other_methods(name: str, suffix: str, tmp_path: Path) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    settings = PatchCoreConfig(backbone="test_efficientnet", layers=(1, 2), weights="random", image_size=32,
                               device="cpu")  # fmt: skip
    short = METHODS[name](**({"epochs": 1} if name in ("simplenet", "rd") else {}))
    model = make_method(name, settings, short, progress=False).fit(images)
    found = export_model(model, tmp_path / f"m{suffix}")  # which holds the file against the model
    assert found.score <= TOLERANCE and found.map <= TOLERANCE and found.images == 3
    about = facts(model)
    assert about["method"] == name and about["threshold"] == model.threshold and "bank_rows" not in about
