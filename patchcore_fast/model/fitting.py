"""From the rows of all training images to the memory bank: the selection, then the threshold."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model.collect import FeatureRows
from patchcore_fast.model.fewshot import Augmentation
from patchcore_fast.model.selection import Selector
from patchcore_fast.model.threshold import false_alarm_threshold
from patchcore_fast.progress import bar


def choose_bank(
    rows: FeatureRows,
    views: Sequence[FeatureRows],
    selector: Selector,
    augmentation: Augmentation,
    *,
    images: list[str],
    weights: str,
    progress: bool | None = None,
) -> tuple[MemoryBank, dict[str, float]]:
    """The bank, and the seconds that "selection" and "threshold" took.

    Parameters
    ----------
    rows, views : see `passes.training_rows`.  selector : has the settings of this fit.
    images : names of the training images without their copies; they are left out where their number does not fit.
    weights : fingerprint of the backbone's.

    Raises
    ------
    ValueError : as `Selector.select`.
    """
    config, device, timings = selector.config, selector.device, {}
    clock = time.perf_counter()
    with bar(None, "coreset", progress) as shown:
        indices, projection, trusted = selector.select(rows, views, shown.at)
    timings["selection"] = time.perf_counter() - clock

    clock = time.perf_counter()
    features = rows.features[indices].to(device)  # before images change places for the threshold
    with bar(None, "threshold", progress) as shown:
        # With copies no sampler that doubts images is allowed, so `trusted` counts images.
        scores = selector.held_out_scores(rows, views, trusted, augmentation.per_image, shown.at)
    timings["threshold"] = time.perf_counter() - clock
    if len(images) != len(augmentation.originals(rows)):
        images = []  # a loader that leaves images out, or repeats some: nobody says which they were
    squared = config.scoring.distance == "squared"
    bank = MemoryBank(
        features, indices, augmentation.sources(rows, indices), projection, config=config.to_dict(),
        threshold=false_alarm_threshold(scores, config.decision.max_false_alarms, squared),
        normal_scores=torch.tensor(scores, dtype=torch.float64) if scores else None,
        images=images, grid=rows.grid, patches=rows.used, weights=weights,
    )  # fmt: skip
    return bank.with_index(config.search.index, config.selection.seed), timings
