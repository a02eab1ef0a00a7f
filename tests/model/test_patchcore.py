"""The estimator on a small MVTec folder: every way in, the numbers out, and the file between."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._utils import ExceptionWrapper

from patchcore_fast import metrics
from patchcore_fast.data import load_image, load_mask, make_loader, scan
from patchcore_fast.errors import BankError, DataError
from patchcore_fast.model import PatchCore
from patchcore_fast.samplers import make_sampler

from ..evaluated import tiny_config
from ..pictures import write_mvtec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec(tmp_path_factory.mktemp("model") / "weave", train=6, good=4, bad=4)


@pytest.fixture(scope="module")
def model(folder: Path) -> PatchCore:
    return PatchCore(tiny_config()).fit(folder)


def test_fit_fills_the_bank(model: PatchCore, folder: Path) -> None:
    bank = model.bank
    assert bank.features.shape == (153, 56) and bank.patches == 6 * 256 and bank.grid == (16, 16)
    assert bank.images == [f"train/good/{i:03d}.png" for i in range(6)]
    assert bank.projection is None or bank.projection.shape[0] == 56
    assert bank.config == tiny_config().to_dict()
    assert model.threshold is not None and set(model.timings_) == {"features", "selection", "price", "threshold"}


def test_bank_rows_are_the_patches_their_positions_name(model: PatchCore, folder: Path) -> None:
    assert model.bank.positions is not None
    images = torch.stack([load_image(folder / name, 64) for name in model.bank.images])
    features = model.extractor(images).features.view(6, 16, 16, -1)
    image, row, column = model.bank.positions.long().T
    torch.testing.assert_close(model.bank.features, features[image, row, column], rtol=1e-4, atol=1e-5)
    assert torch.equal(model.bank.indices, image * 256 + row * 16 + column)


def test_predictions_point_at_the_defects(model: PatchCore, folder: Path) -> None:
    found = scan(folder)
    for record, p in zip(found.test, model.predict(found), strict=True):
        assert p.path == record.path and p.original_size == (64, 64)
        assert p.anomaly_map.shape == (64, 64) and p.anomaly_map.dtype == np.float32
        assert p.is_anomalous == (record.label == 1) == (p.score > model.threshold)
        if record.label:
            top, left = load_mask(record.mask).nonzero().amin(0).tolist()
            y, x = np.unravel_index(p.anomaly_map.argmax(), (64, 64))
            assert top - 4 <= y <= top + 18 and left - 4 <= x <= left + 18


def test_every_way_in_gives_the_same(folder: Path, model: PatchCore) -> None:
    found = scan(folder)
    paths = [r.path for r in found.train]
    tensor = torch.stack([load_image(p, 64) for p in paths])
    sources = {
        "set": found, "folder as text": str(folder), "records": found.train, "paths": paths,
        "text": [str(p) for p in paths],
        "plain folder": folder / "train", "tensor": tensor, "loader": make_loader(found.train, 64, batch_size=4),
        "batches": list(tensor.split(4)), "single images": list(tensor),
        "dicts": [{"image": tensor[:4]}, {"image": tensor[4:]}],
        "tuples": torch.utils.data.DataLoader(torch.utils.data.TensorDataset(tensor), batch_size=4),
        "generator": (part for part in tensor.split(4)),
    }  # fmt: skip
    for name, source in sources.items():
        bank = PatchCore(tiny_config()).fit(source).bank
        assert torch.equal(bank.indices, model.bank.indices), name
        torch.testing.assert_close(bank.features, model.bank.features, rtol=1e-4, atol=1e-5)
        assert bank.threshold == pytest.approx(model.threshold, rel=1e-4)
    want = [p.score for p in model.predict(found.train)]
    assert [p.score for p in model.predict(tensor)] == pytest.approx(want, rel=1e-3, abs=1e-3)
    assert [p.path for p in model.predict(make_loader(found.train, 64))] == paths
    assert model.predict(tensor)[0].path is None


def test_images_of_different_sizes_as_tensors() -> None:
    images = [torch.rand(1, 3, 64, 64), torch.rand(2, 3, 48, 80)]
    model = PatchCore(tiny_config(sampler="identity", neighbours=1, price=0.0)).fit(images)
    assert model.bank.grid is None and model.bank.patches == 256 + 2 * 240
    assert model.bank.positions is not None
    assert model.bank.positions[-1].tolist() == [2, 11, 19]
    # Every patch is in the bank, so training images score nothing.
    assert max(p.score for p in model.predict(images)) < 1e-3
    assert [p.anomaly_map.shape for p in model.predict(images)] == [(64, 64), (48, 80), (48, 80)]


def test_evaluate(model: PatchCore, folder: Path) -> None:
    result = model.evaluate(folder)
    empty = torch.zeros(64, 64, dtype=torch.bool)
    masks = torch.stack([load_mask(r.mask) if r.mask else empty for r in scan(folder).test]).numpy()
    maps = np.stack([p.anomaly_map for p in result.predictions])
    labels, scores = [row["label"] for row in result.images], [row["score"] for row in result.images]
    assert labels == [0] * 4 + [1] * 4 and [row["defect_type"] for row in result.images] == [""] * 4 + ["spot"] * 4
    assert result.images[0]["path"] == "test/good/000.png"
    assert result.metrics["image_auroc"] == metrics.image_auroc(scores, labels) == 1.0
    assert result.metrics["pixel_auroc"] == metrics.pixel_auroc(maps, masks) > 0.9
    assert result.metrics["pixel_ap"] == metrics.average_precision(maps, masks)
    assert result.metrics["aupro"] == metrics.aupro(maps, masks) > 0.5
    assert (result.metrics["pixel_f1_threshold"], result.metrics["pixel_f1"]) == metrics.best_f1(maps, masks)
    assert result.metrics["pixel_iou_max"] == metrics.iou_of_f1(result.metrics["pixel_f1"])
    curve = metrics.binary_curve(maps, masks)
    assert curve is not None and metrics.ader_pixels(curve).items() <= result.metrics.items()
    assert result.metrics["threshold"] == model.threshold and result.metrics["accuracy"] == 1.0
    assert (result.metrics["n_test"], result.metrics["n_masks"]) == (8, 4)
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["metrics"]["image_auroc"] == 1.0
    from_loader = model.evaluate(make_loader(scan(folder).test, 64, batch_size=3))
    assert from_loader.metrics == pytest.approx(result.metrics, rel=1e-3)


def test_evaluate_without_masks_or_normal_images(model: PatchCore, folder: Path) -> None:
    found = scan(folder)
    unmasked = [dataclasses.replace(r, mask=None) for r in found.test]
    result = model.evaluate(unmasked)
    assert result.metrics["image_auroc"] == 1.0 and np.isnan(result.metrics["pixel_auroc"])
    assert all(np.isnan(result.metrics[name]) for name in ("aupro", "pixel_iou_max", *metrics.ADER_PIXELS))
    assert "pro" not in result.curves
    assert result.to_dict()["metrics"]["aupro"] is None
    one_class = model.evaluate(found.test[:4])
    assert np.isnan(one_class.metrics["image_auroc"]) and one_class.metrics["accuracy"] == 1.0


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"score": "reweighted"}, {"neighbours": 3, "distance": "squared"},
        {"fusion": "amazon", "dim": 64, "crop": 48},
        {"image_size": (48, 80), "upsample": "nearest", "border": "mirror"}, {"sampler": "random"},
    ],
    ids=["default", "reweighted", "squared mean of 3", "amazon cropped", "wide nearest", "random"],
)  # fmt: skip
def test_saved_models_predict_the_same(changes: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    model = PatchCore(tiny_config(**changes)).fit(folder)
    model.save(tmp_path / "bank.safetensors")
    back = PatchCore.load(tmp_path / "bank.safetensors", batch_size=3)
    assert back.config == dataclasses.replace(model.config, batch_size=3) and back.threshold == model.threshold
    for a, b in zip(model.predict(folder / "test"), back.predict(folder / "test"), strict=True):
        assert b.score == pytest.approx(a.score, rel=1e-4)
        np.testing.assert_allclose(b.anomaly_map, a.anomaly_map, rtol=1e-3, atol=1e-4)
        assert a.anomaly_map.shape == model.config.input_size and a.full_map().shape == (64, 64)


def test_load_with_the_weights_elsewhere(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = PatchCore(tiny_config()).fit(folder)
    state = model.extractor.backbone.net.state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "w.safetensors")
    model.save(tmp_path / "bank.safetensors")
    back = PatchCore.load(tmp_path / "bank.safetensors", weights=str(tmp_path / "w.safetensors"))
    assert back.predict(folder / "test")[0].score == pytest.approx(model.predict(folder / "test")[0].score, rel=1e-4)
    save_file({k: v.contiguous() + 1 for k, v in state.items()}, tmp_path / "w.safetensors")
    with pytest.raises(BankError, match="other weights"):
        PatchCore.load(tmp_path / "bank.safetensors", weights=str(tmp_path / "w.safetensors"))


def test_a_given_sampler_is_used_and_its_progress_put_back(folder: Path) -> None:
    sampler = make_sampler("random", ratio=0.02, seed=3)
    model = PatchCore(tiny_config(), sampler).fit(folder)
    assert torch.equal(model.bank.indices, sampler.indices_) and len(model.bank) == 30
    assert sampler.progress is None


def test_fit_is_reproducible_and_leaves_global_random_state_alone(folder: Path, model: PatchCore) -> None:
    before, before_np = torch.get_rng_state(), np.random.get_state()[1].copy()
    again = PatchCore(tiny_config()).fit(folder)
    again.predict(folder / "test")
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == before_np).all()
    assert torch.equal(again.bank.features, model.bank.features) and again.threshold == model.threshold


def test_quiet_unless_asked(folder: Path, model: PatchCore, capfd: pytest.CaptureFixture[str]) -> None:
    list(model.iter_predict(folder / "test"))
    assert capfd.readouterr() == ("", "")
    loud = PatchCore(tiny_config(), progress=True).fit(folder)
    assert "coreset" in capfd.readouterr().err and loud.bank is not None


def test_the_error_of_a_worker_process_comes_in_one_line(model: PatchCore) -> None:
    def loader() -> Iterator[torch.Tensor]:
        try:
            raise DataError("x.png: cannot be read")
        except DataError:
            ExceptionWrapper(where="in DataLoader worker process 0").reraise()  # what a DataLoader does with it
        yield torch.rand(1, 3, 64, 64)

    with pytest.raises(DataError, match=r"^x\.png: cannot be read$"):
        model.predict(loader())


def test_a_loader_that_repeats_images_gives_no_names(folder: Path) -> None:
    from torch.utils.data import DataLoader

    from patchcore_fast.data import ImageDataset

    dataset = ImageDataset(scan(folder).train, (64, 64), None)
    for order in ([0, 1, 1, 2, 0, 3, 4, 5, 2], [0, 1]):
        bank = PatchCore(tiny_config()).fit(DataLoader(dataset, batch_size=3, sampler=order)).bank
        assert bank.images == [] and bank.positions is not None and int(bank.positions[:, 0].max()) < len(order)


def test_one_image_gives_no_threshold() -> None:
    model = PatchCore(tiny_config()).fit(torch.rand(1, 3, 64, 64))
    prediction = model.predict(torch.rand(1, 3, 64, 64))[0]
    assert model.threshold is None and prediction.is_anomalous is None
