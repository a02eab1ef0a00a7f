"""patchcore-inspection itself: its own tests on our samplers, its samplers beside ours, a whole PatchCore with both."""

import importlib

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from patchcore_fast.compat import amazon

from . import restated_amazon
from .draws import generators, seed_all
from .repositories import checkout, peer_module, run_suite

CPU = torch.device("cpu")
GREEDY = ["GreedyCoresetSampler", "ApproximateGreedyCoresetSampler"]


def run_real(name, x, percentage, seed, **options):
    """(rows of x that the real sampler takes, both generators' states afterwards)."""
    sampler = getattr(peer_module("patchcore.sampler"), name)(percentage, CPU, **options)
    rows = []
    choose = sampler._compute_greedy_coreset_indices
    sampler._compute_greedy_coreset_indices = lambda features: rows.append(choose(features)) or rows[0]
    seed_all(seed, seed)
    sampler.run(x)
    return rows[0], generators()


def test_their_tests_pass_on_our_samplers():
    outcomes = run_suite(checkout("patchcore"), "test", "plugin_amazon")
    assert outcomes == {"passed": outcomes["passed"]} and outcomes["passed"] >= 18


@pytest.mark.parametrize("name", GREEDY)
@pytest.mark.parametrize("n, d, high", [(50, 16, 9), (900, 64, 100), (1500, 128, 8)], ids=str)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equal_coresets_on_integer_features(name, n, d, high, seed):
    x = np.random.default_rng(seed).integers(0, high, (n, d)).astype(np.float32)
    want, state = run_real(name, x, 0.5, seed, dimension_to_project_features_to=d)
    seed_all(seed, seed)
    sampler = getattr(amazon, name)(0.5, CPU, dimension_to_project_features_to=d)
    assert np.array_equal(sampler.run(x), x[want])
    assert sampler.indices_.tolist() == want.tolist() and generators() == state
    # The restated loop is the baseline of the benchmarks and the oracle where the repository is absent.
    seed_all(seed, seed)
    assert restated_amazon.run(name, torch.from_numpy(x), 0.5, d).tolist() == want.tolist()


@pytest.mark.parametrize("name", GREEDY)
def test_with_projection_only_rounding_differs(name):
    x = np.random.default_rng(0).standard_normal((2000, 300)).astype(np.float32)
    want, state = run_real(name, x, 0.1, 7)
    seed_all(7)
    sampler = getattr(amazon, name)(0.1, CPU)
    sampler.run(x)
    assert generators() == state
    same = int((sampler.indices_ == torch.from_numpy(want)).long().cumprod(0).sum())
    print(f"{name}: the first {same} of {len(want)} picks are equal")
    assert same >= 100


def test_a_whole_patchcore_scores_the_same():
    """Their network wrapper, their fit, their predict; image AUROC with their sampler and with ours."""
    theirs = peer_module("patchcore.patchcore")
    common = importlib.import_module("patchcore.common")
    models = importlib.import_module("torchvision.models")
    torch.manual_seed(0)
    network = models.resnet18(weights=None)
    images = torch.rand(40, 3, 16, 16).repeat_interleave(6, 2).repeat_interleave(6, 3)
    images[30:, :, 40:60, 40:60] += 0.3 * torch.randn(10, 3, 20, 20)
    aurocs, banks = [], []
    for samplers in (peer_module("patchcore.sampler"), amazon):
        seed_all(3)
        model = theirs.PatchCore(CPU)
        model.load(
            backbone=network, layers_to_extract_from=("layer2", "layer3"), device=CPU, input_shape=(3, 96, 96),
            pretrain_embed_dimension=256, target_embed_dimension=256,
            featuresampler=samplers.ApproximateGreedyCoresetSampler(0.1, CPU),
            nn_method=common.FaissNN(False, 1),
        )  # fmt: skip
        model.fit(list(images[:20].split(4)))
        banks.append(model.anomaly_scorer.detection_features)
        scores, _ = model.predict(images[20:])
        aurocs.append(roc_auc_score([0] * 10 + [1] * 10, scores))
    assert banks[0].shape == banks[1].shape
    print("image AUROC with theirs, with ours:", aurocs)
    assert abs(aurocs[0] - aurocs[1]) <= 0.002
