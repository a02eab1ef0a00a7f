"""Thresholds by images that were not fitted on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from patchcore_fast.methods import make_method
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.calibration import balanced_threshold
from patchcore_fast.model.pixels import pixel_threshold, quantiles_of
from patchcore_fast.model.threshold import false_alarm_threshold

CONFIG = PatchCoreConfig(weights="random", image_size=64, device="cpu", ratio=0.2)


def _images(count: int, seed: int, bright: float = 1.0) -> torch.Tensor:
    return (torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * bright).clamp(0, 1)


@pytest.fixture(scope="module")
def model() -> PatchCore:
    return PatchCore(CONFIG, progress=False).fit(_images(4, 0))


def test_good_images_stand_for_held_out_ones(model: PatchCore, tmp_path: object) -> None:
    good = _images(6, 1)
    found = model.predict(good)
    fresh = PatchCore(CONFIG, progress=False)
    fresh._bank = model.bank
    said = fresh.calibrate(good, max_false_alarms=0.1)
    scores = [p.score for p in found]
    maps = torch.cat([quantiles_of(torch.from_numpy(p.anomaly_map)[None]) for p in found])
    assert said.good == pytest.approx(scores) and said.balanced is None and not said.defects and not said.unread
    assert fresh.threshold == pytest.approx(false_alarm_threshold(scores, 0.1))
    assert fresh.pixel_threshold == pytest.approx(pixel_threshold(maps, 0.01))
    assert fresh.bank.calibrated == 6 and fresh.config.max_false_alarms == 0.1
    assert fresh.bank.config["decision"]["max_false_alarms"] == 0.1
    assert fresh.predict(good[:1])[0].pixel_threshold == fresh.pixel_threshold


def test_defects_part_from_good_images(model: PatchCore) -> None:
    fresh = PatchCore(CONFIG, progress=False)
    fresh._bank = model.bank
    said = fresh.calibrate(_images(5, 1), _images(3, 2, 0.2))
    bad = [score for _, score in said.defects]
    assert said.balanced.threshold == fresh.threshold == balanced_threshold(said.good, bad).threshold
    by_share = PatchCore(CONFIG, progress=False)
    by_share._bank = model.bank
    said = by_share.calibrate(_images(5, 1), _images(3, 2, 0.2), max_false_alarms=0.05)
    assert said.balanced is None and by_share.threshold == pytest.approx(false_alarm_threshold(said.good, 0.05))


def test_other_methods_too() -> None:
    made = make_method("subspace", CONFIG.replace(backbone="test_resnet", layers=(1, 2), ratio=None), progress=False)
    made.fit(_images(5, 0))
    assert made.pixel_threshold is not None
    made.calibrate(_images(4, 1))
    assert made.learned.calibrated == 4 and len(made.learned.normal_pixels) == 4


def test_separate_scores_part_in_the_middle() -> None:
    found = balanced_threshold([1.0, 2.0, 3.0], [5.0, 6.0])
    assert found.threshold == 4.0 and found.interval[0] <= 4.0 <= found.interval[1]


def test_a_single_defect_is_enough() -> None:
    found = balanced_threshold([1.0, 2.0, 3.0], [5.0])
    assert found.threshold == 4.0 and found.interval[0] <= 4.0 <= found.interval[1] == 4.0


def test_the_balance_is_the_best_there_is() -> None:
    rng = np.random.default_rng(0)
    good, bad = rng.normal(0, 1, 40), rng.normal(1.5, 1, 25)
    chosen = balanced_threshold(good, bad).threshold
    gain = [(bad > t).mean() - (good > t).mean() for t in [chosen, *good, *bad, *(good + 1e-9), *(bad + 1e-9)]]
    assert gain[0] == pytest.approx(max(gain)) and chosen not in {*good, *bad}
    assert balanced_threshold(good, bad) == balanced_threshold(good, bad)


@pytest.mark.parametrize(("good", "bad", "words"), [([], [1.0], "no good images"), ([1.0], [], "no defects"),
                                                    ([2.0, 3.0], [1.0], "no higher"),
                                                    ([2.0, 2.0], [2.0], "no higher")])  # fmt: skip
def test_what_cannot_be_parted(good: list[float], bad: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        balanced_threshold(good, bad)


def test_one_image_is_too_few(model: PatchCore) -> None:
    fresh = PatchCore(CONFIG, progress=False)
    fresh._bank = replace(model.bank)
    with pytest.raises(ValueError, match="two good images or more are wanted, got 1"):
        fresh.calibrate(_images(1, 1))
    assert fresh.threshold == model.threshold
