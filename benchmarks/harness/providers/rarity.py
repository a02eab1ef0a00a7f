"""Rarity, the mean distance to the k nearest anchors: ours, scikit-learn, torch.cdist + topk.

An opened provider answers `answer(k)` with {"rarity": [N]}. All get the same anchors, rows at equal steps; a row's own
anchor does not count.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from patchcore_fast.kernels import knn_rarity

from . import Provider, cpu_only, installed
from .own import chosen_backend, own_providers

ANCHORS = 1024
_CHUNK_BYTES = 128 << 20


def anchor_rows(n: int) -> np.ndarray:
    """Which of n rows are the anchors: [A] int64, ascending."""
    count = min(ANCHORS, n)
    return np.arange(count) * n // count


class _Opened:
    def __init__(self, arrays: dict[str, Any], device: str, seed: int) -> None:
        self.array, self.device = arrays["features"], device
        self.rows = anchor_rows(len(self.array))
        self.features = torch.from_numpy(self.array).to(device)
        self.anchors = torch.from_numpy(self.rows).to(device)


def ours(backend: str, tuning: dict[str, Any] | None = None, **arguments: Any) -> type[_Opened]:
    """knn_rarity has no tuning."""

    class Ours(_Opened):
        def answer(self, k: int) -> dict[str, Any]:
            asked = {"anchors": self.anchors, "backend": backend, **arguments}
            return {"rarity": knn_rarity(self.features, k, **asked)}

        def facts(self) -> dict[str, Any]:
            return {"backend": chosen_backend(self.device, "knn")} if backend == "auto" else {}

    return Ours


class ScikitLearn(_Opened):
    def answer(self, k: int) -> dict[str, Any]:
        from sklearn.neighbors import NearestNeighbors

        index = NearestNeighbors(algorithm="brute", n_jobs=-1).fit(self.array[self.rows])
        distance, found = index.kneighbors(self.array, k + 1)
        own = self.rows[found] == np.arange(len(self.array))[:, None]
        own[~own.any(1), -1] = True  # where the row is no anchor, the farthest of the k + 1 goes
        return {"rarity": distance[~own].reshape(len(self.array), k).mean(1)}


class Chunks(_Opened):
    def answer(self, k: int) -> dict[str, Any]:
        anchors = self.features[self.anchors]
        out = torch.empty(len(self.features), device=self.device)
        own = torch.full((len(self.features),), -1, device=self.device)
        own[self.anchors] = torch.arange(len(anchors), device=self.device)
        step = max(1, _CHUNK_BYTES // (4 * len(anchors)))
        for lo in range(0, len(out), step):
            part = slice(lo, lo + step)
            distance = torch.cdist(self.features[part], anchors)
            here = (own[part] >= 0).nonzero().squeeze(1)
            distance[here, own[part][here]] = torch.inf
            out[part] = distance.topk(k, largest=False).values.mean(1)
        return {"rarity": out}


_LIST = (
    *own_providers("knn_rarity(x, k, anchors=rows)", ours, "values"),
    Provider("scikit-learn", "scikit-learn", 'NearestNeighbors(algorithm="brute", n_jobs=-1) of the anchors',
             ScikitLearn, missing=cpu_only(installed("sklearn", "scikit-learn"))),
    Provider("torch chunks", "torch chunks", "torch.cdist and topk, 128 MB of distances at a time", Chunks),
)  # fmt: skip
PROVIDERS = {p.name: p for p in _LIST}
