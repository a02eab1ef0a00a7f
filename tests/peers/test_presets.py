"""The presets of transformers against anomalib's own models: the same random weights, images and banks.

How anomalib is found: repositories.py. Without it test_restated_tokens.py still holds the formulas. "amazon", and
"anomalib" with a CNN, are held to the real repositories by test_real.py and restated by test_restated.py.
"""

from __future__ import annotations

import importlib
import inspect
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import timm
import torch

from patchcore_fast.kernels import knn
from patchcore_fast.layered_bank import LayeredBank
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore, PatchCoreConfig, Prediction

from .peer_cases import shaken, smooth
from .repositories import model_module, peer_module

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
CLOSE: dict[str, float] = {"rtol": 1e-4, "atol": 1e-6}
DINO = "vit_small_patch14_dinov2"


@pytest.fixture
def trained_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it with a size: the networks then are made without weights, as if they were trained at that size."""
    make = timm.create_model

    def begin(size: tuple[int, int] | None) -> None:
        def random(name: str, pretrained: bool = False, **options: Any) -> Any:
            return make(name, pretrained=False, **({"img_size": size} if size else {}), **options)

        monkeypatch.setattr(timm, "create_model", random)

    return begin


def ours(preset: str, size: tuple[int, int], **settings: Any) -> PatchCore:
    config = PatchCoreConfig.preset(preset, weights="random", image_size=size, batch_size=2, **settings)
    model = PatchCore(config, progress=False)
    shaken(model.extractor.backbone.net, 0.1 if preset == "anomalib" else 1.0)
    return model


def same_weights(theirs: torch.nn.Module, model: PatchCore) -> None:
    """What ours has is in theirs; ours ends at the last layer that is wanted."""
    state = {k.removeprefix("model."): v for k, v in model.extractor.backbone.net.state_dict().items()}
    assert not theirs.load_state_dict(state, strict=False).unexpected_keys
    theirs.eval()


def normalised(model: PatchCore, images: torch.Tensor) -> torch.Tensor:
    return (images - model.extractor.backbone.mean) / model.extractor.backbone.std


def compare(found: list[Prediction], scores: torch.Tensor | None, maps: torch.Tensor) -> None:
    own = torch.from_numpy(np.stack([p.anomaly_map for p in found]))
    assert float(own.min()) > 100 * CLOSE["atol"]  # so that the relative difference is what is compared
    print("largest relative difference of maps:", float((own / maps.view(own.shape) - 1).abs().max()))
    torch.testing.assert_close(own, maps.view(own.shape), **CLOSE)
    if scores is not None:
        own_scores = torch.tensor([p.score for p in found])
        print("of scores:", float((own_scores / scores.flatten() - 1).abs().max()))
        torch.testing.assert_close(own_scores.to(scores.dtype), scores.flatten(), **CLOSE)


@pytest.mark.parametrize("trained", [(196, 224), (70, 98)], ids=["own size", "resampled"])
def test_anomalydino(trained: tuple[int, int], trained_at: Any) -> None:
    module, size = model_module("anomaly_dino"), (196, 224)  # 224 patches: two are one hundredth
    trained_at(trained)
    images = smooth(5, size)
    model = ours("anomalydino", size)
    alone = model.training_features(images[:3]).features  # with timm's own resampling
    theirs = module.AnomalyDINOModel(encoder_name=DINO)
    same_weights(theirs.feature_encoder.feature_extractor, model)
    model.fit(images[:3])
    assert isinstance(model.bank, MemoryBank)
    with torch.no_grad():
        theirs.train().feature_encoder.eval()
        theirs(normalised(model, images[:3]))
        theirs.fit()
        wanted = theirs.eval()(normalised(model, images[3:]))
    assert len(model.bank) == 3 * 224
    torch.testing.assert_close(model.bank.features, theirs.memory_bank, rtol=0, atol=1e-5)
    compare(model.predict(images[3:]), wanted.pred_score, wanted.anomaly_map)
    # By now anomalib has taken the anti-aliasing from timm, for ours too: what docs/presets.md lists.
    assert torch.allclose(alone, model.bank.features, atol=1e-5) == (trained == size)


@pytest.mark.parametrize("image_score", ["reweighted", "max"])
def test_anomalib_with_a_vit(image_score: str, trained_at: Any) -> None:
    module = peer_module("anomalib.models.image.patchcore.torch_model")
    extractors = importlib.import_module("anomalib.models.components.feature_extractors")
    if "norm" not in inspect.signature(extractors.TimmFeatureExtractor).parameters:
        pytest.skip("this anomalib's Patchcore takes no ViT")
    size, name, blocks = (96, 128), "vit_tiny_patch16_224", ["blocks.3", "blocks.6"]
    trained_at(size)
    images = smooth(6, size)
    model = ours("anomalib", size, backbone=name, layers=tuple(blocks), image_score=image_score)
    model.fit(images[:4])
    assert isinstance(model.bank, MemoryBank)
    theirs = module.PatchcoreModel(
        layers=blocks, backbone=name, pre_trained=False, num_neighbors=9 if image_score == "reweighted" else 1
    )
    same_weights(theirs.feature_extractor.feature_extractor, model)
    with torch.no_grad():
        embedding = theirs.train()(normalised(model, images[:4]))
        torch.testing.assert_close(model.training_features(images[:4]).features, embedding, rtol=0, atol=1e-4)
        theirs.memory_bank = embedding[model.bank.indices]
        wanted = theirs.eval()(normalised(model, images[4:]))
    found = model.predict(images[4:])
    compare(found, wanted.pred_score, wanted.anomaly_map)
    model.rescore(image_score="max")
    largest = [p.score for p in model.predict(images[4:])]
    assert all((a.score < 0.99 * b) == (image_score == "reweighted") for a, b in zip(found, largest, strict=True))


@pytest.mark.parametrize(("tile", "size"), [(80, (80, 80)), (80, (128, 176))], ids=["one tile", "six tiles"])
def test_superadd(tile: int, size: tuple[int, int], trained_at: Any) -> None:
    """The tiles are theirs where steps of a tile less the overlap end with the image."""
    module = model_module("super_add")
    trained_at(None)  # its positions are rotations, there is nothing to resample
    images, name, blocks = smooth(5, size), "vit_small_patch16_dinov3", (3, 5, 8, 10)
    model = ours("superadd", size, backbone=name, layers=blocks, tile=tile)
    model.fit(images[:3])
    bank = model.bank
    assert isinstance(bank, LayeredBank)
    theirs = module.SuperADDModel(name, patch_size=tile)
    assert tuple(theirs.layers) == blocks
    same_weights(theirs.backbone.dino, model)
    rows = model.training_features(images[:3]).features
    with torch.no_grad():
        theirs.train().backbone.eval()
        theirs.embedding_store = defaultdict(list)
        theirs(normalised(model, images[:3]))
        tokens = [torch.cat(theirs.embedding_store[i]) for i in range(len(blocks))]
        for token, (begin, end) in zip(tokens, bank.spans, strict=True):
            torch.testing.assert_close(rows[:, begin:end], token, rtol=1e-4, atol=1e-4)
        # On the same rows, and the layers divided by the width of a row as there, the maps are theirs.
        theirs.memory_bank = torch.stack([t[p.indices] for t, p in zip(tokens, bank.parts, strict=True)])
        new = theirs.patch_exec(normalised(model, images[3:]))
        for token, part in zip(new, bank.parts, strict=True):
            query = token.reshape(1, -1, token.shape[-1])
            want = theirs.nearest_neighbors_chunked(query, part.features, knn_neighbors=1)[0].flatten()
            torch.testing.assert_close(knn(query[0], part.features, 1)[0][:, 0], want, rtol=1e-4, atol=0)
        wanted = theirs.eval()(normalised(model, images[3:]))
    model._bank, model._scorer = replace(bank, scales=(384.0,) * len(blocks)), None
    found = model.predict(images[3:])
    compare(found, None, wanted.anomaly_map)
    pixels = torch.from_numpy(np.stack([p.anomaly_map for p in found])).flatten(1)
    torch.testing.assert_close(pixels.topk(max(1, pixels.shape[1] // 1000)).values.mean(1), wanted.pred_score, **CLOSE)
