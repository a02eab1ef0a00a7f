"""A model of anomalib behind our fit, predict and evaluate: its own scores, on our images and our weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("anomalib", reason="anomalib is not installed (extra test)")

from patchcore_fast.comparison.foreign import AnomalibModel
from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.data import load_image
from patchcore_fast.features import Backbone

from ..pictures import quiet_scan, write_photos
from .conftest import SHARED

CONFIG = PatchCoreConfig(**SHARED | {"backbone": "resnet18", "layers": (1, 2, 3)})


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """A cell's process ends with it; here timm comes back to anomalib, and the generators to what they were."""
    import anomalib.models.components.feature_extractors.timm as theirs

    before, drawn = theirs.timm, torch.get_rng_state()
    yield
    theirs.timm = before
    torch.set_rng_state(drawn)


def test_padim_scores_as_a_plain_restatement(root: Path) -> None:
    images = quiet_scan(root / "bolt")
    model = AnomalibModel("padim", CONFIG, None).fit(images)
    theirs = model.model.model
    loaded = torch.stack([load_image(r.path, (64, 64)) for r in images.train])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))

    def embedded(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            maps = theirs.feature_extractor((x - mean) / std).values()
        large = [torch.nn.functional.interpolate(m, next(iter(maps)).shape[2:], mode="nearest") for m in maps]
        return torch.cat(large, 1)[:, theirs.idx].flatten(2).double()  # [n, D, P]

    rows = embedded(loaded)
    centre = rows.mean(0)
    away = rows - centre
    covariance = torch.einsum("ncp,ndp->pcd", away, away) / (len(rows) - 1) + 0.01 * torch.eye(rows.shape[1])
    tested = torch.stack([load_image(r.path, (64, 64)) for r in images.test])
    off = (embedded(tested) - centre).permute(0, 2, 1)
    distance = torch.einsum("npc,pcd,npd->np", off, covariance.inverse(), off).clamp(min=0).sqrt()
    large = torch.nn.functional.interpolate(distance.view(-1, 1, 16, 16), (64, 64), mode="bilinear")
    found = model.predict(tested)
    for p, wanted in zip(found, large[:, 0], strict=True):
        # Its maps are smoothed, which keeps the mean but at the edges.
        assert p.anomaly_map.mean() == pytest.approx(float(wanted.mean()), rel=0.05)
    metrics = model.evaluate(images).metrics
    assert metrics["image_auroc"] == 1.0 and metrics["pixel_auroc"] > 0.8


def test_it_has_the_weights_of_our_backbone(root: Path, tmp_path: Path) -> None:
    state = Backbone("resnet18", (1, 2, 3), "random", "cpu", seed=7).net.state_dict()
    torch.save(state, tmp_path / "w.pt")
    model = AnomalibModel("Stfpm", CONFIG.replace(weights=str(tmp_path / "w.pt")), 1)
    teacher = model.model.model.teacher_model.feature_extractor.state_dict()
    assert all(torch.equal(teacher[name], state[name]) for name in teacher)


def test_what_differs_is_said(root: Path) -> None:
    model = AnomalibModel("Dfkde", CONFIG, None)
    assert "its own backbone resnet18" in model.notes and "random weights in its backbone" in model.notes
    with pytest.raises(ValueError, match="Stfpm has no number of epochs of its own: give --epochs"):
        AnomalibModel("stfpm", CONFIG, None).fit(quiet_scan(root / "bolt"))
    with pytest.raises(ValueError, match="has no nonsense"):
        AnomalibModel("nonsense", CONFIG, None)


def test_efficient_ad_scales_its_maps_by_images_that_it_was_not_trained_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its teacher's weights, which come from the network."""
    from anomalib.models import EfficientAd

    write_photos(tmp_path / "datasets/imagenette", "a/0.png", "a/1.png", side=64)
    monkeypatch.chdir(tmp_path)  # where anomalib looks for them
    monkeypatch.setattr(EfficientAd, "prepare_pretrained_model", lambda self: None)
    images = quiet_scan(root / "bolt")
    model = AnomalibModel("efficient_ad", CONFIG.replace(image_size=256), 1).fit(images)
    assert any("scaled by 1 training images" in note for note in model.notes)
    assert all(float(q) != 0 for q in model.model.model.quantiles.values())
    found = model.evaluate(images)
    assert len(found.images) == 4 and found.predictions[0].anomaly_map.shape == (256, 256)
