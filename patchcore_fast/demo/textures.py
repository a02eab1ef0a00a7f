"""The demo's data: three CC0 photographs cut into a small MVTec-layout folder with synthetic defects.

Each 512 x 512 photograph is cut into 8 x 8 tiles before anything else happens to it, and the tiles are dealt out
like the squares of a chess board: training never sees a pixel of a test tile, and no tile is used twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchcore_fast.demo.defects import make_defect
from patchcore_fast.files import atomic_write

# Four test tiles get each defect; what is left of the 32 test tiles stays normal.
DEFECTS: dict[str, tuple[str, ...]] = {
    "brick": ("crack", "scratch", "stain", "foreign", "dent"),
    "grass": ("wire", "stain", "foreign", "dent"),
    "gravel": ("crack", "wire", "stain", "foreign", "dent"),
}
DONOR = {"brick": "gravel", "grass": "brick", "gravel": "grass"}
PER_DEFECT = 4
TILE = 64  # photograph pixels
SIZE = 192  # pixels of a written tile

ABOUT = """\
{name}: cut from a photograph that comes with scikit-image (skimage.data.{name}), CC0 (public domain dedication);
see the docstring of skimage.data.{name} for its origin. The defects are synthetic, made by patchcore_fast.
Layout as in MVTec AD: train/good, test/good, test/<defect>, ground_truth/<defect>/<number>_mask.png
"""


def photograph(name: str) -> NDArray[np.uint8]:
    """[512, 512] uint8, from the scikit-image wheel itself (no download).

    Raises
    ------
    ValueError : unknown name.  ImportError : scikit-image is missing.
    """
    if name not in DEFECTS:
        raise ValueError(f"photograph: name must be one of {', '.join(DEFECTS)}, got {name!r}")
    try:
        from skimage import data
    except ImportError as e:
        raise ImportError('the demo needs scikit-image: pip install "patchcore_fast[demo]"') from e
    return np.asarray(getattr(data, name)())


def _cut(photo: NDArray[np.uint8], row: int, col: int) -> NDArray[np.float64]:
    """One square, enlarged by itself: interpolating over its border would mix in the neighbours' pixels."""
    from PIL import Image

    square = photo[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE]
    large = Image.fromarray(square).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.asarray(large, dtype=np.float64) / 255


def _expose(tile: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Uneven light and sensor noise, drawn alike for normal and anomalous tiles."""
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    slope = rng.uniform(-0.05, 0.05, 2)
    light = rng.uniform(0.93, 1.07) + slope[0] * y + slope[1] * x
    noisy = tile * light + rng.normal(0, 1.5 / 255, tile.shape)
    return np.rint(np.clip(noisy, 0, 1) * 255).astype(np.uint8)


def _save(path: Path, grey: NDArray[np.uint8]) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as f:
        Image.fromarray(grey).save(f, format="PNG")


def write_texture(name: str, root: Path, *, seed: int = 0) -> Path:
    """Write one texture as `root/name` in MVTec layout and return that folder.

    Parameters
    ----------
    name : "brick", "grass" or "gravel".
    root : folder, made if it is not there. Files of an earlier call are overwritten with equal names.
    seed : places and shapes of the defects, light and noise; equal seeds give equal files.
    """
    photo, donor = photograph(name), photograph(DONOR[name])
    folder = Path(root) / name
    grid = range(photo.shape[0] // TILE)
    rng = np.random.default_rng([seed, sorted(DEFECTS).index(name)])
    train = [(r, c) for r in grid for c in grid if (r + c) % 2 == 0]
    test = [(r, c) for r in grid for c in grid if (r + c) % 2 == 1]
    rng.shuffle(test)
    for i, (r, c) in enumerate(train):
        _save(folder / "train" / "good" / f"{i:03d}.png", _expose(_cut(photo, r, c), rng))
    for kind in DEFECTS[name]:
        for i in range(PER_DEFECT):
            r, c = test.pop()
            image, mask = make_defect(kind, _cut(photo, r, c), _cut(donor, r, c), i, rng)
            _save(folder / "test" / kind / f"{i:03d}.png", _expose(image, rng))
            _save(folder / "ground_truth" / kind / f"{i:03d}_mask.png", mask.astype(np.uint8) * 255)
    for i, (r, c) in enumerate(test):
        _save(folder / "test" / "good" / f"{i:03d}.png", _expose(_cut(photo, r, c), rng))
    with atomic_write(folder / "about.txt", "w", encoding="utf-8") as f:
        f.write(ABOUT.format(name=name))
    return folder


def write_dataset(root: Path, names: Iterable[str] = tuple(DEFECTS), *, seed: int = 0) -> dict[str, Path]:
    """`write_texture` for each name; returns name -> folder."""
    return {name: write_texture(name, root, seed=seed) for name in names}
