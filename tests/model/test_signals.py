"""How far patches move under views: batch by batch the same as from the views' whole features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.signals import training_views, view_instability
from patchcore_fast.model.views import VIEWS
from patchcore_fast.scores import instability

from ..pictures import write_mvtec

SETTINGS = {"backbone": "test_resnet", "layers": (1, 2), "weights": "random", "image_size": 64, "ratio": 0.1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec(tmp_path_factory.mktemp("views") / "d", train=5, good=1, bad=1)


@pytest.mark.parametrize("more", [{}, {"reduction": "pca", "dim": 8}], ids=["plain", "learnt"])
def test_instability_is_that_of_the_views(folder: Path, more: dict) -> None:  # type: ignore[type-arg]
    model = PatchCore(PatchCoreConfig(**SETTINGS, **more, batch_size=2))
    rows = model.training_features(folder)
    views = training_views(model, folder, rows)
    assert len(views) == len(VIEWS) and all(view.shape == rows.features.shape for view in views)
    found = view_instability(model, folder, rows)
    assert torch.equal(found, instability(rows.features, views)) and float(found.min()) > 0
    # The mirrored view was mirrored back: of a picture that is its own mirror image it is no change.
    even = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    even = (even + even.flip(3)) / 2
    other = PatchCore(PatchCoreConfig(**SETTINGS))
    own = other.training_features(even)
    mirrored = training_views(other, even, own)[list(VIEWS).index("mirrored")].view(2, *own.grid, -1)  # type: ignore[misc]
    straight, _ = other.extractor(even.flip(3))
    assert torch.allclose(mirrored.flip(2).reshape(straight.shape), straight, atol=1e-5)


def test_refused(folder: Path) -> None:
    model = PatchCore(PatchCoreConfig(**SETTINGS))
    rows = model.training_features(folder)
    for other in (torch.rand(4, 3, 64, 64), torch.rand(6, 3, 64, 64)):
        with pytest.raises(ValueError, match="view_instability: 1,280 rows are wanted"):
            view_instability(model, other, rows)
    model = PatchCore(PatchCoreConfig(**SETTINGS, augment="rotate"))
    with pytest.raises(ValueError, match="no copies are wanted, got augment=rotate"):
        view_instability(model, folder, rows)
