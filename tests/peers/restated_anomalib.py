"""anomalib's k-center greedy written again as the plain loop it is, one pass over the features per pick.

In the peer's own arithmetic (the features' type, torch's norms), for tests and as a baseline for benchmarks; then what
the tests compare with. Needs torch, NumPy and scikit-learn. `version` is "2.0" (2.0, 2.1), "2.2" (2.2, 2.3) or "2.4"
(2.4 on).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.utils.random import sample_without_replacement
from torch import Tensor


def components(n_samples: int, eps: float = 0.9) -> int:
    """Width of the projection by the Johnson-Lindenstrauss lemma."""
    return math.floor(4 * np.log(n_samples) / (eps**2 / 2 - eps**3 / 3))


def sparse_projection_matrix(n_samples: int, n_features: int, eps: float = 0.9) -> Tensor:
    """[components, n_features] float32, drawn from torch's CPU generator and NumPy's global one."""
    count = components(n_samples, eps)
    density = n_features**-0.5
    half = torch.distributions.Binomial(1, torch.tensor(0.5))
    if count == 0:  # one sample
        return torch.zeros(0, n_features)
    if density == 1.0:
        return (2 * half.sample((count, n_features)) - 1) / np.sqrt(count)
    matrix = torch.zeros(count, n_features)
    for i in range(count):
        entries = int(torch.distributions.Binomial(n_features, torch.tensor(density)).sample())
        columns = sample_without_replacement(n_features, entries)
        signs = 2 * half.sample((entries,)) - 1
        for column, sign in zip(columns.tolist(), signs.tolist(), strict=True):
            matrix[i, column] = sign
    return matrix * (np.sqrt(1 / density) / np.sqrt(count))


def select(features: Tensor, k: int, start: int, version: str) -> list[int]:
    """k rows of [N, D] features that are projected already; `start` is the first of them in "2.4" only."""
    nearest = torch.full((features.shape[0],), math.inf, dtype=features.dtype, device=features.device)
    picks = [start] if version == "2.4" else []
    centre = start
    while len(picks) < k:
        if version == "2.0":
            distance = F.pairwise_distance(features, features[centre][None])
        else:
            distance = torch.linalg.norm(features - features[centre], dim=1)
        nearest = torch.minimum(nearest, distance)
        centre = int(nearest.argmax())
        nearest[centre] = 0
        picks.append(centre)
    return picks


def run(embedding: Tensor, ratio: float, version: str) -> tuple[list[int], Tensor]:
    """A whole selection with its draws from the global generators: rows and the features that they were chosen on."""
    n = embedding.shape[0]
    if embedding.ndim == 2:
        features = embedding @ sparse_projection_matrix(n, embedding.shape[1]).t().to(embedding)
    else:
        features = embedding.flatten(1) if embedding.ndim > 1 else embedding[:, None]
    start = int(torch.randint(n, (1,), device="cpu" if version == "2.0" else embedding.device))
    return select(features, int(n * ratio), start, version), features


def seed(value: int) -> None:
    """Both global generators."""
    torch.manual_seed(value)
    np.random.seed(value)


def generators() -> tuple:
    """Their states, to compare."""
    kind, keys, *rest = np.random.get_state()
    return (torch.get_rng_state().tolist(), kind, keys.tolist(), *rest)


# (shape, ratio, top) of `grid`s that tell selections apart. Of the fourth, rows that coincide are left at the end, the
# fifth has four distinct rows, and all rows of the seventh are equal.
UNPROJECTED = [((300, 4, 4), 0.1, 4), ((500, 3, 2, 2), 0.5, 3), ((200, 33, 1), 0.9, 9), ((50, 7, 1), 1.0, 2)]
UNPROJECTED += [((90, 2, 1), 1.0, 2), ((40, 1, 1), 1.5, 3), ((60, 3, 1), 0.5, 1), ((150,), 0.2, 64)]


def grid(*shape: int, top: int = 4, value: int = 0) -> torch.Tensor:
    """Multiples of 64: the 1e-6 that "2.0" adds to their differences is lost in float32, squares are exact."""
    return 64.0 * torch.randint(0, top, shape, generator=torch.Generator().manual_seed(value))


def near_tie(features: torch.Tensor, start: int, got: list[int], want: list[int], version: str) -> None:
    """Lists without the start: equal, or where they first part, both choices are equally far up to rounding."""
    assert len(got) == len(want)
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        if a != b:
            centres = features[[start, *got[:i]]].double()
            da, db = ((centres - features[row]).square().sum(1).min().sqrt().item() for row in (a, b))
            slack = 2e-6 * features.shape[1] ** 0.5 if version == "2.0" else 0
            assert abs(da - db) <= 1e-5 * da + slack, (i, a, b, da, db)
            return
