"""From the rows of all training images to the memory bank: the selection, then the threshold."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from patchcore_fast.features import LinearReduction
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model.collect import FeatureRows, Rows
from patchcore_fast.model.decision import thresholds
from patchcore_fast.model.fewshot import Augmentation
from patchcore_fast.model.selection import Selector, stages_shown
from patchcore_fast.model.sizing import greedy_radii
from patchcore_fast.progress import bar


def reduction_tensors(learned: LinearReduction | None) -> dict[str, Any]:
    """A learnt reduction as fields of a bank."""
    return {} if learned is None else {"reduction_mean": learned.mean.cpu(), "reduction_matrix": learned.matrix.cpu()}


def choose_bank(
    rows: Rows,
    views: Sequence[FeatureRows],
    selector: Selector,
    augmentation: Augmentation,
    *,
    images: list[str],
    weights: str,
    learned: LinearReduction | None = None,
    progress: bool | None = None,
) -> tuple[MemoryBank, dict[str, float]]:
    """The bank, and the seconds that "selection", "price" and "threshold" took.

    Parameters
    ----------
    rows, views : see `passes.training_rows`.  selector : has the settings of this fit.
    images : names of the training images without their copies; they are left out where their number does not fit.
    weights : fingerprint of the backbone's.  learned : the reduction that the rows went through.

    Raises
    ------
    ValueError : as `Selector.settle` and `Selector.select`.
    """
    config, device, timings = selector.config, selector.device, {}
    clock = time.perf_counter()
    selector.settle([rows], len(augmentation.originals(rows)))
    with stages_shown(selector.sampler, progress), bar(None, "coreset", progress) as shown:
        chosen = selector.select(rows, views, shown.at)
    timings["selection"] = time.perf_counter() - clock

    clock = time.perf_counter()
    support = selector.support(rows, chosen.indices, augmentation.per_image)
    timings["price"] = time.perf_counter() - clock

    clock = time.perf_counter()
    indices = chosen.indices
    features = rows.take(indices).to(device)
    with bar(None, "threshold", progress) as shown:
        # With copies no sampler that doubts images is allowed, so `trusted` counts images.
        by_count = selector.held_out_by_count(rows, views, chosen.trusted, augmentation.per_image, shown.at)
    held, sizing = by_count[-1], selector.sizing
    size = (
        None
        if sizing is None
        else sizing.facts([greedy_radii(selector.sampler)], [h.scores for h in by_count], len(indices))
    )
    timings["threshold"] = time.perf_counter() - clock
    if len(images) != len(augmentation.originals(rows)):
        images = []  # a loader that leaves images out, or repeats some: nobody says which they were
    bank = MemoryBank(
        features, indices, augmentation.sources(rows, indices), chosen.projection, config=selector.record.to_dict(),
        **thresholds(held, config.decision, config.squared),
        images=images, grid=rows.grid, patches=rows.total, weights=weights,
        radius=chosen.radius, support=support, size=size, **reduction_tensors(learned),
    )  # fmt: skip
    return bank.with_index(config.search.index, config.selection.seed), timings
