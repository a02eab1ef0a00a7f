"""Bad input to the pipeline: each case with its error type and what the message must say."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from patchcore_fast import metrics, scoring
from patchcore_fast.data import ImageRecord, load_image, load_mask, scan, scan_images
from patchcore_fast.errors import BankError, DataError
from patchcore_fast.features import Backbone, FeatureExtractor
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore, PatchCoreConfig

from ..pictures import write_mvtec

TINY = {"backbone": "test_efficientnet", "layers": (1, 2), "weights": "random", "image_size": 64, "ratio": 0.1}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder with everything that can be wrong in it."""
    root = tmp_path_factory.mktemp("bad")
    write_mvtec(root / "good")
    (root / "empty").mkdir()
    (root / "no_images").mkdir()
    (root / "no_images/readme.txt").write_text("text")
    (root / "empty_split/train/good").mkdir(parents=True)
    write_mvtec(root / "not_good")
    (root / "not_good/train/good").rename(root / "not_good/train/spot")
    write_mvtec(root / "odd_mask")
    Image.new("L", (32, 64)).save(root / "odd_mask/ground_truth/spot/000_mask.png")
    whole = (root / "good/train/good/000.png").read_bytes()
    (root / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "zero.png").write_bytes(b"")
    (root / "text.jpg").write_text("not a picture")
    Image.new("F", (8, 8), 7.0).save(root / "float.tif")
    Image.new("I", (8, 8), 70_000).save(root / "deep.tif")
    (root / "broken_train/train/good").mkdir(parents=True)
    (root / "broken_train/train/good/cut.png").write_bytes(whole[: len(whole) // 2])
    torch.save({"weights": [1, 2]}, root / "list.pth")
    (root / "noise.pth").write_bytes(b"noise")
    safetensors.torch.save_file({"conv_stem.weight": torch.ones(2)}, root / "other.safetensors")
    state = {k: v.contiguous() for k, v in Backbone("test_efficientnet", (1,), "random").net.state_dict().items()}
    safetensors.torch.save_file(state | {"conv_stem.weight": torch.ones(2, 2)}, root / "shape.safetensors")
    rows = torch.ones(4, 3)
    MemoryBank(rows, torch.arange(4), config={"colour": "red"}).save(root / "odd_config.safetensors")
    config = PatchCoreConfig(**TINY).to_dict()
    MemoryBank(rows, torch.arange(4), config=config).save(root / "narrow.safetensors")
    MemoryBank(rows, torch.arange(4), config=config, weights="0").save(root / "other_weights.safetensors")
    return root


@functools.cache
def _fitted() -> PatchCore:
    return PatchCore(PatchCoreConfig(**TINY)).fit(torch.rand(4, 3, 64, 64))


def _config(**fields: Any) -> Callable[[Path], Any]:
    return lambda _: PatchCoreConfig(**fields)


class _Choosy:
    """A sampler that selects nothing."""

    def select(self, features: torch.Tensor) -> torch.Tensor:
        return torch.arange(0)


Case = tuple[Callable[[Path], Any], type[Exception], str]
GOOD, OTHER = "good/train/good/000.png", "other.safetensors"
CASES: dict[str, Case] = {
    # folders and files
    "missing folder": (lambda p: scan(p / "nowhere"), DataError, "nowhere: no such folder"),
    "file for a folder": (lambda p: scan(p / "cut.png"), DataError, "cut.png: not a folder"),
    "empty folder": (lambda p: scan(p / "empty"), DataError, "empty: no images"),
    "folder of text": (lambda p: scan(p / "no_images"), DataError, "no_images: no images"),
    "empty split": (lambda p: scan(p / "empty_split"), DataError, "hold no images"),
    "train without good": (lambda p: scan(p / "not_good"), DataError, "no folder named good"),
    "mask of another size": (lambda p: scan(p / "odd_mask"), DataError, "000_mask.png: mask of 64 x 32 .* 64 x 64"),
    "missing image": (lambda p: scan_images(p / "no.png"), DataError, "no such file"),
    "empty list": (lambda p: scan_images([]), DataError, "list of images is empty"),
    "list of numbers": (lambda p: scan_images([1]), TypeError, "got int"),
    "truncated image": (lambda p: load_image(p / "cut.png"), DataError, "cut.png: cannot be read"),
    "empty file": (lambda p: load_image(p / "zero.png"), DataError, "zero.png: cannot be read"),
    "text as jpeg": (lambda p: load_image(p / "text.jpg"), DataError, "text.jpg: cannot be read"),
    "folder as image": (lambda p: load_image(p), DataError, "cannot be read"),
    "vanished image": (lambda p: load_image(p / "no.png"), DataError, "no.png: no such file"),
    "broken mask": (lambda p: load_mask(p / "cut.png"), DataError, "cut.png: cannot be read"),
    "float image out of range": (lambda p: load_image(p / "float.tif"), DataError, "scale is not known"),
    "deep integers": (lambda p: load_image(p / "deep.tif"), DataError, r"outside \[0, 65535\]"),
    "size zero": (lambda p: load_image(p / "cut.png", 0), ValueError, "size must be at least 1"),
    "size as text": (lambda p: load_image(p / "cut.png", "big"), TypeError, "size must be an integer"),
    "crop beyond the image": (lambda p: load_image(p / GOOD, 32, 40), ValueError, "crop 40 x 40 is larger"),
    # settings
    "ratio above one": (_config(ratio=1.5), ValueError, r"ratio must be in \(0, 1\), got 1.5; sampler"),
    "ratio one": (_config(ratio=1), ValueError, r"ratio must be in \(0, 1\), got 1;"),
    "ratio as text": (_config(ratio="1%"), TypeError, "ratio must be a number"),
    "unknown fusion": (_config(fusion="sum"), ValueError, "fusion must be one of concat, amazon, interpolated, graph"),
    "unknown sampler": (_config(sampler="best"), ValueError, "sampler must be one of"),
    "even patch": (_config(patch_size=2), ValueError, "patch_size must be odd"),
    "no layers": (_config(layers=()), ValueError, "at least one layer"),
    "mixed layers": (_config(layers=(1, "blocks.2")), TypeError, "all stage numbers or all module names"),
    "dim with concat": (_config(dim=64), ValueError, "dim belongs to"),
    "crop above size": (_config(image_size=64, crop=65), ValueError, "crop 65 is larger"),
    "size of three": (_config(image_size=(1, 2, 3)), ValueError, "side or"),
    "size as float": (_config(image_size=2.5), TypeError, "image_size must be an integer"),
    "no neighbours": (_config(neighbours=0), ValueError, "neighbours must be at least 1"),
    "true neighbours": (_config(neighbours=True), TypeError, "neighbours must be an integer"),
    "b of one": (_config(reweight_neighbours=1), ValueError, "reweight_neighbours must be at least 2"),
    "negative sigma": (_config(sigma=-1), ValueError, "sigma must be finite"),
    "no false alarm at all": (_config(max_false_alarms=0), ValueError, "max_false_alarms"),
    "odd device": (_config(device="abacus"), ValueError, "device 'abacus'"),
    "number as backbone": (_config(backbone=18), TypeError, "backbone must be a non-empty string"),
    "unknown setting": (lambda p: PatchCoreConfig.from_dict({"colour": 1}), ValueError, "unknown fields colour"),
    "dict as config": (lambda p: PatchCore({"ratio": 0.1}), TypeError, "config must be a PatchCoreConfig"),
    "sampler without select": (lambda p: PatchCore(sampler=object()), TypeError, r"select\(features\)"),
    # backbones
    "unknown model": (lambda p: Backbone("resnet1818"), ValueError, "no model 'resnet1818'.*resnet18"),
    "unknown layer": (lambda p: Backbone("test_resnet", ("layer9",), "random"), ValueError, "no layer 'layer9'"),
    "layer beyond the last": (lambda p: Backbone("test_resnet", (5,), "random"), ValueError, "layers 0 to 4, got 5"),
    "layers repeat": (lambda p: Backbone("test_resnet", (1, 1), "random"), ValueError, "repeat"),
    "no layer": (lambda p: Backbone("test_resnet", (), "random"), ValueError, "layers is empty"),
    "missing weights": (lambda p: Backbone("test_resnet", (1,), p / "no.pth"), DataError, "no such weight file"),
    "weights of noise": (lambda p: Backbone("test_resnet", (1,), p / "noise.pth"), DataError, "cannot be read"),
    "weights of lists": (lambda p: Backbone("test_resnet", (1,), p / "list.pth"), DataError, "no state dict"),
    "other weights": (lambda p: Backbone("test_resnet", (1,), p / OTHER), DataError, "lacks .* tensors wanted, first"),
    "weights of another shape": (
        lambda p: Backbone("test_efficientnet", (1,), p / "shape.safetensors"), DataError, r"shape \(2, 2\)"),
    "few lite tensors": (lambda p: Backbone("tf_efficientnet_lite0", (1,), p / OTHER), DataError, "holds 1 tensors"),
    "fixed size": (lambda p: Backbone("test_vit_relpos", (1,), "random")(torch.rand(1, 3, 64, 64)), ValueError, "160"),
    "even patch of an extractor": (
        lambda p: FeatureExtractor(Backbone("test_resnet", (1,), "random"), patch_size=2), ValueError, "odd"),
    # tensors
    "bytes as images": (lambda p: _fitted().predict(torch.zeros(1, 3, 8, 8).byte()), TypeError, "floating point"),
    "normalised images": (lambda p: _fitted().predict(torch.randn(2, 3, 64, 64)), ValueError, "do not normalise"),
    "NaN images": (lambda p: _fitted().predict(torch.full((1, 3, 64, 64), torch.nan)), ValueError, r"\[0, 1\]"),
    "grey tensor": (lambda p: _fitted().predict(torch.rand(2, 1, 64, 64)), ValueError, r"\[B, 3, H, W\]"),
    "one matrix": (lambda p: _fitted().predict(torch.rand(64, 64)), ValueError, r"\[N, 3, H, W\]"),
    "number as images": (lambda p: _fitted().predict(3), TypeError, "got int"),
    "masks of another shape": (
        lambda p: _fitted().evaluate([{"image": torch.rand(1, 3, 8, 8), "label": [1], "mask": torch.ones(1, 4, 4)}]),
        ValueError, r"masks of shape \(1, 4, 4\)"),
    "strings in a loader": (lambda p: _fitted().predict(iter(["a"])), TypeError, "batches must be tensors"),
    # fit, predict, evaluate
    "fit nothing": (lambda p: PatchCore(PatchCoreConfig(**TINY)).fit([]), DataError, "empty"),
    "fit an empty loader": (lambda p: PatchCore(PatchCoreConfig(**TINY)).fit(iter(())), DataError, "no images"),
    "fit broken": (lambda p: PatchCore(PatchCoreConfig(**TINY)).fit(p / "broken_train"), DataError, "cut.png"),
    "coreset too small": (
        lambda p: PatchCore(PatchCoreConfig(**TINY), _Choosy()).fit(torch.rand(1, 3, 64, 64)),
        ValueError, "has 0 of 256"),
    "predict before fit": (lambda p: PatchCore().predict(p), ValueError, "call fit or load first"),
    "save before fit": (lambda p: PatchCore().save(p / "x"), ValueError, "call fit or load first"),
    "evaluate without test": (lambda p: _fitted().evaluate(p / "good/train"), DataError, "no test images"),
    "evaluate unlabelled": (lambda p: _fitted().evaluate([ImageRecord(p / GOOD)]), DataError, "no image has a label"),
    "save into no folder": (lambda p: _fitted().save(p / "no/where"), FileNotFoundError, "No such file"),
    # banks
    "bank of another tool": (lambda p: PatchCore.load(p / "other.safetensors"), BankError, "not a memory bank"),
    "bank with odd settings": (lambda p: PatchCore.load(p / "odd_config.safetensors"), BankError, "fields colour"),
    "bank of another width": (lambda p: PatchCore.load(p / "narrow.safetensors"), BankError, "3 features"),
    "bank of others": (lambda p: PatchCore.load(p / "other_weights.safetensors"), BankError, "made with other weights"),
    "query of another width": (
        lambda p: MemoryBank.load(p / "narrow.safetensors").search(torch.ones(2, 4)), ValueError, r"\[Q, 3\]"),
    # scores and metrics
    "no distances": (lambda p: scoring.patch_scores(torch.ones(3)), ValueError, r"\[P, k\]"),
    "unknown image score": (lambda p: scoring.image_score(torch.ones(1, 2), "mean"), ValueError, "method must be"),
    "reweighting alone": (lambda p: scoring.image_score(torch.ones(1, 2), "reweighted"), ValueError, "needs features"),
    "border": (lambda p: scoring.anomaly_map(torch.ones(1, 2, 2), (4, 4), border="wrap"), ValueError, "border must be"),
    "flat patches": (lambda p: scoring.anomaly_map(torch.ones(2, 2), (4, 4)), ValueError, r"\[B, h, w\]"),
    "scores without labels": (lambda p: metrics.image_auroc([1.0, 2.0], [1]), ValueError, "2 scores for 1 labels"),
    "labels beyond 0 and 1": (lambda p: metrics.image_auroc([1.0, 2.0], [0, 2]), ValueError, "0 or 1"),
    "NaN scores": (lambda p: metrics.image_auroc([1.0, np.nan], [0, 1]), ValueError, "1 of 2 scores"),
    "words as scores": (lambda p: metrics.image_auroc(["a", "b"], [0, 1]), TypeError, "scores must be numbers"),
    "mask size": (lambda p: metrics.aupro(np.ones((1, 4, 4)), np.ones((1, 4, 5))), ValueError, r"\(4, 4\) .* \(4, 5\)"),
    "rate of zero": (lambda p: metrics.aupro(np.ones((1, 2, 2)), np.ones((1, 2, 2)), 0), ValueError, "max_fpr"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case: str, place: Path) -> None:
    act, error, message = CASES[case]
    with pytest.raises(error, match=message):
        act(place)
