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

from ..pictures import quiet_scan
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
