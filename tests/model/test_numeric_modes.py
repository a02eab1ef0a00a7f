"""The pipeline under whatever torch is set to: precision is the config's alone, and results ask for no gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("timm", reason="the extra pipeline is not installed")

from patchcore_fast import scores, scoring
from patchcore_fast.features import Backbone, FeatureExtractor, source
from patchcore_fast.features.fusion import align_layers, channel_projection, reduce_channels
from patchcore_fast.features.graph import graph_nodes
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.fewshot import rotate
from patchcore_fast.samplers import make_sampler
from patchcore_fast.scorers import influence, make_scorer, typical_influence

from ..numeric_modes import set_to

MODES = {
    "autocast to bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "inference": torch.inference_mode,
    "default type": lambda: set_to(torch.set_default_dtype, torch.float64, torch.float32),
    "default device": lambda: set_to(torch.set_default_device, "meta", None),
    "deterministic": lambda: set_to(torch.use_deterministic_algorithms, True, False),
    "matmul in bfloat16": lambda: set_to(torch.set_float32_matmul_precision, "medium", "highest"),
}
ROWS = torch.randn(300, 24, generator=torch.Generator().manual_seed(0))
IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
WHERE = np.arange(300) // 60


def config(**changes: Any) -> PatchCoreConfig:
    base: dict[str, Any] = {"backbone": "resnet10t", "layers": (1, 2), "weights": "random", "image_size": 32}
    return PatchCoreConfig(**(base | {"ratio": 0.3, "sigma": 1.0} | changes))


def fitted(images: torch.Tensor, **changes: Any) -> list[torch.Tensor]:
    """What a fit and its predictions give."""
    model = PatchCore(config(**changes), progress=False).fit(images)
    found = model.predict(images)
    values = np.array([model.threshold, *(p.score for p in found)])
    return [model.bank.features, model.bank.indices, torch.from_numpy(values), torch.from_numpy(found[0].anomaly_map)]


MODEL = PatchCore(config(), progress=False).fit(IMAGES)
ENTRIES: dict[str, Callable[[torch.Tensor, torch.Tensor], list[torch.Tensor]]] = {
    "fit and predict": lambda x, images: fitted(images),
    "amazon, influence": lambda x, images: fitted(images, fusion="amazon", scorer="influence"),
    "rotated copies, noising": lambda x, images: fitted(images, augment="rotate", scorer="noising"),
    "interpolated, reweighted": lambda x, images: fitted(images, fusion="interpolated", dim=16, scorer="reweighted"),
    "bfloat16": lambda x, images: fitted(images, precision="bfloat16"),
    "predict": lambda x, images: [torch.from_numpy(p.anomaly_map) for p in MODEL.predict(images)],
    "extractor": lambda x, images: [MODEL.extractor(images).features],
    "backbone": lambda x, images: MODEL.extractor.backbone(images),
    "new backbone": lambda x, images: Backbone("resnet10t", (1,), "random")(images),
    "fusion": lambda x, images: [reduce_channels(align_layers([images]), 2, "project", channel_projection(3, 2))],
    "graph": lambda x, images: [graph_nodes(x, 5, 2, channel_projection(2 * x.shape[1], 4))],
    "rotate": lambda x, images: [rotate(images, 30.0)],
    "bank": lambda x, images: list(MemoryBank(x, torch.arange(300, device="cpu")).search(x[:40], 2)),
    "score_patches": lambda x, images: [scoring.score_patches(x, x[:90], 2), scoring.patch_scores(x.abs())],
    "image_score": lambda x, images: [scoring.image_score(
        x[:, 0].view(10, 30), "reweighted", features=x, nearest=torch.zeros(300, dtype=torch.int64, device="cpu"),
        bank=x[:50],
    )],
    "anomaly_map": lambda x, images: [scoring.anomaly_map(images[:, 0], (50, 40)), scoring.gaussian_blur(images[0], 2)],
    "influence": lambda x, images: [*influence(x, x[:50], 2), typical_influence(x[:50])],
    "scorers": lambda x, images: [t for n in ("distance", "influence", "noising") for t in make_scorer(n, x)(x, x)],
    "samplers": lambda x, images: [t for n in ("greedy", "approximate", "random", "identity", "elfs")
                                   for t in (make_sampler(n, 0.2, projection=8).run(x),)],
    "scores": lambda x, images: [scores.rarity(x), scores.representativeness(x, clusters=5),
                                 scores.representativeness(x, mode="global"), scores.instability(x, x * 1.5),
                                 scores.noise_instability(x, 0.1, 2), scores.k_means(x, 4).centers,
                                 scores.difficulty(x, epochs=1, clusters=4).aum,
                                 scores.support(x, image_ids=WHERE).distance],
}  # fmt: skip


@pytest.fixture(scope="module")
def wanted() -> dict[str, list[torch.Tensor]]:
    return {name: call(ROWS, IMAGES) for name, call in ENTRIES.items()}


def check(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert not a.requires_grad and a.dtype == b.dtype and a.device == b.device
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("mode", MODES)
def test_modes_do_not_reach_the_answers(mode: str, name: str, wanted: dict[str, list[torch.Tensor]]) -> None:
    with MODES[mode]():
        found = ENTRIES[name](ROWS, IMAGES)
    check(found, wanted[name])


@pytest.mark.parametrize("name", ENTRIES)
def test_inputs_that_require_gradients(name: str, wanted: dict[str, list[torch.Tensor]]) -> None:
    check(ENTRIES[name](ROWS.clone().requires_grad_(), IMAGES.clone().requires_grad_()), wanted[name])


def test_rows_that_need_no_copy_are_given_back_without_gradients() -> None:
    x = ROWS.clone().requires_grad_()
    assert make_sampler("identity").run(x).data_ptr() == x.data_ptr() and make_sampler("identity").run(ROWS) is ROWS


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_processor_without_half_precision_computes_in_float32(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    network = Backbone("resnet10t", (1, 2), "random")
    exact = FeatureExtractor(network)(IMAGES).features
    extractor = FeatureExtractor(network, precision=str(kind).removeprefix("torch."))
    used, running = [], network._running
    monkeypatch.setattr(network, "_running", lambda x: used.append(torch.is_autocast_enabled("cpu")) or running(x))
    for computes in (True, False):
        monkeypatch.setattr(source, "computes_in", lambda *_, computes=computes: computes)
        rows = extractor(IMAGES).features
        assert rows.dtype == kind
    assert used == [True, False] and torch.equal(rows, exact.to(kind))


@pytest.mark.parametrize("capability, library, instructions, computes", [
    ("AVX512", True, True, True), ("AVX2", True, True, False), ("AVX512", False, True, False),
    ("AVX512", True, False, False), ("DEFAULT", True, True, False),
])  # fmt: skip
def test_which_processors_compute_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, capability: str, library: bool, instructions: bool, computes: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: library)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: instructions, raising=False)
    assert source.computes_in(torch.bfloat16, torch.device("cpu")) == computes
