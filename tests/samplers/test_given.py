"""The composite of signals that were measured before."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchcore_fast.samplers import ELFSCoresetSampler
from patchcore_fast.scores import difficulty, rarity, representativeness

X = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
ROWS = torch.from_numpy(X)


def sampler(**options):
    given = {"w_repr": 1.0, "w_density": 0.5, "w_unc": -1.0, "topk_pool_multiplier": 2.0} | options
    return ELFSCoresetSampler(0.05, "cpu", None, preset="composite", **given)


def test_its_own_signals_given_change_nothing():
    own = sampler(instability="difficulty", difficulty="aum", epochs=3)
    picks = own.select(X)
    hard = difficulty(ROWS, clusters=max(2, own.composite.n_clusters), epochs=3, progress=False)
    scores = {
        "representativeness": representativeness(ROWS, mode="global", progress=False),
        "rarity": rarity(ROWS, k=own.composite.k_density, anchors=own.composite.density_subsample, progress=False),
        "difficulty": hard.score,
    }
    again = sampler(instability="difficulty", difficulty="aum", epochs=3)
    assert again.select(X, scores=scores).tolist() == picks.tolist()
    assert torch.equal(again.scores_["difficulty"], own.scores_["difficulty"])
    assert torch.equal(again.scores_["density"], own.scores_["density"])
    torch.testing.assert_close(again.scores_["composite"], own.scores_["composite"])


@pytest.mark.parametrize("density", ["rarity", "dense"])
def test_the_pool_is_that_of_given_signals(density):
    given = torch.rand(300, generator=torch.Generator().manual_seed(3))
    chosen = sampler(w_repr=0.0, w_unc=0.0, density=density)
    picks = chosen.select(X, scores={"rarity": given.numpy(), "other": given})
    best = given.argsort(descending=density == "rarity", stable=True)[:30]
    assert set(chosen.pool_.nonzero()[:, 0].tolist()) == set(best.tolist()) and set(picks.tolist()) <= set(
        best.tolist()
    )


WRONG = {
    "shape": ({"rarity": torch.ones(299)}, ValueError, r"scores\['rarity'\] must be 300 finite numbers, got shape"),
    "nan": ({"rarity": torch.full((300,), torch.nan)}, ValueError, "must be finite in float32; 300 of 300 are not"),
    "large": ({"rarity": torch.full((300,), 1e300, dtype=torch.float64)}, ValueError, "finite in float32; 300 of 300"),
    "text": ({"rarity": ["a"] * 300}, TypeError, r"scores\['rarity'\] must be 300 numbers, got list"),
    "none used": ({"beauty": torch.ones(300)}, ValueError, "none of the signals beauty is one of this composite"),
    "list": ([1, 2], TypeError, "scores must be a mapping"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_scores_are_refused(what):
    scores, kind, message = WRONG[what]
    with pytest.raises(kind, match=message):
        sampler().select(X, scores=scores)


def test_without_the_preset_they_are_refused():
    plain = ELFSCoresetSampler(0.05)
    assert not plain.takes_scores and sampler().takes_scores
    with pytest.raises(ValueError, match="scores go with preset"):
        plain.select(X, scores={"rarity": torch.ones(300)})
