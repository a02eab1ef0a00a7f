"""Late picks of a k-center traversal, moved to the middle of what they cover."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import knn
from ..kernels.exact import halving_sum, squared_distance
from ..kernels.surroundings import undisturbed

_ROWS = 1 << 18  # whose cells are looked at, at most: as many as a middle needs
_CHUNK = 1 << 16


@undisturbed
def settled(
    x: Tensor,  # [N, D]
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
    bank = x[picks]
    cell = torch.empty(rows.shape[0], dtype=torch.int64)
    for lo in range(0, rows.shape[0], _CHUNK):
        part = rows[lo : lo + _CHUNK].to(x.device)
        cell[lo : lo + _CHUNK] = knn(x[part], bank, 1)[1][:, 0]
    inside = cell >= k - late
    rows, cell = rows[inside], cell[inside] - (k - late)
    order = cell.argsort(stable=True)
    rows, cell = rows[order], cell[order]
    out, moved, taken = picks.clone(), 0, set(picks.tolist())
    sizes = torch.bincount(cell, minlength=late).tolist()
    for i, members in enumerate(rows.split(sizes)):
        if members.shape[0] < 3:  # two rows have no middle
            continue
        own = x[members.to(x.device)].cpu().double()
        mean = halving_sum(own.t().contiguous()) / own.shape[0]
        best = int(members[squared_distance(own, mean).argmin()])
        if best not in taken:  # of equal rows another pick may be the lowest
            taken.add(best)
            out[k - late + i] = best
            moved += 1
    return out, moved
