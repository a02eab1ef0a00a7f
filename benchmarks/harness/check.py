"""Is what a provider returned right? Judged in float64, in the provider's own space, outside the timed runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from patchcore_fast.kernels.exact import squared_distance

TOLERANCE = 1e-5  # relative; float32's rounding of distances
_BLOCK = 128  # picks at a time
_BLOCK_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}  # of float64 rows at a time; small steps starve a GPU
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
        self.device = torch.device(device)
        self.features = features if self.device.type == "cpu" or not self._has_room(features) else features.to(device)
        features = self.features
        n, d = features.shape
        self.rows = max(1, _BLOCK_BYTES[self.device.type] // (8 * (d + _BLOCK)))
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
        return self._follow(indices)[1]

    def radius(self, indices: Sequence[int] | np.ndarray | Tensor) -> float:
        """Covering radius: the largest distance of a row to the nearest of these picks, in float64. Raises as above."""
        return float(self._follow(indices)[0].max().clamp_min(0).sqrt())

    def _has_room(self, features: Tensor) -> bool:
        """Whether the device holds the rows, and as much again for the work; copied once, not at every step."""
        return 2 * features.nbytes < torch.cuda.mem_get_info(self.device)[0]

    def _follow(self, indices: Sequence[int] | np.ndarray | Tensor) -> tuple[Tensor, float]:
        """Squared distances [N] to the nearest of the picks, and the largest shortfall on the way (inf: NaN seen)."""
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
                return nearest, float("inf")
            if i % every == every - 1 or lo + _BLOCK >= len(picks):
                self._remember(picks[: lo + len(block)], nearest, worst)
        return nearest, worst

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


def product_error(query: np.ndarray, bank: np.ndarray, rows: np.ndarray, product: np.ndarray) -> float:
    """Largest error of some rows of query @ bank.T, against float64, as a share of |x| |y|.

    query [Q, D], bank [M, D], rows [S] of the queries, product [S, M]. inf where the shape is wrong or a value is NaN.
    """
    if product.shape != (len(rows), len(bank)):
        return float("inf")
    x, y = query[rows].astype(np.float64), bank.astype(np.float64)
    scale = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)
    relative = np.abs(product - x @ y.T) / np.maximum(scale, 1e-300)
    return float(relative.max()) if np.isfinite(relative).all() else float("inf")


class Neighbours:
    """The true nearest of a sample of queries, by float64 brute force in difference form, to judge many answers by.

    query [Q, D], bank [M, D] float32; most : neighbours that an answer may have; device : where to compute.
    """

    def __init__(self, query: np.ndarray, bank: np.ndarray, most: int, sample: int = 200, seed: int = 0,
                 device: str = "cpu") -> None:  # fmt: skip
        self.query, self.bank, self.device = query, bank, device
        self.sample = np.random.default_rng(seed).choice(len(query), min(sample, len(query)), replace=False)
        self.true = np.empty((len(self.sample), min(most, len(bank))))  # squared, ascending
        self.widest = np.empty(len(self.sample))
        block = max(1, _BLOCK_BYTES[torch.device(device).type] // (16 * bank.shape[1]))
        parts = [torch.from_numpy(np.array(bank[lo : lo + block])).to(device) for lo in range(0, len(bank), block)]
        for i, q in enumerate(self.sample):
            x = torch.from_numpy(np.array(query[q])).to(device)  # copies: the arrays may be maps of read-only files
            squared = torch.cat([squared_distance(part, x) for part in parts])
            self.widest[i] = float(squared.max())
            self.true[i] = squared.topk(self.true.shape[1], largest=False).values.sort().values.cpu().numpy()
        self.largest_norm = max(float(torch.linalg.vector_norm(part.double(), dim=1).max()) for part in parts)

    def _squared(self, found: np.ndarray) -> np.ndarray | None:
        """Squared distances [S, k] ascending of what was found for the sample; None where a row is given twice."""
        if found.ndim != 2 or len(found) != len(self.query):
            raise ValueError(f"neighbour_error: found must be [{len(self.query)}, k], got {found.shape}")
        if found.dtype.kind not in "iu" or not 1 <= found.shape[1] <= self.true.shape[1]:
            raise ValueError(f"neighbour_error: row numbers are wanted, got {found.dtype} of shape {found.shape}")
        n = len(self.bank)
        if found.min() < 0 or found.max() >= n:
            raise ValueError(f"neighbour_error: rows in 0..{n - 1} are wanted, got {found.min()}..{found.max()}")
        out = np.empty((len(self.sample), found.shape[1]))
        for i, q in enumerate(self.sample):
            if len(np.unique(found[q])) < found.shape[1]:
                return None
            rows = torch.from_numpy(np.array(self.bank[found[q]])).to(self.device)
            x = torch.from_numpy(np.array(self.query[q])).to(self.device)
            out[i] = squared_distance(rows, x).sort().values.cpu().numpy()
        return out

    def error(self, found: np.ndarray) -> float:
        """Largest relative excess of the j-th distance over the true one; inf where a row is given twice.

        Raises
        ------
        ValueError : shapes that do not fit, or rows out of range.
        """
        squared = self._squared(found)
        if squared is None:
            return float("inf")
        got, true = np.sqrt(squared), np.sqrt(self.true[:, : squared.shape[1]])
        floor = _FLOOR * np.sqrt(self.widest)[:, None] + 1e-300
        excess = ((got - true) / np.maximum(true, floor)).max()
        return float(excess) if np.isfinite(excess) else float("inf")

    def slack(self, found: np.ndarray) -> tuple[float, float]:
        """For arithmetic without a certificate: largest excess of a squared distance as a share of (|x| + |y|)^2, and
        the share of true neighbours among those found. Raises as `error`.
        """
        squared = self._squared(found)
        if squared is None:
            return float("inf"), 0.0
        true = self.true[:, : squared.shape[1]]
        norms = np.linalg.norm(self.query[self.sample].astype(np.float64), axis=1)[:, None] + self.largest_norm
        excess = ((squared - true) / np.maximum(norms**2, 1e-300)).max()
        return float(excess) if np.isfinite(excess) else float("inf"), float((squared <= true[:, -1:]).mean())


def neighbour_error(query: np.ndarray, bank: np.ndarray, found: np.ndarray, sample: int = 200, seed: int = 0) -> float:
    """How far the rows found [Q, k] are from being the nearest: see `Neighbours.error`; ties may fall either way."""
    found = np.asarray(found)
    return Neighbours(query, bank, found.shape[-1] if found.ndim else 1, sample, seed).error(found)
