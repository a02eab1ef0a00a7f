"""SimpleNet (Liu et al., CVPR 2023): a discriminator tells adapted features of normal patches from noisy copies."""

from __future__ import annotations

import copy
import warnings
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from patchcore_fast.config.methods import SimpleNetSettings
from patchcore_fast.features import FeatureExtractor
from patchcore_fast.methods.kept_maps import KeptMaps
from patchcore_fast.methods.training import Modules, TrainedMethod

SLOPE = 0.2  # of the discriminator's LeakyReLU where its input is negative
LOST = 1 / 20  # noise below this share of the features' standard deviation is told of beforehand


class SimpleNet(TrainedMethod):
    """Patch scores are softplus(-D(A(x))), x a patch's features, A a linear map, D the discriminator.

    The published score is -D: softplus keeps its order, so that image metrics are the same, and is positive, as the
    threshold takes scores (docs/threshold.md). D is trained to be above `margin` on A(x) of normal patches and below
    -`margin` on A(x) + noise. An epoch has `steps` passes over the images. Arguments as of `Method`.
    """

    name, title, settings_type = "simplenet", "SimpleNet", SimpleNetSettings
    settings: SimpleNetSettings

    def __init__(self, *args: Any, **named: Any) -> None:
        """As `Method`. ValueError: also, a fusion that it does not take."""
        super().__init__(*args, **named)
        if (fusion := self.config.features.fusion) not in ("concat", "amazon"):
            raise ValueError(f'SimpleNet: fusion must be "concat" or "amazon", got {fusion!r}')
        self.passes = self.settings.steps

    def _modules(self) -> Modules:
        dim = self._extractor.dim
        return {"adapter": adapter(dim), "discriminator": discriminator(dim)}

    def _optimizers(self, modules: Modules) -> dict[str, torch.optim.Optimizer]:
        s = self.settings
        return {"adapter": torch.optim.AdamW(modules["adapter"].parameters(), s.adapter_rate),
                "discriminator": torch.optim.Adam(modules["discriminator"].parameters(), s.rate,
                                                  weight_decay=s.weight_decay)}  # fmt: skip

    def _loss(
        self, modules: Modules, maps: list[torch.Tensor], draws: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x = rows_of(self._extractor.fuse(maps))
        noise = torch.randn(x.shape, generator=draws).mul_(self.settings.noise).to(x)
        return loss_of(modules["adapter"], modules["discriminator"], x, noise, self.settings.margin)

    def _look_before(self, kept: KeptMaps, trained: torch.Tensor) -> None:
        """Noise that may be lost in the features is told before the epochs that it would cost."""
        spread = float(rows_of(self._extractor.fuse(kept.take(trained[:8], self.device))).std(0).mean())
        if self.settings.noise < LOST * spread:
            warnings.warn(
                f"SimpleNet.fit: noise is {self.settings.noise:g}, and channels have a standard deviation of "
                f"{spread:.2g}: features and noisy ones may be too alike to be told apart; if the loss stays near "
                f"{2 * self.settings.margin:g}, take a larger noise",
                UserWarning,
                stacklevel=2,
            )

    def _learn_beside(self, modules: Modules, kept: KeptMaps, trained: torch.Tensor) -> None:
        """Nothing, but it tells of a training that came to nothing."""
        last = self.curve_[-1]
        if last["loss"] > 0.95 * 2 * self.settings.margin and max(last["normal_right"], last["noisy_right"]) < 0.05:
            warnings.warn(
                f"SimpleNet.fit: features and noisy ones could not be told apart, the loss is {last['loss']:.4g} of "
                f"{2 * self.settings.margin:g}; take a larger noise than {self.settings.noise:g}",
                UserWarning,
                stacklevel=2,
            )

    def _scorer_of(self, modules: Modules) -> nn.Module:
        fusion = copy.copy(self._extractor)
        fusion.backbone = None  # type: ignore[assignment]  # which it does not ask, and copies of the scorer go without
        return _Scorer(fusion, modules["adapter"], modules["discriminator"])

    @cached_property
    def _extractor(self) -> FeatureExtractor:
        """PatchCore's path from maps to features."""
        f = self.config.features
        return FeatureExtractor(self.source, f.fusion, f.patch_size, f.dim, f.layer_dim, f.feature_resize)


def adapter(dim: int) -> nn.Linear:
    """A: features [B, D] -> [B, D]."""
    return _drawn(nn.Linear(dim, dim))


def discriminator(dim: int) -> nn.Sequential:
    """D: features [B, D] -> [B, 1], with two thirds of D units inside, as the published code (1,536 -> 1,024)."""
    hidden = max(1, int(dim // 1.5))
    return nn.Sequential(_drawn(nn.Linear(dim, hidden)), nn.BatchNorm1d(hidden), nn.LeakyReLU(SLOPE),
                         _drawn(nn.Linear(hidden, 1, bias=False)))  # fmt: skip


def loss_of(
    adapt: nn.Module, tell: nn.Module, x: torch.Tensor, noise: torch.Tensor, margin: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """mean max(0, margin - D(A(x))) + mean max(0, margin + D(A(x) + noise)), D seeing both in one batch.

    Beside it the shares of rows of either kind that are on their side of the margin, `normal_right` and `noisy_right`.
    """
    true = adapt(x)
    found = tell(torch.cat([true, true + noise]))[:, 0]
    normal, noisy = found[: len(x)], found[len(x) :]
    loss = F.relu(margin - normal).mean() + F.relu(margin + noisy).mean()
    shares = {"normal_right": (normal >= margin), "noisy_right": (noisy < -margin)}
    return loss, {name: right.detach().float().mean() for name, right in shares.items()}


def rows_of(x: torch.Tensor) -> torch.Tensor:
    """[B * h * w, D] of features [B, D, h, w]."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def _drawn(layer: nn.Linear) -> nn.Linear:
    """Weights of Glorot's normal initialisation, as the published code; the bias is torch's."""
    nn.init.xavier_normal_(layer.weight)
    return layer


class _Scorer(nn.Module):
    """Maps to patch scores."""

    def __init__(self, fusion: FeatureExtractor, adapt: nn.Module, tell: nn.Module) -> None:
        super().__init__()
        self._fusion = fusion
        self.adapter, self.discriminator = adapt, tell

    def forward(self, maps: list[torch.Tensor], _size: tuple[int, int]) -> torch.Tensor:
        x = self._fusion.fuse(maps)
        found = self.discriminator(self.adapter(rows_of(x)))
        return F.softplus(-found).reshape(x.shape[0], *x.shape[2:])  # len() would be a constant in torch.export
