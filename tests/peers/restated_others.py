"""The selections of ind_knn_ad, google/active-learning, DeepCore and SoftPatch, written again in plain steps.

Each with its peer's arithmetic and its peer's draws from the global generators, one pick at a time: the oracle of
tests/compat and the baseline of benchmarks.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .restated_amazon import distances


def sparse_projected(rows: Tensor, eps: float = 0.9) -> Tensor:
    """[N, D] -> [N, d]; the rows themselves where the Johnson-Lindenstrauss width exceeds D."""
    from sklearn.random_projection import SparseRandomProjection

    try:
        return torch.from_numpy(SparseRandomProjection(eps=eps).fit_transform(rows.numpy()))
    except ValueError:
        return rows


def indad(rows: Tensor, n: int, float16: bool = False, device: str = "cpu") -> Tensor:
    """[N, d] rows, projected or not -> [max(n, 1)] picks from row 0 on; a picked row's distance becomes zero."""
    nearest = torch.linalg.norm(rows - rows[0], dim=1)
    if float16:
        rows, nearest = rows.half(), nearest.half()
    rows, nearest = rows.to(device), nearest.to(device)
    picks = [0]
    while len(picks) < n:
        nearest = nearest.minimum(torch.linalg.norm(rows - rows[picks[-1]], dim=1))
        picks.append(int(nearest.argmax()))
        nearest[picks[-1]] = 0
    return torch.tensor(picks)


class ActiveLearning:
    """The state machine of google's class: `batch` is its select_batch.

    Minimum distances live on between calls, unless a transform succeeds, which forgets them. Rows in `before`, the
    already_selected of the previous call, never bring in distances again.
    """

    def __init__(self, x: np.ndarray) -> None:
        self.x, self.before = x, []
        self.features = x.reshape(len(x), -1)
        self.nearest: np.ndarray | None = None

    def add(self, rows: list[int]) -> None:
        if rows:
            from sklearn.metrics import pairwise_distances

            new = pairwise_distances(self.features, self.features[rows]).min(1)
            self.nearest = new if self.nearest is None else np.minimum(self.nearest, new)

    def batch(self, model: object, already_selected: list[int], count: int) -> list[int]:
        try:
            self.features = model.transform(self.x)
            self.nearest = None
            self.add(already_selected)
        except Exception:
            self.add([row for row in already_selected if row not in self.before])
        picks = []
        for _ in range(count):
            row = 0 if self.nearest is None else int(self.nearest.argmax())
            assert row not in already_selected
            if row not in self.before:
                self.add([row])
            picks.append(row)
        self.before = already_selected
        return picks


def deepcore_distance(x: Tensor, y: Tensor) -> Tensor:
    """[A, D], [B, D] -> [A, B] Euclidean distances in expanded form, none below 1e-6."""
    squared = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * (x @ y.T)
    return squared.clamp_min(1e-12).sqrt()


def deepcore(
    rows: Tensor,
    budget: int,
    random_seed: int | None = None,
    index: np.ndarray | None = None,
    already_selected: object = (),
) -> np.ndarray:
    """Entries of `index` that are chosen or were before, in the order of `index`. Needs two rows and a budget of two,
    or of one where something is selected."""
    index = np.arange(len(rows)) if index is None else index
    budget = min(budget, len(rows))
    np.random.seed(random_seed)
    if len(already_selected) == 0:
        chosen = np.zeros(len(rows), bool)
        chosen[np.random.randint(0, len(rows))] = True
        budget -= 1
    else:
        chosen = np.isin(index, already_selected)
    nearest = deepcore_distance(rows[chosen], rows).min(0).values
    for _ in range(budget):
        nearest[chosen] = -1
        pick = int(nearest.argmax())
        chosen[pick] = True
        nearest = nearest.minimum(deepcore_distance(rows[[pick]], rows)[0])
    return index[chosen]


def softpatch(reduced: Tensor, k: int, weight: Tensor | None = None, points: int = 10) -> np.ndarray:
    """[N, d] -> [k] rows. Distances start as the plain mean distance to `points` drawn rows; those to picks are
    multiplied by each row's weight."""
    rows = np.random.choice(len(reduced), min(points, len(reduced)), replace=False)
    nearest = distances(reduced, reduced[rows]).mean(1)
    picks = []
    for _ in range(k):
        picks.append(int(nearest.argmax()))
        far = distances(reduced, reduced[picks[-1:]])[:, 0]
        nearest = torch.minimum(nearest, far if weight is None else far * weight)
    return np.array(picks, np.int64)
