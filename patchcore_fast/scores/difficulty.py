"""How hard a small network finds each row, from its training: AUM, forgetting events, EL2N, in one pass an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..inputs import Features
from ..kernels.checks import check_int, check_rows
from ..kernels.surroundings import undisturbed
from ..progress import Progress, bar
from .clustering import cluster, work
from .rows import CHUNK_SIZE, SERIAL, Rows, check_number, check_seed, moments, read_rows

_ITERATIONS, _SAMPLE = 10, 256  # of k-means
_MOMENTUM, _DECAY, _EPSILON = 0.9, 0.999, 1e-8  # Adam's usual ones


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
    batch = min(1024, max(32, n // 256)) if batch_size is None else batch_size
    batch = min(n, check_int(name, "batch_size", batch, 1, 2**31 - 1))
    rate = check_number(name, "learning_rate", learning_rate)
    early = (epochs + 1) // 2 if early_epochs is None else check_int(name, "early_epochs", early_epochs, 1, epochs)
    generator = torch.Generator().manual_seed(check_seed(name, seed))
    given = None if labels is None else check_labels(name, labels, n)
    count = min(n, check_int(name, "clusters", clusters, 2, 2**31 - 1))
    total = epochs * n + (work(n, count, _ITERATIONS, _SAMPLE) if given is None else 0)
    with bar(total, name, progress) as done:
        if given is None:
            given = cluster(name, rows, count, _ITERATIONS, _SAMPLE, generator, done.update).labels
        values, targets = given.unique(return_inverse=True)
        if values.shape[0] < 2:
            raise ValueError(f"{name}: at least two classes are wanted, got {values.shape[0]} in {n} rows")
        head = Head(rows.shape[1], hidden, values.shape[0], rate, generator, rows.device)
        return _train(rows, targets, head, epochs, early, batch, generator, done.update)


def check_labels(name: str, labels: Tensor | np.ndarray, n: int) -> Tensor:
    if not isinstance(labels, (Tensor, np.ndarray)):
        raise TypeError(
            f"{name}: labels must be an ndarray or torch.Tensor [N] of integers, got {type(labels).__name__}"
        )
    if tuple(labels.shape) != (n,):
        raise ValueError(f"{name}: labels must have shape ({n},), one a row, got {tuple(labels.shape)}")
    return check_rows(name, "labels", labels, 2**63 - 1, torch.device("cpu"))


def _train(
    rows: Rows,
    targets: Tensor,
    head: Head,
    epochs: int,
    early: int,
    batch: int,
    generator: torch.Generator,
    tick: Callable[[int], None],
) -> Difficulty:
    n, device = rows.shape[0], rows.device
    mean, variance = moments(rows)
    # A column that is constant but for rounding says nothing, and must not be blown up.
    useful = variance.sqrt() > 1e-12 * mean.abs()
    scale = torch.where(useful, variance.rsqrt(), 0.0)
    targets = targets.to(device)
    aum, el2n, events = (torch.zeros(n, dtype=torch.float32, device=device) for _ in range(3))
    right, ever = (torch.zeros(n, dtype=torch.bool, device=device) for _ in range(2))
    staged = max(1, rows.chunk_size // batch) * batch
    block = max(1, SERIAL // rows.shape[1]) if device.type == "cpu" else batch
    for epoch in range(epochs):
        for order in torch.randperm(n, generator=generator).split(staged):
            gathered, numbers = rows.take(order), order.to(device)
            for x, row in zip(gathered.split(batch), numbers.split(batch), strict=True):
                # A fresh tensor each time: products of the same rows can differ with their place in memory.
                standard = torch.cat([(part.double() - mean).mul_(scale).float() for part in x.split(block)])
                margin, error = head.step(standard, targets[row], batch)
                now = margin > 0
                aum[row] += margin
                if epoch < early:
                    el2n[row] += error
                events[row] += right[row] & ~now
                right[row] = now
                ever[row] |= now
            tick(order.shape[0])
    events = torch.where(ever, events, float(epochs))
    return Difficulty((aum / epochs).cpu(), events.cpu(), (el2n / early).cpu())


class Head:
    """A classifier with one hidden layer and its Adam state; the gradient is written out, so that its pass can be used.

    values : all parameters in one vector; `w1` [D, H], `b1` [H], `w2` [H, K], `b2` [K] are views of it.
    gradient : likewise, of the last step.
    """

    def __init__(
        self, dim: int, hidden: int, classes: int, rate: float, generator: torch.Generator, device: torch.device
    ) -> None:
        self._shapes = [(dim, hidden), (hidden,), (hidden, classes), (classes,)]
        w1 = torch.randn(dim, hidden, generator=generator, dtype=torch.float32) * (2 / dim) ** 0.5  # He et al., 2015
        w2 = torch.randn(hidden, classes, generator=generator, dtype=torch.float32) * hidden**-0.5
        zeros = [torch.zeros(k, dtype=torch.float32) for k in (hidden, classes)]
        self.values = torch.cat([w1.flatten(), zeros[0], w2.flatten(), zeros[1]]).to(device)
        self.gradient, self._first, self._second = (torch.zeros_like(self.values) for _ in range(3))
        self.w1, self.b1, self.w2, self.b2 = self._views(self.values)
        self._parts = self._views(self.gradient)
        self._rate, self._steps = rate, 0

    def _views(self, flat: Tensor) -> list[Tensor]:
        parts = flat.split([math.prod(shape) for shape in self._shapes])
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def step(self, x: Tensor, y: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
        """One step on x [B, D], y [B]: the margins p_y - max other and the errors ||p - y|| [B] before it.

        divisor : of the summed loss; the nominal batch, so that rows of a short last batch weigh no more than others.
        """
        active = torch.addmm(self.b1, x, self.w1).relu_()
        p = torch.addmm(self.b2, active, self.w2).softmax(1)
        own = p.gather(1, y[:, None])
        other = p.scatter(1, y[:, None], -1.0).amax(1)
        p.scatter_(1, y[:, None], own - 1)  # the gradient by the logits
        margin, error = own[:, 0] - other, p.norm(dim=1)
        p /= divisor
        behind = (p @ self.w2.t()).mul_(active > 0)
        for part, value in zip(self._parts, (x.t() @ behind, behind.sum(0), active.t() @ p, p.sum(0)), strict=True):
            part.copy_(value)
        self._adam()
        return margin, error

    def _adam(self) -> None:
        """D. P. Kingma and J. Ba, Adam, 2015."""
        self._steps += 1
        self._first.lerp_(self.gradient, 1 - _MOMENTUM)
        self._second.mul_(_DECAY).addcmul_(self.gradient, self.gradient, value=1 - _DECAY)
        rate = self._rate * math.sqrt(1 - _DECAY**self._steps) / (1 - _MOMENTUM**self._steps)
        self.values.addcdiv_(self._first, self._second.sqrt().add_(_EPSILON), value=-rate)
