"""The scorers against their formulas in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from patchcore_fast.kernels import knn
from patchcore_fast.model import PatchCoreConfig
from patchcore_fast.scorers import SCORERS, influence, make_scorer, typical_influence

from ..patches import normal

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def _distance(x: Tensor, bank: Tensor, k: int, squared: bool) -> Tensor:
    d = torch.cdist(x.double(), bank.double(), compute_mode="donot_use_mm_for_euclid_dist").sort(1).values[:, :k]
    return (d.square() if squared else d).mean(1)


CASES = pytest.mark.parametrize(("k", "squared"), [(1, False), (3, False), (3, True)], ids=str)


@CASES
def test_distance(k: int, squared: bool) -> None:
    x, bank = normal(60, 12, 0), normal(40, 12, 1)
    scores, nearest = make_scorer("distance", bank, k=k, squared=squared)(x, bank)
    torch.testing.assert_close(scores.double(), _distance(x, bank, k, squared), rtol=1e-5, atol=0)
    assert torch.equal(nearest, knn(x, bank, 1)[1][:, 0])


@CASES
def test_influence_is_its_formula(k: int, squared: bool) -> None:
    bank = normal(40, 12, 1) * torch.linspace(0.01, 2, 12)
    x = normal(60, 12, 0)
    m = typical_influence(bank, k)
    w = 1 / m.clamp(min=0.1 * m.mean())
    factor = (influence(x, bank, k).influence.double() * w).sum(1) / (w * m).sum()
    got, _ = make_scorer("influence", bank, k=k, squared=squared)(x, bank)
    torch.testing.assert_close(got.double(), _distance(x, bank, k, squared) * factor, rtol=1e-4, atol=0)


def test_influence_scores_what_is_unusual_higher() -> None:
    # The bank varies along dimension 0 only: the same distance along dimension 1 is the stranger one.
    bank = torch.stack([torch.arange(50.0), 0.01 * normal(50, 1, 0)[:, 0]], 1)
    x = torch.tensor([[-5.0, bank[0, 1]], [20.0, bank[20, 1] + 5.0]])
    plain, odd = (make_scorer(name, bank)(x, bank)[0] for name in ("distance", "influence"))
    assert plain[1] == pytest.approx(float(plain[0]), rel=1e-3) and odd[1] > 3 * odd[0]


@CASES
def test_noising_is_the_mean_over_its_noise(k: int, squared: bool) -> None:
    x, bank = normal(60, 12, 0, 2.0), normal(40, 12, 1)
    scorer = make_scorer("noising", bank, k=k, squared=squared, noise_scale=0.8, noise_draws=6, seed=4)
    spread = scorer.proposal.spread(x, influence(x, bank, k).influence)
    noise = [sign * z * spread for z in scorer.proposal.table for sign in (1, -1)]
    want = torch.stack([_distance(x + n, bank, k, squared) for n in noise]).mean(0)
    assert len(noise) == 6
    torch.testing.assert_close(scorer(x, bank)[0].double(), want, rtol=1e-5, atol=0)
    quiet = make_scorer("noising", bank, k=k, squared=squared, noise_scale=0.0)(x, bank)[0]
    torch.testing.assert_close(quiet, make_scorer("distance", bank, k=k, squared=squared)(x, bank)[0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SCORERS)
def test_a_patch_scores_the_same_in_any_company(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, bank = normal(70, 16, 0).to(device), normal(50, 16, 1).to(device)
    scorer = make_scorer(name, bank, k=2, seed=1)
    whole, nearest = scorer(x, bank)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0)).to(device)
    torch.testing.assert_close(scorer(x[order], bank)[0], whole[order], rtol=1e-6, atol=0)
    monkeypatch.setattr("patchcore_fast.scorers.choice.CHUNK_SIZE", 9)
    parts, near = scorer(x, bank)
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=0)
    assert torch.equal(near, nearest)
    assert torch.equal(make_scorer(name, bank, k=2, seed=1)(x, bank)[0], parts)
    assert scorer(x[:0], bank)[0].shape == (0,)
    on_cpu = make_scorer(name, bank.cpu(), k=2, seed=1)(x.cpu(), bank.cpu())[0]
    torch.testing.assert_close(parts.cpu(), on_cpu, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64], ids=str)
def test_other_types(name: str, kind: torch.dtype) -> None:
    x, bank = normal(30, 16, 0).to(kind), normal(20, 16, 1).to(kind)
    scores, _ = make_scorer(name, bank, k=2)(x, bank)
    want = make_scorer(name, bank.float(), k=2)(x.float(), bank.float())[0]
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, want, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", SCORERS)
def test_banks_that_tell_nothing_score_by_distance(name: str) -> None:
    for bank in (torch.ones(1, 3), torch.ones(7, 3)):
        x = normal(5, 3, 0)
        torch.testing.assert_close(make_scorer(name, bank)(x, bank)[0], knn(x, bank, 1)[0][:, 0])


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="name must be one of distance, influence, noising, got 'noise'"):
        make_scorer("noise", torch.ones(2, 2))
    for wrong in ({"scorer": "noise"}, {"noise_draws": 3}, {"noise_scale": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PatchCoreConfig(**wrong)
    assert PatchCoreConfig().scorer == PatchCoreConfig.amazon().scorer == "distance", "never another one silently"


def test_names_in_tables() -> None:
    def name(**settings: str) -> str:
        return PatchCoreConfig(**settings).scorer_name  # type: ignore[arg-type]

    assert name(score="reweighted") == name(scorer="reweighted") == "reweighted"
    assert name(score="reweighted", scorer="noising") == "noising + reweighted"
    assert PatchCoreConfig(scorer="reweighted").image_score == "reweighted"
