"""Maps of several layers on one grid, in operations that torch.export follows for any number of images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def largest(maps: Sequence[torch.Tensor]) -> torch.Size:
    """(h, w) of the map with the most places, of equals the first."""
    return max((m.shape[2:] for m in maps), key=lambda s: s[0] * s[1])


def joined(maps: Sequence[torch.Tensor], size: torch.Size, mode: str) -> torch.Tensor:
    """[B, sum of C, h, w] of maps [B, C, ...] brought to a size, "bilinear" (half-pixel centres) or "nearest"."""
    align = False if mode == "bilinear" else None
    return torch.cat(
        [m if m.shape[2:] == size else F.interpolate(m, size=size, mode=mode, align_corners=align) for m in maps], dim=1
    )
