"""Clusters of images by linear heads on frozen embeddings that agree with their neighbours (TEMI)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from ..inputs import Features
from ..kernels import knn
from ..kernels.checks import check_int
from ..kernels.surroundings import undisturbed
from ..progress import Progress, bar
from .proxy import Adam
from .rows import CHUNK_SIZE, check_number, check_seed, read_rows

# Temperature of both softmaxes, what teachers and their cluster shares keep in a step, steps of a short run.
_TEMPERATURE, _KEPT, _STEPS = 0.1, 0.98, 600
_TINY = torch.finfo(torch.float32).tiny


class Heads(NamedTuple):
    """labels : [I] int64, the likeliest cluster.  probabilities : [I, C] float32.  Of the head with the lowest loss, on
    the CPU."""

    labels: Tensor
    probabilities: Tensor


@undisturbed
def clustering_heads(
    embeddings: Features,
    clusters: int,
    *,
    heads: int = 16,
    neighbours: int | None = None,
    beta: float = 0.6,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float = 3e-3,
    seed: int = 0,
    progress: Progress = None,
) -> Heads:
    """Cluster images by their embeddings: linear heads learn to say of an image what they say of its neighbours.

    Each of H students is a linear map to C clusters, softmax q; its teacher, of the same form, follows it by a moving
    average. Of an image x and a neighbour x' the pointwise mutual information is

        pmi(x, x') = log sum_c (q_student(c | x) q_teacher(c | x'))^beta / q_teacher(c),

    q_teacher(c) a moving average of the teacher's shares, so that all clusters are used. Students lower
    -w(x, x') pmi(x, x') both ways round, where w(x, x') = sum_c q_teacher(c | x) q_teacher(c | x'), averaged over the
    heads, is how much neighbours are trusted to belong together. The gradient is written out; Adam takes the steps. All
    is float32 on the CPU in one thread: products are small, and the same seed gives the same labels.

    Embeddings are centred and divided by their length, for neighbours and heads alike: what all images share says
    nothing.

    Parameters
    ----------
    embeddings : [I, E] floating ndarray or tensor.
    clusters : C, 2 to I / 2.
    heads : H.  neighbours : k; None: half of a cluster of the mean size, between 2 and 50.
    beta : in (0.5, 1]; below 1 clusters may differ in size, at 1 all images can end in few.
    epochs : passes over the images; None: as many as make 600 steps, at least 20.
    batch_size : images a step; None: I / 8, between 16 and 512.
    learning_rate : of Adam.
    seed : of initial heads, orders and neighbours drawn.
    progress : see `patchcore_fast.progress.bar`; counts images.

    Returns
    -------
    Heads : labels [I] and probabilities [I, C], the teacher's, of the head with the lowest loss over all pairs; heads
        that put all images into one cluster come last.

    Raises
    ------
    TypeError : wrong type or dtype.  ValueError : wrong shape or range, values that are not finite, fewer than 2 images
    a cluster, embeddings that are all alike.

    References
    ----------
    N. Adaloglou et al., Exploring the limits of deep image clustering using pretrained models, BMVC 2023 (TEMI).
    """
    name = "clustering_heads"
    clusters = check_int(name, "clusters", clusters, 2, 2**20)
    heads = check_int(name, "heads", heads, 1, 2**16)
    beta, rate = check_number(name, "beta", beta), check_number(name, "learning_rate", learning_rate)
    if not 0.5 < beta <= 1:
        raise ValueError(f"{name}: beta must lie in (0.5, 1], got {beta}")
    generator = torch.Generator().manual_seed(check_seed(name, seed))
    x = _directions(name, read_rows(name, embeddings, "cpu", CHUNK_SIZE, "embeddings").x)
    n = len(x)
    if n < 2 * clusters:
        raise ValueError(f"{name}: {clusters} clusters need at least {2 * clusters} images, got {n}")
    k = max(2, min(50, n // (2 * clusters))) if neighbours is None else neighbours
    k = check_int(name, "neighbours", k, 1, n - 1, f" ({n} images)")
    batch = max(16, min(512, n // 8)) if batch_size is None else batch_size
    batch = min(n, check_int(name, "batch_size", batch, 1, 2**31 - 1))
    steps = -(-n // batch)
    epochs = max(20, -(-_STEPS // steps)) if epochs is None else check_int(name, "epochs", epochs, 1, 2**20)
    near = _neighbours(x, k)
    x *= x.shape[1] ** 0.5  # columns of size 1
    trained = _Heads(x, heads, clusters, beta, rate, generator)
    with _one_thread(), bar(epochs * n, name, progress) as shown:
        for _ in range(epochs):
            order = torch.randperm(n, generator=generator)
            drawn = torch.randint(near.shape[1], (n,), generator=generator)
            for rows in order.split(batch):
                trained.step(rows, near[rows, drawn[rows]], len(rows) / batch)
                shown.update(len(rows))
        said, losses = trained.teachers(torch.arange(n)), trained.losses(near)
        one = (said.argmax(2) == said[:1].argmax(2)).all(0)  # heads that put all images together say nothing
        probabilities = said[:, int(losses.masked_fill(one & ~one.all(), torch.inf).argmin())].clone()
    return Heads(probabilities.argmax(1), probabilities)


class _Heads:
    """H students and their teachers: weights [E + 1, H C], the last row the biases; side by side, so that one product
    asks all of them."""

    def __init__(
        self, x: Tensor, heads: int, clusters: int, beta: float, rate: float, generator: torch.Generator
    ) -> None:
        self._x = torch.cat([x, torch.ones(len(x), 1)], 1)
        self._shape, self._beta = (heads, clusters), beta
        weights = torch.randn(self._x.shape[1], heads * clusters, generator=generator, dtype=torch.float32)
        weights *= 0.1 * x.shape[1] ** -0.5
        weights[-1] = 0
        self._student, self._teacher = weights, weights.clone()
        self._adam = Adam(self._student.view(-1), rate)
        self._shares = torch.full(self._shape, 1 / clusters)

    def teachers(self, rows: Tensor) -> Tensor:
        """[B] -> [B, H, C], what teachers say."""
        return self._said(self._teacher, rows)

    def _said(self, weights: Tensor, rows: Tensor) -> Tensor:
        return (self._x[rows] @ weights).div_(_TEMPERATURE).view(-1, *self._shape).softmax(2)

    def _ratios(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Summands of the mutual information, [B, H, C]."""
        return (student * teacher).clamp_(min=_TINY).pow_(self._beta).div_(self._shares)

    def step(self, rows: Tensor, others: Tensor, share: float) -> None:
        """One step on pairs [B]; `share` of a whole batch is what they weigh."""
        pair = (rows, others)
        teacher = [self.teachers(part) for part in pair]
        # The moving average of shares is the teacher's too: it comes before what it divides.
        self._shares.lerp_((teacher[0].mean(0) + teacher[1].mean(0)) / 2, (1 - _KEPT) * share).clamp_(min=1e-6)
        trust = (teacher[0] * teacher[1]).sum(2).mean(1)[:, None, None]  # of all heads
        gradient = torch.zeros_like(self._student)
        for own, other in ((0, 1), (1, 0)):
            said = self._said(self._student, pair[own])
            ratio = self._ratios(said, teacher[other])
            # d pmi / d logit_c = beta (ratio_c / sum of ratios - q_c) / temperature
            slope = said.sub_(ratio.div_(ratio.sum(2, keepdim=True))).mul_(trust)
            slope *= self._beta * share / (2 * _TEMPERATURE * len(rows))
            gradient += self._x[pair[own]].t() @ slope.flatten(1)
        self.gradient = gradient
        self._adam.step(gradient.view(-1))
        self._teacher.lerp_(self._student, 1 - _KEPT)

    def losses(self, near: Tensor) -> Tensor:
        """-mean of w pmi over all images and all their neighbours, each head by its own trust: [H] float64."""
        total = torch.zeros(self._shape[0], dtype=torch.float64)
        for rows in torch.arange(len(near)).split(1024):
            teacher, student = self.teachers(rows), self._said(self._student, rows)
            for column in near[rows].t():
                other = self.teachers(column)
                trust = (teacher * other).sum(2)
                forth = self._ratios(student, other).sum(2).log_()
                back = self._ratios(self._said(self._student, column), teacher).sum(2).log_()
                total -= (trust * (forth + back)).double().sum(0) / 2
        return total / near.numel()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Where another program holds a core, threads wait for one another longer than a small product takes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _directions(name: str, x: Tensor) -> Tensor:
    """Rows [I, E] without their mean and of length 1, float32; rows at the mean stay zeros."""
    centred = x.double()
    centred = centred - centred.mean(0)
    lengths = centred.norm(dim=1, keepdim=True)
    if not float(lengths.max()) > 1e-9 * float(x.double().abs().max()):
        raise ValueError(f"{name}: embeddings of {len(x)} images are all alike")
    return (centred / lengths.where(lengths > 0, 1.0)).float()


def _neighbours(x: Tensor, k: int) -> Tensor:
    """[I, k] int64: the nearest other images of each."""
    found = knn(x, x, k + 1)[1]
    self_last = (found != torch.arange(len(x))[:, None]).int().sort(dim=1, descending=True, stable=True).indices
    return found.gather(1, self_last)[:, :k]
