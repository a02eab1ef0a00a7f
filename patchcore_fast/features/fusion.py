"""Interpolated fusion of layer maps: aligned to the largest, concatenated, reduced to fewer channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from patchcore_fast.kernels.surroundings import undisturbed

REDUCTIONS = ("project", "pool")


@undisturbed
def align_layers(maps: Sequence[torch.Tensor], patch_size: int = 3, mode: str = "bilinear") -> torch.Tensor:
    """Average each map over its neighbourhoods, resize all to the largest map, concatenate.

    Parameters
    ----------
    maps : one or more [B, C_l, h_l, w_l], floating, of one batch, type and device. The largest has the most places
        h_l * w_l; of equals the first.
    patch_size : odd side of the neighbourhood, in places of each map; zeros outside count. 1 averages nothing.
    mode : "bilinear" (half-pixel centres) or "nearest".

    Returns
    -------
    [B, sum of C_l, h, w] with h, w of the largest map, channels in the order of `maps`.

    Raises
    ------
    ValueError, TypeError : no maps, or maps that do not belong together; patch_size or mode out of range.
    """
    if not maps:
        raise ValueError("align_layers: maps must hold at least one map [B, C, h, w], got none")
    first = maps[0]
    for m in maps:
        if not isinstance(m, torch.Tensor) or m.ndim != 4 or 0 in m.shape:
            raise ValueError(f"align_layers: maps must be [B, C, h, w], got shape {tuple(getattr(m, 'shape', ()))}")
        if not m.is_floating_point() or m.dtype != first.dtype:
            raise TypeError(f"align_layers: maps must be of one floating type, got {first.dtype} and {m.dtype}")
        if len(m) != len(first) or m.device != first.device:
            raise ValueError(
                f"align_layers: maps must be of one batch and device, got {len(first)} on {first.device} and "
                f"{len(m)} on {m.device}"
            )
    if isinstance(patch_size, bool) or not isinstance(patch_size, int) or patch_size < 1 or patch_size % 2 == 0:
        raise ValueError(f"align_layers: patch_size must be odd and positive, got {patch_size!r}")
    if mode not in ("bilinear", "nearest"):
        raise ValueError(f'align_layers: mode must be "bilinear" or "nearest", got {mode!r}')
    size = max((m.shape[2:] for m in maps), key=lambda s: s[0] * s[1])
    parts = []
    for m in maps:
        m = F.avg_pool2d(m, patch_size, stride=1, padding=patch_size // 2)
        if m.shape[2:] != size:
            m = F.interpolate(m, size=size, mode=mode, align_corners=False if mode == "bilinear" else None)
        parts.append(m)
    return torch.cat(parts, dim=1)


@undisturbed
def channel_projection(channels: int, dim: int, seed: int = 0) -> torch.Tensor:
    """P [dim, channels] float32 with independent N(0, 1 / dim) entries, drawn on the CPU from `seed`.

    E |P x|^2 = |x|^2, and with high probability all distances of n points are kept to a factor 1 +- eps where
    dim = O(log n / eps^2) (Johnson and Lindenstrauss 1984). The draw is the same on every device.
    """
    for name, value, low in (("channels", channels, 1), ("dim", dim, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f"channel_projection: {name} must be an integer >= {low}, got {value!r}")
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(dim, channels, generator=generator, dtype=torch.float32) * dim**-0.5


@undisturbed
def reduce_channels(
    x: torch.Tensor, dim: int, method: str = "project", projection: torch.Tensor | None = None
) -> torch.Tensor:
    """[B, C, h, w] to [B, dim, h, w].

    Parameters
    ----------
    x : floating.  dim : 1 to C; C returns x as it is.
    method : "project": P x at each place, with `projection` of `channel_projection` (its seed 0 when None). "pool":
        adaptive averages of neighbouring channels, the last step of amazon-science/patchcore-inspection; cheap, but
        it averages channels that have nothing to do with each other.

    Raises
    ------
    ValueError : dim or method out of range, or a projection of another shape.
    """
    if not isinstance(x, torch.Tensor) or x.ndim != 4:
        raise ValueError(f"reduce_channels: x must be [B, C, h, w], got shape {tuple(getattr(x, 'shape', ()))}")
    channels = x.shape[1]
    if isinstance(dim, bool) or not isinstance(dim, int) or not 1 <= dim <= channels:
        raise ValueError(f"reduce_channels: dim must lie in 1..{channels}, the channels there are, got {dim!r}")
    if method not in REDUCTIONS:
        raise ValueError(f"reduce_channels: method must be one of {', '.join(REDUCTIONS)}, got {method!r}")
    if dim == channels:
        return x
    if method == "pool":
        batch, _, height, width = x.shape
        pooled = F.adaptive_avg_pool2d(x.reshape(batch, 1, channels, -1), (dim, height * width))
        return pooled.view(batch, dim, height, width)
    matrix = channel_projection(channels, dim) if projection is None else projection
    if tuple(matrix.shape) != (dim, channels):
        raise ValueError(f"reduce_channels: projection must be [{dim}, {channels}], got shape {tuple(matrix.shape)}")
    return F.conv2d(x, matrix.to(x)[:, :, None, None])
