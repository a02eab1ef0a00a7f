"""What of ours is run, by names, and that the plain loops are upstream's."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.harness import providers


def crowd(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d), np.float32)


def test_anomalib_loop_is_upstreams() -> None:
    pytest.importorskip("sklearn")
    select = providers.restated("restated_anomalib").select
    x = crowd(400, 6)
    found = providers.providers("kcenter")["anomalib loop"].open({"features": x}, "cpu", 0).answer(50)["indices"]
    assert found.tolist() == select(torch.from_numpy(x), 50, 0, "2.4")


@pytest.mark.parametrize("task", ["kcenter", "knn", "rarity"])
def test_what_variants_ask_for(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = providers.providers(task)
    module: ModuleType = importlib.import_module(f"benchmarks.harness.providers.{task}")
    name = {"kcenter": "k_center_greedy", "knn": "knn", "rarity": "knn_rarity"}[task]
    real, asked = getattr(module, name), {}

    def recorded(*arguments: Any, **options: Any) -> Any:
        asked.update(options)
        return real(*arguments, **{**options, "backend": "torch"})

    monkeypatch.setattr(module, name, recorded)
    arrays = {"features": crowd(80, 5)} if task != "knn" else {"bank": crowd(80, 5), "queries": crowd(20, 5)}
    wanted = {mode: ("precision", mode) for mode in ("ieee", "tf32x3", "tf32", "bf16")}
    wanted |= {"512 MB": ("memory_limit", 512 << 20)}
    for variant, (option, value) in wanted.items():
        provider = known[f"patchcore_fast triton {variant}"]
        assert provider.optional and bool(provider.judged) == (variant in ("tf32", "bf16"))
        asked.clear()
        provider.open(arrays, "cpu", 0).answer(3)
        assert asked["backend"] == "triton" and asked[option] == value
    if task == "kcenter":
        for variant, graph in {"graph": True, "no graph": False}.items():
            known[f"patchcore_fast triton {variant}"].open(arrays, "cpu", 0).answer(3)
            assert asked["tuning"].graph is graph
