"""One cell of the grid: select, search, map, measure."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy import bootstrap, samplers
from benchmarks.accuracy.sets import Draw, Features, Truth
from benchmarks.harness import memory
from patchcore_fast.kernels import knn
from patchcore_fast.metrics import aupro, binary_curve
from patchcore_fast.model import PatchCoreConfig
from patchcore_fast.scoring import anomaly_map, image_score, patch_scores

_IMAGES = 64  # searched and mapped at a time
_AGREE = 1e-6


@dataclass(frozen=True)
class Selection:
    """rows [k] int64 in the training set; seconds; extra_bytes: peak memory beyond the features; how it was measured
    is told in `select`; report: the sampler's own, where it has one."""

    rows: torch.Tensor
    seconds: float
    extra_bytes: int
    report: dict[str, Any] | None


def select(sampler: Any, features: torch.Tensor, positions: torch.Tensor | None, device: torch.device,
           views: list[torch.Tensor] | None = None) -> Selection:  # fmt: skip
    """Time one selection and measure its memory.

    With positions [N, 3] they, or the images in them, go to samplers that take them; without, `run(features)` is called
    as a foreign program would. Memory on the CPU: the process gives back what its allocator keeps and the kernel's
    high-water mark (VmHWM) is set back; then the mark after the selection less what was resident before it. On CUDA:
    the peak of what torch allocated, less what was allocated before. Features are there before either.
    """
    given: dict[str, Any] = {}
    if positions is not None:
        ways = {"positions": positions, "image_ids": positions[:, 0].long()}
        given = {name: ways[name] for name in samplers.takes(sampler)}
    if views is not None:
        given["views"] = views
    _start(device)
    before = _allocated(device)
    begin = time.perf_counter()
    if positions is None:
        sampler.run(features, **given)
        rows = sampler.indices_
    else:
        rows = sampler.select(features, **given)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - begin
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else memory.peak()
    report = getattr(sampler, "report_", None)
    return Selection(torch.as_tensor(rows).cpu().long(), seconds, max(0, peak - before), report)


def _start(device: torch.device) -> None:
    memory.forget_peak()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else memory.resident()


def warm(names: list[str], features: torch.Tensor, positions: torch.Tensor, device: torch.device) -> None:
    """Let each sampler pay its imports, and threads their start, on a few rows: neither belongs to a selection.

    What goes wrong with so few rows is no result; the cell itself will tell.
    """
    step = max(1, len(features) // 2000)
    for name in names:
        with contextlib.suppress(Exception):
            sampler = samplers.TABLE[name].make(0.05, 0, str(device))
            select(sampler, features[::step].clone(), positions[::step].clone(), device)


def score(features: Features, bank: torch.Tensor, kept: np.ndarray, config: PatchCoreConfig, side: int,
          sigma: float) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Image scores [m] and maps [m, side, side] of the kept test images; the others' are zeros.

    By the nearest row, without a price: what these tables compare is selections, and their results are of that.
    """
    scores = np.zeros(len(kept), dtype=np.float32)
    maps = np.zeros((len(kept), side, side), dtype=np.float32)
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    bank = bank.to(device)
    for part in np.array_split(np.flatnonzero(kept), -(-int(kept.sum()) // _IMAGES)):
        rows = features.test[torch.from_numpy(part)].to(device)
        dist, _ = knn(rows.flatten(0, 1), bank, 1)
        patches = patch_scores(dist, config.distance == "squared").view(len(part), -1)
        scores[part] = image_score(patches).cpu().numpy()
        small = anomaly_map(patches.view(-1, *features.grid), (side, side), sigma, config.upsample, config.border)
        maps[part] = small.cpu().numpy()
    return scores, maps


def agree(truth: Truth, kept: np.ndarray, values: np.ndarray, scores: np.ndarray, maps: np.ndarray) -> None:
    """Hold our shortcut through the metrics to patchcore_fast.metrics.

    Raises
    ------
    RuntimeError : they differ by more than 1e-6.
    """
    seen = kept & truth.known
    expected = []
    for found in (binary_curve(scores[kept], truth.labels[kept]), binary_curve(maps[seen], truth.masks[seen])):
        expected += [np.nan, np.nan] if found is None else [found.auroc, found.average_precision]
    expected.append(aupro(maps[seen], truth.masks[seen], bootstrap.MAX_FPR) if seen.any() else np.nan)
    if not np.allclose(values, expected, rtol=0, atol=_AGREE, equal_nan=True):
        raise RuntimeError(f"{truth.name}: metrics {values.tolist()}, patchcore_fast.metrics gives {expected}")


def moved_share(rows: torch.Tensor, what: Draw, patches: int) -> float:
    """The part of a bank that comes from images that were moved into training."""
    return float((what.order[(rows // patches).numpy()] < 0).mean())
