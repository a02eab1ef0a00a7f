"""Images that are labelled anomalous are not learned as normal ones, however they come."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from patchcore_fast.data import ImageRecord, ImageSet, make_loader
from patchcore_fast.errors import DataError
from patchcore_fast.model import PatchCore, PatchCoreConfig

from ..pictures import write_photos

SETTINGS = {"backbone": "test_efficientnet", "layers": (1, 2), "weights": "random", "image_size": 32, "ratio": 0.9}
NAMES = tuple(f"{i}.png" for i in range(6))


def _model(**more: Any) -> PatchCore:
    return PatchCore(PatchCoreConfig(**SETTINGS | more), progress=False)


def _records(root: Path) -> list[ImageRecord]:
    write_photos(root, *NAMES, side=32)
    return [ImageRecord(root / name, int(name in ("1.png", "4.png")), "any") for name in NAMES]


def _loader(root: Path) -> Any:
    return make_loader(_records(root), 32, batch_size=4)


def _generator(root: Path) -> Iterator[dict[str, Any]]:
    for batch in _loader(root):
        yield {"image": batch["image"], "label": batch["label"]}


SOURCES = {
    "records": (_records, r"2 of 6 images are labelled anomalous \(1.png, 4.png\)"),
    "set": (lambda p: ImageSet(p, _records(p)), r"2 of 6 images are labelled anomalous \(1.png, 4.png\)"),
    "loader": (_loader, r"2 of 6 images are labelled anomalous \(1.png, 4.png\)"),
    "dicts": (_generator, r"2 of 6 images are labelled anomalous \(image 1, image 4\)"),
    "numbered classes": (
        lambda p: [{"image": b["image"], "label": b["label"] * 3} for b in _loader(p)], "2 of 6 images are labelled"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SOURCES)
def test_anomalous_images_stay_out_of_the_bank(kind: str, tmp_path: Path) -> None:
    make, said = SOURCES[kind]
    with pytest.warns(UserWarning, match=said) as told:
        model = _model().fit(make(tmp_path))
    assert sum("labelled anomalous" in str(w.message) for w in told) == 1
    normal = [r for r in _records(tmp_path) if r.label == 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        alone = _model().training_features(normal).features
    assert model.bank.positions is not None and model.bank.positions[:, 0].unique().tolist() == [0, 1, 2, 3]
    if kind in ("records", "set", "loader"):
        assert model.bank.images == [r.path.name for r in normal]
    with pytest.warns(UserWarning, match=said):
        torch.testing.assert_close(_model().training_features(make(tmp_path)).features, alone)


def test_shots_are_drawn_of_normal_images(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="labelled anomalous"):
        model = _model().fit(_records(tmp_path), shots=4)
    assert model.bank.images == ["0.png", "2.png", "3.png", "5.png"]


@pytest.mark.parametrize("kind", ["records", "set", "loader", "dicts"])
def test_none_that_is_normal_is_refused(kind: str, tmp_path: Path) -> None:
    write_photos(tmp_path, *NAMES, side=32)
    records = [ImageRecord(tmp_path / name, 1) for name in NAMES]
    sources: dict[str, Any] = {
        "records": records,
        "set": ImageSet(tmp_path, records),
        "loader": make_loader(records, 32),
        "dicts": [{"image": torch.rand(2, 3, 32, 32), "label": torch.tensor([1, 1])}],
    }
    with pytest.raises(DataError, match=r"images are labelled anomalous .*none is left to learn"):
        _model().fit(sources[kind])
