"""Thresholds that are given to a bank, or asked of it; banks that grow, merge and come from older files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.decision import undecided, with_thresholds
from patchcore_fast.model.living import merged
from patchcore_fast.model.pixels import pixel_threshold

CONFIG = PatchCoreConfig(weights="random", image_size=64, device="cpu", ratio=0.2)


@pytest.fixture(scope="module")
def fitted() -> PatchCore:
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return PatchCore(CONFIG, progress=False).fit(images)


def test_both_are_given_or_asked_for(fitted: PatchCore, tmp_path: Any) -> None:
    bank = fitted.bank
    made = with_thresholds(bank, threshold=2, max_false_pixels=0.002)
    assert made.threshold == 2.0 and made.pixel_threshold == pixel_threshold(bank.normal_pixels, 0.002)
    assert made.config["decision"] == bank.config["decision"] | {"max_false_pixels": 0.002}
    made = with_thresholds(bank, pixel_threshold=1.5)
    assert (made.threshold, made.pixel_threshold) == (bank.threshold, 1.5)
    made.save(tmp_path / "b")
    again = PatchCore.load(tmp_path / "b", progress=False)
    assert again.pixel_threshold == 1.5
    again.decide(max_false_pixels=0.01)
    assert again.pixel_threshold == pytest.approx(fitted.pixel_threshold) and again.config.max_false_pixels == 0.01


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({}, TypeError, "is wanted"), ({"threshold": 1, "max_false_alarms": 0.1}, TypeError, "not both"),
    ({"pixel_threshold": 1, "max_false_pixels": 0.1}, TypeError, "not both"),
    ({"pixel_threshold": float("nan")}, ValueError, "pixel_threshold must be a finite number"),
    ({"pixel_threshold": True}, ValueError, "pixel_threshold must be a finite number"),
    ({"max_false_pixels": 1}, ValueError, r"max_false_pixels must lie in \(0, 1\)"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "kind", "words"), WRONG)
def test_wrong_ones_are_refused(fitted: PatchCore, given: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        with_thresholds(fitted.bank, **given)


def test_a_bank_without_maps_says_so(fitted: PatchCore) -> None:
    with pytest.raises(ValueError, match="no maps of held-out images"):
        with_thresholds(replace(fitted.bank, normal_pixels=None), max_false_pixels=0.1)


def test_another_scoring_takes_both_away(fitted: PatchCore) -> None:
    model = PatchCore(CONFIG, progress=False)
    model._bank = fitted.bank
    model.rescore(neighbours=1)
    assert model.threshold is None and model.pixel_threshold is None and model.bank.normal_pixels is None


def test_banks_that_grow_know_maps_of_all(fitted: PatchCore) -> None:
    more = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    model = PatchCore(CONFIG, progress=False)
    model._bank = fitted.bank
    model.update(more)
    assert torch.equal(model.bank.normal_pixels[:5], fitted.bank.normal_pixels) and len(model.bank.normal_pixels) == 8
    assert model.pixel_threshold == pixel_threshold(model.bank.normal_pixels, 0.01)
    old = PatchCore(CONFIG, progress=False)
    old._bank = replace(fitted.bank, pixel_threshold=None, normal_pixels=None)  # as an older version wrote it
    old.update(more)
    assert old.threshold == model.threshold and old.pixel_threshold is None
    both = merged([fitted.bank, fitted.bank], None, torch.device("cpu"))
    assert torch.equal(both.normal_pixels, fitted.bank.normal_pixels.repeat(2, 1))
    assert both.pixel_threshold == pixel_threshold(both.normal_pixels, 0.01)
    calibrated = replace(fitted.bank, calibrated=5)
    assert merged([fitted.bank, calibrated], None, torch.device("cpu")).threshold is None
    assert undecided(calibrated).calibrated == 0


SPOILT = {"more maps than images": ({"normal_pixels": torch.ones(6, 33)}, "6 normal_pixels of 5"),
          "falling": ({"normal_pixels": torch.arange(33.0).flip(0)[None]}, "ascending"),
          "infinite": ({"normal_pixels": torch.full((1, 33), torch.inf)}, "finite"),
          "other shares": ({"normal_pixels": torch.ones(1, 10)}, r"must be \[n, 33\] float32, got \(1, 10\)"),
          "float64": ({"normal_pixels": torch.ones(1, 33, dtype=torch.float64)}, "float32"),
          "no number": ({"pixel_threshold": float("nan")}, "pixel_threshold")}  # fmt: skip


@pytest.mark.parametrize("case", SPOILT)
def test_fields_are_checked(fitted: PatchCore, case: str) -> None:
    changes, words = SPOILT[case]
    with pytest.raises(ValueError, match=words):
        replace(replace(fitted.bank, normal_scores=None, images=[f"{i}.png" for i in range(5)]), **changes)


def test_more_images_may_have_calibrated_it_than_were_fitted_on(fitted: PatchCore, tmp_path: Any) -> None:
    scores = torch.ones(9, dtype=torch.float64)
    made = replace(fitted.bank, calibrated=9, normal_scores=scores, normal_pixels=torch.ones(9, 33))
    made.save(tmp_path / "b")
    assert MemoryBank.load(tmp_path / "b").calibrated == 9
    with pytest.raises(ValueError, match="9 normal_scores of 8"):
        replace(made, calibrated=8)
