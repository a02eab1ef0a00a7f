"""PCA and whitening of feature rows, learnt in one pass over them."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch

from patchcore_fast.kernels.surroundings import undisturbed

LEAST = 1e-6  # of the largest variance: what whitening takes smaller ones for, or it would be noise made large
_ROWS = 4096  # at a time in float64


class LinearReduction(NamedTuple):
    """x [N, C] to (x - mean) @ matrix [N, d]; mean [C] and matrix [C, d] are float32."""

    mean: torch.Tensor
    matrix: torch.Tensor

    @undisturbed
    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """The reduced rows, float32; float32 and half-precision rows are taken."""
        return (rows.float() - self.mean) @ self.matrix

    def to(self, device: str | torch.device) -> LinearReduction:
        """The same on a device."""
        return LinearReduction(self.mean.to(device), self.matrix.to(device))


class Moments:
    """Count, mean and covariance of rows that come block by block, in float64 around the mean of the first block."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.count = 0
        self._origin: torch.Tensor | None = None

    @undisturbed
    def add(self, rows: torch.Tensor) -> None:
        """Rows [N, C] more. ValueError: another width, or values that are not finite."""
        if rows.ndim != 2 or (self._origin is not None and rows.shape[1] != len(self._origin)):
            raise ValueError(f"Moments.add: rows must be [N, C] of one width, got shape {tuple(rows.shape)}")
        if not len(rows):
            return
        rows = rows.cpu() if rows.device.type == "mps" else rows  # which has no float64
        if self._origin is None:
            self._origin = rows[:_ROWS].double().mean(dim=0)
            self._sum = torch.zeros_like(self._origin)
            self._square = self._sum.new_zeros(rows.shape[1], rows.shape[1])
        self._count(rows, 1)
        if not bool(torch.isfinite(self._sum).all()):
            raise ValueError("Moments.add: rows must be finite")

    @undisturbed
    def without(self, rows: torch.Tensor) -> Moments:
        """Those of all rows but these [N, C], which were added before."""
        found = copy.copy(self)
        if self._origin is not None:
            found._sum, found._square = self._sum.clone(), self._square.clone()
            found._count(rows, -1)
        return found

    def _count(self, rows: torch.Tensor, sign: int) -> None:
        for part in rows.split(_ROWS):
            x = part.to(self._sum) - self._origin
            self._sum += sign * x.sum(dim=0)
            self._square += sign * (x.T @ x)
        self.count += sign * len(rows)

    @undisturbed
    def spectrum(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean [C] of the rows, their variances [C] along the principal directions, descending, and these [C, C].

        All float64. Of a direction's two signs the one is taken that makes its largest coefficient positive.

        Raises
        ------
        ValueError : fewer than 2 rows.
        """
        if self._origin is None or self.count < 2:
            raise ValueError(f"PCA: at least 2 rows are wanted, got {self.count}")
        shift = self._sum / self.count
        covariance = (self._square / self.count - torch.outer(shift, shift)).cpu()  # the CPU's eigh, on every device
        values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
        values, vectors = values.flip(0), vectors.flip(1)
        largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
        vectors = vectors * torch.where(largest < 0, -1.0, 1.0)
        device = self._origin.device
        return self._origin + shift, values.to(device), vectors.to(device)

    @undisturbed
    def reduction(self, dim: int | None, whiten: bool) -> LinearReduction:
        """PCA to the `dim` directions of largest variance, all when None; with `whiten` each is of variance 1.

        Variances below LEAST of the largest count as that; signs are those of `spectrum`.

        Raises
        ------
        ValueError : fewer than 2 rows, or `dim` is not in 1..C.
        """
        mean, values, vectors = self.spectrum()
        channels = len(mean)
        dim = channels if dim is None else dim
        if not 1 <= dim <= channels:
            raise ValueError(f"PCA: dim must lie in 1..{channels}, the channels there are, got {dim}")
        values, vectors = values[:dim], vectors[:, :dim]
        if whiten:
            least = max(float(values[0]) * LEAST, torch.finfo(torch.float32).tiny)
            vectors = vectors / values.clamp(min=least).sqrt()
        return LinearReduction(mean.float(), vectors.float().contiguous())
