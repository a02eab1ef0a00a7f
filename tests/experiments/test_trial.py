"""Measures of one combination, against the same restated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchcore_fast.coverage import border_share
from patchcore_fast.experiments.combinations import Combination
from patchcore_fast.experiments.trial import tried
from patchcore_fast.model import PatchCore
from patchcore_fast.samplers import GreedyCoresetSampler
from patchcore_fast.scoring import anomaly_map

CPU = torch.device("cpu")


def test_greedy_restated(gathered, config):
    _, material = gathered
    config = config.replace(price=0.0, neighbours=1)
    found = tried(Combination("greedy", "greedy", 0.1, 3), material, config, CPU)
    x = material.rows.features
    picks = GreedyCoresetSampler(0.1, seed=3).select(x)
    assert found["rows"] == len(picks)
    assert found["covering_radius"] == pytest.approx(float(torch.cdist(x.double(), x[picks].double()).amin(1).max()))
    assert found["border_share"] == border_share(material.rows.grids, picks)
    patches = torch.cdist(material.pasted.features.double(), x[picks].double()).amin(1).view(-1, *material.grid)
    scores, labels = patches.amax((1, 2)).numpy(), material.pasted.labels
    wins = np.mean([(a > b) + 0.5 * (a == b) for a in scores[labels == 1] for b in scores[labels == 0]])
    assert found["auroc"] == pytest.approx(wins, abs=1e-6)
    maps = anomaly_map(patches.float(), material.covered, config.sigma).numpy()
    masks = material.pasted.masks
    best = max(
        (masks & (above := maps >= t)).sum() / (masks | above).sum()
        for t in np.quantile(maps[masks], np.linspace(0, 1, 200))
    )
    assert best <= found["iou"] + 1e-6 and found["iou"] == pytest.approx(best, abs=0.01)


def test_the_test_columns_are_those_of_evaluate(gathered, config, weave):
    """Of a model whose bank is the same rows."""
    from patchcore_fast.samplers import PrecomputedSampler

    _, material = gathered
    config = config.replace(price=0.0)
    found = tried(Combination("greedy", "greedy", 0.1, 0), material, config, CPU)
    picks = GreedyCoresetSampler(0.1, seed=0).select(material.rows.features)
    inside = [i for i in range(6) if i not in set(_held_out(gathered))]
    patches = material.grid[0] * material.grid[1]
    rows = torch.tensor(inside)[picks // patches] * patches + picks % patches
    model = PatchCore(config, PrecomputedSampler(rows), progress=False).fit(weave)
    values = model.evaluate(weave).metrics
    assert found["test_auroc"] == pytest.approx(values["image_auroc"], abs=1e-6)
    assert found["test_pixel_auroc"] == pytest.approx(values["pixel_auroc"], abs=1e-4)
    assert found["test_pixel_ap"] == pytest.approx(values["pixel_ap"], abs=1e-3)


def _held_out(gathered):
    from patchcore_fast.experiments.material import held_out_images

    return held_out_images(6, 0.5, 0).tolist()


def test_a_bank_of_no_rows_is_refused(gathered, config):
    with pytest.raises(ValueError, match="none of 768 rows"):
        tried(Combination("random", "random", 0.001, 0), gathered[1], config, CPU)
