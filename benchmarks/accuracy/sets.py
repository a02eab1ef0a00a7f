"""One image set for grid.py: its features, extracted once, and training sets with defects moved into them."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from patchcore_fast.data import ImageRecord, make_loader, scan
from patchcore_fast.data.images import load_mask
from patchcore_fast.errors import DataError
from patchcore_fast.model import PatchCoreConfig
from patchcore_fast.model.collect import FeatureRows
from patchcore_fast.model.passes import make_extractor
from patchcore_fast.model.views import VIEWS, View, undone
from patchcore_fast.progress import bar

# What compares selections scores by the nearest row, without a price: so its pages say, from before there was one.
NEAREST: dict[str, Any] = {"neighbours": 1, "price": 0.0}


@dataclass(frozen=True)
class Truth:
    """What is known of a set without any network.

    Attributes
    ----------
    name, train, test : the folder's name, its good training images, its test images.
    labels : [m] bool, defective.  known : [m] bool, the truth is known pixel by pixel.
    strata : [m] int: 0 good, 1 defective with a mask, 2 defective without; resampled apart (bootstrap.py).
    masks : [m, S, S] bool, nearest-neighbour resized.
    gains : [m, S, S] float32, for a defective pixel 1 / (pixels of its region), else 0.  regions : [m] their number.
    """

    name: str
    train: list[ImageRecord]
    test: list[ImageRecord]
    labels: np.ndarray
    known: np.ndarray
    strata: np.ndarray
    masks: np.ndarray
    gains: np.ndarray
    regions: np.ndarray

    def count(self, share: float) -> int:
        """Defect images that a contamination of `share` of the good training images moves; at most half of them."""
        return min(round(share * len(self.train)), len(self._candidates()) // 2)

    def _candidates(self) -> np.ndarray:
        # Without any mask in the set only image metrics are measured, and each defect image will do.
        masked = np.flatnonzero(self.strata == 1)
        return masked if len(masked) else np.flatnonzero(self.labels)

    def describe(self, shares: Sequence[float]) -> dict[str, Any]:
        """Counts, for the result file."""
        masked = int((self.strata == 1).sum())
        return {
            "name": self.name, "train": len(self.train), "good": int((~self.labels).sum()),
            "defective": int(self.labels.sum()), "masked": masked,
            "moved": {f"{share:g}": self.count(share) for share in shares},
        }  # fmt: skip


@dataclass(frozen=True)
class Features:
    """Patch features of a set by one backbone: train [n, P, D], test [m, P, D] float32; grid (h, w), P = h * w.

    views : the same of augmented images, where a sampler asks for them.
    train_embeddings, test_embeddings : [n, E] and [m, E] float32, global ones of images; none where they were not made.
    """

    train: torch.Tensor
    test: torch.Tensor
    grid: tuple[int, int]
    weights: str
    views: tuple[Features, ...] = ()
    train_embeddings: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))
    test_embeddings: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))


@dataclass(frozen=True)
class Draw:
    """A training set with test images in it.

    moved : test images, by number.  order : [n + moved] int64, the images in training order: i >= 0 a good one, i < 0
    the test image -1 - i.  kept : [m] bool, test images that are still tested.
    """

    moved: np.ndarray
    order: np.ndarray
    kept: np.ndarray


def read_truth(folder: Path, side: int) -> Truth:
    """Scan a folder in MVTec layout; masks come as side x side.

    Raises
    ------
    SystemExit : no such folder, no train/good, or a test part without good or without defective images.
    """
    try:
        found = scan(folder)
    except DataError as error:
        raise SystemExit(str(error)) from error
    labels = np.array([r.label == 1 for r in found.test], dtype=bool)
    if found.layout != "mvtec" or not found.train or labels.all() or not labels.any():
        raise SystemExit(f"{folder}: train/good, test/good and test/<defect> of MVTec AD's layout are wanted")
    masked = np.array([r.mask is not None for r in found.test])
    masks = np.zeros((len(labels), side, side), dtype=bool)
    gains = np.zeros(masks.shape, dtype=np.float32)
    regions = np.zeros(len(labels))
    for i, record in enumerate(found.test):
        if record.mask is not None:
            masks[i] = load_mask(record.mask, (side, side)).numpy()
            named, regions[i] = ndimage.label(masks[i], structure=np.ones((3, 3)))
            sizes = np.bincount(named.ravel())
            gains[i][masks[i]] = 1.0 / sizes[named[masks[i]]]
    strata = np.where(labels, np.where(masked, 1, 2), 0)
    name = folder.resolve().name
    return Truth(name, found.train, found.test, labels, strata != 2, strata, masks, gains, regions)


def extract(truth: Truth, config: PatchCoreConfig, views: bool = False, progress: bool | None = None) -> Features:
    """Run the backbone of `config` over all images of a set; with `views` over augmented ones too."""
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    extractor = make_extractor(config, device)

    def pass_over(view: View | None) -> Features:
        blocks, embedded = [], []
        for what, records in (("train", truth.train), ("test", truth.test)):
            rows, seen = FeatureRows(len(records)), [torch.empty(0, extractor.embedding_columns)]
            with bar(len(records), f"{truth.name} {what}", progress) as shown:
                for batch in make_loader(records, config.resize, config.crop, config.batch_size, config.workers):
                    images = batch["image"].to(device)
                    given = images if view is None else view.change(images)
                    (found, grid), embeddings = extractor.with_embeddings(given)
                    seen.append(embeddings.cpu())
                    rows.add(found if view is None else undone(view, found, grid), grid)
                    shown.update(len(images))
            assert rows.grid is not None  # all images have the config's size
            blocks.append(rows.features.view(len(records), -1, rows.features.shape[1]))
            embedded.append(torch.cat(seen))
        weights = extractor.backbone.fingerprint()
        return Features(blocks[0], blocks[1], rows.grid, weights, (), embedded[0], embedded[1])

    plain = pass_over(None)
    return replace(plain, views=tuple(map(pass_over, VIEWS.values()))) if views else plain


def draw(truth: Truth, share: float, seed: int) -> Draw:
    """Move `truth.count(share)` defect images into training, at random places of the image order.

    Of one seed a smaller share moves the first of those that a larger one moves, so that shares differ in amount only.
    """
    random = np.random.default_rng([seed, number_of(truth.name), 1])
    count = truth.count(share)
    moved = random.permutation(truth._candidates())[:count]
    n = len(truth.train)
    order = np.arange(n)
    places = np.random.default_rng([seed, number_of(truth.name), 2]).choice(n + count, count, replace=False)
    mixed = np.empty(n + count, dtype=np.int64)
    inside = np.zeros(n + count, dtype=bool)
    inside[places] = True
    mixed[~inside], mixed[inside] = order, -1 - moved
    kept = np.ones(len(truth.test), dtype=bool)
    kept[moved] = False
    return Draw(moved, mixed, kept)


def training_rows(features: Features, what: Draw) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [N, D] of a training set, and their (image, row, column) [N, 3] int32."""
    n, patches, dim = len(what.order), features.train.shape[1], features.train.shape[2]
    order = torch.from_numpy(what.order)
    if len(what.moved):
        rows = torch.empty(n, patches, dim)
        rows[order >= 0] = features.train[order[order >= 0]]
        rows[order < 0] = features.test[-1 - order[order < 0]]
    else:
        rows = features.train
    cell = torch.arange(patches, dtype=torch.int32).repeat(n)
    image = torch.arange(n, dtype=torch.int32).repeat_interleave(patches)
    width = features.grid[1]
    return rows.reshape(-1, dim), torch.stack([image, cell // width, cell % width], dim=1)


def number_of(name: str) -> int:
    """A set's own number for generators: sets are drawn independently, whatever else is measured."""
    return zlib.crc32(name.encode())


def label(backbone: str) -> str:
    """A backbone's short name for lines and tables."""
    return re.sub(r"^tf_efficientnet_", "", backbone)
