"""Small stores of features without images or a network."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from patchcore_fast.feature_store import ImageBlock, StoreWriter
from patchcore_fast.model import PatchCoreConfig
from patchcore_fast.model.stored import fixed_settings

GRID, COLUMNS = (4, 5), 8


def write_store(
    folder: Path, images: int = 9, seed: int = 0, shard: int = 100, groups: int = 3, embedded: bool = False
) -> Path:
    """A store of images in `groups` groups that differ, with files of `shard` images.

    embedded : with embeddings of the images, two numbers that say the group; else as earlier versions wrote it.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(groups, COLUMNS))
    about = fixed_settings(PatchCoreConfig(layers=(1,), weights="random")) | {
        "weights": "none", "widths": [COLUMNS], "type": "float32", "count": images,
    }  # fmt: skip
    about |= {"embedding": 2} if embedded else {}
    with closing(StoreWriter(folder, about)) as writer:
        for number in range(images):
            rows = centres[number % groups] + rng.normal(scale=0.3, size=(GRID[0] * GRID[1], COLUMNS))
            angle = 2 * np.pi * (number % groups) / groups + 0.01 * number
            known = np.array([[np.cos(angle), np.sin(angle)]], np.float32) if embedded else None
            writer.add(ImageBlock(number, number + 1, [f"good/{number}.png"], [GRID]), rows.astype(np.float32), known)
            if (number + 1) % shard == 0:
                writer.flush()
        writer.finish()
    return folder
