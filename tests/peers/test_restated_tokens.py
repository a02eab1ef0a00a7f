"""AnomalyDINO's, SuperADD's and anomalib's scoring of tokens in plain steps, against the presets on the same weights.

From tokens that hooks catch in timm's whole network. The real ones: test_presets.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from patchcore_fast.layered_bank import LayeredBank
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore, PatchCoreConfig, Prediction

from .peer_cases import shaken, smooth
from .restated_scoring import image_score, mirror_blur

GRID, SIZE = (10, 20), (160, 320)  # 200 patches: two are one hundredth
IMAGES = smooth(5, SIZE)


def fitted(preset: str, **settings: Any) -> PatchCore:
    config = PatchCoreConfig.preset(
        preset, backbone="test_vit", weights="random", image_size=SIZE, batch_size=2, **settings
    )
    model = PatchCore(config, progress=False)
    shaken(model.extractor.backbone.net, 0.1 if preset == "anomalib" else 1.0)
    return model.fit(IMAGES[:3])


def tokens(model: PatchCore, images: Tensor, blocks: list[int], norm: bool) -> list[Tensor]:
    """[B, P, D] of each of these blocks, without the class token."""
    backbone = model.extractor.backbone
    whole = timm.create_model("test_vit", dynamic_img_size=True).eval()
    state = {k.removeprefix("model."): v for k, v in backbone.net.state_dict().items()}
    assert not whole.load_state_dict(state, strict=False).unexpected_keys
    caught: list[Tensor] = []
    for number in blocks:
        whole.blocks[number].register_forward_hook(lambda _, __, out: caught.append(out))
    with torch.no_grad():
        whole((images - backbone.mean) / backbone.std)
        return [(whole.norm(x) if norm else x)[:, 1:].double() for x in caught]


def agree(found: list[Prediction], scores: Any, patches: Tensor, mode: str) -> None:
    """Scores, and maps of patches [B, P]: resized, then smoothed."""
    up = F.interpolate(patches.view(-1, 1, *GRID), size=SIZE, mode=mode)[:, 0].numpy()
    np.testing.assert_allclose(np.stack([p.anomaly_map for p in found]), [mirror_blur(m, 4) for m in up], rtol=1e-4)
    np.testing.assert_allclose([p.score for p in found], scores, rtol=1e-4)


def test_anomalydino() -> None:
    model = fitted("anomalydino", layers=(5,))
    train, test = (F.normalize(tokens(model, x, [5], True)[0], dim=2) for x in (IMAGES[:3], IMAGES[3:]))
    assert isinstance(model.bank, MemoryBank) and len(model.bank) == 600
    distance = 1 - (test @ train.flatten(0, 1).T).amax(2)
    agree(model.predict(IMAGES[3:]), distance.sort(descending=True).values[:, :2].mean(1), distance, "nearest")


def test_anomalib_with_a_vit() -> None:
    model = fitted("anomalib", layers=(2, 4))

    def rows(images: Tensor) -> Tensor:
        maps = [x.transpose(1, 2).unflatten(2, GRID) for x in tokens(model, images, [2, 4], True)]
        return torch.cat([F.avg_pool2d(m, 3, 1, 1) for m in maps], 1).flatten(2).transpose(1, 2)

    assert isinstance(model.bank, MemoryBank)
    bank, test = rows(IMAGES[:3]).flatten(0, 1)[model.bank.indices], rows(IMAGES[3:])
    scores = [image_score(x, bank, 9) for x in test]
    distance = torch.cdist(test, bank).amin(2)
    assert all(score < 0.99 * one.max() for score, one in zip(scores, distance, strict=True))
    agree(model.predict(IMAGES[3:]), scores, distance, "nearest")


@pytest.mark.parametrize("scales", [None, (64.0, 64.0, 64.0)], ids=["ours", "theirs"])
def test_superadd(scales: tuple[float, ...] | None) -> None:
    """Their scale is the width of a row."""
    blocks = [1, 3, 5]
    model = fitted("superadd", layers=tuple(blocks), tile=None)
    assert isinstance(model.bank, LayeredBank)
    if scales:
        model._bank, model._scorer = replace(model.bank, scales=scales), None
    scores = torch.zeros(2, 200, dtype=torch.float64)
    train, test = (tokens(model, x, blocks, False) for x in (IMAGES[:3], IMAGES[3:]))
    for old, new, part, scale in zip(train, test, model.bank.parts, model.bank.scales, strict=True):
        scores += torch.cdist(new, old.flatten(0, 1)[part.indices]).amin(2) / scale / len(blocks)
    agree(model.predict(IMAGES[3:]), scores.amax(1), scores, "bilinear")  # one patch is the highest 0.1 % of 200
