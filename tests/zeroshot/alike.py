"""Pictures of one thing, which differ by noise, some with a bright square: what zero-shot scoring is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_alike(root: Path, train: int = 2, good: int = 4, bad: int = 2, side: int = 64) -> Path:
    """MVTec layout; the squares are where the other images have none."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    base = 128 + 40 * np.sin(x * 0.8) * np.sin(y * 0.8)
    for part, count in (("train/good", train), ("test/good", good), ("test/spot", bad)):
        (root / part).mkdir(parents=True)
        for i in range(count):
            picture = np.clip(base[:, :, None] + rng.normal(0, 3, (side, side, 3)), 0, 255).astype(np.uint8)
            if part == "test/spot":
                mask = np.zeros((side, side), np.uint8)
                mask[10 + 20 * i : 24 + 20 * i, 12:30] = 255
                picture[mask > 0] = (250, 240, 40)
                (root / "ground_truth/spot").mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(root / f"ground_truth/spot/{i:03d}_mask.png")
            Image.fromarray(picture).save(root / part / f"{i:03d}.png")
    return root
