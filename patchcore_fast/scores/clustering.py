"""k-means on a sample, with exact assignment: pseudo-labels for `difficulty`, clusters for `representativeness`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..inputs import Features
from ..kernels import knn
from ..kernels.checks import check_int
from ..kernels.surroundings import undisturbed
from ..progress import Progress, bar
from .rows import CHUNK_SIZE, SERIAL, Rows, check_seed, read_rows

_SEEDING = 16  # rows a centre that the start is drawn from: more did not lower the inertia, and cost time
_LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class KMeans:
    """Clusters, on the CPU.

    centers : [C, D] float32.  labels : [N] int64, the nearest centre of each row, the lowest among equals.
    distances : [N] float32, to that centre.
    """

    centers: Tensor
    labels: Tensor
    distances: Tensor


@undisturbed
def k_means(
    features: Features,
    clusters: int,
    *,
    iterations: int = 10,
    sample: int = 256,
    seed: int = 0,
    device: torch.device | str | None = None,
    chunk_size: int = CHUNK_SIZE,
    progress: Progress = None,
) -> KMeans:
    """Lloyd's k-means on a uniform sample of the rows; every row then goes to its nearest centre.

    The start is k-means++ on a part of the sample. Assignment is exact (`knn`), centres are float64 means, rounded to
    float32. A centre that loses all its rows moves to the sampled row farthest from its own centre; only where the
    sample has fewer distinct rows than centres do clusters stay empty.

    Parameters
    ----------
    features : [N, D] floating ndarray or tensor within float32's range.
    clusters : C, 1..N.
    iterations : at most; fewer when nothing moves any more. 0 gives the start.
    sample : rows a centre that Lloyd sees, at most; clusters * sample rows are held on the device.
    seed : of the sample and the start. The draws do not depend on the device.
    device : where to compute; None: where the features are.
    chunk_size : rows at a time in the last assignment; changes speed and memory only.
    progress : see `patchcore_fast.progress.bar`; counts rows.

    Raises
    ------
    TypeError : wrong type or dtype.  ValueError : wrong shape or range, rows that are not finite.

    References
    ----------
    S. P. Lloyd, Least squares quantization in PCM, 1982. D. Arthur and S. Vassilvitskii, k-means++, 2007.
    """
    name = "k_means"
    rows = read_rows(name, features, device, chunk_size)
    n = rows.shape[0]
    clusters = check_int(name, "clusters", clusters, 1, n, f" (N = {n})")
    iterations = check_int(name, "iterations", iterations, 0, 2**31 - 1)
    sample = check_int(name, "sample", sample, 1, 2**31 - 1)
    generator = torch.Generator().manual_seed(check_seed(name, seed))
    with bar(work(n, clusters, iterations, sample), name, progress) as done:
        return cluster(name, rows, clusters, iterations, sample, generator, done.update)


def work(n: int, clusters: int, iterations: int = 10, sample: int = 256) -> int:
    """Rows that `cluster` counts."""
    return n + iterations * min(n, clusters * sample)


def cluster(
    name: str,
    rows: Rows,
    clusters: int,
    iterations: int,
    sample: int,
    generator: torch.Generator,
    tick: Callable[[int], None],
) -> KMeans:
    """`k_means` on checked arguments; tick(rows) is called as they are dealt with."""
    if rows.largest > _LARGEST:
        raise ValueError(f"{name}: features must lie within float32's range, got a value of size {rows.largest:.3g}")
    n = rows.shape[0]
    drawn = torch.randperm(n, generator=generator)[: clusters * sample]
    sampled = rows.take(drawn.sort().values)  # in order: kind to memory-mapped files
    start = _start(rows.take(drawn[: clusters * min(sample, _SEEDING)]).cpu(), clusters, generator)
    centers = start.to(rows.device).float()
    for iteration in range(iterations):
        moved = _update(sampled, centers)
        if torch.equal(moved, centers):
            tick((iterations - iteration) * sampled.shape[0])
            break
        centers = moved
        tick(sampled.shape[0])
    del sampled
    labels = torch.empty(n, dtype=torch.int64)
    distances = torch.empty(n, dtype=torch.float32)
    for part, chunk in rows.chunks():
        distance, label = knn(chunk, centers, 1)
        labels[part], distances[part] = label[:, 0].cpu(), distance[:, 0].cpu()
        tick(chunk.shape[0])
    return KMeans(centers.cpu(), labels, distances)


def _start(rows: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """k-means++: each next centre is drawn with odds d^2 to the nearest so far. On the CPU, so that devices agree."""
    x = rows.double()
    scale = x.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    x = (x / scale).sub_((x / scale).mean(0))  # near the origin the expanded form keeps its digits
    norms = x.square().sum(1)
    draws = torch.rand(clusters, generator=generator, dtype=torch.float64).tolist()
    picks = [int(draws[0] * len(x))]
    nearest = torch.full_like(norms, torch.inf)
    for draw in draws[1:]:
        last = picks[-1]
        nearest = torch.minimum(nearest, norms + norms[last] - 2 * (x @ x[last]))
        nearest.clamp_(min=0)[last] = 0  # a row is not drawn twice
        mass = nearest.cumsum(0)
        row = int(torch.searchsorted(mass, draw * float(mass[-1]), right=True))
        # Where all rows coincide with picks there are no odds left, and any row will do.
        picks.append(min(row, len(x) - 1))
    return rows[picks]


def _update(x: Tensor, centers: Tensor) -> Tensor:
    """One step of Lloyd's: [S, D], [C, D] -> [C, D] float32."""
    distance, label = (t[:, 0] for t in knn(x, centers, 1))
    counts = torch.bincount(label, minlength=centers.shape[0])
    sums = _sums(x, label, counts)
    moved = torch.where(counts[:, None] > 0, (sums / counts.clamp(min=1)[:, None]).float(), centers)
    empty = (counts == 0).nonzero().squeeze(1)
    if empty.shape[0]:
        far = distance.sort(descending=True, stable=True)
        use = min(empty.shape[0], int((far.values > 0).sum()))
        moved[empty[:use]] = x[far.indices[:use]].float()
    return moved


def _sums(x: Tensor, label: Tensor, counts: Tensor) -> Tensor:
    """Sum of each cluster's rows, [C, D] float64, added in the same order every time."""
    if x.device.type != "cpu":  # where index_add_ is atomic additions in any order; sums of sorted segments are not
        order = label.sort(stable=True).indices
        return torch.segment_reduce(x[order].double(), "sum", lengths=counts, axis=0, unsafe=True, initial=0.0)
    sums = torch.zeros(counts.shape[0], x.shape[1], dtype=torch.float64)
    block = max(1, SERIAL // x.shape[1])  # widened and added while it is in cache
    for part, own in zip(x.split(block), label.split(block), strict=True):
        sums.index_add_(0, own, part.double())
    return sums
