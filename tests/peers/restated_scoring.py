"""anomalib's image score and smoothing of maps, written again in plain steps."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage


def image_score(x: torch.Tensor, bank: torch.Tensor, b: int) -> float:
    """One image's patches x [P, D]: largest distance, times one minus the soft-max share of its nearest row."""
    d = torch.cdist(x, bank)
    worst = int(d.min(1).values.argmax())
    nearest = int(d[worst].argmin())
    if b == 1:
        return float(d[worst, nearest])
    around = torch.cdist(bank[nearest : nearest + 1], bank)[0].argsort(stable=True)[:b]
    share = torch.softmax(d[worst, around], 0)[0]
    return float((1 - share) * d[worst, nearest])


def mirror_blur(m: np.ndarray, sigma: int) -> np.ndarray:
    """One 2-D kernel of 8 sigma + 1 taps a side, edges mirrored without repeating the edge."""
    half = int(4 * sigma + 0.5)
    line = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    kernel = np.outer(line, line) / line.sum() ** 2
    padded = np.pad(m, half, mode="reflect")
    return ndimage.convolve(padded, kernel)[half:-half, half:-half]
