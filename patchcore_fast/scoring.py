"""From neighbour distances to patch scores, image scores and score maps."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from patchcore_fast.config import top_share
from patchcore_fast.kernels import knn  # importing it registers torch.ops.patchcore_fast.knn
from patchcore_fast.kernels.surroundings import undisturbed

_BAND = 1 << 20  # pixels of a map that are smoothed at a time


def patch_scores(dist: torch.Tensor, squared: bool = False) -> torch.Tensor:
    """Score of each patch: the mean distance to its k nearest bank rows.

    Parameters
    ----------
    dist : [P, k] Euclidean distances, as `knn` gives them.
    squared : score with squared distances, as faiss' IndexFlatL2 returns them.

    Returns
    -------
    [P] float32
    """
    if dist.ndim != 2 or dist.shape[1] == 0:
        raise ValueError(f"patch_scores: dist must be [P, k] with k >= 1, got shape {tuple(dist.shape)}")
    dist = dist.detach()
    return (dist.square() if squared else dist).mean(dim=1)


def score_patches(query: torch.Tensor, bank: torch.Tensor, k: int = 1, squared: bool = False) -> torch.Tensor:
    """k-NN scores of query rows against a bank; traces whole under `torch.compile(fullgraph=True)`.

    Parameters
    ----------
    query : [Q, D] float32.  bank : [M, D] float32, same device.  k : neighbours, 1 <= k <= M.

    Returns
    -------
    [Q] float32
    """
    dist, _ = torch.ops.patchcore_fast.knn(query, bank, k)
    return patch_scores(dist, squared)


@undisturbed
def image_score(
    patches: torch.Tensor,
    method: str = "max",
    *,
    features: torch.Tensor | None = None,
    nearest: torch.Tensor | None = None,
    bank: torch.Tensor | None = None,
    b: int = 9,
) -> torch.Tensor:
    """One score per image from its patches.

    "max" is s* = max over patches. "reweighted" is Eq. 7 of Roth et al., "Towards Total Recall in Industrial
    Anomaly Detection" (CVPR 2022): with x the patch of the largest score, m* its nearest bank row and N_b(m*)
    the b bank rows nearest to m* (itself first),

        s = (1 - exp|x - m*| / sum over m in N_b(m*) of exp|x - m|) s*

    evaluated as the share of the others, so that neither exp overflows nor the difference cancels. A bank of
    one row has no neighbourhood: its scores stay s*. "top:0.01" is the mean of the highest hundredth of the patches,
    `top_patches` of them (Damm et al., "AnomalyDINO", WACV 2025).

    Parameters
    ----------
    patches : [B, P] patch scores.
    features : [B * P, D] patch features, nearest : [B * P] bank index of each patch's nearest row, bank : [M,
        D]; for "reweighted" only.
    b : rows in the neighbourhood, at least 2; cut to M.

    Returns
    -------
    [B]
    """
    if patches.ndim != 2 or patches.shape[1] == 0:
        raise ValueError(f"image_score: patches must be [B, P] with P >= 1, got shape {tuple(patches.shape)}")
    try:
        share = top_share(method)
    except ValueError as error:
        raise ValueError(
            f'image_score: method must be "max", "reweighted" or "top:SHARE", with a share in (0, 1], got {method!r}'
        ) from error
    if share is not None:
        return patches.topk(top_patches(share, patches.shape[1]), dim=1).values.mean(dim=1)
    top, where = patches.max(dim=1)
    if method == "max":
        return top
    if features is None or nearest is None or bank is None:
        raise ValueError('image_score: method "reweighted" needs features, nearest and bank')
    if b < 2:
        raise ValueError(f"image_score: b must be at least 2, got {b}")
    if len(bank) < 2:
        return top
    rows = where + torch.arange(len(patches), device=patches.device) * patches.shape[1]
    x, star = features[rows], nearest[rows]
    wide = torch.promote_types(x.dtype, torch.float32)  # differences of half-precision rows are not rounded to it
    _, around = knn(bank[star], bank, min(b, len(bank)))
    # Of equal rows `knn` names the lowest index first, not always m* itself; their distances are the same.
    d = torch.linalg.vector_norm(x[:, None, :].to(wide) - bank[around].to(wide), dim=2)  # [B, b]
    e = torch.exp(d - d.max(dim=1, keepdim=True).values)
    return top * (e[:, 1:].sum(dim=1) / e.sum(dim=1))


def top_patches(share: float, patches: int) -> int:
    """How many of an image's patches a share of them is: rounded down, at least one."""
    return max(1, int(share * patches + 1e-9))  # 0.29 x 100 is 28.999999999999996


