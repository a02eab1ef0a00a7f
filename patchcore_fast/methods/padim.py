"""PaDiM (Defard et al., "PaDiM: a Patch Distribution Modeling Framework", 2020): a Gaussian for each position."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

from patchcore_fast.config.methods import PadimSettings
from patchcore_fast.methods.aligned import joined, largest
from patchcore_fast.methods.base import Method
from patchcore_fast.methods.file import Shapes
from patchcore_fast.methods.held_out import Kept, where_float64
from patchcore_fast.methods.reading import Read

_NUMBERS = 1 << 22  # of covariances that are factored at a time


class Padim(Method):
    """Patch scores are Mahalanobis distances to the Gaussian of the training images at the same position.

    Parts must lie alike in all images: where an object is turned or shifted, another position's Gaussian judges it.
    Channels are those of all layers, brought to the largest map by repeating the nearest place (as anomalib does), and
    `dim` of them drawn by the seed. Sums are kept in float64 around the first image, for each position dim + dim^2 of
    them; beside them only features of the images that the threshold asks, at most 200. Arguments as of `Method`.
    """

    name, title, settings_type = "padim", "PaDiM", PadimSettings
    settings: PadimSettings

    def _fit(self, batches: Read, count: int | None, **options: Any) -> list[float]:
        chosen = self._drawn()
        sums, kept = _Sums(), Kept()
        for batch in batches():
            x = _joined(self.maps(batch.images), _by_layer(chosen, self._channels))
            x = where_float64(x.flatten(2).transpose(1, 2))  # [B, P, d]
            sums.add(x)
            kept.add(x)
        if not sums.count:
            return []
        positions, dim = sums.first.shape
        mean = torch.empty(positions, dim, device=self.device)
        factor = mean.new_empty(positions, dim, dim)
        folds = list(kept.folds())
        scores = sums.first.new_zeros(len(kept), positions)
        step = max(1, _NUMBERS // dim**2)
        for low in range(0, positions, step):
            part = slice(low, low + step)
            block = sums.at(part)
            mean[part], lower = block.gaussians(self.settings.ridge)
            eye = torch.eye(dim, dtype=lower.dtype, device=lower.device)
            factor[part] = torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False)
            for fold in folds:
                x = kept.take(fold, part)
                others, lower = block.without(x).gaussians(self.settings.ridge)
                moved = (x - others).permute(1, 2, 0)
                found = torch.linalg.solve_triangular(lower, moved, upper=False)
                scores[fold, part] = torch.linalg.vector_norm(found, dim=1).T
        self._channels_drawn, self._mean, self._factor = chosen, mean, factor
        height, width = self._grid
        return self._image_scores(scores.view(-1, height, width)) if folds else []

    def said(self) -> str:
        """With the channels."""
        return f"{self.title}, {self._mean.shape[1]:,} of {sum(self._channels):,} channels, {self.learned.fitted_on}"

    def _scorer(self) -> torch.nn.Module:
        return _Gaussians(_by_layer(self._channels_drawn, self._channels), self._mean, self._factor, self._grid)

    def _tensors(self) -> dict[str, torch.Tensor]:
        rows, columns = torch.tril_indices(*self._factor.shape[1:])
        return {"channels": self._channels_drawn, "mean": self._mean, "factor": self._factor[:, rows, columns]}

    def _shapes(self, stored: dict[str, torch.Tensor]) -> Shapes:
        height, width = self._grid
        positions, dim = height * width, min(self.settings.dim, sum(self._channels))
        return {"channels": (torch.int64, (dim,)), "mean": (torch.float32, (positions, dim)),
                "factor": (torch.float32, (positions, dim * (dim + 1) // 2))}  # fmt: skip

    def _restore(self, tensors: dict[str, torch.Tensor]) -> None:
        chosen, self._mean = tensors["channels"].cpu(), tensors["mean"]
        if not bool((chosen.diff() > 0).all()) or int(chosen[0]) < 0 or int(chosen[-1]) >= sum(self._channels):
            raise ValueError(f"channels must be ascending and below {sum(self._channels)}")
        positions, dim = self._mean.shape
        rows, columns = torch.tril_indices(dim, dim)
        self._channels_drawn = chosen
        self._factor = self._mean.new_zeros(positions, dim, dim)
        self._factor[:, rows, columns] = tensors["factor"]

    @property
    def _channels(self) -> tuple[int, ...]:
        return tuple(c for c, _, _ in self.map_shapes)

    @property
    def _grid(self) -> tuple[int, int]:
        """(h, w) of the largest map, of equals the first."""
        return max(((h, w) for _, h, w in self.map_shapes), key=lambda s: s[0] * s[1])

    def _drawn(self) -> torch.Tensor:
        """The channels that count, ascending, [d] int64."""
        generator = torch.Generator().manual_seed(self.config.selection.seed)
        return torch.randperm(sum(self._channels), generator=generator)[: self.settings.dim].sort().values


class _Gaussians(torch.nn.Module):
    """The scorer: distances of drawn channels to the Gaussian of their position."""

    mean: torch.Tensor
    factor: torch.Tensor

    def __init__(
        self, chosen: list[torch.Tensor], mean: torch.Tensor, factor: torch.Tensor, grid: tuple[int, int]
    ) -> None:
        super().__init__()
        self.grid, self.layers = grid, len(chosen)
        self.register_buffer("mean", mean)
        self.register_buffer("factor", factor)
        for i, numbers in enumerate(chosen):
            self.register_buffer(f"chosen{i}", numbers.to(mean.device))

    def forward(self, maps: list[torch.Tensor], _size: tuple[int, int]) -> torch.Tensor:
        x = _joined(maps, [self.get_buffer(f"chosen{i}") for i in range(self.layers)])
        moved = x.flatten(2).permute(2, 1, 0) - self.mean[:, :, None]  # [P, d, B]
        moved = moved.contiguous()  # strided ones torch multiplies one by one, with its threads parted P times
        return (self.factor @ moved).square().sum(1).sqrt().T.reshape(-1, *self.grid)


class _Sums:
    """Count, sums [P, d] and sums of products [P, d, d] of features by position, float64, around the first image."""

    count = 0
    origin: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor

    def add(self, x: torch.Tensor, sign: int = 1) -> None:
        """Images [B, P, d] more; with sign -1 less. ValueError: numbers that are not finite."""
        if not self.count and sign > 0:
            self.origin = x[0].double()
            self.first = torch.zeros_like(self.origin)
            self.second = self.first[..., None].expand(-1, -1, x.shape[2]).clone()
        moved = (x.double() - self.origin).transpose(0, 1)  # [P, B, d]
        self.first += sign * moved.sum(1)
        self.second.baddbmm_(moved.transpose(1, 2), moved, alpha=sign)
        self.count += sign * len(x)
        if not bool(torch.isfinite(self.first).all()):
            raise ValueError("PaDiM.fit: features must be finite")

    def at(self, positions: slice) -> _Sums:
        """Those of some positions."""
        found = _Sums()
        found.count, found.origin = self.count, self.origin[positions]
        found.first, found.second = self.first[positions], self.second[positions]
        return found

    def without(self, x: torch.Tensor) -> _Sums:
        """Those without images [B, P, d] that are among them."""
        found = self.at(slice(None))
        found.first, found.second = found.first.clone(), found.second.clone()
        found.add(x, -1)
        return found

    def gaussians(self, ridge: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Means [P, d], and L [P, d, d] lower triangular, L L^T the covariances + ridge I.

        These have n - 1 below them, as in the paper; of one image there is none.
        """
        shift = self.first / self.count
        products = shift[:, :, None] * shift[:, None, :]
        covariance = (self.second - self.count * products) / max(self.count - 1, 1)
        covariance.diagonal(dim1=1, dim2=2).add_(ridge)
        try:
            return self.origin + shift, torch.linalg.cholesky(covariance)
        except torch.linalg.LinAlgError as error:
            raise ValueError(f"PaDiM.fit: covariances are singular with ridge={ridge:g}, take a larger one") from error


def _joined(maps: list[torch.Tensor], chosen: list[torch.Tensor]) -> torch.Tensor:
    """[B, d, h, w] of the largest map's grid: these channels of each layer, side by side."""
    drawn = [m[:, numbers.to(m.device)] for m, numbers in zip(maps, chosen, strict=True) if len(numbers)]
    return joined(drawn, largest(maps), "nearest")


def _by_layer(chosen: torch.Tensor, channels: tuple[int, ...]) -> list[torch.Tensor]:
    """Numbers among all channels as numbers within each layer."""
    starts = torch.tensor([0, *channels]).cumsum(0).tolist()
    return [chosen[(chosen >= low) & (chosen < high)] - low for low, high in pairwise(starts)]
