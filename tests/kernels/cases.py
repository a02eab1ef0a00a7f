"""Feature matrices that have broken k-center and k-NN implementations before."""

from __future__ import annotations

import torch
from torch import Tensor


def integers(n: int, d: int, seed: int = 0) -> Tensor:
    """Small integers: exact in float32 in any order, full of ties and duplicates."""
    return torch.randint(-8, 9, (n, d), generator=torch.Generator().manual_seed(seed)).float()


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def awkward() -> dict[str, Tensor]:
    """[N, D] matrices of a few hundred rows."""
    x = gaussian(300, 24)
    return {
        "gaussian": x,
        "far from the origin": x + 1e4,
        "two far rows": torch.cat([x, x[:2] * 1e12]),
        "tiny": x * 1e-30,
        "huge": x * 1e30,
        "float64 near underflow": x.double() * 1e-161,
        "one row very far": torch.cat([x, x[:1] * 1e20]),
        # Products below the smallest float that is normal: bfloat16 units flush them to zero.
        "tiny beside one row": torch.cat([torch.ones(1, 24), x * 1e-20]),
        "two hundred orders": x[:200].double() * torch.logspace(-100, 100, 200, dtype=torch.float64)[:, None],
        "mixed sizes": x * torch.logspace(-12, 6, 300)[:, None],
        "between bfloat16 values": 1
        + torch.randint(-9, 9, (300, 24), generator=torch.Generator().manual_seed(2)) / 512,
        "integers": integers(300, 24) * 1000, "denormal spread": torch.cat([x * 1e-12, x[:3]]),
        "duplicates": x[:20].repeat(15, 1), "constant": torch.full((300, 24), 0.3),
        "equal distances": torch.eye(120) * 0.1,
        "quantised": torch.randint(-8, 9, (300, 3), generator=torch.Generator().manual_seed(1)) * 0.1,
        "one column": x[:, :1].contiguous(), "line": torch.linspace(0, 1, 301)[:, None].repeat(1, 2),
        "zero": torch.zeros(40, 5), "float16": (x * 3 + 50).half(), "bfloat16": (x * 3 + 50).bfloat16(),
        "float64": x.double() * torch.pi, "float64 below float32": 1 + x.double() * 1e-9,
        "strided": gaussian(300, 48)[:, ::2],
        "overlapping": torch.randn(1000, generator=torch.Generator().manual_seed(3)).as_strided((300, 24), (3, 2)),
        "one value a row": x[:, :1].expand(300, 24),
        "off a word": gaussian(301, 25).flatten()[1:].as_strided((300, 24), (25, 1)),
        "transposed": gaussian(24, 300).t(), "expanded": x[:1].expand(50, 24),
    }  # fmt: skip