@undisturbed
def anomaly_map(
    patches: torch.Tensor,
    size: tuple[int, int],
    sigma: float = 4.0,
    mode: str = "bilinear",
    border: str = "reflect",
) -> torch.Tensor:
    """Patch scores as a map: up-sampled, then smoothed with a Gaussian.

    Parameters
    ----------
    patches : [B, h, w].  size : (height, width) of the map.
    sigma : standard deviation in map pixels; 0 leaves the map as it is. The filter ends at 4 sigma.
    mode : "bilinear" (amazon) or "nearest" (anomalib).
    border : what the filter sees outside, in SciPy's words. "reflect", d c b a | a b c d, repeats the edge pixel
        (scipy.ndimage and so amazon); "mirror", d c b | a b c d, does not (torch's "reflect" and so anomalib).

    Returns
    -------
    [B, H, W]
    """
    if patches.ndim != 3:
        raise ValueError(f"anomaly_map: patches must be [B, h, w], got shape {tuple(patches.shape)}")
    if mode not in ("bilinear", "nearest"):
        raise ValueError(f'anomaly_map: mode must be "bilinear" or "nearest", got {mode!r}')
    align = False if mode == "bilinear" else None
    maps = F.interpolate(patches[:, None], size=tuple(size), mode=mode, align_corners=align)[:, 0]
    return gaussian_blur(maps, sigma, border)


@undisturbed
def gaussian_blur(maps: torch.Tensor, sigma: float, border: str = "reflect") -> torch.Tensor:
    """Separable Gaussian over the last two axes of [B, H, W]; see `anomaly_map` for sigma and border."""
    if border not in ("reflect", "mirror"):
        raise ValueError(f'anomaly_map: border must be "reflect" or "mirror", got {border!r}')
    if not sigma >= 0:
        raise ValueError(f"anomaly_map: sigma must be >= 0, got {sigma}")
    radius = int(4.0 * sigma + 0.5)
    if radius == 0:
        return maps
    x = torch.arange(-radius, radius + 1, device=maps.device, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(maps.dtype).view(1, 1, 1, -1)
    for _ in range(2):  # along the rows, turn, along the columns, turn back
        index = _outside(maps.shape[2], radius, border, maps.device)
        # The convolution takes twenty times the memory of what it is given. A size that torch.export leaves open is no
        # int, and cannot be cut.
        rows = max(1, _BAND // maps.shape[2]) if isinstance(maps.shape[2], int) else None
        parts = (maps,) if rows is None or not isinstance(maps.shape[1], int) else maps.split(rows, dim=1)
        bands = [F.conv2d(band[:, None, :, index], kernel)[:, 0] for band in parts]
        maps = (bands[0] if len(bands) == 1 else torch.cat(bands, dim=1)).transpose(1, 2)
    return maps.contiguous()


@undisturbed
def map_to_image(
    anomaly: np.ndarray,
    original_size: tuple[int, int],
    resized_to: tuple[int, int] | None = None,
    outside: float | None = None,
) -> np.ndarray:
    """Bring a score map back to its image: [H0, W0] float32, bilinear.

    Parameters
    ----------
    anomaly : [H, W], the map.  original_size : (H0, W0).
    resized_to : size before the centre crop, None without a crop.
    outside : what pixels get that the crop left out (`seen_box`); the map's minimum when None.
    """
    maps = torch.from_numpy(np.ascontiguousarray(anomaly, dtype=np.float32))[None, None]
    height, width = anomaly.shape
    full_h, full_w = resized_to or (height, width)
    cropped = (full_h, full_w) != (height, width)
    if cropped:  # by its own edge, so that no pixel of the crop is mixed with what was never looked at
        top, left = _corner((height, width), (full_h, full_w))
        maps = F.pad(maps, (left, full_w - width - left, top, full_h - height - top), mode="replicate")
    laid = F.interpolate(maps, size=tuple(original_size), mode="bilinear", align_corners=False)[0, 0].numpy()
    if cropped:
        rows, columns = seen_box((height, width), original_size, resized_to)
        fill = float(anomaly.min()) if outside is None else outside
        laid[: rows.start] = laid[rows.stop :] = fill
        laid[:, : columns.start] = laid[:, columns.stop :] = fill
    return laid


def seen_box(
    map_size: tuple[int, int], original_size: tuple[int, int], resized_to: tuple[int, int] | None = None
) -> tuple[slice, slice]:
    """Rows and columns of an image whose centres lie in the part that a map of it shows; arguments as above."""
    full = resized_to or map_size

    def first(edge: int, axis: int) -> int:
        """The first row or column whose centre is not before an edge of the resized image, without rounding."""
        return -((full[axis] - 2 * edge * original_size[axis]) // (2 * full[axis]))

    top, left = _corner(map_size, full)
    return slice(first(top, 0), first(top + map_size[0], 0)), slice(first(left, 1), first(left + map_size[1], 1))


def _corner(crop: tuple[int, int], full: tuple[int, int]) -> tuple[int, int]:
    """Row and column at which the centre crop begins, as `data.load_image` cuts it."""
    return round((full[0] - crop[0]) / 2), round((full[1] - crop[1]) / 2)


def _outside(n: int, radius: int, border: str, device: torch.device) -> torch.Tensor:
    """Index of the pixel seen at -radius .. n - 1 + radius; folds as often as small maps need."""
    i = torch.arange(-radius, n + radius, device=device)
    if not isinstance(n, int):  # left open by torch.export, ONNX has no remainder by it; it is above the radius
        i = torch.where(i < 0, -1 - i, i) if border == "reflect" else i.abs()
        return torch.minimum(i, (2 * n - 1 if border == "reflect" else 2 * n - 2) - i)
    if border == "reflect":
        i = i % (2 * n)
        return torch.minimum(i, 2 * n - 1 - i)
    if n == 1:
        return torch.zeros_like(i)
    i = i % (2 * n - 2)
    return torch.minimum(i, 2 * n - 2 - i)
