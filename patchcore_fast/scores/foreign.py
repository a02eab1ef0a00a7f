"""How far a row is from the nearest row of another image: what no other image supports is far from all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..inputs import Features
from ..kernels import knn
from ..kernels.checks import check_int
from ..kernels.exact import paired_squared, root
from ..kernels.ranks import Held, Ranks
from ..kernels.surroundings import undisturbed
from .layout import Layout
from .rows import CHUNK_SIZE, read_rows

_NEAR = 64  # neighbours looked at: the nearest are patches around a row, of its own image
_THINNED_NEAR = 40  # of thinned rows, over `every`: fewer of them are around a row
_MOST = 1 << 20  # rows of which one may be looked among
_MIXED = (0x45D9F3B, 0x119DE1F)  # odd numbers


class Foreign(NamedTuple):
    """distance : [M] float32, inf where there is no other image.  row : [M] int64, the row at it, -1 where none is.

    Of several rows at the same distance the lowest is named.
    """

    distance: Tensor
    row: Tensor


@dataclass
class _Nearest:
    """The best so far. Squared distances in float64 decide: two that are equal once rounded to float32 need not be."""

    squared: Tensor  # [M] float64
    row: Tensor  # [M] int64

    def keep(self, asked: Tensor, squared: Tensor, row: Tensor) -> None:
        """Take what is nearer than before, or as near and a lower row; `asked` names each query once at most."""
        before = self.squared[asked]
        better = (squared < before) | ((squared == before) & (row < self.row[asked]))
        self.squared[asked[better]], self.row[asked[better]] = squared[better], row[better]


def thinned(numbers: Tensor, images: Tensor, every: int) -> Tensor:
    """Which rows are looked among where one of `every` is enough.

    Of each `every` rows that follow each other one, drawn by a hash of their numbers, and the first row of each image.
    The same however rows are cut or shared out; it has no period that could meet a grid's.

    numbers : [n] int64, of the rows.  images : [n] int64, of each; all rows of an image are among these.
    every : at least 1; 1 is all.  Returns [n] bool.
    """
    if every == 1 or not len(numbers):
        return torch.ones(len(numbers), dtype=torch.bool)
    group = numbers // every
    mixed = group & 0x7FFFFFFF
    for factor in _MIXED:
        mixed = ((mixed ^ (mixed >> 16)) * factor) & 0x7FFFFFFF
    kept = numbers % every == (mixed ^ (mixed >> 16)) % every
    place = torch.arange(len(numbers))
    inverse = images.unique(return_inverse=True)[1]
    first = torch.full((int(inverse.max()) + 1,), len(numbers)).scatter_reduce(0, inverse, place, "amin")
    kept[first] = True
    return kept


@undisturbed
def nearest_of_other_images(
    queries: Tensor, owners: Tensor, blocks: Iterable[tuple[Tensor, Tensor, Tensor]], ranks: Ranks | None = None,
    every: int = 1,
) -> Foreign:  # fmt: skip
    """The nearest row of another image, over blocks of rows; exact, and the same however the rows are cut.

    A block is one k-NN of all queries, with 64 neighbours. Where all of these are of a query's own image, the
    block's images are told apart bit by bit of their numbers: any two differ in one.

    Parameters
    ----------
    queries : [M, D] floating.  owners : [M] int64, the image of each.
    blocks : numbers [n] int64, ascending, of rows [n, D] and their images [n] int64; each goes to the queries' device.
    ranks : all of these call with the same queries and blocks of their own rows, under the numbers of all.
    every : one of so many rows is in the blocks (`thinned`): fewer neighbours are looked at first. Changes speed only.

    Returns
    -------
    Without ranks on the queries' device, with ranks on the CPU of each.

    Raises
    ------
    RankError : a block cannot be read or searched on another rank.
    """
    near = _NEAR if every == 1 else min(_NEAR, max(8, _THINNED_NEAR // every))
    if ranks is None:
        found = _nearest(queries, owners, blocks, near)
    else:
        found = _of_all(ranks.agree(lambda: _nearest(queries, owners, blocks, near)), ranks)
    return Foreign(root(found.squared).float(), found.row)


def _nearest(queries: Tensor, owners: Tensor, blocks: Iterable[tuple[Tensor, Tensor, Tensor]], looked: int) -> _Nearest:
    best = _Nearest(
        torch.full((len(queries),), torch.inf, dtype=torch.float64, device=queries.device),
        torch.full((len(queries),), -1, dtype=torch.int64, device=queries.device),
    )
    if not len(queries):
        return best
    owners = owners.to(queries.device)
    for numbers, rows, images in blocks:
        if not len(rows):
            continue
        numbers, rows, images = (t.to(queries.device) for t in (numbers, rows, images))
        near = knn(queries, rows, min(looked, len(rows)))[1]
        foreign = images[near] != owners[:, None]
        found, at = foreign.max(dim=1)  # the first of them
        _measure(best, queries, found.nonzero()[:, 0], rows, near.gather(1, at[:, None])[found, 0], numbers)
        left = (~found).nonzero()[:, 0]
        if not len(left):
            continue
        names = images.unique()
        place, own = torch.searchsorted(names, images), torch.searchsorted(names, owners[left])
        for bit in range((len(names) - 1).bit_length()):
            for value in (0, 1):
                asked, others = left[(own >> bit) & 1 == value], ((place >> bit) & 1 != value).nonzero()[:, 0]
                if len(asked) and len(others):
                    near = others[knn(queries[asked], rows[others], 1)[1][:, 0]]
                    _measure(best, queries, asked, rows, near, numbers)
    return best


def _measure(best: _Nearest, queries: Tensor, asked: Tensor, rows: Tensor, near: Tensor, numbers: Tensor) -> None:
    best.keep(asked, paired_squared(queries, asked, rows, near), numbers[near])


def _of_all(found: _Nearest, ranks: Ranks) -> _Nearest:
    """Of what each rank found among its own rows, by their common numbers, the nearest; on every rank."""
    count = len(found.row)
    squared = ranks.gather(found.squared.cpu(), [count] * ranks.size).view(ranks.size, count)
    rows = ranks.gather(found.row.cpu(), [count] * ranks.size).view(ranks.size, count)
    best = _Nearest(squared[0], rows[0])
    for more, row in zip(squared[1:], rows[1:], strict=True):
        best.keep(torch.arange(count), more, row)
    return best


def among(x: Tensor, numbers: Tensor, images: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A block of `nearest_of_other_images` of the rows [n, D] that are kept [n] bool."""
    if bool(kept.all()):
        return numbers, x, images
    return numbers[kept], x[kept.to(x.device)], images[kept]


