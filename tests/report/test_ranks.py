"""Ranks, correlations and tails against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from patchcore_fast.report.ranks import average_ranks, spearman, tail_shares

N = 60


def loop_ranks(values: list[float]) -> list[float]:
    return [sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]


def test_ranks_share_ties() -> None:
    values = np.random.default_rng(0).integers(0, 9, N).astype(np.float32)
    assert average_ranks(values).tolist() == loop_ranks(values.tolist())


def test_spearman_is_the_correlation_of_ranks() -> None:
    r = np.random.default_rng(1)
    a = r.normal(size=N)
    given = {"a": a, "rising": np.exp(a), "falling": -(a**3), "coarse": np.round(a), "constant": np.ones(N)}
    table = spearman(given)
    assert table[0, 1] == pytest.approx(1) and table[0, 2] == pytest.approx(-1)
    wanted = np.corrcoef(loop_ranks(a.tolist()), loop_ranks(given["coarse"].tolist()))[0, 1]
    assert table[0, 3] == pytest.approx(wanted) and 0.8 < wanted < 1
    assert np.isnan(table[4]).all() and np.isnan(table[:, 4]).all() and (table[:4, :4] == table[:4, :4].T).all()


def test_tails() -> None:
    values = np.arange(200.0)[::-1]  # row 0 is the largest
    found = tail_shares(values, [0, 1, 100, 199])
    assert found["tails"]["0.05"] == {"low": 0.25, "high": 0.5, "low_rows": 0.05, "high_rows": 0.05}
    assert found["tails"]["0.01"] == {"low": 0.25, "high": 0.5, "low_rows": 0.01, "high_rows": 0.01}
    assert found["mean_rank"] == pytest.approx(np.mean([199.5, 198.5, 99.5, 0.5]) / 200)
    assert tail_shares(values, np.arange(200))["mean_rank"] == pytest.approx(0.5)
    tied = tail_shares(np.r_[np.zeros(190), np.arange(1, 11)], [0, 199])
    assert tied["tails"]["0.05"] == {"low": 0, "high": 0.5, "low_rows": 0, "high_rows": 0.05}


@pytest.mark.parametrize("picked", [[], [200], [-1]], ids=["none", "beyond", "negative"])
def test_bad_picks(picked: list[int]) -> None:
    with pytest.raises((ValueError, TypeError), match="tail_shares"):
        tail_shares(np.arange(200.0), np.array(picked, np.int64))
