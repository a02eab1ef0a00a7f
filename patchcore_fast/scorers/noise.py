"""How much noise a patch gets, and in which directions: more where it is far from what is normal, along what its score
depends on. The formulas are in docs/scoring.md."""

from __future__ import annotations

from math import isfinite
from numbers import Real

import torch
from torch import Tensor

from patchcore_fast.kernels import knn
from patchcore_fast.kernels.checks import check_int, check_matrix
from patchcore_fast.kernels.surroundings import undisturbed
from patchcore_fast.scorers.influence import others
from patchcore_fast.scores import k_means

MOST_CLUSTERS = 64


class NoiseProposal:
    """Noise eps_t(x) = sigma(x) * a(x) * z_t for t = 1..T, element by element, with

        sigma(x) = scale * tau * |x - mu_c| / rho_c        c the nearest cluster of the bank
        a_i(x)   = |g_i| / |g|                             g the gradient of the score at x; 1 / sqrt(D) where it is 0

    tau is the median distance of a bank row to the nearest other one, mu_c a centre of k-means on the bank and rho_c
    the root mean square distance of its rows to it, with one row at the mean over all clusters added. z_t are standard
    normal, drawn once from the seed on the CPU and the same for all patches, in pairs z, -z: so the noise of a patch
    does not depend on batches, on the order of images, or on the device.

    Parameters
    ----------
    bank : [M, D] floating.
    scale : of the noise, finite and >= 0; 0 gives none.
    draws : T, even, at least 2.
    seed : of z and of k-means.

    Attributes
    ----------
    centers : [C, D] float32, C = min(64, round(sqrt(M))).  radii : [C] float32, rho.  spacing : tau.
    table : [T / 2, D] float32, the z of each pair.

    Raises
    ------
    TypeError, ValueError : an argument of the wrong type, shape or range; bank rows that are not finite.
    """

    @undisturbed
    def __init__(self, bank: Tensor, scale: float = 0.5, draws: int = 4, seed: int = 0) -> None:
        """Cluster the bank and draw the table."""
        name = "NoiseProposal"
        check_matrix(name, "bank", bank, "M, D")
        if isinstance(scale, bool) or not isinstance(scale, Real):
            raise TypeError(f"{name}: scale must be a number, got {scale!r}")
        if not (isfinite(scale) and scale >= 0):
            raise ValueError(f"{name}: scale must be finite and >= 0, got {scale}")
        draws = check_int(name, "draws", draws, 2, 2**20)
        if draws % 2:
            raise ValueError(f"{name}: draws must be even (noise comes in pairs z, -z), got {draws}")
        seed = check_int(name, "seed", seed, 0, 2**63 - 1)
        count = min(MOST_CLUSTERS, max(1, round(len(bank) ** 0.5)))
        found = k_means(bank, count, seed=seed, progress=False)
        self.scale: float = float(scale)
        self.draws: int = draws
        self.centers: Tensor = found.centers.to(bank.device)
        self.radii: Tensor = _radii(found.distances, found.labels, count).to(bank.device)
        self.spacing: float = 0.0
        if len(bank) > 1:
            nearest = torch.empty(len(bank), dtype=torch.float32, device=bank.device)
            for part, dist, _ in others(bank, 1):
                nearest[part] = dist[:, 0]
            self.spacing = float(nearest.double().median())
        generator = torch.Generator().manual_seed(seed)
        self.table: Tensor = torch.randn(draws // 2, bank.shape[1], generator=generator, dtype=torch.float32).to(
            bank.device
        )

    @undisturbed
    def sigma(self, x: Tensor) -> Tensor:
        """Noise scale of rows [Q, D]: [Q] float32, in the unit of the features."""
        dist, cluster = knn(x, self.centers, 1)
        return self.scale * self.spacing * dist[:, 0] / self.radii[cluster[:, 0]]

    @undisturbed
    def spread(self, x: Tensor, gradient: Tensor) -> Tensor:
        """sigma(x) * a(x), the standard deviation of the noise in each dimension: [Q, D] float32.

        `gradient` is that of the score at x, [Q, D], or the influence: only magnitudes count.
        """
        if gradient.shape != x.shape:
            raise ValueError(f"NoiseProposal.spread: gradient must be {tuple(x.shape)}, got {tuple(gradient.shape)}")
        size = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        share = torch.where(size > 0, gradient.abs() / size, x.shape[1] ** -0.5)
        return (self.sigma(x)[:, None] * share).float()


def _radii(distances: Tensor, labels: Tensor, count: int) -> Tensor:
    """rho of each cluster; 1 where all bank rows coincide with their centres, as tau is 0 there or nothing is known."""
    squares = distances.double().square()
    overall = squares.mean()
    if not overall > 0:
        return torch.ones(count)
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, labels, squares)
    return ((sums + overall) / (torch.bincount(labels, minlength=count) + 1)).sqrt().float()
