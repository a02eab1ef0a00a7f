"""The real repositories against ours on the same weights and images, where they can be had.

How they are found: repositories.py.
"""

from __future__ import annotations

import copy
import importlib

import numpy as np
import pytest
import torch

from patchcore_fast import metrics

from .peer_cases import LAYERS, peer
from .repositories import peer_module


class _Chosen:
    """A sampler for amazon's PatchCore that takes given rows."""

    def __init__(self, indices: torch.Tensor) -> None:
        self.indices = indices.numpy()

    def run(self, features: np.ndarray) -> np.ndarray:
        return features[self.indices]


@pytest.mark.parametrize("backbone", LAYERS)
@pytest.mark.parametrize("k", [1, 3], ids=lambda k: f"k{k}")
def test_amazon(backbone: str, k: int) -> None:
    theirs = peer_module("patchcore.patchcore")
    common = importlib.import_module("patchcore.common")
    p = peer("amazon", backbone, neighbours=k)
    model = theirs.PatchCore(torch.device("cpu"))
    model.load(
        backbone=copy.deepcopy(p.whole),  # it leaves hooks on the network
        layers_to_extract_from=LAYERS[backbone], device=torch.device("cpu"), input_shape=(3, 64, 96),
        pretrain_embed_dimension=1024, target_embed_dimension=1024, anomaly_score_num_nn=k,
        featuresampler=_Chosen(p.indices), nn_method=common.FaissNN(False, 1),
    )  # fmt: skip
    model.fit(list(p.train.split(2)))
    scores, maps = model.predict(p.test)
    print("largest relative difference:", p.agree(scores, maps))


@pytest.mark.parametrize("backbone", LAYERS)
@pytest.mark.parametrize("b", [9, 1], ids=["b9", "max"])
def test_anomalib(backbone: str, b: int) -> None:
    theirs = peer_module("anomalib.models.image.patchcore.torch_model")
    p = peer("anomalib", backbone, **({"score": "max"} if b == 1 else {}))
    model = theirs.PatchcoreModel(layers=LAYERS[backbone], backbone=backbone, pre_trained=False, num_neighbors=b)
    model.feature_extractor.feature_extractor.load_state_dict(p.model.extractor.backbone.net.state_dict())
    # In training mode the model returns its embedding and keeps none of it.
    model.train()
    model.feature_extractor.eval()
    embedding = model(p.train)
    model.memory_bank = (embedding if isinstance(embedding, torch.Tensor) else model.memory_bank)[p.indices]
    model.eval()
    with torch.no_grad():
        got = model(p.test)
    print("largest relative difference:", p.agree(got.pred_score, got.anomaly_map))


def test_anomalib_aupro() -> None:
    """anomalib samples its curve at positions of a per-region ROC, so it only comes close to the definition."""
    theirs = peer_module("anomalib.metrics.aupro")
    rng = np.random.default_rng(0)
    masks = np.zeros((6, 64, 64), bool)
    masks[0, 5:15, 5:30] = masks[0, 40:44, 40:44] = masks[1, 20:60, 50:55] = masks[2, 1:3, 1:3] = True
    maps = (masks * 1.5 + rng.normal(0, 1, masks.shape)).astype(np.float32)
    maps = (maps - maps.min()) / (maps.max() - maps.min())  # they put a sigmoid on anything outside [0, 1]
    metric = theirs._AUPRO(fpr_limit=0.3)
    metric.update(torch.from_numpy(maps), torch.from_numpy(masks).int())
    got, want = metrics.aupro(maps, masks), float(metric.compute())
    print("ours, theirs:", (got, want))
    assert got == pytest.approx(want, abs=2e-3)