@undisturbed
def support_distance(
    features: Features,
    indices: Any = None,
    *,
    image_ids: Any = None,
    positions: Any = None,
    device: torch.device | str | None = None,
    chunk_size: int = CHUNK_SIZE,
    every: int = 1,
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
    every : 1 looks among all rows, 8 among an eighth of them (`thinned`), in a fraction of the time; the distance is
        then that to the nearest of these, never below the other. `fit` looks among an eighth from 100,000 rows on.
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
        return _distance(name, features, indices, image_ids, positions, device, chunk_size, every, None)
    ranks = Ranks(name, group)
    with ranks.watched():
        return _distance(name, features, indices, image_ids, positions, device, chunk_size, every, ranks)


def _distance(
    name: str, features: Features, indices: Any, image_ids: Any, positions: Any, device: Any, chunk_size: int,
    every: int, ranks: Ranks | None,
) -> Foreign:  # fmt: skip
    def read() -> Any:
        check_int(name, "every", every, 1, _MOST)
        return read_rows(name, features, device, chunk_size, empty=ranks is not None)

    rows = read() if ranks is None else ranks.agree(read)
    held = Held(ranks, rows.x)
    layout = Layout.of(name, rows.shape[0], image_ids, positions, ranks) or Layout.inferred(rows.x, ranks)
    if layout is None:
        raise ValueError(
            f"{name}: image_ids or positions are wanted; the order of the {held.total} rows shows no images"
        )
    if ranks is None:
        asked = _asked(name, indices, held.total)
    else:
        asked = ranks.agree(lambda: _asked(name, indices, held.total))
        ranks.same(indices=asked, every=every)
    queries = held.rows(asked).to(rows.device)
    numbers = torch.arange(held.total)
    own = [held.own(t) for t in (numbers, layout.image, thinned(numbers, layout.image, every))]
    blocks = (among(x, *(t[part] for t in own)) for part, x in rows.chunks())
    found = nearest_of_other_images(queries, layout.image[asked], blocks, ranks, every)
    return Foreign(found.distance.cpu(), found.row.cpu())


def _asked(name: str, indices: Any, total: int) -> Tensor:
    if indices is None:
        return torch.arange(total)
    try:
        asked = torch.as_tensor(indices)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: indices must be [M] integers, got {type(indices).__name__}") from None
    if asked.ndim != 1 or asked.is_floating_point() or asked.is_complex() or asked.dtype == torch.bool:
        raise TypeError(f"{name}: indices must be [M] integers, got {tuple(asked.shape)} {asked.dtype}")
    asked = asked.cpu().long()
    if len(asked) and (int(asked.min()) < 0 or int(asked.max()) >= total):
        raise ValueError(f"{name}: indices must lie in 0..{total - 1}, got {int(asked.min())} to {int(asked.max())}")
    return asked
