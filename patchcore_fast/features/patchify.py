"""Layer maps to one feature row per patch, fused as anomalib does ("concat"), as amazon does ("amazon"), or reduced."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from patchcore_fast.config.features import FITTED, FUSIONS, REDUCTIONS
from patchcore_fast.features.fusion import align_layers, channel_projection, reduce_channels
from patchcore_fast.features.graph import graph_nodes
from patchcore_fast.features.learned import LinearReduction, Moments
from patchcore_fast.features.source import FeatureSource
from patchcore_fast.inputs import PRECISIONS
from patchcore_fast.kernels.surroundings import undisturbed

_UNFOLD_BYTES = 64 << 20  # largest unfolded block held at a time


class PatchFeatures(NamedTuple):
    """features : [B * h * w, D] of the extractor's precision, rows ordered by image, row, column.  grid : (h, w)."""

    features: torch.Tensor
    grid: tuple[int, int]


class FeatureExtractor:
    """Images to patch features.

    Parameters
    ----------
    backbone : a `FeatureSource`, gives the layer maps; the first one, of the finest grid, sets the grid of patches.
    fusion : "concat": average over patch_size x patch_size (zeros outside count), resize every map to the
        grid, concatenate: D is the sum of the channels (anomalib). "amazon": take the patch_size x patch_size
        neighbourhoods whole, resize them to the grid bilinearly, pool each to `layer_dim` values and all
        layers together to `dim` by adaptive averaging (amazon-science/patchcore-inspection; its
        pretrain_embed_dimension and target_embed_dimension). "interpolated": as "concat", but aligned to the
        largest map wherever it comes in the network, and reduced to `dim` channels; see `features.fusion`.
        "graph": as "interpolated", and beside each patch how far its nearest patches in the image go beyond it, which
        doubles the channels, before they are reduced; see `features.graph`.
    patch_size : odd side of the neighbourhood.
    dim : D for "amazon", 1024 when None; for "interpolated" and "graph", every channel when None; for the reductions
        "pca" and "whiten" too.
    resize : "bilinear" or "nearest" for all but "amazon". anomalib took "nearest" before its release 1.0, "bilinear"
        since.
    reduction, seed : how "interpolated" gets to `dim`, "project" or "pool", and the seed of the projection; "graph"
        knows "project" of these. Or "pca" or "whiten", of all but "amazon", which are learnt from rows (`learned`):
        until `learned` is set, rows are given as they were before it, float32 and neither reduced nor of length 1.
    metric : "euclidean", or "cosine": finished rows are divided by their length, so that half of a squared distance is
        1 - cos. Rows of zeros stay zeros: 1/2 from every other row.
    graph : neighbours of a patch and their dilation, of "graph"; see `features.graph.nearest_nodes`.
    apart : the columns of each layer go into a bank of their own, so each layer's part of a row has length 1.
    precision : "float32"; or "float16" or "bfloat16": the backbone runs under torch.autocast with that type where the
        device computes in it (`Backbone.forward`), maps are fused in float32, and the finished rows are rounded to it
        once. An autocast around the call changes nothing.
    """

    def __init__(
        self,
        backbone: FeatureSource,
        fusion: str = "concat",
        patch_size: int = 3,
        dim: int | None = None,
        layer_dim: int = 1024,
        resize: str = "bilinear",
        reduction: str = "project",
        precision: str = "float32",
        seed: int = 0,
        metric: str = "euclidean",
        apart: bool = False,
        graph: tuple[int, int] = (9, 1),
    ) -> None:
        """Check the options; nothing is computed but the projection."""
        if fusion not in FUSIONS:
            raise ValueError(f"FeatureExtractor: fusion must be one of {', '.join(FUSIONS)}, got {fusion!r}")
        if resize not in ("bilinear", "nearest"):
            raise ValueError(f'FeatureExtractor: resize must be "bilinear" or "nearest", got {resize!r}')
        if patch_size < 1 or patch_size % 2 == 0:
            raise ValueError(f"FeatureExtractor: patch_size must be odd and positive, got {patch_size}")
        learns = reduction in FITTED
        if learns and fusion == "amazon":
            raise ValueError(f'FeatureExtractor: reduction={reduction!r} goes with all fusions but "amazon"')
        if reduction == "pool" and fusion == "graph":
            raise ValueError('FeatureExtractor: reduction="pool" does not go with fusion="graph", "project" does')
        if metric not in ("euclidean", "cosine"):
            raise ValueError(f'FeatureExtractor: metric must be "euclidean" or "cosine", got {metric!r}')
        if fusion == "concat" and dim is not None and not learns:
            raise ValueError(
                'FeatureExtractor: dim belongs to fusion="amazon", "interpolated" and "graph"; "concat" keeps every '
                "channel"
            )
        if reduction not in REDUCTIONS:
            raise ValueError(f"FeatureExtractor: reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        if precision not in PRECISIONS:
            raise ValueError(f"FeatureExtractor: precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.backbone, self.fusion, self.patch_size, self.resize = backbone, fusion, patch_size, resize
        self.layer_dim, self.reduction, self.dtype = layer_dim, reduction, PRECISIONS[precision]
        self.graph = graph
        channels = self.fused = sum(backbone.channels) * (2 if fusion == "graph" else 1)
        if fusion != "amazon" and dim is not None and not 1 <= dim <= channels:
            raise ValueError(
                f'FeatureExtractor: fusion="{fusion}" reduces {channels} channels, dim must lie in 1..{channels}, '
                f"got {dim}"
            )
        self.dim = (dim or 1024) if fusion == "amazon" else (dim or channels)
        self.learns, self.cosine = learns, metric == "cosine"
        self.units = list(backbone.channels) if apart else [self.dim]  # columns that have length 1 together
        self.learned: LinearReduction | None = None
        projected = fusion in ("interpolated", "graph") and reduction == "project" and self.dim < channels
        self.projection = channel_projection(channels, self.dim, seed).to(backbone.mean.device) if projected else None

    @undisturbed
    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> PatchFeatures:
        """Features of images [B, 3, H, W], float in [0, 1]; runs and stays on the backbone's device.

        ValueError where a value leaves the range of float16, which ends at 65,504 (bfloat16's is float32's).
        """
        return self._extract(images, False)[0]

    @undisturbed
    @torch.inference_mode()
    def with_embeddings(self, images: torch.Tensor) -> tuple[PatchFeatures, torch.Tensor]:
        """The features of a call, and of the same pass a global embedding of each image, [B, E] float32.

        See `FeatureSource.embed`. Neither fusion, reduction, metric nor precision changes it (but for autocast's part
        in the network); E is `embedding_columns`.
        """
        found, embeddings = self._extract(images, True)
        assert embeddings is not None
        if not bool(torch.isfinite(embeddings).all()):
            raise ValueError(f"FeatureExtractor: embeddings of {self.backbone.name} are not finite")
        return found, embeddings

    @property
    def embedding_columns(self) -> int:
        """E, the columns of an embedding."""
        return self.backbone.channels[-1]

    def _extract(self, images: torch.Tensor, embed: bool) -> tuple[PatchFeatures, torch.Tensor | None]:
        reduced, embeddings = self.dtype != torch.float32, None
        if embed:
            maps, embeddings = self.backbone.embed(images, self.dtype)
        else:
            maps = self.backbone(images, self.dtype) if reduced else self.backbone(images)
        fused = self.fuse([m.float() for m in maps] if reduced else maps)
        rows = fused.permute(0, 2, 3, 1).reshape(-1, fused.shape[1]).float()
        grid = (fused.shape[2], fused.shape[3])
        rows = rows.contiguous() if self.learns and self.learned is None else self.finish(rows)
        return PatchFeatures(rows, grid), embeddings

    def learn(self, moments: Moments) -> None:
        """Take the reduction from the moments of unfinished rows."""
        self.learned = moments.reduction(self.dim, self.reduction == "whiten").to(self.backbone.mean.device)

    @undisturbed
    def finish(self, rows: torch.Tensor) -> torch.Tensor:
        """Features [N, D] of fused rows [N, C]: reduced by what was learnt, of length 1 for "cosine", rounded."""
        rows = rows if self.learned is None else self.learned(rows)
        if self.cosine:
            parts = rows.split(self.units, dim=1) if len(self.units) > 1 else (rows,)
            lengths = [torch.linalg.vector_norm(part, dim=1, keepdim=True) for part in parts]
            rows = torch.cat([part / n.where(n > 0, 1.0) for part, n in zip(parts, lengths, strict=True)], dim=1)
        rows = rows.to(self.dtype).contiguous()
        if self.dtype != torch.float32 and not bool(torch.isfinite(rows).all()):
            raise ValueError(
                f"FeatureExtractor: features of {self.backbone.name} are not finite in {self.dtype}; "
                'take precision="bfloat16" or "float32"'
            )
        return rows

    @property
    def widths(self) -> tuple[int, ...]:
        """Columns of each layer in a row, side by side; of all of them where the fusion mixes layers."""
        apart = self.fusion == "concat" and not self.learns
        return tuple(self.backbone.channels) if apart else (self.dim,)

    def covered(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in pixels of the grid of an image (H, W): it is stretched over the whole image."""
        return size

    @undisturbed
    def fuse(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """[B, D, h, w] of the backbone's maps, before they become rows."""
        if self.fusion in ("interpolated", "graph"):
            aligned = align_layers(maps, self.patch_size, self.resize)
            if self.fusion == "graph":
                images = [graph_nodes(x.flatten(1).T, *self.graph, self.projection) for x in aligned]
                return torch.stack(images).transpose(1, 2).unflatten(2, aligned.shape[2:])
            return aligned if self.learns else reduce_channels(aligned, self.dim, self.reduction, self.projection)
        return self._concat(maps) if self.fusion == "concat" else self._amazon(maps)

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
