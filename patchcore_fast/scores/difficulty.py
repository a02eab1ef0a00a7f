"""How hard a small network finds each row, from its training: AUM, forgetting events, EL2N, in one pass an epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..inputs import Features
from ..kernels.checks import check_int
from ..kernels.surroundings import undisturbed
from ..progress import Progress, bar
from .clustering import cluster, work
from .proxy import Proxy, check_batch, check_labels
from .rows import CHUNK_SIZE, check_number, check_seed, read_rows

_ITERATIONS, _SAMPLE = 10, 256  # of k-means


@dataclass(frozen=True)
class Difficulty:
    """Training dynamics of each row, [N] float32 CPU tensors.

    aum : mean over the epochs of p_y - max of the other p, softmax outputs, in -1..1; easy rows have large values.
    forgetting : how often the row went from right to wrong between epochs; `epochs` if it was never right.
    el2n : mean over the early epochs of ||p - y||, y one-hot, in 0..sqrt(2); hard rows have large values.
    """

    aum: Tensor
    forgetting: Tensor
    el2n: Tensor

    @property
    def score(self) -> Tensor:
        """[N] float32: -aum, hard is large."""
        return -self.aum


@undisturbed
def difficulty(
    features: Features,
    *,
    labels: Tensor | np.ndarray | None = None,
    clusters: int = 64,
    hidden: int = 64,
    epochs: int = 4,
    batch_size: int | None = None,
    learning_rate: float = 5e-3,
    early_epochs: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    chunk_size: int = CHUNK_SIZE,
    progress: Progress = None,
) -> Difficulty:
    """Train a small classifier on the rows and watch it: which rows does it find hard?

    One hidden layer of rectified linear units on standardised columns, cross-entropy, Adam. Each row is seen once an
    epoch, in a new order, and its statistics are taken from the very pass that its gradient comes from: nothing is
    computed twice and no table of rows by epochs is kept.

    Parameters
    ----------
    features : [N, D] floating ndarray or tensor; N >= 2.
    labels : [N] integers >= 0 of at least two classes; None: k-means pseudo-labels, as in ELFS.
    clusters : classes of the pseudo-labels, at least 2 (at most N are used). Not used with `labels`.
    hidden : width of the hidden layer.
    epochs : passes over the rows.
    batch_size : rows a step; None: N / 256, between 32 and 1,024.
    learning_rate : of Adam.
    early_epochs : epochs that `el2n` averages; None: the first half, rounded up.
    seed : of pseudo-labels, initial weights and orders; all are drawn on the CPU.
    device : where to compute; None: where the features are. The same seed repeats exactly on one device and number of
        threads; others round differently.
    chunk_size : rows gathered and moved at a time, in whole batches; changes speed and memory only.
    progress : see `patchcore_fast.progress.bar`; counts rows.

    Returns
    -------
    Difficulty; its `score` is hard = large.

    Raises
    ------
    TypeError : wrong type or dtype.  ValueError : wrong shape or range, fewer than two classes, rows that are not
    finite.

    References
    ----------
    H. Zheng et al., ELFS: label-free coreset selection with proxy training dynamics, ICLR 2025. G. Pleiss et al.,
    Identifying mislabeled data using the area under the margin ranking, 2020. M. Toneva et al., An empirical study of
    example forgetting, 2019. M. Paul et al., Deep learning on a data diet, 2021 (EL2N).
    """
    name = "difficulty"
    rows = read_rows(name, features, device, chunk_size)
    n = rows.shape[0]
    hidden = check_int(name, "hidden", hidden, 1, 2**20)
    epochs = check_int(name, "epochs", epochs, 1, 2**20)
    batch = check_batch(name, batch_size, n)
    rate = check_number(name, "learning_rate", learning_rate)
    early = (epochs + 1) // 2 if early_epochs is None else check_int(name, "early_epochs", early_epochs, 1, epochs)
    generator = torch.Generator().manual_seed(check_seed(name, seed))
    given = None if labels is None else check_labels(name, labels, n)
    count = min(n, check_int(name, "clusters", clusters, 2, 2**31 - 1))
    total = epochs * n + (work(n, count, _ITERATIONS, _SAMPLE) if given is None else 0)
    with bar(total, name, progress) as done:
        if given is None:
            given = cluster(name, rows, count, _ITERATIONS, _SAMPLE, generator, done.update).labels
        return _train(Proxy(name, rows, given, hidden, batch, rate, generator), epochs, early, done.update)


def _train(proxy: Proxy, epochs: int, early: int, tick: Callable[[int], None]) -> Difficulty:
    n, device = proxy.rows.shape[0], proxy.rows.device
    aum, el2n, events = (torch.zeros(n, dtype=torch.float32, device=device) for _ in range(3))
    right, ever = (torch.zeros(n, dtype=torch.bool, device=device) for _ in range(2))
    for epoch in range(epochs):
        for row, seen in proxy.epoch(tick):
            now = seen.margin > 0
            aum[row] += seen.margin
            if epoch < early:
                el2n[row] += seen.error
            events[row] += right[row] & ~now
            right[row] = now
            ever[row] |= now
    events = torch.where(ever, events, float(epochs))
    return Difficulty((aum / epochs).cpu(), events.cpu(), (el2n / early).cpu())
