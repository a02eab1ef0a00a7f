"""examples/equivariant_backbone.py: its features turn with the image, and it goes through all of the pipeline."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from patchcore_fast.experiments.combinations import grid
from patchcore_fast.experiments.run import run
from patchcore_fast.feature_store import FeatureStore
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.audit import audit
from patchcore_fast.model.signals import view_instability
from patchcore_fast.scores import signals

from ..pictures import quiet_scan, write_mvtec

SCRIPT = Path(__file__).parents[2] / "examples" / "equivariant_backbone.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("equivariant_backbone", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec(tmp_path_factory.mktemp("equivariant") / "d", train=6, good=2, bad=2)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turning_the_image_turns_the_map(example: ModuleType, turns: int) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(turns))
    (maps,) = example.equivariant_source(64)(images)
    (turned,) = example.equivariant_source(64)(images.rot90(turns, (2, 3)))
    assert maps.shape == (2, 64, 8, 8) and float(maps.std()) > 0
    assert torch.allclose(turned, maps.rot90(turns, (2, 3)), atol=1e-5)
    plain = example.random_filters()(images)
    again = example.random_filters()(images.rot90(turns, (2, 3)))
    assert not torch.allclose(again, plain.rot90(turns, (2, 3)), atol=1e-2), "without the mean over C4 they do not"


def test_rows_of_a_turned_image_are_rows_of_the_image(example: ModuleType) -> None:
    model = PatchCore(PatchCoreConfig(image_size=64, ratio=0.1), backbone=example.equivariant_source(64))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    own, turned = (model.training_features(x).features.view(8, 8, -1) for x in (images, images.rot90(1, (2, 3))))
    assert torch.allclose(turned, own.rot90(1, (0, 1)), atol=1e-5), "fusion and averaging keep it"


def test_fit_predict_evaluate_extract_audit_signals(example: ModuleType, folder: Path, tmp_path: Path) -> None:
    config = PatchCoreConfig(image_size=64, ratio=0.2, batch_size=4)
    model = PatchCore(config, backbone=example.equivariant_source(64)).fit(folder)
    assert len(model.predict(folder / "test")) == 4
    assert 0 <= model.evaluate(folder).metrics["image_auroc"] <= 1
    rows = model.training_features(folder)
    found = signals(rows.features, positions=rows.positions(torch.arange(rows.total)))
    assert not found.missing and bool(view_instability(model, folder, rows).isfinite().all())
    assert len(audit(rows, 2)[1]) == 2
    store = PatchCore(config, backbone=example.equivariant_source(64)).extract(folder, tmp_path / "store")
    assert isinstance(store, FeatureStore)
    other = PatchCore(config, backbone=example.equivariant_source(64)).fit(store)
    assert torch.equal(other.bank.indices, model.bank.indices)
    model.save(tmp_path / "bank.safetensors")
    loaded = PatchCore.load(tmp_path / "bank.safetensors", backbone=example.equivariant_source(64))
    assert [p.score for p in loaded.predict(folder / "test")] == [p.score for p in model.predict(folder / "test")]


def test_an_experiment(example: ModuleType, folder: Path, tmp_path: Path) -> None:
    config, backbone = PatchCoreConfig(image_size=64, batch_size=4), example.equivariant_source(64)
    plan, _ = grid((1.0,), (10,), (1,), ("composite",), [0.2], [0])
    done = run("grid", quiet_scan(folder), config, plan, tmp_path, share=0.5, backbone=backbone, progress=False)
    assert [row["name"] for row in done.rows] == [c.name for c in plan] and not any(row["error"] for row in done.rows)
    assert done.about["weights"] == backbone.fingerprint()


def test_the_script(
    example: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [str(SCRIPT), str(folder), "--image-size", "64"])
    state = torch.random.get_rng_state()
    example.main()
    first, second = capsys.readouterr().out.splitlines()
    assert first == "coreset rows 38" and second.startswith("image AUROC ")
    assert torch.equal(state, torch.random.get_rng_state()), "the global generator is as before"
