"""A quick look: every sampler that has a name, on some rows of a feature matrix."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import torch

from patchcore_fast.config import SAMPLERS
from patchcore_fast.experiments.measured import measured
from patchcore_fast.kernels import knn
from patchcore_fast.progress import Progress, bar
from patchcore_fast.samplers import make_sampler

REPEATS = 3
COLUMNS = ("sampler", "rows", "covering_radius", "mean_distance", "seconds", "cpu_seconds", "peak_memory_mb", "note")


def drawn_rows(total: int, rows: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Numbers of so many rows of `total`, or of all, ascending; a seeded draw."""
    return np.sort(np.random.default_rng(seed).choice(total, min(rows, total), replace=False))


def quick_look(
    features: torch.Tensor, ratio: float, *, seed: int = 0, device: torch.device | str = "cpu",
    progress: Progress = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """One row a sampler, by `COLUMNS`: how its picks cover all rows, and what the selection takes.

    Parameters
    ----------
    features : [N, D] float32, without order: nothing is known of images.  ratio : share of rows that is picked.

    Returns
    -------
    Covering radius and mean distance to the nearest pick are Euclidean, in the features' own space; seconds are the
    median of three runs; memory is what a run added at its peak, the least of the three. "note" says why a sampler
    cannot be run on such rows, its numbers are then None.
    """
    place = torch.device(device)
    found = []
    with bar(len(SAMPLERS), "samplers", progress) as shown:
        for name in SAMPLERS:
            row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"sampler": name}
            try:
                row |= _run(name, features, ratio, seed, place)
            except (ValueError, TypeError) as error:
                row["note"] = " ".join(str(error).split())
            found.append(row)
            shown.update()
    return found


def _run(name: str, features: torch.Tensor, ratio: float, seed: int, device: torch.device) -> dict[str, Any]:
    runs = []
    for _ in range(REPEATS):
        sampler: Any = make_sampler(name, ratio, seed=seed, device=device)
        with measured(device) as spent:
            indices = sampler.select(features)
        runs.append(spent)
    x = features.to(device)
    distance = knn(x, x[indices.to(device)], 1)[0]
    memory = min((r.memory for r in runs if r.memory is not None), default=None)  # first runs load code too
    return {
        "rows": len(indices), "covering_radius": float(distance.max()),
        "mean_distance": float(distance.double().mean()), "seconds": statistics.median(r.seconds for r in runs),
        "cpu_seconds": statistics.median(r.cpu_seconds for r in runs),
        "peak_memory_mb": None if memory is None else memory / (1 << 20),
    }  # fmt: skip
