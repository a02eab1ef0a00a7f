"""How much a small network's answer to each row changes while it learns: instability without noise."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..inputs import Features
from ..kernels.checks import check_int
from ..kernels.surroundings import undisturbed
from ..progress import Progress, bar
from .clustering import cluster, work
from .proxy import Head, check_labels
from .rows import CHUNK_SIZE, SERIAL, Rows, check_number, check_seed, moments, read_rows

_ITERATIONS, _SAMPLE = 10, 256  # of k-means


@undisturbed
def proxy_change(
    features: Features,
    *,
    labels: Tensor | np.ndarray | None = None,
    clusters: int = 64,
    steps: int = 8,
    hidden: int = 64,
    batch_size: int = 1024,
    learning_rate: float = 5e-3,
    seed: int = 0,
    device: torch.device | str | None = None,
    chunk_size: int = CHUNK_SIZE,
    progress: Progress = None,
) -> Tensor:
    """Mean change of a proxy's outputs from one gradient step to the next: 1/T sum over t of ||p_t(x) - p_(t-1)(x)||.

    The proxy is the classifier of `difficulty` (one hidden layer on standardised columns, Adam), p_t its softmax
    outputs after t steps. Rows on which it changes its mind have large values. The parameters of all steps are kept,
    not the outputs, so that rows are read once, in chunks.

    Parameters
    ----------
    features : [N, D] floating ndarray or tensor; N >= 2.
    labels : [N] integers >= 0 of at least two classes; None: k-means pseudo-labels.
    clusters : classes of the pseudo-labels, at least 2 (at most N are used). Not used with `labels`.
    steps : T, gradient steps, each on the next `batch_size` rows of a random order.
    hidden : width of the hidden layer.
    learning_rate : of Adam.
    seed : of pseudo-labels, initial weights and order; all are drawn on the CPU.
    device : where to compute; None: where the features are. The same seed repeats exactly on one device and number of
        threads; others round differently.
    chunk_size : rows moved at a time; changes speed and memory only.
    progress : see `patchcore_fast.progress.bar`; counts rows.

    Returns
    -------
    [N] float32 CPU tensor in 0..sqrt(2).

    Raises
    ------
    TypeError : wrong type or dtype.  ValueError : wrong shape or range, fewer than two classes, rows that are not
    finite.

    References
    ----------
    After the training dynamics of H. Zheng et al., ELFS, ICLR 2025; the measure itself is ours.
    """
    name = "proxy_change"
    rows = read_rows(name, features, device, chunk_size)
    n = rows.shape[0]
    steps, hidden = check_int(name, "steps", steps, 1, 2**16), check_int(name, "hidden", hidden, 1, 2**20)
    batch = min(n, check_int(name, "batch_size", batch_size, 1, 2**31 - 1))
    rate = check_number(name, "learning_rate", learning_rate)
    generator = torch.Generator().manual_seed(check_seed(name, seed))
    given = None if labels is None else check_labels(name, labels, n)
    count = min(n, check_int(name, "clusters", clusters, 2, 2**31 - 1))
    total = n + (work(n, count, _ITERATIONS, _SAMPLE) if given is None else 0)
    with bar(total, name, progress) as done:
        if given is None:
            given = cluster(name, rows, count, _ITERATIONS, _SAMPLE, generator, done.update).labels
        values, targets = given.unique(return_inverse=True)
        if values.shape[0] < 2:
            raise ValueError(f"{name}: at least two classes are wanted, got {values.shape[0]} in {n} rows")
        head = Head(rows.shape[1], hidden, values.shape[0], rate, generator, rows.device)
        scaled = _Standard(rows)
        course = [head.values.clone()]
        order = torch.randperm(n, generator=generator)
        for step in range(steps):
            own = order[(torch.arange(batch) + step * batch) % n]
            head.step(scaled(rows.take(own)), targets[own].to(rows.device), batch)
            course.append(head.values.clone())
        out = torch.empty(n, dtype=torch.float32)
        block = max(1, SERIAL // rows.shape[1]) if rows.device.type == "cpu" else 1 << 14
        for part, chunk in rows.chunks(block):
            found = [_change(head, course, scaled(piece)) for piece in chunk.split(block)]
            out[part] = torch.cat(found).cpu()
            done.update(chunk.shape[0])
    return out


class _Standard:
    """Columns at mean 0 and variance 1; those that are constant but for rounding say nothing and become 0."""

    def __init__(self, rows: Rows) -> None:
        self.mean, variance = moments(rows)
        self.scale = torch.where(variance.sqrt() > 1e-12 * self.mean.abs(), variance.rsqrt(), 0.0)

    def __call__(self, x: Tensor) -> Tensor:  # [B, D] -> [B, D] float32
        return (x.double() - self.mean).mul_(self.scale).float()


def _change(head: Head, course: list[Tensor], x: Tensor) -> Tensor:
    """[B, D] -> [B]: mean change of the outputs over the steps. Leaves the last parameters in the head."""
    total, before = torch.zeros(x.shape[0], device=x.device), torch.empty(0)
    for step, values in enumerate(course):
        head.values.copy_(values)
        active = torch.addmm(head.b1, x, head.w1).relu_()
        now = torch.addmm(head.b2, active, head.w2).softmax(1)
        if step:
            total += (now - before).norm(dim=1)
        before = now
    return total / (len(course) - 1)
