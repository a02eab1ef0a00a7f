"""What evaluate counts of regions, against plain loops over scikit-image's regions in the files' own pixels."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.measure import label

from patchcore_fast.data import load_mask, scan
from patchcore_fast.model import PatchCore
from patchcore_fast.model.evaluation import REGIONS
from patchcore_fast.regions import IOU

from ..evaluated import tiny_config
from ..pictures import write_mvtec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 70 x 90 pixels; the last has a mask of two spots, one of them in a corner that the crop leaves out."""
    root = write_mvtec(tmp_path_factory.mktemp("regions") / "weave", good=3, bad=3, side=90)
    for path in [*root.rglob("*.png")]:
        with Image.open(path) as im:
            im.crop((0, 0, 90, 70)).save(path)
    mask = root / "ground_truth/spot/002_mask.png"
    with Image.open(mask) as im:
        pixels = np.array(im)
    pixels[:3, :3] = 255
    Image.fromarray(pixels).save(mask)
    return root


@pytest.fixture(scope="module", params=[None, 48], ids=["whole", "crop"])
def model(folder: Path, request: pytest.FixtureRequest) -> PatchCore:
    fitted = PatchCore(tiny_config(crop=request.param, min_area=4), progress=False).fit(folder)
    top = np.concatenate([p.anomaly_map.ravel() for p in fitted.predict(folder / "test/good")])
    fitted._bank = replace(fitted.bank, pixel_threshold=float(np.quantile(top, 0.99)))
    return fitted


def counted(model: PatchCore, folder: Path) -> dict[str, float]:
    found: dict[str, list[Any]] = {"true": [], "hit": [], "near": [], "false": [], "normal": []}
    records = scan(folder).test
    for record, p in zip(records, model.predict(records), strict=True):
        seen = np.zeros((70, 90), bool)
        c = model.config.crop
        edge = 0 if c is None else (64 - c) / 2 / 64
        rows, columns = ((np.arange(n) + 0.5) / n for n in (70, 90))
        seen[np.ix_((rows >= edge) & (rows < 1 - edge), (columns >= edge) & (columns < 1 - edge))] = True
        truth = np.zeros_like(seen) if record.mask is None else load_mask(record.mask).numpy() & seen
        labels = label((p.full_map() > p.pixel_threshold) & seen)
        mine = [labels == i for i in range(1, labels.max() + 1) if (labels == i).sum() >= 4]
        true = [label(truth) == i for i in range(1, label(truth).max() + 1)]
        found["true"] += true
        found["hit"] += [any((m & t).any() for m in mine) for t in true]
        found["near"] += [any((m & t).sum() / (m | t).sum() >= IOU for m in mine) for t in true]
        false = [not (m & truth).any() for m in mine]
        found["false"] += false
        found["normal"] += false if record.label == 0 else []
    true, hit, near, false = len(found["true"]), sum(found["hit"]), sum(found["near"]), sum(found["false"])
    return dict(zip(REGIONS, (true, hit, near, hit / true, near / true, false, false / 6, sum(found["normal"]) / 3, 6),
                    strict=True))  # fmt: skip


def test_region_metrics_are_those_of_plain_loops(model: PatchCore, folder: Path) -> None:
    found = model.evaluate(folder).metrics
    want = counted(model, folder)
    assert {key: found[key] for key in REGIONS} == pytest.approx(want)
    assert found["pixel_threshold"] == model.pixel_threshold and want["regions_found"] > 0 and want["false_regions"]
    assert want["true_regions"] == (4 if model.config.crop is None else 3)


def test_images_that_came_as_tensors_are_counted_in_pixels_of_the_map(model: PatchCore) -> None:
    side = 64 if model.config.crop is None else 48
    mask = torch.zeros(2, side, side, dtype=torch.bool)
    mask[1, 20:30, 20:30] = True
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    images[1, :, 20:30, 20:30] = 1
    found = model.evaluate([{"image": images, "label": torch.tensor([0, 1]), "mask": mask}]).metrics
    assert (found["true_regions"], found["n_region_images"]) == (1, 2)


def test_without_a_pixel_threshold_nothing_is_said_of_regions(model: PatchCore, folder: Path) -> None:
    old = PatchCore(model.config, progress=False)
    old._bank, old._extractor = replace(model.bank, pixel_threshold=None), model.extractor
    found = old.evaluate(folder)
    assert all(math.isnan(found.metrics[key]) for key in (*REGIONS, "pixel_threshold"))
    assert all(p.regions is None for p in found.predictions)
