"""Scores of where a row lies among the others: rarity, representativeness. No training, no labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..inputs import Features
from ..kernels import knn
from ..kernels.checks import check_int, check_rows
from ..kernels.surroundings import undisturbed
from ..progress import Progress, bar
from .clustering import KMeans, cluster, work
from .rows import CHUNK_SIZE, Rows, check_seed, distances, moments, read_rows

_ITERATIONS, _SAMPLE = 10, 256  # of k-means


@undisturbed
def rarity(
    features: Features,
    *,
    k: int = 4,
    anchors: int | Tensor | np.ndarray | Sequence[int] = 1024,
    seed: int = 0,
    device: torch.device | str | None = None,
    chunk_size: int = CHUNK_SIZE,
    progress: Progress = None,
) -> Tensor:
    """How rare each row is: its mean distance to the k nearest of A anchor rows, itself not counted. Rare is large.

    `patchcore_fast.kernels.knn_rarity`, value for value, in chunks: of the features only the anchors and one chunk
    need to be on the device.

    Parameters
    ----------
    features : [N, D] floating ndarray or tensor.
    k : 1..A-1.
    anchors : number of rows drawn uniformly (at most N are used), or row numbers [A], such as a sampler's `indices_`.
    seed : of the draw.
    device : where to compute; None: where the features are.
    chunk_size : rows at a time; changes speed and memory only.
    progress : see `patchcore_fast.progress.bar`; counts rows.

    Returns
    -------
    [N] float32 CPU tensor, in the units of the features.

    Raises
    ------
    TypeError : wrong type or dtype.  ValueError : wrong shape or range, fewer than 2 anchors, rows that are not finite.
    """
    name = "rarity"
    rows = read_rows(name, features, device, chunk_size)
    n = rows.shape[0]
    generator = torch.Generator().manual_seed(check_seed(name, seed))
    if isinstance(anchors, (Tensor, np.ndarray, Sequence)) and not isinstance(anchors, str):
        chosen = check_rows(name, "anchors", anchors, n, torch.device("cpu")).unique()
    else:
        count = min(n, check_int(name, "anchors", anchors, 2, 2**31 - 1))
        chosen = torch.randperm(n, generator=generator)[:count].sort().values
    if chosen.shape[0] < 2:
        raise ValueError(f"{name}: at least 2 anchors are wanted, a row's own does not count; got {chosen.shape[0]}")
    k = check_int(name, "k", k, 1, chosen.shape[0] - 1, f" ({chosen.shape[0]} anchors, a row's own not counted)")
    bank, chosen = rows.take(chosen), chosen.to(rows.device)
    out = torch.empty(n, dtype=torch.float32)
    with bar(n, name, progress) as done:
        for part, chunk in rows.chunks():
            distance, index = knn(chunk, bank, k + 1)
            own = chosen[index] == torch.arange(part.start, part.stop, device=rows.device)[:, None]
            # The row's own anchor does not count where it is among the k + 1, else the farthest of them.
            drop = torch.where(own.any(1), own.int().argmax(1), k)
            out[part] = (distance.double().scatter(1, drop[:, None], 0.0).sum(1) / k).float().cpu()
            done.update(chunk.shape[0])
    return out


def inverse(rare: Tensor) -> Tensor:
    """1 / rarity [N]; what is 0 counts as the least that is not, and as 1 where all is 0. Always finite."""
    some = rare[rare > 0]
    return 1.0 / rare.clamp(min=max(float(some.min()), 2.0**-127) if len(some) else 1.0)


@undisturbed
def representativeness(
    features: Features,
    *,
    clusters: int | KMeans = 64,
    mode: str = "cluster",
    seed: int = 0,
    device: torch.device | str | None = None,
    chunk_size: int = CHUNK_SIZE,
    progress: Progress = None,
) -> Tensor:
    """How typical each row is of its surroundings: minus its distance to a centre, in units of the spread there.

    "cluster": -d(x, c) / s(c), c the nearest k-means centre, s(c) the root mean square of d over the cluster's rows.
    "global": -d(x, mean) / s, s the root mean square of d over all rows. 0 at the centre, -1 at the usual distance;
    larger is more representative. Where a spread is 0, all its rows lie at the centre and get 0.

    Parameters
    ----------
    features : [N, D] floating ndarray or tensor.
    clusters : number of clusters (at most N are used), or a `k_means` of these features. Not used by "global".
    mode : "cluster" or "global".
    seed : of k-means.
    device : where to compute; None: where the features are.
    chunk_size : rows at a time; changes speed and memory only.
    progress : see `patchcore_fast.progress.bar`; counts rows.

    Returns
    -------
    [N] float32 CPU tensor, <= 0.

    Raises
    ------
    TypeError : wrong type or dtype.  ValueError : another mode, wrong shape or range, rows that are not finite.

    Notes
    -----
    A cluster of one row is its own measure: an outlier that won a centre for itself looks typical. `rarity` sees it.
    """
    name = "representativeness"
    if mode not in ("cluster", "global"):
        raise ValueError(f'{name}: mode must be "cluster" or "global", got {mode!r}')
    rows = read_rows(name, features, device, chunk_size)
    check_seed(name, seed)
    if mode == "global":
        return _to_mean(name, rows, progress)
    n = rows.shape[0]
    if not isinstance(clusters, KMeans):
        count = min(n, check_int(name, "clusters", clusters, 1, 2**31 - 1))
        generator = torch.Generator().manual_seed(seed)
        with bar(work(n, count, _ITERATIONS, _SAMPLE), name, progress) as done:
            clusters = cluster(name, rows, count, _ITERATIONS, _SAMPLE, generator, done.update)
    elif clusters.labels.shape != (n,):
        raise ValueError(f"{name}: clusters must be of these {n} rows, got a k_means of {clusters.labels.shape[0]}")
    distance, count = clusters.distances.double(), clusters.centers.shape[0]
    # bincount on the CPU adds in the order of the rows.
    squares = torch.bincount(clusters.labels, weights=distance.square(), minlength=count)
    spread = (squares / torch.bincount(clusters.labels, minlength=count).clamp(min=1)).sqrt()
    return _relative(distance, spread[clusters.labels])


def _to_mean(name: str, rows: Rows, progress: Progress) -> Tensor:
    mean, squares = moments(rows)
    distance = torch.empty(rows.shape[0], dtype=torch.float64)
    with bar(rows.shape[0], name, progress) as done:
        for part, chunk in rows.chunks():
            distance[part] = distances(chunk, mean).cpu()
            done.update(chunk.shape[0])
    return _relative(distance, squares.cpu().sum().sqrt())


def _relative(distance: Tensor, spread: Tensor) -> Tensor:
    return -torch.where(spread > 0, distance / spread, 0.0).float()
