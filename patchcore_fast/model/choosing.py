"""The selection of a fit alone: the rows of a store that `PatchCore.fit` would choose (docs/chain.md)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.feature_store import FeatureStore
from patchcore_fast.features import FeatureExtractor
from patchcore_fast.model.fewshot import settle
from patchcore_fast.model.picks import Selection
from patchcore_fast.model.selection import Selector, stages_shown
from patchcore_fast.model.training import Source, together
from patchcore_fast.progress import bar


def select_store(
    store: FeatureStore,
    config: PatchCoreConfig,
    *,
    sampler: Any = None,
    group: Any = None,
    radius: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    scores: Mapping[str, torch.Tensor] | None = None,
    progress: bool | None = None,
) -> tuple[Selection, Any, PatchCoreConfig]:
    """What `PatchCore(config).fit(store)` would choose, and the sampler that chose it, and the settings followed.

    Parameters
    ----------
    config : settings that fit those of the store.  sampler : in place of the settings', as of `PatchCore`.
    group : a process group; each rank calls this alike.
    radius, checkpoint : of the greedy samplers; see there.
    scores : signal -> [N] float32, for samplers that take given ones (`takes_scores`).

    Raises
    ------
    ValueError, MemoryError : as `PatchCore.fit`; a sampler that takes no scores.
    """
    config, augmentation = settle(config, None, None, sampler)
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    selector = Selector(config, sampler, device, group)
    selector.give(scores or {})
    if radius is not None:
        selector.sampler.radius = radius
    if checkpoint is not None:
        selector.sampler.checkpoint = checkpoint
    with together("select", group) as ranks, ExitStack() as opened:
        source = Source(config, augmentation, _no_extractor, ranks, progress)
        rows = source.training(store, None, selector, "raise", opened).rows
        selector.settle([rows], len(augmentation.originals(rows)))
        with stages_shown(selector.sampler, progress), bar(None, "select", progress) as shown:
            return selector.select(rows, (), shown.at), selector.sampler, config


def _no_extractor() -> FeatureExtractor:
    raise AssertionError("a store needs no backbone")
