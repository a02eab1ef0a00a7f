"""One small model and its images, scored once by us, for the comparisons with other implementations."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch

from patchcore_fast.model import PatchCore, PatchCoreConfig, Prediction

LAYERS = {"test_resnet": ("layer2", "layer3"), "test_efficientnet": ("blocks.1", "blocks.2", "blocks.3")}
PRESETS = {"amazon": PatchCoreConfig.amazon, "anomalib": PatchCoreConfig.anomalib}


@dataclass(frozen=True)
class Peer:
    """What another implementation needs to repeat our work, and what we got.

    whole : the timm model with its head, holding our weights.  train, test : [n, 3, H, W], normalised.
    indices : rows of the training patches in the bank.
    """

    model: PatchCore
    whole: torch.nn.Module
    train: torch.Tensor
    test: torch.Tensor
    indices: torch.Tensor
    predictions: list[Prediction]

    def agree(self, scores: Any, maps: Any, rtol: float = 1e-4) -> tuple[float, float]:
        """Assert every score and every pixel within rtol; return the largest relative differences of both."""
        ours, theirs = np.array([p.score for p in self.predictions]), np.asarray(scores, dtype=np.float64).ravel()
        our_maps = np.stack([p.anomaly_map for p in self.predictions])
        their_maps = np.asarray(maps, dtype=np.float64).reshape(our_maps.shape)
        off = float((np.abs(ours - theirs) / theirs).max()), float((np.abs(our_maps - their_maps) / their_maps).max())
        assert max(off) <= rtol, f"largest relative difference: scores {off[0]:.2e}, maps {off[1]:.2e}"
        return off


@functools.cache
def peer(preset: str, backbone: str, **changes: Any) -> Peer:
    """Fit and predict with random weights on smooth random images of 64 x 96 pixels."""
    config = PRESETS[preset](
        backbone=backbone, layers=LAYERS[backbone], weights="random", image_size=(64, 96), crop=None, ratio=0.1,
        batch_size=4, **changes,
    )  # fmt: skip
    images = smooth(10, (64, 96))
    model = PatchCore(config).fit(images[:6])
    net = model.extractor.backbone
    whole = timm.create_model(backbone).eval()
    assert not whole.load_state_dict(net.net.state_dict(), strict=False).unexpected_keys
    normal = (images - net.mean) / net.std
    return Peer(model, whole, normal[:6], normal[6:], model.bank.indices, model.predict(images[6:]))


def smooth(count: int, size: tuple[int, int]) -> torch.Tensor:
    """Random images [count, 3, H, W] in [0, 1] without sharp edges."""
    coarse = torch.rand(count, 3, size[0] // 4, size[1] // 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)


@torch.no_grad()
def shaken(net: torch.nn.Module, scale: float = 1.0) -> None:
    """Noise on all weights: the blocks of a new ViT do next to nothing, and its positions are nearly equal.

    scale : of what the final norm gives. Re-weighting says something of distances about 1 only.
    """
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    for name, parameter in net.named_parameters():
        if name.split(".")[-2] == "norm" and "blocks" not in name:
            parameter.mul_(scale)
