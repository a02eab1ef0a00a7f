"""All signals in one call are what the functions give one by one, and say why one is missing."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from patchcore_fast.config.signals import SIGNALS
from patchcore_fast.scores import (
    difficulty,
    k_means,
    noise_instability,
    proxy_change,
    rarity,
    representativeness,
    signals,
    support,
    support_distance,
)

from .test_rows import rand

MODULE = sys.modules["patchcore_fast.scores.signals"]  # the function has its name
N, IMAGES = 240, 6
OF = torch.arange(N) // (N // IMAGES)


def test_each_is_that_of_its_own_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "_ASKED", 50)  # several steps of the bar
    x = rand(N, 8)
    found = signals(x, image_ids=OF, seed=3)
    assert list(found.values) == [name for name in SIGNALS if name != "views"] and not found.missing
    clusters = k_means(x, 64, seed=3)
    trained = difficulty(x, labels=clusters.labels, seed=3)
    rare = rarity(x, k=4, anchors=N, seed=3)
    wanted = {
        "representativeness": representativeness(x, clusters=64, seed=3),
        "representativeness-mean": representativeness(x, mode="global"),
        "rarity": rare,
        "density": 1 / rare,
        "support": support_distance(x, image_ids=OF).distance,
        "aum": trained.aum,
        "forgetting": trained.forgetting,
        "el2n": trained.el2n,
        "proxy": proxy_change(x, labels=clusters.labels, seed=3),
        "noise": noise_instability(x, 0.05, 5, 3),
    }
    for name, values in wanted.items():
        assert torch.equal(found.values[name], values), name
        assert found.values[name].dtype == torch.float32 and found.values[name].shape == (N,)
    assert set(found.seconds) == {"k-means", "representativeness", "rarity", "support", "training", "proxy", "noise"}
    assert found.notes == {"support": "each row with all rows of other images"}


def test_some_only_and_bars() -> None:
    told: list[tuple[int, int]] = []
    found = signals(rand(N, 8).numpy(), "density", progress=lambda done, total: told.append((done, total)))
    assert list(found.values) == ["density"] and set(found.seconds) == {"rarity"} and told[-1] == (N, N)
    assert list(signals(rand(N, 8), "views").values) == []


def test_of_large_sets_support_goes_by_representatives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "EXACT", N - 1)
    x = rand(N, 8)
    found = signals(x, ["support"], image_ids=OF)
    assert torch.equal(found.values["support"], support(x, image_ids=OF).distance)
    assert "representatives" in found.notes["support"]


def test_rows_that_coincide_have_a_finite_density() -> None:
    x = torch.cat([rand(20, 4)[:1].expand(20, 4), rand(20, 4, seed=1)])
    found = signals(x, ["rarity", "density"]).values
    assert bool((found["rarity"] == 0).any()) and bool(found["density"].isfinite().all())
    least = float(found["rarity"][found["rarity"] > 0].min())
    assert float(found["density"].max()) == pytest.approx(1 / least)
    assert torch.equal(signals(x[:20], ["density"]).values["density"], torch.ones(20))


CASES: dict[str, tuple[Any, Any, dict[str, str]]] = {
    "one-row": (rand(1, 4), [0], {"rarity": "neighbours", "density": "neighbours", "support": "no other",
                                  "aum": "one cluster", "forgetting": "one cluster", "el2n": "one cluster",
                                  "proxy": "one cluster"}),
    "one-image": (rand(9, 4), [7] * 9, {"support": "one image has no other"}),
    "no-images": (rand(9, 4), None, {"support": "nothing says which image"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_computed_says_why(case: str) -> None:
    x, images, missing = CASES[case]
    found = signals(x, image_ids=images)
    assert set(found.missing) == set(missing)
    assert all(missing[name] in why for name, why in found.missing.items())
    assert all(bool(values.isfinite().all()) for values in found.values.values())
    assert set(found.values) | set(missing) | {"views"} == set(SIGNALS)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="signals must be all, or some of"):
        signals(rand(9, 4), "speed")
    with pytest.raises(ValueError, match="finite"):
        signals(np.full((5, 2), np.nan, np.float32), "rarity")
    with pytest.raises(TypeError, match="signals"):
        signals([[1.0]], "rarity")  # type: ignore[arg-type]
