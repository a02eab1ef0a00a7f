"""How far patches move under views: batch by batch the same as from the views' whole features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from patchcore_fast.features import Backbone
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.signals import view_instability
from patchcore_fast.model.views import VIEWS, undone

from ..pictures import write_mvtec

SETTINGS = {"backbone": "test_resnet", "layers": (1, 2), "weights": "random", "image_size": 64, "ratio": 0.1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec(tmp_path_factory.mktemp("views") / "d", train=5, good=1, bad=1)


@pytest.mark.parametrize("more", [{}, {"reduction": "pca", "dim": 8}], ids=["plain", "learnt"])
def test_instability_is_that_of_the_views(more: dict[str, Any]) -> None:
    model = PatchCore(PatchCoreConfig(**SETTINGS, **more, batch_size=2))
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    rows = model.training_features(images)
    found = view_instability(model, images, rows)
    total = torch.zeros(rows.total, dtype=torch.float64)
    for view in VIEWS.values():
        parts = [undone(view, *model.extractor(view.change(part))) for part in images.split(2)]
        total += (torch.cat(parts).double() - rows.features.double()).norm(dim=1)
    assert torch.allclose(found.double(), total / len(VIEWS), rtol=1e-5) and float(found.min()) > 0


def test_the_mirrored_view_is_mirrored_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a backbone that looks at single pixels the mirrored view is no change."""
    monkeypatch.setattr("patchcore_fast.model.signals.VIEWS", {"mirrored": VIEWS["mirrored"]})
    source = Backbone.of(lambda x: x)
    model = PatchCore(PatchCoreConfig(image_size=16, ratio=0.1, patch_size=1), backbone=source)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    rows = model.training_features(images)
    assert rows.total == 512 and torch.equal(view_instability(model, images, rows), torch.zeros(512))


def test_refused(folder: Path) -> None:
    model = PatchCore(PatchCoreConfig(**SETTINGS))
    rows = model.training_features(folder)
    for other in (torch.rand(4, 3, 64, 64), torch.rand(6, 3, 64, 64)):
        with pytest.raises(ValueError, match="view_instability: 1,280 rows are wanted"):
            view_instability(model, other, rows)
    model = PatchCore(PatchCoreConfig(**SETTINGS, augment="rotate"))
    with pytest.raises(ValueError, match="no copies are wanted, got augment=rotate"):
        view_instability(model, folder, rows)
