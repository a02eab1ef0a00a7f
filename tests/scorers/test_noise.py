"""The noise proposal: each of its formulas on its own, and that nothing but the seed moves it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from patchcore_fast.scorers import NoiseProposal, influence

from ..patches import normal


def _clusters() -> Tensor:
    """Two clusters of 8 rows, at 0 and at 100, four times as wide the second."""
    return torch.cat([normal(8, 4, 0), 100 + normal(8, 4, 1, 4.0)])


def test_scale_grows_with_the_distance_to_the_normal_clusters() -> None:
    bank = normal(100, 8, 0)
    proposal = NoiseProposal(bank, scale=0.5)
    away = bank.mean(0) + torch.arange(20, 60)[:, None] * torch.ones(8)
    sigma = proposal.sigma(away)
    assert (sigma[1:] > sigma[:-1]).all() and sigma.min() > proposal.sigma(bank).max()


def test_sigma_is_its_formula() -> None:
    bank, x = _clusters(), torch.cat([normal(5, 4, 2), 100 + normal(5, 4, 3)])
    proposal = NoiseProposal(bank, scale=0.7, seed=3)
    d = torch.cdist(bank.double(), bank.double(), compute_mode="donot_use_mm_for_euclid_dist")
    tau = d.fill_diagonal_(torch.inf).min(1).values.median()
    assert proposal.spacing == pytest.approx(float(tau), rel=1e-6)
    centers = proposal.centers.double()
    assert len(centers) == 4
    label = torch.cdist(bank.double(), centers).argmin(1)
    squares = (bank.double() - centers[label]).square().sum(1)
    for c in range(4):
        rho = ((squares[label == c].sum() + squares.mean()) / ((label == c).sum() + 1)).sqrt()
        assert float(proposal.radii[c]) == pytest.approx(float(rho), rel=1e-5)
    to = torch.cdist(x.double(), centers)
    want = 0.7 * tau * to.min(1).values / proposal.radii.double()[to.argmin(1)]
    torch.testing.assert_close(proposal.sigma(x).double(), want, rtol=1e-5, atol=0)


def test_noise_goes_where_influence_is() -> None:
    bank, x = normal(40, 6, 0), normal(10, 6, 1, 3.0)
    proposal = NoiseProposal(bank)
    found = influence(x, bank, 3).influence
    spread = proposal.spread(x, found)
    torch.testing.assert_close(spread.norm(dim=1), proposal.sigma(x))
    want = found / found.norm(dim=1, keepdim=True) * proposal.sigma(x)[:, None]
    torch.testing.assert_close(spread, want)
    assert torch.equal(proposal.spread(x, -found), spread), "only magnitudes count"
    flat = proposal.spread(x, torch.zeros_like(x))
    torch.testing.assert_close(flat, (proposal.sigma(x) / 6**0.5)[:, None].expand(-1, 6))


def test_seed_decides_and_global_state_is_left_alone() -> None:
    bank, before = normal(40, 6, 0), torch.get_rng_state()
    one, same, other = NoiseProposal(bank, seed=1), NoiseProposal(bank, seed=1), NoiseProposal(bank, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.table, same.table) and torch.equal(one.centers, same.centers)
    assert not torch.equal(one.table, other.table)
    many = NoiseProposal(normal(40, 400, 0), draws=200).table
    assert abs(float(many.mean())) < 0.02 and abs(float(many.std()) - 1) < 0.02


@pytest.mark.parametrize("bank", [torch.ones(1, 3), torch.ones(9, 3)], ids=["one row", "equal rows"])
def test_banks_that_tell_nothing_give_no_noise(bank: Tensor) -> None:
    proposal = NoiseProposal(bank)
    assert proposal.spacing == 0 and proposal.sigma(normal(5, 3, 0)).eq(0).all()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"bank": torch.zeros(4)}, ValueError, "bank must be 2-D"),
        ({"scale": -1.0}, ValueError, "scale must be finite and >= 0, got -1.0"),
        ({"scale": float("nan")}, ValueError, "scale must be finite"),
        ({"scale": "1"}, TypeError, "scale must be a number"),
        ({"draws": 3}, ValueError, "draws must be even"),
        ({"draws": 0}, ValueError, "draws must lie in"),
        ({"seed": -1}, ValueError, "seed must lie in"),
    ],
    ids=str,
)
def test_wrong_arguments(change: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        NoiseProposal(**({"bank": normal(6, 4, 0)} | change))


def test_gradient_must_fit() -> None:
    with pytest.raises(ValueError, match=r"gradient must be \(3, 4\), got \(3, 5\)"):
        NoiseProposal(normal(6, 4, 0)).spread(torch.zeros(3, 4), torch.zeros(3, 5))
