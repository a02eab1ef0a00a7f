"""Patch scores in plain operations that torch.export follows: what `scorers` compute, by the search of a file."""

from __future__ import annotations

import torch

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.scorers import make_scorer
from patchcore_fast.scorers.choice import InfluenceScorer, NoisingScorer
from patchcore_fast.search import widened

CHUNK = 4096  # bank rows that queries are compared with at a time
SPARE = 7  # candidates beyond k, settled by differences: expanded float32 squares may order near ties wrongly


class Search(torch.nn.Module):
    """Exact neighbours of rows in a bank [M, D]; see `ExportedPatchCore`."""

    bank: torch.Tensor
    center: torch.Tensor
    half_norms: torch.Tensor

    def __init__(self, bank: torch.Tensor, k: int) -> None:
        """Copy the rows, on the CPU."""
        super().__init__()
        self.k = k
        bank = bank.cpu().float().clone()  # a loaded bank may be a view of its whole file
        center = bank.double().mean(dim=0)
        self.register_buffer("bank", bank)
        self.register_buffer("center", center.float())
        self.register_buffer("half_norms", (bank - center.float()).double().square().sum(dim=1).div(2).float())

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances [Q, k], ascending, and bank rows [Q, k] of the nearest."""
        count, centred = len(self.bank), rows - self.center
        wide = min(self.k + SPARE, count)
        best, where = None, None
        for lo in range(0, count, CHUNK):
            hi = min(lo + CHUNK, count)
            # Half the square without |x|^2, which is the same for all rows of the bank.
            half = self.half_norms[lo:hi] - centred @ (self.bank[lo:hi] - self.center).T
            near, at = half.topk(min(wide, hi - lo), dim=1, largest=False)
            at = at + lo
            if best is None or where is None:
                best, where = near, at
            else:
                best, where = torch.cat([best, near], 1), torch.cat([where, at], 1)
                best, order = best.topk(min(wide, best.shape[1]), dim=1, largest=False)
                where = where.gather(1, order)
        assert where is not None
        squared = (rows[:, None] - self.bank[where]).square().sum(dim=2)
        squared, order = squared.topk(self.k, dim=1, largest=False)
        return squared.sqrt(), where.gather(1, order)


class PatchScore(torch.nn.Module):
    """Scores [Q] of rows [Q, D] by one bank, as the config's scorer gives them, and the nearest bank row of each.

    What a scorer knows of its bank (typical influences, clusters, the table of noise, which is drawn once from the
    seed) goes into the file as constants.
    """

    def __init__(self, config: PatchCoreConfig, part: MemoryBank) -> None:
        """Copy what is known, on the CPU."""
        super().__init__()
        s, k = config.scoring, min(config.search.neighbours, len(part))
        self.search = Search(part.searched, k)
        self.width, self.kind = part.width, s.scorer
        self.squared, self.cosine = config.squared, config.metric == "cosine"
        self.priced = part.searched.shape[1] > part.width
        weight: torch.Tensor | None = None
        if self.kind != "distance":
            scorer = make_scorer(
                s.scorer, part.features.cpu(), k=k, squared=config.squared, noise_scale=s.noise_scale,
                noise_draws=s.noise_draws, seed=config.selection.seed,
            )  # fmt: skip
            if isinstance(scorer, InfluenceScorer):
                weight = scorer.weight
            elif isinstance(scorer, NoisingScorer):
                noise = scorer.proposal
                self.centers = Search(noise.centers, 1)
                self.register_buffer("reach", noise.scale * noise.spacing / noise.radii)
                self.register_buffer("table", noise.table)
        self.register_buffer("weight", weight)

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        distance, nearest = self._near(rows)
        scores = self._mean(distance)
        if self.kind == "noising":
            scores = self._noised(rows, distance, nearest)
        elif self.kind == "influence" and (weight := self.get_buffer("weight")) is not None:
            if self.priced:  # no dimension is the reason for a price
                distance = (rows[:, None] - self.bank[nearest]).square().sum(dim=2).sqrt()
            scores = scores * (self._gradient(rows, distance, nearest).abs() @ weight)
        return (scores / 2 if self.cosine else scores), nearest

    @property
    def bank(self) -> torch.Tensor:
        """Rows [M, D] without their price."""
        return self.search.bank[:, : self.width]

    def _near(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found: tuple[torch.Tensor, torch.Tensor] = self.search(widened(rows, self.search.bank))
        return found

    def _mean(self, distance: torch.Tensor) -> torch.Tensor:
        return (distance.square() if self.squared else distance).mean(dim=1)

    def _gradient(self, rows: torch.Tensor, distance: torch.Tensor, nearest: torch.Tensor) -> torch.Tensor:
        """See `scorers.influence.gradient`."""
        least = torch.where(distance > 0, distance, torch.ones_like(distance))
        share = torch.where(distance > 0, 1 / (least * distance.shape[1]), torch.zeros_like(distance))
        return ((rows[:, None] - self.bank[nearest]) * share[:, :, None]).sum(dim=1)

    def _noised(self, rows: torch.Tensor, distance: torch.Tensor, nearest: torch.Tensor) -> torch.Tensor:
        """See `scorers.noise.NoiseProposal`."""
        slope = self._gradient(rows, distance, nearest)
        size = slope.square().sum(dim=1, keepdim=True).sqrt()
        flat = torch.full_like(slope, rows.shape[1] ** -0.5)
        along = torch.where(size > 0, slope.abs() / torch.where(size > 0, size, torch.ones_like(size)), flat)
        away, cluster = self.centers(rows)
        spread = away * self.get_buffer("reach")[cluster[:, 0]][:, None] * along
        total = torch.zeros_like(distance[:, 0])
        table = self.get_buffer("table")
        for z in table.unbind(0):
            for moved in (rows + spread * z, rows - spread * z):
                total = total + self._mean(self._near(moved)[0])
        return total / (2 * len(table))
