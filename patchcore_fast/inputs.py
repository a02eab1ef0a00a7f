"""What counts as a feature matrix: one check for samplers and scores. ndarrays are wrapped, never copied."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

Features = np.ndarray | Tensor
# What the setting `precision` may be, of features and banks. config knows no torch and has the names; a test compares.
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


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


def as_numbers(values: Any) -> np.ndarray:
    """An array of what may be an array, a tensor of any type and device, a number, or a list of these of one shape.

    Half-precision tensors become float32, of which bfloat16 is a part and NumPy has a type. ValueError where the items
    of a list differ in shape.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().resolve_conj().resolve_neg()
        return (values.float() if values.is_floating_point() and values.element_size() < 4 else values).numpy()
    if isinstance(values, (list, tuple)) and any(isinstance(v, Tensor) for v in values):
        values = [as_numbers(v) for v in values]
        if len(shapes := {v.shape for v in values}) > 1:
            raise ValueError(f"a list must hold items of one shape, got {' and '.join(map(str, sorted(shapes)))}")
    return np.asarray(values)


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor on the array's memory, which is only read. torch has no negative strides: such views are copied."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array.copy() if any(s < 0 for s in array.strides) else array)
