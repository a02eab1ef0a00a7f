"""Late picks of a k-center traversal, moved to the middle of what they cover."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..kernels import knn
from ..kernels.exact import halving_sum, squared_distance
from ..kernels.ranks import Held
from ..kernels.surroundings import undisturbed

_ROWS = 1 << 18  # whose cells are looked at, at most: as many as a middle needs
_CHUNK, _FETCHED = 1 << 16, 1 << 13


@undisturbed
def settled(
    held: Held,  # [N, D]
    picks: Tensor,  # [k] in selection order
    share: float,
    kept: Tensor,  # [N] bool
    seed: int,
) -> tuple[Tensor, int]:
    """The picks [k] with the latest `share` of them replaced by the medoid-like row of their cells; how many moved.

    A pick's cell is the rows that are nearer to it than to any other pick. Its middle is the row of the cell that is
    nearest to the cell's mean, the lowest among equals: one step of k-medoids with the mean in place of the sum of
    distances. Cells are those of at most 262,144 kept rows, drawn uniformly. Distances are exact, and means float64
    sums in a fixed order, so the result depends on neither device nor threads.
    """
    k = picks.shape[0]
    late = round(share * k)
    if not late or k < 2:
        return picks, 0
    rows = kept.nonzero()[:, 0]
    if rows.shape[0] > _ROWS:
        drawn = torch.randperm(rows.shape[0], generator=torch.Generator().manual_seed(seed))[:_ROWS]
        rows = rows[drawn.sort().values]
    cell = _cells(held, rows, held.rows(picks))
    inside = cell >= k - late
    rows, cell = rows[inside], cell[inside] - (k - late)
    order = cell.argsort(stable=True)
    rows, cell = rows[order], cell[order]
    out, moved, taken = picks.clone(), 0, set(picks.tolist())
    for i, members, own in _members(held, rows, torch.bincount(cell, minlength=late)):
        if members.shape[0] < 3:  # two rows have no middle
            continue
        mean = halving_sum(own.t().contiguous()) / own.shape[0]
        best = int(members[squared_distance(own, mean).argmin()])
        if best not in taken:  # of equal rows another pick may be the lowest
            taken.add(best)
            out[k - late + i] = best
            moved += 1
    return out, moved


def _cells(held: Held, rows: Tensor, bank: Tensor) -> Tensor:
    """Which of the bank's rows [k, D] is nearest to each of these rows [S] int64 ascending, the lowest among equals."""
    x, last = held.x, held.first + held.x.shape[0]
    own = rows[(rows >= held.first) & (rows < last)] - held.first
    cell = torch.empty(own.shape[0], dtype=torch.int64)
    for lo in range(0, own.shape[0], _CHUNK):
        part = own[lo : lo + _CHUNK].to(x.device)
        cell[lo : lo + _CHUNK] = knn(x[part], bank, 1)[1][:, 0]
    return cell if held.ranks is None else held.ranks.gather(cell)


def _members(held: Held, rows: Tensor, sizes: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Each cell's number, row numbers [S] and rows [S, D] float64; rows [*] cell by cell, of these sizes.

    They are fetched many cells at a time, as other ranks may have them.
    """
    cell = row = 0
    for count in (sizes.cumsum(0) // _FETCHED).unique_consecutive(return_counts=True)[1].tolist():
        lengths = sizes[cell : cell + count].tolist()
        numbers = rows[row : row + sum(lengths)]
        values = held.rows(numbers).cpu()
        for members, own in zip(numbers.split(lengths), values.split(lengths), strict=True):
            yield cell, members, own.double()
            cell += 1
        row += sum(lengths)
