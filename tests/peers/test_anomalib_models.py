"""anomalib's own AnomalyDINO and SuperADD, before and after patch(), on the same random weights and images.

How anomalib is found: repositories.py. Where it is too old to have them, these tests skip.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch

from patchcore_fast.compat import anomalib as fast
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference
from patchcore_fast.samplers.measures import farthest_from_mean

from .repositories import model_module

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights: none are to be had without a network, and none are needed."""
    make = timm.create_model

    def random(name: str, pretrained: bool = False, **options: Any) -> Any:
        torch.manual_seed(0)
        return make(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", random)


def images(count: int, height: int, width: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("neighbours", [1, 3])
@pytest.mark.parametrize("coreset", [True, False], ids=["coreset", "all rows"])
def test_anomaly_dino(offline: None, coreset: bool, neighbours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module = model_module("anomaly_dino")
    model = module.AnomalyDINOModel(
        num_neighbours=neighbours, encoder_name="vit_small_patch14_dinov2", coreset_subsampling=coreset,
        sampling_ratio=0.25,
    )  # fmt: skip

    def run() -> tuple[torch.Tensor, Any]:
        model.memory_bank, model.embedding_store = torch.empty(0), []
        torch.manual_seed(5)
        np.random.seed(5)
        with torch.no_grad():
            model.train().feature_encoder.eval()
            model(images(3, 70, 84, 1))
            model.fit()
            return model.memory_bank.clone(), model.eval()(images(2, 72, 84, 2))

    bank, wanted = run()
    widths: list[int] = []
    topk = torch.topk
    monkeypatch.setattr(torch, "topk", lambda x, k, **o: widths.append(x.shape[-1]) or topk(x, k, **o))
    with fast.patch():
        ours, found = run()
    assert torch.equal(ours, bank)
    torch.testing.assert_close(found.pred_score, wanted.pred_score, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.anomaly_map, wanted.anomaly_map, atol=1e-5, rtol=0)
    assert widths[0] == neighbours  # and not the rows of the bank
    assert "memory_bank" in model.state_dict() and torch.equal(model.memory_bank, bank)
    again = run()[1]
    assert torch.equal(again.anomaly_map, wanted.anomaly_map)  # theirs is back


def test_super_add(offline: None) -> None:
    module = model_module("super_add")
    torch.manual_seed(0)
    model = module.SuperADDModel("vit_small_patch16_dinov3", patch_size=48, patch_overlap=16, max_database_size=12)

    def run() -> Any:
        model.memory_bank, model.embedding_store = torch.empty(0), module.defaultdict(list)
        with torch.no_grad():
            model.train().backbone.eval()
            model(images(2, 80, 80, 1))
            rows = [torch.cat(model.embedding_store[i]) for i in range(len(model.layers))]
            torch.manual_seed(5)
            before = torch.random.get_rng_state()
            model.subsample_embedding()
            drawn = not torch.equal(torch.random.get_rng_state(), before)
            return rows, model.memory_bank.clone(), drawn, model.eval()(images(1, 80, 80, 2))

    with fast.patch(superadd=True):
        rows, banks, drawn, found = run()
    assert banks.shape[:2] == (len(model.layers), 12) and not drawn and found.anomaly_map.isfinite().all()
    for own, bank in zip(rows, banks, strict=True):
        picks = k_center_greedy_reference(own, 12, start=farthest_from_mean(own))[0]
        assert torch.equal(bank, own[picks.sort().values])
    with fast.patch():
        _, theirs, drawn, _ = run()
    assert drawn and not torch.equal(theirs, banks)  # thinned by density, as ever
