"""The smallest models of the methods, and images for them."""

from __future__ import annotations

from typing import Any

import torch

from patchcore_fast.config import PatchCoreConfig

SIDE = 64
TINY: dict[str, Any] = {
    "backbone": "test_efficientnet", "layers": (1, 2), "weights": "random", "image_size": SIDE, "sigma": 2.0,
    "batch_size": 4, "device": "cpu",
}  # fmt: skip


def config(**changes: Any) -> PatchCoreConfig:
    return PatchCoreConfig(**(TINY | changes))


def images(count: int, seed: int = 0) -> torch.Tensor:
    """[count, 3, SIDE, SIDE] in [0, 1]: one smooth picture with noise, so that they lie alike."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0.2, 0.8, SIDE).expand(3, SIDE, SIDE)
    return (ramp + 0.05 * torch.randn(count, 3, SIDE, SIDE, generator=generator)).clamp(0, 1)
