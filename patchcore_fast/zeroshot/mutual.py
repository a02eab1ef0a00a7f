"""Patches scored by the other images of their set, as MuSc does (Li et al., ICLR 2024). Formulas: docs/zeroshot.md."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from patchcore_fast.kernels import knn
from patchcore_fast.kernels.surroundings import undisturbed
from patchcore_fast.scratch import room_for

_STATE_BYTES = 64 << 20  # of distances [patches of some images, images] held at a time
_ROW_BYTES = 256 << 20  # of rows of some images that are on the device at a time
_EMBED_BYTES = 64 << 20  # of maps that are averaged at a time


def counted_images(images: int, share: float) -> int:
    """How many of the other images score a patch: the whole part of `share` of them, at least one."""
    return max(1, int((images - 1) * share))


@undisturbed
def neighbourhood_rows(maps: torch.Tensor, degree: int) -> torch.Tensor:
    """Rows of unit length, one a patch, averaged over its degree x degree neighbourhood (LNAMD).

    Each image's map is first brought to mean 0 and variance 1 over all its values (layer normalisation without
    parameters); outside of the map are zeros, which count. A row of zeros stays one.

    Parameters
    ----------
    maps : [N, C, h, w] floating.  degree : odd side of the neighbourhood.

    Returns
    -------
    [N, h * w, C] float32 on the CPU, in a file where it is large (`scratch`).
    """
    if maps.ndim != 4 or 0 in maps.shape or not maps.is_floating_point():
        raise ValueError(
            f"neighbourhood_rows: maps must be floating [N, C, h, w], got {maps.dtype} {tuple(maps.shape)}"
        )
    if degree < 1 or degree % 2 == 0:
        raise ValueError(f"neighbourhood_rows: degree must be odd and positive, got {degree}")
    count, channels, height, width = maps.shape
    rows = room_for((count, height * width, channels), torch.float32)
    step = max(1, _EMBED_BYTES // (4 * channels * height * width))
    for i in range(0, count, step):
        some = maps[i : i + step].float()
        some = F.layer_norm(some, some.shape[1:])
        some = F.avg_pool2d(some, degree, stride=1, padding=degree // 2)
        rows[i : i + step] = F.normalize(some.flatten(2).transpose(1, 2), dim=2)
    return rows


@undisturbed
def mutual_scores(
    rows: torch.Tensor,
    share: float = 0.3,
    progress: Callable[[int, int], None] | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Of each patch, the mean over the images that know it best of the distance to their nearest patch (MSM).

    Distances are those of exact nearest neighbours (`kernels.knn`), image against image: what is held is the distance
    of the patches of some images to every image, never of patches to patches. On the device are the rows of
    some images, 256 MB at most, and of one that they are compared with.

    Parameters
    ----------
    rows : [N, P, C] floating, N >= 2 images of P patches.
    share : of the other images, those with the lowest distances that count, in (0, 1]; see `counted_images`.
    progress : called after each search with (done, all of them), `searches` in number.
    device : where to search; None: where the rows are.

    Returns
    -------
    [N, P] float32 on the CPU.

    Raises
    ------
    ValueError : a wrong shape or share, fewer than two images, rows that are not finite.
    """
    if rows.ndim != 3 or 0 in rows.shape:
        raise ValueError(f"mutual_scores: rows must be [N, P, C], got shape {tuple(rows.shape)}")
    if not 0 < share <= 1:
        raise ValueError(f"mutual_scores: share must lie in (0, 1], got {share}")
    images, patches, columns = rows.shape
    if images < 2:
        raise ValueError(f"mutual_scores: two images or more score each other, got {images}")
    device = rows.device if device is None else torch.device(device)
    count = counted_images(images, share)
    scores = torch.empty(images, patches)
    done, total, step = 0, searches(images, patches, columns), _block(images, patches, columns)
    for low in range(0, images, step):
        queries = rows[low : low + step].to(device).reshape(-1, columns)
        near = torch.empty(len(queries), images)
        for j in range(images):
            near[:, j] = knn(queries, rows[j].to(device), 1)[0][:, 0].cpu()
            done += 1
            if progress is not None:
                progress(done, total)
        for i in range(low, min(low + step, images)):
            first = (i - low) * patches
            near[first : first + patches, i] = torch.inf  # an image does not score itself
        lowest = near.topk(count, dim=1, largest=False).values
        scores[low : low + step] = lowest.double().mean(1).float().view(-1, patches)
    return scores


def searches(images: int, patches: int, columns: int) -> int:
    """How many times `mutual_scores` searches an image for the nearest patches."""
    return -(-images // _block(images, patches, columns)) * images


def _block(images: int, patches: int, columns: int) -> int:
    return max(1, min(images, _STATE_BYTES // (4 * patches * images), _ROW_BYTES // (4 * patches * columns)))
