"""What picks say of signals, by ranks: correlation of signals, and how picks lie in the tails of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcore_fast.report.selection import as_array, picked_rows, signal_arrays

TAILS = (0.01, 0.05)  # shares of the rows at either end


def average_ranks(values: Any) -> NDArray[np.float64]:
    """Ranks [N] from 0 to N - 1; equal values share the mean of theirs."""
    _, group, counts = np.unique(as_array(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle: NDArray[np.float64] = (2 * last - counts - 1) / 2
    return middle[group.reshape(-1)]


def spearman(signals: Mapping[str, Any]) -> NDArray[np.float64]:
    """Rank correlations [S, S] of signals -> [N], ties at their mean rank; NaN beside a signal that is constant.

    C. Spearman, The proof and measurement of association between two things, 1904.
    """
    ranks = np.stack([average_ranks(values) for values in signal_arrays("spearman", signals).values()])
    centred = ranks - ranks.mean(1, keepdims=True)
    length = np.sqrt((centred**2).sum(1))
    some = length > 0
    unit = np.divide(centred, length[:, None], out=np.full_like(centred, np.nan), where=some[:, None])
    table: NDArray[np.float64] = np.clip(unit @ unit.T, -1, 1)
    np.fill_diagonal(table, np.where(some, 1.0, np.nan))
    return table


def tail_shares(values: Any, picked: Any, tails: tuple[float, ...] = TAILS) -> dict[str, Any]:
    """How picks lie in a signal's tails, by ranks.

    values [N]; picked [k] row numbers. A row is in the lower tail of share t where its rank (see `average_ranks`) plus
    a half is below t N, in the upper one where it is above (1 - t) N: rows that tie with too many are in neither.

    Returns
    -------
    "mean_rank": mean rank of the picks as a share, 0.5 as expected of picks that do not care, 1 where all are largest;
    "tails": text of t -> {"low", "high": share of the picks, "low_rows", "high_rows": share of all rows}.
    """
    place = (average_ranks(values) + 0.5) / len(as_array(values))
    mine = place[picked_rows("tail_shares", picked, len(place))]

    def shares(t: float) -> dict[str, float]:
        return {"low": float((mine < t).mean()), "high": float((mine > 1 - t).mean()),
                "low_rows": float((place < t).mean()), "high_rows": float((place > 1 - t).mean())}  # fmt: skip

    return {"mean_rank": float(mine.mean()), "tails": {f"{t:g}": shares(t) for t in tails}}
