"""The passes over images: batches in, rows of features or predictions out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.errors import DataError
from patchcore_fast.features import Backbone, FeatureExtractor
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model.batches import Batch
from patchcore_fast.model.collect import FeatureRows
from patchcore_fast.model.fewshot import Augmentation
from patchcore_fast.model.results import Prediction
from patchcore_fast.model.score import ImageScorer
from patchcore_fast.model.views import VIEWS, undone
from patchcore_fast.scoring import anomaly_map

Unread = list[tuple[Path, str]]


def make_extractor(config: PatchCoreConfig, device: torch.device) -> FeatureExtractor:
    """Backbone and fusion of the settings."""
    f, seed = config.features, config.selection.seed
    backbone = Backbone(f.backbone, f.layers, f.weights, device, seed)
    return FeatureExtractor(
        backbone, f.fusion, f.patch_size, f.dim, f.layer_dim, f.feature_resize, f.reduction, f.precision, seed
    )


def training_rows(
    batches: Iterable[Batch],
    count: int | None,
    extractor: FeatureExtractor,
    device: torch.device,
    augmentation: Augmentation,
    views: bool = False,
) -> tuple[FeatureRows, list[FeatureRows], Unread]:
    """Features of all images and, with `views`, of each view of them, in one pass over the source.

    Parameters
    ----------
    count : images to come, None when it cannot be known.  augmentation : each image is followed by its copies.

    Returns
    -------
    The rows, those of the views in the order of VIEWS (empty without `views`), and (file, why) of images left out.

    Raises
    ------
    DataError : no image can be read.
    """
    total, first = None if count is None else count * augmentation.per_image, 0
    rows, more = FeatureRows(total), [FeatureRows(total) for _ in VIEWS if views]
    unread: Unread = []
    for whole in batches:
        unread += [
            (Path() if record is None else record.path, error)
            for record, error in zip(whole.records, whole.errors, strict=True)
            if error is not None
        ]
        batch = whole.only([i for i, error in enumerate(whole.errors) if error is None])
        if not len(batch.images):
            continue
        for images in augmentation.blocks(batch.images.to(device), first):
            rows.add(*extractor(images))
            for view, found in zip(VIEWS.values(), more, strict=False):
                features, grid = extractor(view.change(images))
                found.add(undone(view, features, grid), grid)
        first += len(batch.images)
    if not rows.used:
        raise DataError(f"PatchCore.fit: none of {len(unread)} images can be read; {unread[0][1]}")
    return rows, more, unread


def predict_batch(
    batch: Batch,
    config: PatchCoreConfig,
    extractor: FeatureExtractor,
    scorer: ImageScorer,
    bank: MemoryBank,
    device: torch.device,
) -> Iterator[Prediction]:
    """The predictions of a batch; of an image that could not be read, one with its error."""
    features, grid = extractor(batch.images.to(device))
    search = None if bank.searcher is None else bank.search
    scores, patches = scorer(features, len(batch.images), bank.features, search)
    size = (batch.images.shape[2], batch.images.shape[3])
    s = config.scoring
    maps = anomaly_map(patches.view(-1, *grid), size, s.sigma, s.upsample, s.border).cpu().numpy()
    for i, score in enumerate(scores.tolist()):
        record, original = batch.records[i], batch.sizes[i]
        path = None if record is None else record.path
        if batch.errors[i] is not None:
            yield Prediction(path, math.nan, np.full_like(maps[i], np.nan), error=batch.errors[i])
            continue
        above = None if bank.threshold is None else score > bank.threshold
        yield Prediction(path, score, maps[i], above, original, None if original is None else config.resize)
