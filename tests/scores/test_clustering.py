"""k-means: Lloyd's steps, the inertia of scikit-learn's, and clusters that run empty."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as PeerKMeans

from patchcore_fast.scores import KMeans, k_means
from patchcore_fast.scores.clustering import _update

from .test_rows import OK, rand


def test_k_means_is_lloyds():
    x = rand(600, 6)
    start = k_means(x, 12, iterations=0, sample=50).centers.double().numpy()
    assert len(np.unique(start, axis=0)) == 12 and all((x.double().numpy() == c).all(1).any() for c in start)
    rows, centers = x.double().numpy(), start
    for _ in range(3):
        labels = ((rows[:, None] - centers[None]) ** 2).sum(-1).argmin(1)
        centers = np.stack([rows[labels == c].mean(0) for c in range(12)]).astype(np.float32).astype(np.float64)
    found = k_means(x, 12, iterations=3, sample=50)  # 12 * 50 rows: the sample is everything
    np.testing.assert_allclose(found.centers.numpy(), centers, rtol=1e-6)
    true = np.sqrt(((rows[:, None] - found.centers.double().numpy()[None]) ** 2).sum(-1))
    assert np.array_equal(found.labels.numpy(), true.argmin(1))
    np.testing.assert_allclose(found.distances.numpy(), true.min(1), rtol=1e-6)
    assert found.labels.dtype == torch.int64 and found.distances.dtype == found.centers.dtype == torch.float32


def test_k_means_reaches_the_inertia_of_a_peer():
    x = rand(6000, 16, seed=3)
    ours = np.mean([float(k_means(x, 30, seed=s).distances.double().square().sum()) for s in range(5)])
    peers = np.mean([PeerKMeans(30, n_init=1, max_iter=25, random_state=s).fit(x.numpy()).inertia_ for s in range(5)])
    assert ours < 1.03 * peers  # ours learns on everything here: 30 * 256 > 6,000


def test_k_means_with_empty_clusters():
    x = rand(200, 5)
    centers = torch.cat([x[:3], torch.full((2, 5), 1e4)])
    d = torch.cdist(x.double(), centers.double())
    far = d.min(1).values.sort(descending=True).indices[:2]
    moved = _update(x, centers)
    assert torch.equal(moved[3:], x[far])
    torch.testing.assert_close(moved[0], x[d.argmin(1) == 0].mean(0))
    few = torch.tensor([[0.0, 0], [1, 1], [5, 5]]).repeat(30, 1)
    found = k_means(few, 5)
    assert bool((found.distances == 0).all()) and len(found.labels.unique()) == 3
    assert bool(found.centers.isfinite().all())
    one = k_means(few[:1], 1)
    assert one.labels.tolist() == [0] and torch.equal(one.centers, few[:1])


def test_k_means_result_is_a_value():
    with pytest.raises(AttributeError):
        KMeans(OK, OK, OK).labels = None
