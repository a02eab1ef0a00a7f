"""LowestDensitySampler: the rows of largest rarity, in their order."""

import numpy as np
import pytest
import torch

from patchcore_fast.samplers import LowestDensitySampler
from patchcore_fast.samplers.projection import project, random_projection
from patchcore_fast.scores import rarity


def grid(n=200, d=6):
    return torch.randint(-3, 4, (n, d), generator=torch.Generator().manual_seed(0)).float()


def test_are_the_rows_of_largest_rarity_with_ties_to_the_lowest():
    x = grid(200, 3).numpy()
    distance = np.sqrt(((x[:, None].astype(np.float64) - x) ** 2).sum(2))
    np.fill_diagonal(distance, np.inf)
    score = np.sort(distance, 1)[:, :3].astype(np.float32).astype(np.float64).sum(1) / 3
    want = np.argsort(-score.astype(np.float32), kind="stable")[:50]
    sampler = LowestDensitySampler(0.25, k_density=3, anchors=10**6, dimension_to_project_features_to=None)
    assert sampler.select(x).tolist() == want.tolist()
    assert np.array_equal(sampler.run(x), x[want]) and len(set(score)) < 150  # there are ties
    assert torch.equal(sampler.scores_["rarity"], torch.from_numpy(score).float())


def test_projects_draws_anchors_by_seed_and_takes_few_rows():
    x = torch.randn(300, 40, generator=torch.Generator().manual_seed(1))
    sampler = LowestDensitySampler(0.1, "cpu", anchors=20, seed=4, dimension_to_project_features_to=8)
    low = project(x, random_projection(40, 8, 4), torch.device("cpu"))
    want = rarity(low, k=10, anchors=20, seed=4).argsort(descending=True, stable=True)[:30]
    assert torch.equal(sampler.select(x), want) and sampler.projection_.shape == (40, 8)
    assert (
        LowestDensitySampler(0.5).select(x[:2]).shape == (1,) and LowestDensitySampler(0.5).select(x[:1]).numel() == 0
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [({"anchors": 1}, "anchors must be >= 2"), ({"k_density": 0}, "k_density must be >= 1, got 0"),
     ({"seed": -1}, "seed must lie in"), ({"dimension_to_project_features_to": 0}, "must be >= 1")],
)  # fmt: skip
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LowestDensitySampler(0.1, **options)
