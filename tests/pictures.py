"""Small image folders for the tests of the pipeline."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from patchcore_fast.data import ImageSet, scan


def texture(rng: np.random.Generator, side: int = 64) -> np.ndarray:
    """A grey weave with noise, [side, side, 3] uint8; every call differs a little."""
    y, x = np.mgrid[:side, :side]
    weave = 128 + 40 * np.sin(x * 0.8 + rng.uniform(0, 6)) * np.sin(y * 0.8)
    return np.clip(weave[:, :, None] + rng.normal(0, 6, (side, side, 3)), 0, 255).astype(np.uint8)


def write_mvtec(root: Path, train: int = 6, good: int = 3, bad: int = 3, side: int = 64) -> Path:
    """An MVTec folder: weave, and in test/spot a bright square whose mask is exact."""
    rng = np.random.default_rng(0)
    for part, count in (("train/good", train), ("test/good", good), ("test/spot", bad)):
        (root / part).mkdir(parents=True)
        for i in range(count):
            picture = texture(rng, side)
            if part == "test/spot":
                mask = np.zeros((side, side), np.uint8)
                top, left = rng.integers(8, side - 24, 2)
                mask[top : top + 14, left : left + 14] = 255
                picture[mask > 0] = (250, 240, 40)
                (root / "ground_truth/spot").mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(root / f"ground_truth/spot/{i:03d}_mask.png")
            Image.fromarray(picture).save(root / part / f"{i:03d}.png")
    return root


def write_photos(root: Path, *names: str, side: int = 24) -> Path:
    """Textures that all differ, in whatever format the suffix says."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(list(name.encode()))
        Image.fromarray(texture(rng, side)).save(path)
    return root


def write_masks(root: Path, *names: str, side: int = 24, empty: bool = False) -> Path:
    """Masks with a square that differs from file to file, or with nothing."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = np.zeros((side, side), np.uint8)
        if not empty:
            top = sum(name.encode()) % (side // 2)
            mask[top : top + side // 4, 3:9] = 255
        Image.fromarray(mask).save(path)
    return root


def quiet_scan(root: Path) -> ImageSet:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return scan(root)
