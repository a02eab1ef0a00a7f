"""The proxy of `difficulty` and `train_proxy`: a small classifier, trained by Adam, that tells what it thought of rows.

Each row is seen once an epoch, in a new order, and what is told of it comes from the very pass that its gradient comes
from. The gradient is written out; nothing asks autograd.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..kernels.checks import check_int, check_rows
from .rows import SERIAL, Rows, moments

_MOMENTUM, _DECAY, _EPSILON = 0.9, 0.999, 1e-8  # Adam's usual ones


class Seen(NamedTuple):
    """What a step saw before it moved the weights, of the softmax outputs p of each row, [B] float32.

    margin : p_y - max of the other p.  error : ||p - y||, y one-hot.  confidence : p_y.
    loss : -log p_y, of the logits; None where it was not asked for.
    """

    margin: Tensor
    error: Tensor
    confidence: Tensor
    loss: Tensor | None


class Adam:
    """The state of D. P. Kingma and J. Ba's Adam, 2015, for one vector of parameters.

    values : the parameters, changed in place.  first, second : moments of their gradient.  steps : taken so far.
    """

    def __init__(self, values: Tensor, rate: float) -> None:
        self.values, self.rate, self.steps = values, rate, 0
        self.first, self.second = torch.zeros_like(values), torch.zeros_like(values)

    def step(self, gradient: Tensor) -> None:
        """One step down a gradient of the parameters' shape."""
        self.steps += 1
        self.first.lerp_(gradient, 1 - _MOMENTUM)
        self.second.mul_(_DECAY).addcmul_(gradient, gradient, value=1 - _DECAY)
        rate = self.rate * math.sqrt(1 - _DECAY**self.steps) / (1 - _MOMENTUM**self.steps)
        self.values.addcdiv_(self.first, self.second.sqrt().add_(_EPSILON), value=-rate)


class Head:
    """A classifier with one hidden layer of rectified linear units; the gradient is written out.

    values : all parameters in one vector; `w1` [D, H], `b1` [H], `w2` [H, K], `b2` [K] are views of it.
    gradient : likewise, of the last step.  adam : the optimiser's state.
    """

    def __init__(
        self, dim: int, hidden: int, classes: int, rate: float, generator: torch.Generator, device: torch.device
    ) -> None:
        self._shapes = [(dim, hidden), (hidden,), (hidden, classes), (classes,)]
        w1 = torch.randn(dim, hidden, generator=generator, dtype=torch.float32) * (2 / dim) ** 0.5  # He et al., 2015
        w2 = torch.randn(hidden, classes, generator=generator, dtype=torch.float32) * hidden**-0.5
        zeros = [torch.zeros(k, dtype=torch.float32) for k in (hidden, classes)]
        self.values = torch.cat([w1.flatten(), zeros[0], w2.flatten(), zeros[1]]).to(device)
        self.gradient = torch.zeros_like(self.values)
        self.adam = Adam(self.values, rate)
        self.w1, self.b1, self.w2, self.b2 = self._views(self.values)
        self._parts = self._views(self.gradient)

    def _views(self, flat: Tensor) -> list[Tensor]:
        parts = flat.split([math.prod(shape) for shape in self._shapes])
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def step(self, x: Tensor, y: Tensor, divisor: int, loss: bool = False) -> Seen:
        """One step on x [B, D], y [B]; what is told is of the weights before it.

        divisor : of the summed loss; the nominal batch, so that rows of a short last batch weigh no more than others.
        """
        active = torch.addmm(self.b1, x, self.w1).relu_()
        logits = torch.addmm(self.b2, active, self.w2)
        lost = torch.nn.functional.cross_entropy(logits, y, reduction="none") if loss else None
        p = logits.softmax(1)
        own = p.gather(1, y[:, None])
        other = p.scatter(1, y[:, None], -1.0).amax(1)
        p.scatter_(1, y[:, None], own - 1)  # the gradient by the logits
        seen = Seen(own[:, 0] - other, p.norm(dim=1), own[:, 0], lost)
        p /= divisor
        behind = (p @ self.w2.t()).mul_(active > 0)
        for part, value in zip(self._parts, (x.t() @ behind, behind.sum(0), active.t() @ p, p.sum(0)), strict=True):
            part.copy_(value)
        self.adam.step(self.gradient)
        return seen


class Proxy:
    """Rows, their labels and the head that learns them.

    Parameters
    ----------
    name : of the caller, for messages.  rows : [N, D].  labels : [N] int64 of at least two classes.
    hidden, batch, rate : width of the head, rows a step, Adam's learning rate.
    generator : draws the weights first, then an order of the rows for each epoch.

    Attributes
    ----------
    classes : how many labels there are.  mean, scale : [D] float64 that columns are standardised by.
    """

    def __init__(
        self, name: str, rows: Rows, labels: Tensor, hidden: int, batch: int, rate: float, generator: torch.Generator
    ) -> None:
        values, targets = labels.unique(return_inverse=True)
        self.rows, self.classes, self.generator = rows, values.shape[0], generator
        if self.classes < 2:
            raise ValueError(f"{name}: at least two classes are wanted, got {self.classes} in {rows.shape[0]} rows")
        self.head = Head(rows.shape[1], hidden, self.classes, rate, generator, rows.device)
        self._targets, self._batch = targets.to(rows.device), batch
        self.mean, variance = moments(rows)
        # A column that is constant but for rounding says nothing, and must not be blown up.
        useful = variance.sqrt() > 1e-12 * self.mean.abs()
        self.scale = torch.where(useful, variance.rsqrt(), 0.0)

    def epoch(self, tick: Callable[[int], None], loss: bool = False) -> Iterator[tuple[Tensor, Seen]]:
        """One pass: (numbers of rows [B] on the device, what was seen of them) step by step.

        tick(rows) is called as they are dealt with.
        """
        rows, batch = self.rows, self._batch
        staged = max(1, rows.chunk_size // batch) * batch
        block = max(1, SERIAL // rows.shape[1]) if rows.device.type == "cpu" else batch
        for order in torch.randperm(rows.shape[0], generator=self.generator).split(staged):
            gathered, numbers = rows.take(order), order.to(rows.device)
            for x, row in zip(gathered.split(batch), numbers.split(batch), strict=True):
                # A fresh tensor each time: products of the same rows can differ with their place in memory.
                parts = [(part.double() - self.mean).mul_(self.scale).float() for part in x.split(block)]
                yield row, self.head.step(torch.cat(parts), self._targets[row], batch, loss)
            tick(order.shape[0])


def check_batch(name: str, batch_size: int | None, n: int) -> int:
    """Rows a step: what was asked, at most n; None: n / 256, between 32 and 1,024."""
    batch = min(1024, max(32, n // 256)) if batch_size is None else batch_size
    return min(n, check_int(name, "batch_size", batch, 1, 2**31 - 1))


def check_labels(name: str, labels: Tensor | np.ndarray, n: int) -> Tensor:
    """[n] integers >= 0, as a tensor on the CPU."""
    if not isinstance(labels, (Tensor, np.ndarray)):
        raise TypeError(
            f"{name}: labels must be an ndarray or torch.Tensor [N] of integers, got {type(labels).__name__}"
        )
    if tuple(labels.shape) != (n,):
        raise ValueError(f"{name}: labels must have shape ({n},), one a row, got {tuple(labels.shape)}")
    return check_rows(name, "labels", labels, 2**63 - 1, torch.device("cpu"))
