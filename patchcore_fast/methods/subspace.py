"""The residual of patch features outside of the directions in which normal ones vary (SubspaceAD, CVPR 2026)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from patchcore_fast.config.methods import SubspaceSettings
from patchcore_fast.features import Moments
from patchcore_fast.methods.aligned import joined, largest
from patchcore_fast.methods.base import Method
from patchcore_fast.methods.file import Shapes
from patchcore_fast.methods.held_out import Kept, where_float64
from patchcore_fast.methods.reading import Read
from patchcore_fast.model.pixels import HeldOut


class Subspace(Method):
    """A patch is scored by |r - V V^T r| with r = x - mean, V the fewest leading principal directions of all training
    patches that explain `variance` of theirs.

    The norm itself, of which the paper takes the square. Features are PatchCore's of the fusion "concat". Only sums of
    all patches are kept, in float64, and features of the images that the threshold asks, at most 200. Arguments as of
    `Method`.
    """

    name, title, settings_type = "subspace", "Subspace", SubspaceSettings
    settings: SubspaceSettings

    def _fit(self, batches: Read, count: int | None, **options: Any) -> HeldOut:
        moments, kept = Moments(), Kept()
        for batch in batches():
            x = where_float64(self._fused(self.maps(batch.images)))
            moments.add(_rows(x))
            kept.add(x)
        if not kept.count:
            return HeldOut([], [])
        learnt = self._leading(moments)
        held, asked = HeldOut([], []), list[int]()
        for fold in kept.folds():
            x = kept.take(fold)
            found = _residual(x, *self._leading(moments.without(_rows(x))))
            held.extend(self._held_out(found))
            asked += fold.tolist()
        self._mean, self._directions = (t.float().to(self.device) for t in learnt)
        order = sorted(range(len(asked)), key=asked.__getitem__)
        return HeldOut([held.scores[i] for i in order], [held.pixels[i] for i in order])

    def said(self) -> str:
        """With the directions."""
        channels, kept = self._directions.shape
        return f"{self.title}, {kept:,} of {channels:,} directions, {self.learned.fitted_on}"

    def _scorer(self) -> torch.nn.Module:
        f = self.config.features
        return _Residual(self._mean, self._directions, f.patch_size, f.feature_resize)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {"mean": self._mean, "directions": self._directions}

    def _shapes(self, stored: dict[str, torch.Tensor]) -> Shapes:
        channels = sum(c for c, _, _ in self.map_shapes)
        kept = stored["directions"].shape[-1]
        if not 1 <= kept < channels:
            raise ValueError(f"directions must be 1 to {channels - 1}, got {kept}")
        return {"mean": (torch.float32, (channels,)), "directions": (torch.float32, (channels, kept))}

    def _restore(self, tensors: dict[str, torch.Tensor]) -> None:
        self._mean, self._directions = tensors["mean"], tensors["directions"]
        products = self._directions.T @ self._directions
        if not torch.allclose(products, torch.eye(len(products), device=self.device), atol=1e-3):
            raise ValueError("directions must be of length 1 and at right angles")

    def _fused(self, maps: list[torch.Tensor]) -> torch.Tensor:
        f = self.config.features
        return _fused(maps, f.patch_size, f.feature_resize)

    def _leading(self, moments: Moments) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean [C] and directions [C, k], float64."""
        mean, values, vectors = moments.spectrum()
        if len(mean) < 2:
            raise ValueError("Subspace.fit: at least 2 channels are wanted, got 1")
        explained = values.clamp(min=0).cumsum(0)
        enough = int((explained < self.settings.variance * explained[-1]).sum()) + 1
        return mean, vectors[:, : min(enough, len(mean) - 1)].contiguous()


class _Residual(torch.nn.Module):
    """The scorer."""

    mean: torch.Tensor
    directions: torch.Tensor

    def __init__(self, mean: torch.Tensor, directions: torch.Tensor, patch_size: int, mode: str) -> None:
        super().__init__()
        self.patch_size, self.mode = patch_size, mode
        self.register_buffer("mean", mean)
        self.register_buffer("directions", directions)

    def forward(self, maps: list[torch.Tensor], _size: tuple[int, int]) -> torch.Tensor:
        return _residual(_fused(maps, self.patch_size, self.mode), self.mean, self.directions)


def _residual(x: torch.Tensor, mean: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """[B, h, w] of features [B, C, h, w]."""
    moved = x.movedim(1, -1) - mean
    return (moved - (moved @ directions) @ directions.T).square().sum(-1).sqrt()


def _fused(maps: list[torch.Tensor], patch_size: int, mode: str) -> torch.Tensor:
    """[B, C, h, w]: each map averaged over its neighbourhoods, all side by side on the largest grid."""
    averaged = [F.avg_pool2d(m, patch_size, stride=1, padding=patch_size // 2) for m in maps]
    return joined(averaged, largest(maps), mode)


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x.movedim(1, -1).reshape(-1, x.shape[1])
