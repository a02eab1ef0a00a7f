"""Which images of a training set the others support least: an order in which a person looks through them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..inputs import Features
from ..kernels import knn
from ..kernels.surroundings import undisturbed
from ..progress import Progress, bar
from .layout import Layout
from .rows import CHUNK_SIZE
from .support import deviations, largest, support

NEIGHBOURS = (1, 3, 9)  # images that a patch is compared with: no one number is right
_TOGETHER = 16  # images between two looks at which are the nearest


class Near(NamedTuple):
    """distance : [M, keep] to the nearest row of each of the `keep` nearest other images, ascending, inf where there
    are fewer; at least float32.  row : [M, keep] int64, the rows at these, -1 where there are none."""

    distance: Tensor
    row: Tensor


@dataclass(frozen=True)
class Suspicion:
    """What `suspicion` found. I images in the order of `layout.names`.

    value : [I] float64 in [0, 1], the mean over the parts of the share of images that a part finds less suspicious.
    parts : name -> [I] float64, robust deviations (`deviations`): "support", and "1 image", "3 images", "9 images".
    layout : where the rows lie.
    """

    value: Tensor
    parts: dict[str, Tensor]
    layout: Layout

    @property
    def order(self) -> Tensor:
        """[I] int64, images from the most suspicious on; equal ones in their order."""
        return self.value.argsort(descending=True, stable=True)


@undisturbed
def nearest_images(
    queries: Tensor, owners: Tensor, blocks: Iterable[tuple[Tensor, Tensor, int]], keep: int, progress: Progress = None
) -> Near:
    """How far rows are from the nearest other images, an image at a time: [M, keep] is held, never [M, images].

    Parameters
    ----------
    queries : [M, D] floating.  owners : [M] int64, the image of each.
    blocks : of every image once its row numbers [n] int64, rows [n, D] and number.
    keep : images, at least 1.
    """
    device, kind = queries.device, torch.promote_types(queries.dtype, torch.float32)
    owners = owners.to(device)
    best = Near(
        torch.empty(len(queries), 0, device=device, dtype=kind),
        torch.empty(len(queries), 0, device=device, dtype=torch.int64),
    )
    waiting: list[tuple[Tensor, Tensor]] = []

    def settle() -> None:
        nonlocal best
        far, at = (torch.cat([one, *more], 1) for one, more in zip(
            best, ([d for d, _ in waiting], [i for _, i in waiting]), strict=True))  # fmt: skip
        order = far.argsort(dim=1, stable=True)[:, :keep]  # of equal ones the image that came first
        best = Near(far.gather(1, order), at.gather(1, order))
        waiting.clear()

    with bar(None, "neighbours", progress) as shown:
        for numbers, rows, image in blocks:
            distance, near = knn(queries, rows.to(device), 1)
            own = (owners == image)[:, None]
            row = numbers.to(device)[near]
            waiting.append((distance.to(kind).masked_fill(own, torch.inf), row.masked_fill(own, -1)))
            if len(waiting) == _TOGETHER:
                settle()
            shown.update()
        if waiting:
            settle()
    lacking = keep - best.distance.shape[1]
    if lacking > 0:
        best = Near(torch.nn.functional.pad(best.distance, (0, lacking), value=torch.inf),
                    torch.nn.functional.pad(best.row, (0, lacking), value=-1))  # fmt: skip
    return best


@undisturbed
def suspicion(
    features: Features,
    *,
    image_ids: Any = None,
    positions: Any = None,
    representatives: int = 32,
    seed: int = 0,
    device: torch.device | str | None = None,
    chunk_size: int = CHUNK_SIZE,
    progress: Progress = None,
) -> Suspicion:
    """How suspicious each image is, by several measures at once.

    "support" is the deviation that `support` finds. For "k images" every representative of an image (its own k-center
    rows) takes its mean distance to the nearest representatives of the k nearest other images, and the image the
    largest of them, as a robust deviation. One neighbour finds what is alone; nine also find what few images share.
    Ranks are averaged, for the parts have tails of their own.

    Parameters
    ----------
    features : [N, D] floating ndarray or tensor.
    image_ids : [N] integers, the image of each row.  positions : [N, 3] integers, (image, row, column). With neither,
        the layout is read off the order of the rows (`Layout.inferred`).
    representatives, seed, device, chunk_size : see `support`.
    progress : see `patchcore_fast.progress.bar`.

    Memory is O(N); time grows with the square of the number of images.

    Raises
    ------
    TypeError : wrong type or dtype.  ValueError : wrong shape or range, rows that are not finite, fewer than 3 images,
    or no layout given and none to be seen.
    """
    found = support(
        features, image_ids=image_ids, positions=positions, representatives=representatives, seed=seed, device=device,
        chunk_size=chunk_size, progress=progress,
    )  # fmt: skip
    bank, images = found.bank, found.layout.images
    assert bank is not None, "support brings it"
    x, image = bank.representative, bank.image
    numbers = image.argsort(stable=True).split(torch.bincount(image, minlength=images).tolist())
    blocks = ((rows, x[rows.to(x.device)], i) for i, rows in enumerate(numbers))
    near = nearest_images(x, image, blocks, min(max(NEIGHBOURS), images - 1), progress).distance.double().cpu()
    parts = {"support": found.deviation}
    for k in NEIGHBOURS:
        mean = near[:, :k].mean(1)
        parts[f"{k} image{'s' * (k > 1)}"] = deviations(largest(mean, image, images))
    return Suspicion(torch.stack([_rank(part) for part in parts.values()]).mean(0), parts, found.layout)


def _rank(values: Tensor) -> Tensor:
    """Share of the other images that are lower, those that are equal counted half: [I] in [0, 1]."""
    ordered = values.sort().values
    low, high = torch.searchsorted(ordered, values), torch.searchsorted(ordered, values, right=True)
    return (low + (high - low - 1) / 2) / max(1, len(values) - 1)
