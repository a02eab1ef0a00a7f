"""The features that providers are measured on: a name, a description, and a generator that gives the same rows again.

A longer case begins with the rows of a shorter one, so that lines over N are lines over one data set.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from patchcore_fast.files import atomic_write

_CHUNK = 65_536
_VERSION = 1  # of the generators: part of the names of cached files
Parts = Iterator[np.ndarray]


@dataclass(frozen=True)
class Case:
    """One kind of features.

    n, d : the size meant by the name; --n and --d change it.
    parts : (n, d, seed) -> float32 blocks [., d] that make n rows or more.
    keep : name under which the rows are kept between runs, for those that are slow to make.
    """

    name: str
    about: str
    n: int
    d: int
    parts: Callable[[int, int, int], Parts]
    keep: str = ""


def _chunks(n: int, d: int, seed: int) -> Iterator[tuple[np.random.Generator, int]]:
    for i, lo in enumerate(range(0, n, _CHUNK)):
        yield np.random.default_rng([seed, i]), min(_CHUNK, n - lo)


def _gaussian(n: int, d: int, seed: int) -> Parts:
    for random, rows in _chunks(n, d, seed):
        yield random.standard_normal((rows, d), np.float32)


def _clustered(n: int, d: int, seed: int) -> Parts:
    centres = 4 * np.random.default_rng([seed, 2**32 - 1]).standard_normal((256, d), np.float32)
    for random, rows in _chunks(n, d, seed):
        spread = random.standard_normal((rows, d), np.float32)
        spread += centres[random.integers(0, len(centres), rows)]
        yield spread


def _low_rank(n: int, d: int, seed: int) -> Parts:
    """Like features of images in what matters for pruning: crowds, few directions that carry them, a little noise."""
    inner = min(16, d)
    random = np.random.default_rng([seed, 2**32 - 1])
    frame = np.linalg.qr(random.standard_normal((d, inner)))[0].T.astype(np.float32)
    centres = 3 * random.standard_normal((64, inner), np.float32)
    spread = random.uniform(0.3, 1.5, (64, 1)).astype(np.float32)
    falling = 1 / np.sqrt(np.arange(1, inner + 1, dtype=np.float32))
    for chunk, rows in _chunks(n, d, seed):
        which = chunk.integers(0, 64, _CHUNK)[:rows]  # whole draws, so that fewer rows begin alike
        place = chunk.standard_normal((_CHUNK, inner), np.float32)[:rows]
        noise = chunk.standard_normal((rows, d), np.float32)
        yield (centres[which] + spread[which] * falling * place) @ frame + np.float32(0.05) * noise


def _duplicates(n: int, d: int, seed: int) -> Parts:
    colours = np.random.default_rng([seed, 2**32 - 1]).standard_normal((4096, d), np.float32)
    for random, rows in _chunks(n, d, seed):
        yield colours[random.integers(0, len(colours), rows)]


def _integer(n: int, d: int, seed: int) -> Parts:
    for random, rows in _chunks(n, d, seed):
        yield random.integers(-8, 9, (rows, d)).astype(np.float32)


def _photographs(fusion: str) -> Callable[[int, int, int], Parts]:
    def parts(n: int, d: int, seed: int) -> Parts:
        from patchcore_fast.demo.textures import photograph

        photos = [torch.from_numpy(photograph(name)).float() / 255 for name in ("brick", "grass", "gravel")]
        random = np.random.default_rng(seed)

        def crops() -> Iterator[torch.Tensor]:
            for i in range(-(-n // 784)):
                y, x = random.integers(0, 512 - 224, 2)
                yield photos[i % 3][y : y + 224, x : x + 224].expand(1, 3, -1, -1)

        yield from _extracted(crops(), fusion, d)

    return parts


def _extracted(images: Iterator[torch.Tensor], fusion: str, d: int) -> Parts:
    from patchcore_fast.features import Backbone, FeatureExtractor
    from patchcore_fast.samplers.projection import project, random_projection

    extract = FeatureExtractor(Backbone("tf_efficientnet_lite0", (2, 3)), fusion, dim=d if fusion == "amazon" else None)
    for image in images:
        features = extract(image).features
        if features.shape[1] != d:
            features = project(features, random_projection(features.shape[1], d, seed=0), torch.device("cpu"))
        yield features.numpy()


def image_folder(folder: str) -> Case:
    """Patches of the images under a folder, resized to 256 x 256 (1,024 patches each), repeated crops none.

    Raises SystemExit where the folder holds no image.
    """
    from patchcore_fast.data.images import load_image

    suffixes = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in suffixes)
    if not files:
        raise SystemExit(f"--images: no image under {folder}")

    def parts(n: int, d: int, seed: int) -> Parts:
        if n > 1024 * len(files):
            raise SystemExit(f"--images: {len(files)} images give {1024 * len(files):,} rows, --n asks for {n:,}")
        images = (load_image(path, (256, 256))[None] for path in files)
        yield from _extracted(images, "concat", d)

    about = f"patches of {len(files)} images in {Path(folder).name}, EfficientNet-Lite0 at 256 px, projected"
    return Case("images", about, 1024 * len(files), 128, parts)


_PHOTO = "patches of CC0 photographs (224 px crops of brick, grass and gravel), EfficientNet-Lite0 strides 8 and 16"
CASES = {
    case.name: case
    for case in (
        Case("photos", f"{_PHOTO}, projected to 128", 156_800, 128, _photographs("concat"), keep="photographs"),
        Case("bottle", f"the shape of MVTec bottle (209 images); {_PHOTO}, projected to 128; MVTec is not here",
             163_840, 128, _photographs("concat"), keep="photographs"),
        Case("bottle-1024", f"the shape of MVTec bottle; {_PHOTO}, fused to 1,024 values as patchcore-inspection does; "
             "MVTec is not here", 163_840, 1024, _photographs("amazon"), keep="photographs-fused"),
        Case("efficientnet", f"{_PHOTO}, as they are", 307_200, 152, _photographs("concat"), keep="photographs"),
        Case("million", "1,000,000 rows in 256 Gaussian clusters", 1_000_000, 1536, _clustered),
        Case("gaussian", "independent standard normal values", 156_800, 128, _gaussian),
        Case("clustered", "256 Gaussian clusters, centres 4 times as spread as the clusters", 156_800, 128, _clustered),
        Case("low-rank", "made up: 64 crowds in 16 directions, noise of 0.05 in all; no features of images",
             163_840, 128, _low_rank),
        Case("duplicates", "copies of 4,096 distinct rows", 156_800, 128, _duplicates),
        Case("integer", "integers from -8 to 8", 156_800, 128, _integer),
    )
}  # fmt: skip


def cache_folder() -> Path:
    """Where slow features are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "patchcore_fast" / "benchmarks"


