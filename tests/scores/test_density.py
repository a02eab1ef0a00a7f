"""Rarity and representativeness against their formulas."""

import numpy as np
import torch

from patchcore_fast.kernels import k_center_greedy, knn_rarity
from patchcore_fast.scores import k_means, rarity, representativeness
from patchcore_fast.scores.density import inverse

from .test_rows import rand


def test_rarity_is_the_kernels_and_the_formula():
    x = rand(300, 7)
    assert torch.equal(rarity(x, k=5, anchors=80, chunk_size=90), knn_rarity(x, 5, anchors=80))
    picks = k_center_greedy(x, 40).indices
    want = []
    for i, row in enumerate(x.double().numpy()):
        others = [a for a in picks.tolist() if a != i]
        want.append(np.sort([np.linalg.norm(row - x[a].double().numpy()) for a in others])[:4].mean())
    for anchors in (picks, picks.numpy(), picks.tolist()):
        np.testing.assert_allclose(rarity(x, anchors=anchors).numpy(), want, rtol=1e-6)
    assert rarity(x).shape == (300,)  # 1,024 anchors of 300 rows: all of them
    lonely = torch.cat([x, torch.full((1, 7), 40.0)])
    assert int(rarity(lonely).argmax()) == 300


def test_representativeness_is_the_formula():
    x = rand(400, 6)
    km = k_means(x, 10, seed=4)
    want = np.empty(400)
    for c in range(10):
        own = [i for i in range(400) if int(km.labels[i]) == c]
        d = [np.linalg.norm(x[i].double().numpy() - km.centers[c].double().numpy()) for i in own]
        want[own] = -np.array(d) / np.sqrt(np.mean(np.square(d)))
    found = representativeness(x, clusters=10, seed=4)
    np.testing.assert_allclose(found.numpy(), want, rtol=1e-5)
    assert torch.equal(found, representativeness(x, clusters=km)) and found.dtype == torch.float32
    rows = x.double().numpy()
    d = np.array([np.linalg.norm(row - rows.mean(0)) for row in rows])
    found = representativeness(x, mode="global").numpy()
    np.testing.assert_allclose(found, -d / np.sqrt((d**2).mean()), rtol=1e-6)
    assert torch.equal(representativeness(torch.ones(9, 3), clusters=2), torch.zeros(9))
    assert torch.equal(representativeness(torch.ones(9, 3), mode="global"), torch.zeros(9))


def test_the_inverse_of_what_hardly_differs_from_zero_is_finite():
    found = inverse(torch.tensor([0.0, 1e-44, 2.0, 4.0]))
    assert found.isfinite().all() and found[0] == found[1] > 1e38 and found[2:].tolist() == [0.5, 0.25]
    assert inverse(torch.zeros(2)).tolist() == [1.0, 1.0] and inverse(torch.tensor([0.0, 2.0])).tolist() == [0.5, 0.5]
