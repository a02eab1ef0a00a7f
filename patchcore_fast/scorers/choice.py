"""The patch scorers that a config can name."""

from __future__ import annotations

import torch
from torch import Tensor

from patchcore_fast.config import SCORERS as SCORERS
from patchcore_fast.kernels import PreparedBank
from patchcore_fast.kernels.checks import check_int, check_matrix
from patchcore_fast.kernels.surroundings import undisturbed
from patchcore_fast.scorers.influence import (
    CHUNK_SIZE,
    Search,
    gradient,
    rows_of,
    search_chunks,
    typical_influence,
)
from patchcore_fast.scorers.noise import NoiseProposal
from patchcore_fast.scoring import patch_scores

Bank = Tensor | PreparedBank  # [M, D]
# Of the mean typical influence: less counts as so much, or a dimension that is always flat would decide alone.
LEAST = 0.1


class Scorer:
    """Patch scores by the distance s(x), the mean over the k nearest bank rows: "distance". Subclasses look at more.

    Calling it with rows [Q, D], a bank [M, D], prepared or not, and, for another search than `knn`, search(query, k),
    gives scores [Q] float32 and the nearest bank row of each, [Q] int64. What a scorer knows of the bank it was made
    for stays as it was: the bank of a call may lack rows.
    """

    def __init__(self, k: int = 1, squared: bool = False) -> None:
        """k neighbours; `squared` scores with squared distances."""
        self.k, self.squared = check_int("Scorer", "k", k, 1, 2**31 - 1), bool(squared)

    @undisturbed
    def __call__(self, features: Tensor, bank: Bank, search: Search | None = None) -> tuple[Tensor, Tensor]:
        """Scores [Q] and nearest rows [Q]; TypeError and ValueError are those of `knn`."""
        scores = torch.empty(len(features), dtype=torch.float32, device=features.device)
        nearest = torch.empty(len(features), dtype=torch.int64, device=features.device)
        for part, dist, near in search_chunks(features, bank, self.k, self._chunk(len(features)), search):
            scores[part] = self._scores(features[part], bank, dist, near, search)
            nearest[part] = near[:, 0]
        return scores, nearest

    def _chunk(self, rows: int) -> int:
        return max(1, rows)  # distances need no block of neighbours: the search makes its own tiles

    def _scores(self, x: Tensor, bank: Bank, dist: Tensor, near: Tensor, search: Search | None) -> Tensor:
        return patch_scores(dist, self.squared)


class InfluenceScorer(Scorer):
    """s(x) times how unusual the dimensions are that it comes from:

        S(x) = s(x) * sum_i w_i |g_i(x)| / sum_i w_i m_i,    w_i = 1 / max(m_i, 0.1 mean m)

    with the gradient g of the mean distance and m_i its mean magnitude over the bank rows, each against the others
    (`typical_influence`). The factor is 1 on average over the bank.
    """

    def __init__(self, bank: Tensor, k: int = 1, squared: bool = False) -> None:
        """Look at the bank's own influences."""
        super().__init__(k, squared)
        usual = typical_influence(bank, k)
        weight = 1 / usual.clamp(min=LEAST * float(usual.mean()))
        # One bank row, or only equal ones, tell nothing: no dimension is then more unusual than another.
        known = len(bank) > 1 and bool(torch.isfinite(weight).all())
        self.weight = (weight / (weight * usual).sum()).float() if known else None

    def _chunk(self, rows: int) -> int:
        return CHUNK_SIZE

    def _scores(self, x: Tensor, bank: Bank, dist: Tensor, near: Tensor, search: Search | None) -> Tensor:
        scores = patch_scores(dist, self.squared)
        if self.weight is None:
            return scores
        if search is not None:  # its distances may have a price, of which no dimension is the reason
            dist = torch.linalg.vector_norm(x[:, None].float() - rows_of(bank)[near].float(), dim=2)
        return scores * (gradient(x, rows_of(bank), dist, near).abs_().float() @ self.weight)


class NoisingScorer(Scorer):
    """The mean distance score of the patch with noise: S(x) = 1/T * sum_t s(x + eps_t(x)); see `NoiseProposal`."""

    def __init__(
        self, bank: Tensor, k: int = 1, squared: bool = False, scale: float = 0.5, draws: int = 4, seed: int = 0
    ) -> None:
        """Make the proposal of this bank."""
        super().__init__(k, squared)
        self.proposal = NoiseProposal(bank, scale, draws, seed)

    def _chunk(self, rows: int) -> int:
        return CHUNK_SIZE

    def _scores(self, x: Tensor, bank: Bank, dist: Tensor, near: Tensor, search: Search | None) -> Tensor:
        spread = self.proposal.spread(x, gradient(x, rows_of(bank), dist, near))
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        x = x.float()
        for z in self.proposal.table:
            for signed in (z, -z):
                moved = torch.addcmul(x, spread, signed)
                for _, far, _ in search_chunks(moved, bank, self.k, max(1, len(x)), search):
                    total += patch_scores(far, self.squared)
        return (total / self.proposal.draws).float()


@undisturbed
def make_scorer(
    name: str,
    bank: Tensor,
    *,
    k: int = 1,
    squared: bool = False,
    noise_scale: float = 0.5,
    noise_draws: int = 4,
    seed: int = 0,
) -> Scorer:
    """The patch scorer of a name in `SCORERS` for a bank [M, D]; see the classes of this module.

    Raises
    ------
    ValueError : an unknown name, or what the scorer cannot take.
    """
    check_matrix("make_scorer", "bank", bank, "M, D")
    if name == "distance":
        return Scorer(k, squared)
    if name == "influence":
        return InfluenceScorer(bank, k, squared)
    if name == "noising":
        return NoisingScorer(bank, k, squared, noise_scale, noise_draws, seed)
    raise ValueError(f"make_scorer: name must be one of {', '.join(SCORERS)}, got {name!r}")
