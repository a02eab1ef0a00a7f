"""Is what a provider returned right? Judged in float64, in the provider's own space, outside the timed runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

TOLERANCE = 1e-5  # relative; float32's rounding of distances
_BLOCK = 128  # picks at a time
_BLOCK_BYTES = 64 << 20  # of float64 rows at a time
_FLOOR = 1e-5  # of the spread; nearer than that, float64 in expanded form cannot tell distances apart


class Trace:
    """Judges pick sequences over the same features, as `kernels.kcenter.trace.greedy_shortfall` does, and cheaper.

    Sequences that begin alike are judged once as far as they do. Rows are taken to float64 block by block, so the
    features are never copied whole.

    Parameters
    ----------
    features : [N, D] float32, the rows as the provider sees them (projected, if it projects).
    initial : [N] distances that hold before the first pick, or None: then the first pick is free.
    device : where to compute.
    """

    def __init__(self, features: Tensor, initial: Tensor | None = None, device: str = "cpu") -> None:
        self.features, self.device = features, torch.device(device)
        n, d = features.shape
        self.rows = max(1, _BLOCK_BYTES // (8 * (d + _BLOCK)))
        total = torch.zeros(d, dtype=torch.float64, device=self.device)
        for part in features.split(self.rows):
            total += part.to(self.device, torch.float64).sum(0)
        self.mean = total / n
        self.free = initial is None
        if initial is None:
            nearest = torch.full((n,), torch.inf, dtype=torch.float64, device=self.device)
        else:
            nearest = initial.to(self.device, torch.float64).square()
        self.spread2 = max(float((p.to(self.device).double() - self.mean).square().sum(1).max())
                           for p in features.split(self.rows))  # fmt: skip
        # What is known: picks so far -> (nearest squared distances after them, largest shortfall within them).
        self.states: list[tuple[tuple[int, ...], Tensor, float]] = [((), nearest, 0.0)]

    def shortfall(self, indices: Sequence[int] | np.ndarray | Tensor) -> float:
        """Largest relative amount by which a pick was nearer to the earlier picks than the farthest row was.

        0.0 is a perfect greedy trace whatever the ties; a row picked twice counts 1.0 unless all rows are taken up.

        Raises
        ------
        ValueError : a row number out of range, or none at all.
        """
        picks = tuple(int(i) for i in indices)
        n = self.features.shape[0]
        if not picks or min(picks) < 0 or max(picks) >= n:
            raise ValueError(f"shortfall: row numbers in 0..{n - 1} are wanted, got {len(picks)} with others")
        known, nearest, worst = max((s for s in self.states if picks[: len(s[0])] == s[0]), key=lambda s: len(s[0]))
        nearest = nearest.clone()
        starts = range(len(known), len(picks), _BLOCK)
        every = max(1, len(starts) // 8)  # a few states are remembered: N values each
        for i, lo in enumerate(starts):
            block = picks[lo : lo + _BLOCK]
            worst = max(worst, self._judge(list(block), nearest, first=lo == 0))
            if not torch.isfinite(nearest).all():  # NaN would compare as right
                return float("inf")
            if i % every == every - 1 or lo + _BLOCK >= len(picks):
                self._remember(picks[: lo + len(block)], nearest, worst)
        return worst

    def _remember(self, picks: tuple[int, ...], nearest: Tensor, worst: float) -> None:
        self.states.append((picks, nearest.clone(), worst))
        if len(self.states) > 24:
            del self.states[1]

    def _judge(self, picks: list[int], nearest: Tensor, first: bool) -> float:
        """Bring `nearest` up to date with some picks; the largest shortfall among them."""
        chosen = torch.tensor(picks)
        y = self.features[chosen.to(self.features.device)].to(self.device).double() - self.mean
        norm = y.square().sum(1)
        # Row j of `taken`: the j-th pick's squared distance to all picks before it.
        among = (norm[:, None] + norm - 2 * (y @ y.T)).masked_fill(_not_before(len(picks), self.device), torch.inf)
        taken = torch.minimum(nearest[chosen.to(self.device)], among.min(1).values)
        farthest = torch.zeros(len(picks), dtype=torch.float64, device=self.device)
        for part, near in zip(self.features.split(self.rows), nearest.split(self.rows), strict=True):
            x = part.to(self.device).double() - self.mean
            squared = torch.addmm(norm[:, None] + x.square().sum(1), y, x.T, alpha=-2)
            for j, row in enumerate(squared):
                farthest[j] = torch.maximum(farthest[j], near.max())
                torch.minimum(near, row, out=near)
        farthest.clamp_min_(0)
        lost = (farthest - taken.clamp_min(0)) / farthest.clamp_min(_FLOOR**2 * self.spread2).clamp_min(1e-300)
        if first and self.free:
            lost[0] = 0.0
        return float((1 - (1 - lost.clamp(0, 1)).sqrt()).max())


def _not_before(k: int, device: torch.device) -> Tensor:
    return torch.ones(k, k, dtype=torch.bool, device=device).triu()


def leading(indices: Sequence[int] | np.ndarray, reference: Sequence[int] | np.ndarray) -> int:
    """How many leading entries agree."""
    m = min(len(indices), len(reference))
    differ = np.nonzero(np.asarray(indices[:m]) != np.asarray(reference[:m]))[0]
    return int(differ[0]) if len(differ) else m


def neighbour_error(query: np.ndarray, bank: np.ndarray, found: np.ndarray, sample: int = 200, seed: int = 0) -> float:
    """How far the rows found are from being the nearest: largest relative excess of the j-th distance, in float64.

    query [Q, D], bank [M, D], found [Q, k] rows. A sample of the queries is judged, against brute force in difference
    form. Ties may fall either way; a row given twice counts as infinitely wrong.

    Raises
    ------
    ValueError : shapes that do not fit, or rows out of range.
    """
    found = np.asarray(found)
    if found.ndim != 2 or len(found) != len(query):
        raise ValueError(f"neighbour_error: found must be [{len(query)}, k], got {found.shape}")
    k = found.shape[1]
    if found.dtype.kind not in "iu" or not k:
        raise ValueError(f"neighbour_error: row numbers are wanted, got {found.dtype} of shape {found.shape}")
    if found.min() < 0 or found.max() >= len(bank):
        raise ValueError(f"neighbour_error: rows in 0..{len(bank) - 1} are wanted, got {found.min()}..{found.max()}")
    random = np.random.default_rng(seed)
    worst = 0.0
    for q in random.choice(len(query), min(sample, len(query)), replace=False):
        if len(np.unique(found[q])) < k:
            return float("inf")
        squared = np.empty(len(bank))
        for lo in range(0, len(bank), 16_384):
            difference = bank[lo : lo + 16_384].astype(np.float64) - query[q]
            squared[lo : lo + 16_384] = np.einsum("nd,nd->n", difference, difference)
        true = np.sqrt(np.sort(np.partition(squared, k - 1)[:k]))
        got = np.sqrt(np.sort(squared[found[q]]))
        excess = float(((got - true) / np.maximum(true, _FLOOR * np.sqrt(squared.max()) + 1e-300)).max())
        worst = max(worst, excess if np.isfinite(excess) else float("inf"))  # max() would drop a NaN
    return worst
