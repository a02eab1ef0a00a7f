"""What counts as a feature matrix: one check for samplers and scores. ndarrays are wrapped, never copied."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

Features = np.ndarray | Tensor


def as_rows(name: str, features: Any, what: str = "features") -> Tensor:
    """A floating [N, D] ndarray (memory-mapped is fine) or tensor, checked, as a detached tensor on the same memory.

    name, what : of the public function and its argument, for messages. Values are checked where they are first read.

    Raises
    ------
    TypeError : not an array or tensor, or not floating.  ValueError : not 2-D, no column, or not dense.
    """
    if isinstance(features, np.ndarray):
        if features.dtype not in (np.float16, np.float32, np.float64):
            raise TypeError(f"{name}: {what} must be float16, float32 or float64 ndarray, got {features.dtype}")
        features = as_tensor(features)
    if not isinstance(features, Tensor):
        raise TypeError(f"{name}: {what} must be an ndarray or torch.Tensor [N, D], got {type(features).__name__}")
    if not features.is_floating_point():
        raise TypeError(f"{name}: {what} must be floating, got {features.dtype}")
    if features.ndim != 2:
        raise ValueError(f"{name}: {what} must be 2-D [N, D], got shape {tuple(features.shape)}")
    if features.shape[1] == 0 or features.layout != torch.strided:
        raise ValueError(
            f"{name}: {what} must be dense with at least one column, got shape {tuple(features.shape)}, "
            f"layout {features.layout}"
        )
    return features.detach()


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor on the array's memory, which is only read. torch has no negative strides: such views are copied."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array.copy() if any(s < 0 for s in array.strides) else array)
