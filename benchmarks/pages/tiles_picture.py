"""The picture of docs/tiles.md: a long piece of cloth with small defects, squashed and in tiles.

    python -m benchmarks.pages.tiles_picture [docs/images/tiles.jpg]

The cloth is drawn here, from a seed. Prints for each setting how far the weakest defect stands above normal cloth, and
how much brighter the map of normal cloth is along the cuts between tiles than elsewhere (1 is no seam).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.features.tiles import spans
from patchcore_fast.files import atomic_write
from patchcore_fast.model import PatchCore
from patchcore_fast.report.images import overlay, shared_scale

HEIGHT, WIDTH, TILE = 512, 1536, 320
SETTINGS = {
    "whole, squashed to 256 x 256": {"image_size": 256},
    "tiles without overlap": {"image_size": "native", "tile": TILE, "overlap": 0},
    "tiles, overlap 64": {"image_size": "native", "tile": TILE, "overlap": 64},
}
FONT = 16


def cloth(seed: int, defects: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A photograph [H, W, 3] of woven cloth with uneven yarn, and where its three defects are."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    yarn = [ndimage.gaussian_filter(rng.normal(0, 1, (HEIGHT, WIDTH)), s) for s in ((2, 25), (25, 2))]
    x, y = x + 12 * yarn[0] + rng.uniform(0, 9), y + 12 * yarn[1] + rng.uniform(0, 9)
    over = np.sin(np.pi * x / 9) * np.sin(np.pi * y / 9) > 0
    thread = np.where(over, np.abs(np.sin(np.pi * y / 9)), np.abs(np.sin(np.pi * x / 9)))
    grey = 70 + 110 * thread + 12 * over + rng.normal(0, 4, (HEIGHT, WIDTH))
    mask = np.zeros((HEIGHT, WIDTH), bool)
    if defects:
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        knot = np.hypot(rows - 130, columns - 330) < 9
        grey[knot] = 215 - 8 * np.hypot(rows - 130, columns - 330)[knot]
        missing = (abs(rows - 330) < 4) & (abs(columns - 800) < 40)
        grey[missing] = 60 + rng.normal(0, 4, missing.sum())
        stain = np.clip(1 - np.hypot((rows - 200) / 22, (columns - 1230) / 30), 0, 1)
        grey *= 1 - 0.5 * np.minimum(stain * 3, 1)
        mask = knot | missing | (stain > 0.1)
    colour = np.clip(grey, 0, 255)[:, :, None] * (0.78, 0.86, 1.0)
    return colour.astype(np.uint8), mask


def seam(level: NDArray[np.float32], overlap: int) -> float:
    """Mean of a map within 8 pixels of the cuts between columns of tiles, over its mean between them."""
    length = -(-WIDTH // 16) * 16
    cuts = [span.last for span in spans(length, TILE, (TILE - overlap) // 16 * 16, 8)[:-1]]
    near = np.min([abs(np.arange(WIDTH) - cut) for cut in cuts], axis=0)
    return float(level[:, near < 8].mean() / level[:, near > 40].mean())


def main(argv: list[str] | None = None) -> None:
    """Fit, predict, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", nargs="?", type=Path, default=Path("docs/images/tiles.jpg"))
    parser.add_argument("--train", type=int, default=4, help="normal images to fit on")
    parser.add_argument("--backbone", default=PatchCoreConfig().backbone)
    args = parser.parse_args(argv)

    photograph, mask = cloth(100, defects=True)
    regions, count = ndimage.label(ndimage.binary_dilation(mask, iterations=6))
    rows: list[tuple[str, NDArray[np.uint8]]] = [("the cloth, its three defects outlined", photograph)]
    for name, settings in SETTINGS.items():
        config = PatchCoreConfig(backbone=args.backbone, ratio=0.02, batch_size=4, **settings)
        model = PatchCore(config, progress=False).fit(_images([cloth(i)[0] for i in range(args.train)], config))
        maps = [_at_size(p.anomaly_map) for p in model.predict(_images([photograph, cloth(101)[0]], config))]
        weakest = min(float(maps[0][regions == n].max()) for n in range(1, count + 1))
        said = f"weakest defect {weakest / maps[1].max():.2f} x the largest score of normal cloth"
        if config.tile is not None:
            said += f", normal cloth at the cuts {seam(maps[1], config.overlap):.3f} x elsewhere"
        print(f"{name}: {said}")
        low, high = shared_scale(maps)
        rows.append((name, overlay(photograph, maps[0], vmin=low, vmax=high, mask=mask)))
    _draw(rows, mask, args.picture)


def _images(photographs: list[NDArray[np.uint8]], config: PatchCoreConfig) -> torch.Tensor:
    from PIL import Image

    size = config.resize or (HEIGHT, WIDTH)
    resized = [Image.fromarray(p).resize(size[::-1], Image.Resampling.BILINEAR) for p in photographs]
    return torch.from_numpy(np.stack([np.asarray(r) for r in resized])).permute(0, 3, 1, 2).float() / 255


def _at_size(level: NDArray[np.float32]) -> NDArray[np.float32]:
    return ndimage.zoom(level, (HEIGHT / level.shape[0], WIDTH / level.shape[1]), order=1)


def _draw(rows: list[tuple[str, NDArray[np.uint8]]], mask: NDArray[np.bool_], path: Path) -> None:
    """The pictures one above the other at half their size, each under its name."""
    from PIL import Image, ImageDraw, ImageFont

    from patchcore_fast.report.images import outline

    height, width = HEIGHT // 2, WIDTH // 2
    sheet = Image.new("RGB", (width, (height + 24) * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (name, picture) in enumerate(rows):
        top = number * (height + 24)
        draw.text((4, top + 3), name, fill="black", font=ImageFont.load_default(FONT))
        drawn = outline(picture, mask, 2) if number == 0 else picture
        sheet.paste(Image.fromarray(drawn).resize((width, height), Image.Resampling.LANCZOS), (0, top + 24))
    with atomic_write(path) as f:
        sheet.save(f, format="JPEG", quality=72)


if __name__ == "__main__":
    main()
