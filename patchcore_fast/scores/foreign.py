"""How far a row is from the nearest row of another image: what no other image supports is far from all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..inputs import Features
from ..kernels import knn
from ..kernels.ranks import Held, Ranks
from ..kernels.surroundings import undisturbed
from .layout import Layout
from .rows import CHUNK_SIZE, read_rows

_NEAR = 8  # neighbours looked at; some may be of the row's own image


class Foreign(NamedTuple):
    """distance : [M] float32, inf where there is no other image.  row : [M] int64, the row at it, -1 where none is.

    Of several rows at the same distance the lowest is named.
    """

    distance: Tensor
    row: Tensor


@undisturbed
def nearest_of_other_images(
    queries: Tensor, owners: Tensor, blocks: Iterable[tuple[Tensor, Tensor, Tensor]]
) -> Foreign:
    """The nearest row of another image, over blocks of rows; exact, and the same however the rows are cut.

    A block is one k-NN of all queries, with eight neighbours. Where all of these are of a query's own image, the
    block's images are told apart bit by bit of their numbers: any two differ in one.

    Parameters
    ----------
    queries : [M, D] floating.  owners : [M] int64, the image of each.
    blocks : numbers [n] int64, ascending, of rows [n, D] and their images [n] int64; each goes to the queries' device.
    """
    best = Foreign(
        torch.full((len(queries),), torch.inf, device=queries.device),
        torch.full((len(queries),), -1, dtype=torch.int64, device=queries.device),
    )
    owners = owners.to(queries.device)
    for numbers, rows, images in blocks:
        if not len(rows):
            continue
        numbers, rows, images = (t.to(queries.device) for t in (numbers, rows, images))
        distance, near = knn(queries, rows, min(_NEAR, len(rows)))
        foreign = images[near] != owners[:, None]
        found, at = foreign.max(dim=1)
        _keep(best, found.nonzero()[:, 0], distance.gather(1, at[:, None])[found, 0],
              numbers[near.gather(1, at[:, None])[found, 0]])  # fmt: skip
        left = (~found).nonzero()[:, 0]
        if not len(left):
            continue
        names = images.unique()
        place, own = torch.searchsorted(names, images), torch.searchsorted(names, owners[left])
        for bit in range((len(names) - 1).bit_length()):
            for value in (0, 1):
                others = ((place >> bit) & 1 != value).nonzero()[:, 0]
                _search(best, queries, left[(own >> bit) & 1 == value], rows[others], numbers[others])
    return best


def _search(best: Foreign, queries: Tensor, asked: Tensor, rows: Tensor, numbers: Tensor) -> None:
    if not len(asked) or not len(rows):
        return
    distance, near = (found[:, 0] for found in knn(queries[asked], rows, 1))
    _keep(best, asked, distance, numbers[near])


def _keep(best: Foreign, asked: Tensor, distance: Tensor, row: Tensor) -> None:
    before = best.distance[asked]
    better = (distance < before) | ((distance == before) & (row < best.row[asked]))
    best.distance[asked[better]], best.row[asked[better]] = distance[better], row[better]


def nearest_over_ranks(found: Foreign, ranks: Ranks | None) -> Foreign:
    """Of what each rank found among its own rows, by their common numbers, the nearest; on every rank."""
    if ranks is None:
        return found
    count = len(found.distance)
    distances = ranks.gather(found.distance.cpu()).view(-1, count)
    rows = ranks.gather(found.row.cpu()).view(-1, count)
    far = torch.where(distances == distances.amin(0), rows, torch.iinfo(torch.int64).max)
    row = torch.where(distances.amin(0) == torch.inf, -1, far.amin(0))
    return Foreign(distances.amin(0), row)


@undisturbed
def support_distance(
    features: Features,
    indices: Any = None,
    *,
    image_ids: Any = None,
    positions: Any = None,
    device: torch.device | str | None = None,
    chunk_size: int = CHUNK_SIZE,
    group: Any = None,
) -> Foreign:
    """Distance of some rows to the nearest row of another image, and which row that is.

    One pass over the rows, with a k-NN of the asked rows in each chunk: [M, N] is never held. This is the s_j of a
    priced bank (docs/price.md): `MemoryBank(..., support=found.distance)`.

    Parameters
    ----------
    features : [N, D] floating ndarray or tensor.
    indices : [M] integers, the rows asked for; all when None.
    image_ids : [N] integers, the image of each row.  positions : [N, 3] integers, (image, row, column). With neither,
        the layout is read off the order of the rows (`Layout.inferred`).
    device : where to compute; None: where the features are.
    chunk_size : rows at a time; changes speed and memory only.
    group : a torch.distributed process group. features, image_ids and positions are then this rank's; `indices` are
        numbers of all rows, the same on every rank, and so is what is found.

    Returns
    -------
    distance [M] float32 and row [M] int64 on the CPU; inf and -1 where there is no other image.

    Raises
    ------
    TypeError : wrong type or dtype.  ValueError : wrong shape or range, rows that are not finite, or no layout given
    and none to be seen.
    """
    name = "support_distance"
    if group is None:
        return _distance(name, features, indices, image_ids, positions, device, chunk_size, None)
    ranks = Ranks(name, group)
    with ranks.watched():
        return _distance(name, features, indices, image_ids, positions, device, chunk_size, ranks)


def _distance(
    name: str, features: Features, indices: Any, image_ids: Any, positions: Any, device: Any, chunk_size: int,
    ranks: Ranks | None,
) -> Foreign:  # fmt: skip
    def read() -> Any:
        return read_rows(name, features, device, chunk_size, empty=ranks is not None)

    rows = read() if ranks is None else ranks.agree(read)
    held = Held(ranks, rows.x)
    layout = Layout.of(name, rows.shape[0], image_ids, positions, ranks) or Layout.inferred(rows.x, ranks)
    if layout is None:
        raise ValueError(
            f"{name}: image_ids or positions are wanted; the order of the {held.total} rows shows no images"
        )
    asked = _asked(name, indices, held.total)
    if ranks is not None:
        ranks.same(indices=asked)
    queries = held.rows(asked).to(rows.device)
    own = held.own(layout.image)
    numbers = torch.arange(len(own)) + held.first
    blocks = ((numbers[part], x, own[part]) for part, x in rows.chunks())

    def here() -> Foreign:
        return nearest_of_other_images(queries, layout.image[asked], blocks)

    found = here() if ranks is None else ranks.agree(here)
    return nearest_over_ranks(Foreign(found.distance.cpu(), found.row.cpu()), ranks)


def _asked(name: str, indices: Any, total: int) -> Tensor:
    if indices is None:
        return torch.arange(total)
    asked = torch.as_tensor(indices)
    if asked.ndim != 1 or asked.is_floating_point() or asked.is_complex() or asked.dtype == torch.bool:
        raise TypeError(f"{name}: indices must be [M] integers, got {tuple(asked.shape)} {asked.dtype}")
    asked = asked.cpu().long()
    if len(asked) and (int(asked.min()) < 0 or int(asked.max()) >= total):
        raise ValueError(f"{name}: indices must lie in 0..{total - 1}, got {int(asked.min())} to {int(asked.max())}")
    return asked
