"""Which training images a person should look at, what in them no other image supports, and what comes nearest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from patchcore_fast.errors import DataError
from patchcore_fast.kernels.surroundings import undisturbed
from patchcore_fast.model.collect import Rows
from patchcore_fast.progress import bar
from patchcore_fast.scores import Suspicion, nearest_images, suspicion

RELATIVES = 3  # images that the heat is the mean distance to, and that are shown


@dataclass(frozen=True)
class Relative:
    """Where another image comes nearest to the most suspicious place: its number and
    grid (h, w), (row, column), and how near."""

    image: int
    grid: tuple[int, int]
    place: tuple[int, int]
    distance: float


@dataclass(frozen=True)
class Suspect:
    """A suspicious image.

    image : its number.  heat : [h, w] float32, of every patch the mean distance to the nearest rows of the three
    nearest other images.  place : (row, column) of the largest.  relatives : the nearest images there, nearest first.
    """

    image: int
    heat: torch.Tensor
    place: tuple[int, int]
    relatives: tuple[Relative, ...]


@undisturbed
def audit(
    rows: Rows, top: int, *, seed: int = 0, device: torch.device | None = None, progress: bool | None = None
) -> tuple[Suspicion, list[Suspect]]:
    """All images ranked (`scores.suspicion`), and the `top` most suspicious ones looked into.

    Raises
    ------
    DataError : fewer than 3 images.
    """
    images = len(rows.grids)
    if images < 3:
        raise DataError(f"audit: at least 3 training images are wanted to compare with each other, got {images}")
    where = rows.positions(torch.arange(rows.total))
    found = suspicion(rows.features, positions=where, seed=seed, device=device, progress=progress)
    chosen, starts = found.order[:top].tolist(), rows.starts.tolist()
    queries = torch.cat([rows.read(starts[i], starts[i + 1]) for i in chosen])
    sizes = [starts[i + 1] - starts[i] for i in chosen]
    owners = torch.repeat_interleave(torch.tensor(chosen), torch.tensor(sizes))
    keep = min(RELATIVES, images - 1)

    def blocks() -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
        with bar(images, "heat maps", progress) as shown:
            for i in range(images):
                yield torch.arange(starts[i], starts[i + 1]), rows.read(starts[i], starts[i + 1]), i
                shown.update()

    near = nearest_images(queries.to(device or queries.device), owners, blocks(), keep, False)
    distances, numbers = near.distance.cpu().split(sizes), near.row.cpu().split(sizes)
    suspects = []
    for image, distance, row in zip(chosen, distances, numbers, strict=True):
        heat = distance.mean(1).float()
        at = int(heat.argmax())
        width = rows.grids[image][1]
        relatives = tuple(
            Relative(i, rows.grids[i], (r, c), float(d))
            for (i, r, c), d in zip(where[row[at]].tolist(), distance[at].tolist(), strict=True)
        )
        suspects.append(Suspect(image, heat.view(rows.grids[image]), (at // width, at % width), relatives))
    return found, suspects
