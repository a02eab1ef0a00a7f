"""predict without maps: the scores of predict, bit for bit, or a word on what is in the way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from patchcore_fast.layered_bank import LayeredBank
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.methods import make_method
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.highest import highest_scorer
from patchcore_fast.model.layered import scorer_of
from patchcore_fast.search import highest

from ..evaluated import tiny_config
from ..pictures import write_mvtec

ROWS, DIM, IMAGES, PATCHES = 1100, 30, 2, 150


def rows(count: int, seed: int) -> torch.Tensor:
    x = torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))
    return x * torch.logspace(0, -2, DIM) + 5


@pytest.mark.parametrize("image_score", ["max", "reweighted", "top:0.05"])
@pytest.mark.parametrize("more", [{}, {"distance": "squared"}, {"metric": "cosine"}, {"price": 0.5}])
def test_scores_are_those_of_all_patches(
    image_score: str, more: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(highest, "_LEAST", 8)
    config = PatchCoreConfig(image_score=image_score, **{"price": 0.0, **more})
    features, query = rows(ROWS, 0), rows(IMAGES * PATCHES, 1)
    query[200:208] = query[200] + 2
    support = None if config.price == 0 else torch.rand(ROWS, generator=torch.Generator().manual_seed(2))
    bank = MemoryBank(features, torch.arange(ROWS), config=config.to_dict(), patches=ROWS, support=support)
    found = highest_scorer(config, bank)(query, IMAGES)
    assert torch.equal(found, scorer_of(config, bank)(query, IMAGES)[0])
    assert bank.highest is bank.highest


def test_what_wants_all_patches_is_told() -> None:
    bank = MemoryBank(rows(ROWS, 0), torch.arange(ROWS), patches=ROWS)
    for scorer in ("influence", "noising"):
        with pytest.raises(ValueError, match=f'scores without maps want scorer="distance".* got {scorer!r}'):
            highest_scorer(PatchCoreConfig(scorer=scorer), bank)
    with pytest.raises(ValueError, match=r'want one bank: here is one for each of 2 layers \(banks="layer"\)'):
        highest_scorer(PatchCoreConfig(), LayeredBank((bank, bank), (1.0, 1.0), {}))
    with pytest.raises(ValueError, match="want index=\"exact\", our own search: the bank has 'faiss-flat'"):
        pytest.importorskip("faiss")
        highest_scorer(PatchCoreConfig(), bank.with_index("faiss-flat"))


def test_predict_leaves_the_maps_out(tmp_path: Path) -> None:
    folder = write_mvtec(tmp_path / "weave", train=3, good=1, bad=1)
    model = PatchCore(tiny_config()).fit(folder)
    found = model.predict(folder / "test", maps=False)
    for a, b in zip(found, model.predict(folder / "test"), strict=True):
        assert (a.path, a.score, a.is_anomalous, a.original_size) == (b.path, b.score, b.is_anomalous, b.original_size)
        assert a.anomaly_map.shape == (0, 0)
    with pytest.raises(ValueError, match="predicted without maps"):
        found[0].full_map()
    model.rescore(scorer="influence")
    with pytest.raises(ValueError, match='want scorer="distance"'):
        model.iter_predict(folder / "test", maps=False)  # before an image is read
    other = make_method("padim", tiny_config(ratio=PatchCoreConfig().ratio))
    other.fit(folder)
    with pytest.raises(ValueError, match="only PatchCore scores images without their maps"):
        other.predict(folder / "test", maps=False)
