"""The passes over images: batches in, rows of features or predictions out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.data import resized_size
from patchcore_fast.errors import DataError
from patchcore_fast.features import Backbone, FeatureExtractor, FeatureSource, Moments, TiledExtractor
from patchcore_fast.features.vig import SHAPES, VisionGNN
from patchcore_fast.model.batches import Batch
from patchcore_fast.model.collect import FeatureRows, Rows
from patchcore_fast.model.fewshot import Augmentation
from patchcore_fast.model.results import Prediction
from patchcore_fast.model.score import Score
from patchcore_fast.model.threshold import Decided
from patchcore_fast.model.views import View, undone
from patchcore_fast.scoring import anomaly_map
from patchcore_fast.stages import stage

Unread = list[tuple[Path, str]]


def make_extractor(
    config: PatchCoreConfig, device: torch.device, source: FeatureSource | None = None
) -> FeatureExtractor:
    """Backbone and fusion of the settings, over tiles where they say so; `source` in place of their backbone."""
    f, seed = config.features, config.selection.seed
    source = source or make_source(config, device)
    options: dict[str, Any] = {
        "fusion": f.fusion, "patch_size": f.patch_size, "dim": f.dim, "layer_dim": f.layer_dim,
        "resize": f.feature_resize, "reduction": f.reduction, "precision": f.precision, "seed": seed,
        "metric": f.metric, "apart": config.selection.banks == "layer",
        "graph": (f.graph_neighbours, f.graph_dilation),
    }  # fmt: skip
    if f.tile is None and f.input_size is not None:
        return FeatureExtractor(source, **options)
    return TiledExtractor(source, **options, tile=f.tile, overlap=f.overlap, batch=config.running.batch_size)


def make_source(config: PatchCoreConfig, device: torch.device) -> FeatureSource:
    """The backbone of the settings."""
    f, seed = config.features, config.selection.seed
    kind = VisionGNN if f.backbone in SHAPES else Backbone
    return kind(f.backbone, f.layers, f.weights, device, seed, norm=f.norm, image_size=f.seen_size)


def training_rows(
    batches: Iterable[Batch],
    count: int | None,
    extractor: FeatureExtractor,
    device: torch.device,
    augmentation: Augmentation,
    views: Sequence[View] = (),
    check: Callable[[int, int, int], None] | None = None,
    embed: bool = False,
) -> tuple[FeatureRows, list[FeatureRows], Unread]:
    """Features of all images and of each view of them, in one pass over the source.

    Parameters
    ----------
    count : images to come, None when it cannot be known.  augmentation : each image is followed by its copies.
    embed : whether the rows keep the embeddings of images and copies too.
    check : called with rows, columns and bytes of a number once the first image shows how many there will be.

    Returns
    -------
    The rows, those of the views in their order, and (file, why) of images left out.

    Raises
    ------
    ValueError : of `views.undone`.  Also whatever `check` raises.

    An extractor that learns its reduction learns it here from all rows but those of the views, and reduces them; one
    that has learnt it keeps it.
    """
    moments = Moments() if extractor.learns and extractor.learned is None else None
    total, first = None if count is None else count * augmentation.per_image, 0
    rows, more = FeatureRows(total), [FeatureRows(total) for _ in views]
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
            embeddings = None
            if embed:
                (features, grid), embeddings = extractor.with_embeddings(images)
            else:
                features, grid = extractor(images)
            if check is not None and not rows.used and total is not None:
                check(total * grid[0] * grid[1], features.shape[1], features.element_size())
            rows.add(features, grid, embeddings)
            size = (images.shape[2], images.shape[3])
            rows.sizes.setdefault(grid, (extractor.covered(size), size))
            if moments is not None:
                moments.add(features)
            for view, found in zip(views, more, strict=True):
                features, seen = extractor(view.change(images))
                found.add(undone(view, features, seen, grid), grid)
        first += len(batch.images)
    if moments is not None and rows.used:
        extractor.learn(moments)
        for part in (rows, *more):
            part.convert(extractor.finish, device)
    return rows, more, unread


def check_read(rows: Rows, unread: Unread) -> None:
    """DataError: no image could be read."""
    if not rows.total:
        raise DataError(f"PatchCore.fit: none of {len(unread)} images can be read; {unread[0][1]}")


def predict_batch(
    batch: Batch,
    config: PatchCoreConfig,
    extractor: FeatureExtractor,
    scorer: Score,
    decided: Decided,
    device: torch.device,
) -> Iterator[Prediction]:
    """The predictions of a batch; of an image that could not be read, one with its error."""
    with stage("features"):
        features, grid = extractor(batch.images.to(device))
    with stage("search"):
        scores, patches = scorer(features, len(batch.images))
    height, width = batch.images.shape[2:]
    s = config.scoring
    with stage("map"):
        laid = anomaly_map(patches.view(-1, *grid), extractor.covered((height, width)), s.sigma, s.upsample, s.border)
    yield from predictions_of(batch, scores, laid[:, :height, :width], decided, config)


def predict_scores(
    batch: Batch,
    config: PatchCoreConfig,
    extractor: FeatureExtractor,
    scorer: Callable[[torch.Tensor, int], torch.Tensor],
    decided: Decided,
    device: torch.device,
) -> Iterator[Prediction]:
    """As `predict_batch`, of image scores alone: maps are [0, 0], and there are no regions."""
    count = len(batch.images)
    with stage("features"):
        features = extractor(batch.images.to(device))[0]
    with stage("search"):
        scores = scorer(features, count)
    for prediction in predictions_of(batch, scores, torch.empty(count, 0, 0), decided, config):
        yield replace(prediction, pixel_threshold=None)


def predictions_of(
    batch: Batch, scores: torch.Tensor, maps: torch.Tensor, decided: Decided, config: PatchCoreConfig
) -> Iterator[Prediction]:
    """A batch's predictions of its image scores [B] and score maps [B, H, W], by the thresholds of `decided`."""
    f, drawn = config.features, maps.cpu().numpy()
    for i, score in enumerate(scores.tolist()):
        record, original = batch.records[i], batch.sizes[i]
        path = None if record is None else record.path
        if batch.errors[i] is not None:
            yield Prediction(path, math.nan, np.full_like(drawn[i], np.nan), error=batch.errors[i])
            continue
        above = None if decided.threshold is None else score > decided.threshold
        resized = None if original is None else resized_size(original, f.resize, f.aspect)
        d = config.decision
        yield Prediction(path, score, drawn[i], above, original, resized, pixel_threshold=decided.pixel_threshold,
                         hysteresis=d.hysteresis, min_area=d.min_area)  # fmt: skip
