"""Features of small integers, and the global generators that peers draw from: seeded, and looked at."""

from __future__ import annotations

import numpy as np
import torch


def integers(n: int, d: int, high: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, high, (n, d)).astype(np.float32))


def generators() -> tuple[bytes, bytes, int]:
    state = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), state[1].tobytes(), state[2]


def seed_all(torchs: int = 1, numpys: int = 2) -> None:
    torch.manual_seed(torchs)
    np.random.seed(numpys)
