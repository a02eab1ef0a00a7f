"""How much features move when the image changes a little, and an old score by noise that does not tell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..inputs import Features
from ..kernels.checks import check_int
from ..kernels.surroundings import undisturbed
from ..progress import Progress, bar
from .rows import CHUNK_SIZE, check_number, check_seed, distances, read_rows

_BLOCK = 1024  # rows that a draw of noise covers, whatever the chunk


@undisturbed
def instability(
    features: Features,
    views: Features | Sequence[Features],
    *,
    device: torch.device | str | None = None,
    chunk_size: int = CHUNK_SIZE,
    progress: Progress = None,
) -> Tensor:
    """Mean distance of each row to the same place of augmented views: mean over T of ||f(x) - f(T x)||.

    Parameters
    ----------
    features : [N, D] floating ndarray or tensor, f(x).
    views : f(T x), row for row, one array [N, D], a sequence of them, or [V, N, D]. A view that moves pixels (a flip)
        must have been moved back, so that its rows speak of the same places.
    device : where to compute; None: where the features are.
    chunk_size : rows at a time; changes speed and memory only.
    progress : see `patchcore_fast.progress.bar`; counts rows of all views.

    Returns
    -------
    [N] float32 CPU tensor, in the units of the features.

    Raises
    ------
    TypeError : wrong type or dtype.  ValueError : wrong shape, no view, rows that are not finite.
    """
    name = "instability"
    rows = read_rows(name, features, device, chunk_size)
    n = rows.shape[0]
    if isinstance(views, (np.ndarray, Tensor)):
        if views.ndim not in (2, 3):
            raise ValueError(f"{name}: views must be [N, D] or [V, N, D], got shape {tuple(views.shape)}")
        listed = [views] if views.ndim == 2 else [views[i] for i in range(views.shape[0])]
    elif isinstance(views, Sequence) and not isinstance(views, str):
        listed = list(views)
    else:
        raise TypeError(f"{name}: views must be an ndarray, a tensor or a sequence, got {type(views).__name__}")
    if not listed:
        raise ValueError(f"{name}: views must hold at least one view, got none")
    total = torch.zeros(n, dtype=torch.float64)
    with bar(n * len(listed), name, progress) as done:
        for i, view in enumerate(listed):
            other = read_rows(name, view, rows.device, chunk_size, f"views[{i}]")
            if other.shape != rows.shape:
                raise ValueError(
                    f"{name}: views[{i}] must have the shape of features {tuple(rows.shape)}, got {tuple(other.shape)}"
                )
            for (part, x), (_, y) in zip(rows.chunks(), other.chunks(), strict=True):
                total[part] += distances(x, y).cpu()
                done.update(x.shape[0])
    return (total / len(listed)).float()


@undisturbed
def noise_instability(
    features: Features,
    std: float,
    draws: int,
    seed: int = 0,
    *,
    chunk_size: int = CHUNK_SIZE,
    progress: Progress = None,
) -> Tensor:
    """Mean over draws of ||(x + n) - x||, n Gaussian. Kept for compatibility only: it measures the noise.

    E||n|| is the same for every row, about std * sqrt(D); what differs between rows is the luck of their draws, so the
    score carries no information about the features. Use `instability` with real views.

    Parameters
    ----------
    features : [N, D] floating ndarray or tensor.
    std : of the noise in every column, > 0, in the units of the features.
    draws : how often noise is drawn, >= 1.
    seed : of the noise, which is drawn and added on the CPU.
    chunk_size : rows at a time, in whole blocks of 1,024; changes speed and memory only.
    progress : see `patchcore_fast.progress.bar`; counts rows.

    Returns
    -------
    [N] float32 CPU tensor.

    Raises
    ------
    TypeError : wrong type or dtype.  ValueError : wrong shape or range, rows that are not finite.
    """
    name = "noise_instability"
    rows = read_rows(name, features, "cpu", chunk_size)
    std, draws = check_number(name, "std", std), check_int(name, "draws", draws, 1, 2**31 - 1)
    generator = torch.Generator().manual_seed(check_seed(name, seed))
    out = torch.empty(rows.shape[0], dtype=torch.float32)
    with bar(rows.shape[0], name, progress) as done:
        for part, chunk in rows.chunks(_BLOCK):
            for lo in range(0, chunk.shape[0], _BLOCK):
                x = chunk[lo : lo + _BLOCK].double()
                total = torch.zeros(x.shape[0], dtype=torch.float64)
                for _ in range(draws):
                    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
                    total += distances(x + std * noise, x)
                out[part.start + lo : part.start + lo + x.shape[0]] = (total / draws).float()
            done.update(chunk.shape[0])
    return out
