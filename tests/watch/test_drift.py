"""Whether scores drift: found where they do, not claimed where they do not, and said when nothing can be said."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from patchcore_fast.watch.drift import LAST, LEAST, Drift, drift_of

RNG = np.random.default_rng(0)
NORMAL = RNG.normal(1.0, 0.1, 150).tolist()


def test_the_same_lighting_is_no_drift() -> None:
    claimed = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        found = drift_of(rng.normal(1.0, 0.1, LAST).tolist(), rng.normal(1.0, 0.1, 150).tolist())
        assert isinstance(found, Drift)
        claimed += found.has_drifted
    assert claimed <= 2, "one in a thousand by chance"


@pytest.mark.parametrize(("mean", "spread", "way"), [(1.1, 0.1, "higher than"), (0.9, 0.1, "lower than")])
def test_a_shift_is_seen_in_the_last_scores(mean: float, spread: float, way: str) -> None:
    last = RNG.normal(mean, spread, LAST)
    found = drift_of([*RNG.normal(1.0, 0.1, 300), *last], NORMAL)
    assert isinstance(found, Drift) and found.has_drifted and way in found.said() and found.said().startswith("Drift:")
    wanted = stats.ks_2samp(last, NORMAL)
    assert (found.statistic, found.p) == (wanted.statistic, wanted.pvalue)
    assert (found.count, found.held_out, found.median) == (LAST, 150, np.median(last))


def test_another_spread_is_said_as_such() -> None:
    found = drift_of([0.7, 1.0, 1.3] * 60 + [1.0], [1.0] * 50 + [0.99, 1.01] * 10)
    assert isinstance(found, Drift) and found.has_drifted and "spread otherwise than" in found.said()
    same = drift_of(NORMAL, NORMAL)
    assert isinstance(same, Drift) and same.p == 1 and same.said().startswith("No drift:")


@pytest.mark.parametrize(
    ("scores", "normal", "words"),
    [
        (NORMAL, [], "no scores of held-out"),
        (NORMAL, NORMAL[: LEAST - 1], "has 29 scores"),
        ([1.0], NORMAL, "1 scores"),
    ],
)
def test_too_few_to_tell(scores: list[float], normal: list[float], words: str) -> None:
    found = drift_of(scores, normal)
    assert isinstance(found, str) and words in found