def features_file(case: Case, n: int, d: int, seed: int, folder: Path) -> Path:
    """Path of a .npy file with the case's float32 [n, d] rows; made if it is not there.

    folder : for cases that are not kept.
    """
    where = cache_folder() if case.keep else folder
    where.mkdir(parents=True, exist_ok=True)
    name = case.keep or case.name
    path = where / f"{name}-{n}x{d}-seed{seed}-v{_VERSION}.npy"
    for longer in [] if path.exists() else sorted(where.glob(f"{name}-[0-9]*x{d}-seed{seed}-v{_VERSION}.npy")):
        rows = np.load(longer, mmap_mode="r")
        if len(rows) > n:
            path = folder / path.name
            with atomic_write(path) as f:
                np.save(f, rows[:n])
            break
    if not path.exists():
        with atomic_write(path) as f:
            header = {"descr": "<f4", "fortran_order": False, "shape": (n, d)}
            np.lib.format.write_array_header_1_0(f, header)
            left = n
            for part in case.parts(n, d, seed):
                block = np.ascontiguousarray(part[:left], dtype="<f4")
                if block.shape[1] != d:
                    raise SystemExit(f"{case.name}: {d} columns were asked for, the features have {block.shape[1]}")
                f.write(block.tobytes())
                left -= len(block)
                if left == 0:
                    break
            if left:
                raise SystemExit(f"{case.name}: {n} rows were asked for, {n - left} can be made")
    return path
