"""What samplers need of the rows of all ranks, of which each has a part: values do not depend on how they are cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kernels.exact import halving_sum
from ..kernels.ranks import Held, Ranks
from .measures import farthest_from_mean, nearly_farthest, roughly_from_sum, rows_at_a_time


class Shards(Held):
    """Rows [N_r, D] of this rank and those of the others, in the order of ranks; without ranks, all rows."""

    def farthest_from_mean(self) -> int:
        """`measures.farthest_from_mean` of all rows: the same number as in one process."""
        x, n, ranks = self.x, self.total, self.ranks
        if ranks is None:
            return farthest_from_mean(x)
        total = self._sum(ranks, rows_at_a_time(x.shape[1])).to(x.device)
        rough = roughly_from_sum(x, n, total)
        bad = bool(rough.isnan().any())
        if ranks.most(float(bad)) > 0:
            return 0
        most = ranks.most(float(rough.max()) if x.shape[0] else -1.0)
        near, value = nearly_farthest(x, n, total, rough, most)
        largest = ranks.most(float(value.max()) if near.shape[0] else -1.0)
        found = (near[value == largest][:1] + self.first).cpu()
        return int(ranks.gather(found)[0])

    def _sum(self, ranks: Ranks, step: int) -> Tensor:
        """The sum of all rows [D] float64, added up in blocks of `step` rows of the whole, as one process does.

        Blocks that lie on one rank are summed there; of others the rows go to every rank.
        """
        blocks = [(low, min(low + step, self.total)) for low in range(0, self.total, step)]
        last = self.first + self.x.shape[0]
        whole = [b for b in blocks if self.first <= b[0] and b[1] <= last]
        sums = [_block_sum(self.x[low - self.first : high - self.first]) for low, high in whole]
        cut = [b for b in blocks if b not in whole and b[0] < last and self.first < b[1]]
        parts = [self.x[max(low, self.first) - self.first : min(high, last) - self.first] for low, high in cut]
        empty = self.x.new_empty(0, self.x.shape[1])
        told_sums = ranks.gather(torch.stack(sums).cpu() if sums else empty.double())
        told_rows = ranks.gather(torch.cat([empty, *parts]).cpu())
        ends = torch.tensor(self.counts).cumsum(0).tolist()
        total = torch.zeros(self.x.shape[1], dtype=torch.float64)
        at = row = 0
        for low, high in blocks:  # in their order
            if any(begin <= low and high <= end for begin, end in zip([0, *ends], ends, strict=False)):
                total += told_sums[at]
                at += 1
            else:
                total += _block_sum(told_rows[row : row + high - low])
                row += high - low
        return total


def _block_sum(rows: Tensor) -> Tensor:  # [B, D] -> [D] float64
    return halving_sum(rows.t().double().contiguous())


def count_of(views: Any) -> int | str | None:
    """How many views there are, as far as that can be told before they are checked."""
    if isinstance(views, (np.ndarray, Tensor)):
        return 1 if views.ndim == 2 else len(views) if views.ndim else 0
    return len(views) if isinstance(views, Sequence) else None if views is None else type(views).__name__
