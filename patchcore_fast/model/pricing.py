"""How far each row of a bank is from the nearest training row of another image: what its price goes by."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from patchcore_fast.model.collect import FeatureRows, Rows
from patchcore_fast.model.shared import all_rows
from patchcore_fast.scores.foreign import among, nearest_of_other_images, thinned
from patchcore_fast.scores.rows import distances

_BLOCK = 65_536  # rows searched at a time
EVERY = 8  # rows of which one is looked among,
ENOUGH = 12_500  # where that leaves so many
FEWEST = 3  # training images: without one of two, as the threshold wants it, there are no others


def every_of(total: int) -> int:
    """Of how many rows one is looked among, where there are `total` of all images, held out or not."""
    return max(1, min(EVERY, total // ENOUGH))


def support_of(
    rows: Rows,
    space: FeatureRows | None,
    indices: torch.Tensor,
    device: torch.device,
    per_image: int = 1,
    without: torch.Tensor | None = None,
    every: int | None = None,
) -> torch.Tensor | None:
    """Distances [M] float32 of the rows `indices` [M] to rows of other images; None of fewer than three images.

    The nearest row is found in `space`, where that is the smaller search, and its distance is that of the features
    themselves: then not below that of the nearest by features. Every rank searches its own rows.

    Parameters
    ----------
    rows : of the training images, each followed by its copies: `per_image` grids an image.
    space : rows of this process as the selection saw them, projected; or None: the rows themselves are searched.
    without : [J] images, ascending, that count as not there; none of `indices` is of them.
    every : one of so many rows is looked among; by default `every_of` all of them.
    """
    gone = torch.empty(0, dtype=torch.int64) if without is None else without
    if len(rows.grids) // per_image < FEWEST or not len(indices):
        return None
    local = rows.local
    sizes = torch.tensor([h * w for h, w in local.grids], dtype=torch.int64)
    image = torch.repeat_interleave((torch.arange(len(local.grids)) + rows.first) // per_image, sizes)
    searched: Rows = local if space is None else space
    every = every_of(rows.total) if every is None else every
    all_numbers = torch.arange(len(image)) + rows.first_row
    kept = thinned(all_numbers, image, every)
    if len(gone):
        kept &= ~torch.isin(image, gone)

    def blocks() -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        for low in range(0, len(image), _BLOCK):
            high = min(low + _BLOCK, len(image))
            yield among(searched.read(low, high), all_numbers[low:high], image[low:high], kept[low:high])

    queries = all_rows(searched, rows.ranks).take(indices).to(device)
    owners = rows.positions(indices)[:, 0].long() // per_image

    found = nearest_of_other_images(queries, owners, blocks(), rows.ranks, every)
    if space is None:
        return found.distance.cpu()
    return distances(rows.take(indices), rows.take(found.row.cpu())).float()
