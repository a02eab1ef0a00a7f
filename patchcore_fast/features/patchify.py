"""Layer maps to one feature row per patch, fused as anomalib does ("concat") or as amazon does ("amazon")."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from patchcore_fast.features.backbone import Backbone

_UNFOLD_BYTES = 64 << 20  # largest unfolded block held at a time


class PatchFeatures(NamedTuple):
    """features : [B * h * w, D] float32, rows ordered by image, row, column.  grid : (h, w)."""

    features: torch.Tensor
    grid: tuple[int, int]


class FeatureExtractor:
    """Images to patch features.

    Parameters
    ----------
    backbone : gives the layer maps; the first one, of the finest grid, sets the grid of patches.
    fusion : "concat": average over patch_size x patch_size (zeros outside count), resize every map to the
        grid, concatenate: D is the sum of the channels (anomalib). "amazon": take the patch_size x patch_size
        neighbourhoods whole, resize them to the grid bilinearly, pool each to `layer_dim` values and all
        layers together to `dim` by adaptive averaging (amazon-science/patchcore-inspection; its
        pretrain_embed_dimension and target_embed_dimension).
    patch_size : odd side of the neighbourhood.
    dim : D for "amazon", 1024 when None.
    resize : "bilinear" or "nearest" for "concat". anomalib took "nearest" before its release 1.0, "bilinear" since.
    """

    def __init__(
        self,
        backbone: Backbone,
        fusion: str = "concat",
        patch_size: int = 3,
        dim: int | None = None,
        layer_dim: int = 1024,
        resize: str = "bilinear",
    ) -> None:
        """Check the options; nothing is computed."""
        if fusion not in ("concat", "amazon"):
            raise ValueError(f'FeatureExtractor: fusion must be "concat" or "amazon", got {fusion!r}')
        if resize not in ("bilinear", "nearest"):
            raise ValueError(f'FeatureExtractor: resize must be "bilinear" or "nearest", got {resize!r}')
        if patch_size < 1 or patch_size % 2 == 0:
            raise ValueError(f"FeatureExtractor: patch_size must be odd and positive, got {patch_size}")
        if fusion == "concat" and dim is not None:
            raise ValueError('FeatureExtractor: dim belongs to fusion="amazon"; "concat" keeps every channel')
        self.backbone, self.fusion, self.patch_size, self.resize = backbone, fusion, patch_size, resize
        self.layer_dim = layer_dim
        self.dim = sum(backbone.channels) if fusion == "concat" else (dim or 1024)

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> PatchFeatures:
        """Features of images [B, 3, H, W], float in [0, 1]; runs and stays on the backbone's device."""
        maps = self.backbone(images)
        fused = self._concat(maps) if self.fusion == "concat" else self._amazon(maps)
        rows = fused.permute(0, 2, 3, 1).reshape(-1, fused.shape[1])
        return PatchFeatures(rows.float().contiguous(), (fused.shape[2], fused.shape[3]))

    def _concat(self, maps: list[torch.Tensor]) -> torch.Tensor:
        size = maps[0].shape[2:]
        maps = [F.avg_pool2d(m, self.patch_size, stride=1, padding=self.patch_size // 2) for m in maps]
        return torch.cat([maps[0], *(_resize(m, size, self.resize) for m in maps[1:])], dim=1)

    def _amazon(self, maps: list[torch.Tensor]) -> torch.Tensor:
        # Pooling mixes the values of one patch, resizing mixes patches; both are linear and act on different
        # axes, so they commute. Pooling first keeps the layer_dim values of coarse patches instead of
        # channels * 9 of fine ones.
        size = maps[0].shape[2:]
        layers = [_resize(_pool_patches(m, self.patch_size, self.layer_dim), size, "bilinear") for m in maps]
        out = torch.cat(layers, dim=1)
        return _pool_channels(out, self.dim)


def _pool_patches(x: torch.Tensor, patch: int, dim: int) -> torch.Tensor:
    """Each patch x patch neighbourhood of [B, C, h, w], flattened channel by channel, averaged to [B, dim, h,
    w]."""
    batch, channels, height, width = x.shape
    x = F.pad(x.contiguous(), [patch // 2] * 4)
    out = x.new_empty(batch, dim, height, width)
    row_bytes = channels * patch * patch * width * x.element_size()
    rows = max(1, min(height, _UNFOLD_BYTES // row_bytes))
    images = max(1, _UNFOLD_BYTES // (row_bytes * height))
    for b in range(0, batch, images):
        for r in range(0, height, rows):
            block = x[b : b + images, :, r : min(r + rows, height) + patch - 1]
            columns = F.unfold(block, patch)  # [b, C * patch * patch, r * w]
            pooled = F.adaptive_avg_pool2d(columns[:, None], (dim, columns.shape[2]))
            out[b : b + images, :, r : r + rows] = pooled.view(len(block), dim, -1, width)
    return out


def _pool_channels(x: torch.Tensor, dim: int) -> torch.Tensor:
    batch, channels, height, width = x.shape
    return F.adaptive_avg_pool2d(x.view(batch, 1, channels, -1), (dim, height * width)).view(batch, dim, height, width)


def _resize(x: torch.Tensor, size: torch.Size, mode: str) -> torch.Tensor:
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size=size, mode=mode, align_corners=False if mode == "bilinear" else None)
