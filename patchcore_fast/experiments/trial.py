"""One combination: select, then score what was held out, what was pasted, and what the test folder has."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.coverage import border_share
from patchcore_fast.experiments.combinations import Combination
from patchcore_fast.experiments.material import Material, Part
from patchcore_fast.experiments.measured import measured
from patchcore_fast.experiments.signals import Signals, memory_of
from patchcore_fast.kernels import knn
from patchcore_fast.memory import available_memory
from patchcore_fast.metrics import binary_curve, iou_of_f1
from patchcore_fast.model.pricing import support_of
from patchcore_fast.model.score import ImageScorer
from patchcore_fast.samplers import make_sampler
from patchcore_fast.scoring import anomaly_map
from patchcore_fast.search import priced_search

MIB = 1 << 20
AT_ONCE = 16  # images scored at a time


def tried(
    combination: Combination, material: Material, config: PatchCoreConfig, device: torch.device,
    signals: Signals | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The measures of one combination; their names are `table.MEASURES`.

    "auroc", "ap" (of images), "pixel_auroc", "pixel_ap" and "iou" tell held-out images from copies of them with
    synthetic defects; "test_..." the same of the folder's test images, None where it has none. "iou" is the largest
    intersection over union of pixels over all thresholds.

    Parameters
    ----------
    signals : what combinations share, computed once; None: each computes its own.

    Raises
    ------
    ValueError : settings that this sampler does not take, or a selection of no rows.
    MemoryError : a bank of all rows that does not fit into a quarter of the free memory.
    """
    rows = material.rows
    if combination.sampler == "identity" and (size := 4 * rows.total * rows.columns) > available_memory() // 4:
        raise MemoryError(f"a bank of all {rows.total:,} rows has {size:,} bytes, too many for what is free")
    sampler = sampler_of(combination, device)
    where: dict[str, Any] = {}
    if "positions" in inspect.signature(sampler.select).parameters and getattr(sampler, "uses_positions", False):
        where["positions"] = rows.positions(torch.arange(rows.total))
    signals = Signals() if signals is None else signals
    with measured(device) as spent:
        indices = signals.select(sampler, rows.features, **where)
    signals.took(sampler, spent.before)
    if spent.memory is not None and spent.before is not None:  # a GPU's peak is set back by each part of a selection
        spent.memory = max(spent.memory, *(peak - spent.before for peak in (0, *memory_of(sampler).values())))
    if not len(indices):
        raise ValueError(f"{combination.name}: picks none of {rows.total} rows at ratio {combination.ratio}")
    bank = rows.take(indices).to(device)
    support = None
    if config.search.price:
        support = support_of(rows, None, indices, device)
    reached = knn(rows.features.to(device), bank, 1)[0]
    facts: dict[str, Any] = {
        "rows": len(indices), "covering_radius": float(reached.max()), "mean_distance": float(reached.double().mean()),
        "border_share": border_share(rows.grids, indices), "seconds": spent.seconds + signals.seconds,
        "cpu_seconds": spent.cpu_seconds + signals.cpu_seconds,
        "peak_memory_mb": None if spent.memory is None else max(spent.memory, signals.memory) / MIB,
    }  # fmt: skip
    scorer = ImageScorer(config, bank)
    search = priced_search(bank, support, config.search.price)
    for prefix, part in (("", material.pasted), ("test_", material.test)):
        found = {} if part is None else accuracy(part, material, config, scorer, bank, search, device)
        facts |= {f"{prefix}{name}": found.get(name) for name in ("auroc", "ap", "pixel_auroc", "pixel_ap", "iou")}
    return facts


def sampler_of(combination: Combination, device: torch.device) -> Any:
    """The sampler of a combination. ValueError: options that it does not take."""
    options: dict[str, Any] = {"options": dict(combination.options)} if combination.options else {}
    if combination.sampler != "identity":
        options["ratio"] = combination.ratio
    return make_sampler(combination.sampler, seed=combination.seed, device=device, **options)


def accuracy(
    part: Part, material: Material, config: PatchCoreConfig, scorer: ImageScorer, bank: torch.Tensor, search: Any,
    device: torch.device,
) -> dict[str, float | None]:  # fmt: skip
    """Image AUROC and AP, pixel AUROC, AP and IoU of a part; None where a class is missing."""
    scores, maps = [], []
    for found, drawn in _scored(part, material, config, scorer, bank, search, device):
        scores.append(found)
        maps.append(drawn)
    labelled = part.labels >= 0
    whole = binary_curve(torch.cat(scores).numpy()[labelled], part.labels[labelled])
    pixels = np.concatenate(maps)[part.known]
    curve = binary_curve(pixels, part.masks[part.known]) if len(pixels) else None
    return {
        "auroc": None if whole is None else whole.auroc, "ap": None if whole is None else whole.average_precision,
        "pixel_auroc": None if curve is None else curve.auroc,
        "pixel_ap": None if curve is None else curve.average_precision,
        "iou": None if curve is None else iou_of_f1(curve.best_f1[1]),
    }  # fmt: skip


def _scored(
    part: Part, material: Material, config: PatchCoreConfig, scorer: ImageScorer, bank: torch.Tensor, search: Any,
    device: torch.device,
) -> Iterator[tuple[torch.Tensor, np.ndarray[Any, Any]]]:  # fmt: skip
    """Scores [b] and maps [b, H, W] of some images at a time."""
    h, w = material.grid
    height, width = material.size
    s, step = config.scoring, material.step
    for features in part.features.split(AT_ONCE * h * w):
        images = len(features) // (h * w)
        found, patches = scorer(features.to(device), images, bank, search)
        laid = anomaly_map(patches.view(images, h, w), material.covered, s.sigma, s.upsample, s.border)
        yield found.cpu(), laid[:, :height:step, :width:step].cpu().numpy()
