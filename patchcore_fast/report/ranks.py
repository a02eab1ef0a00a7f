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
    from scipy.stats import rankdata

    return np.asarray(rankdata(as_array(values)) - 1.0)


def spearman(signals: Mapping[str, Any]) -> NDArray[np.float64]:
    """Rank correlations [S, S] of signals -> [N], ties at their mean rank; NaN beside a signal that is constant.

    C. Spearman, The proof and measurement of association between two things, 1904.
    """
    ranks = [average_ranks(values) for values in signal_arrays("spearman", signals).values()]
    with np.errstate(invalid="ignore", divide="ignore"):  # constant signals
        return np.atleast_2d(np.corrcoef(ranks))


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
