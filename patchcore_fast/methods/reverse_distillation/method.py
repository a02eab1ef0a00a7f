"""Reverse distillation as a method: what is trained, and how images are scored."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from patchcore_fast.config.methods import ReverseDistillationSettings
from patchcore_fast.errors import BankError
from patchcore_fast.methods.reverse_distillation.blocks import Layout, layout_of
from patchcore_fast.methods.reverse_distillation.loss import distance, distillation_loss, summed
from patchcore_fast.methods.reverse_distillation.network import Student
from patchcore_fast.methods.reverse_distillation.noise import ROWS, LayerNoise, sample
from patchcore_fast.methods.training import Modules, TrainedMethod

if TYPE_CHECKING:
    from patchcore_fast.methods.base import Shapes
    from patchcore_fast.methods.kept_maps import KeptMaps
    from patchcore_fast.methods.module import MethodModule

SCORERS = ("distance", "noising")
DECAY = 0.1  # of the learning rate, where it has a step
SIDE = 256  # pixels of an image that tells whether maps are signed, at most


class ReverseDistillation(TrainedMethod):
    """Reverse distillation (Deng and Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding", CVPR
    2022): from a small code of the frozen backbone's maps, a student learns to decode them for normal images. Where
    what it decodes points elsewhere than the backbone's features, the image is unlike those.

    The map is the sum over layers of 1 - cos, up-sampled and smoothed, and the image score its maximum. With the scorer
    "noising" 1 - cos is the mean over noisy copies of the backbone's features (`LayerNoise`); the curve of a training
    is without it. Arguments as of `Method`, of `fit` as of `TrainedMethod`.
    """

    name, title, settings_type, of_map = "rd", "reverse distillation", ReverseDistillationSettings, True
    settings: ReverseDistillationSettings
    _normal: list[Tensor] | None = None  # features of each layer, for noise

    def __init__(self, *args: Any, **named: Any) -> None:
        """As `Method`. ValueError: also, a scorer that it does not have."""
        super().__init__(*args, **named)
        if (scorer := self.config.scoring.scorer) not in SCORERS:
            raise ValueError(f"{self.title}: scorer must be one of {', '.join(SCORERS)}, got {scorer!r}")

    def _modules(self) -> Modules:
        return {"student": Student(self._layout)}

    def _optimizers(self, modules: Modules) -> dict[str, torch.optim.Optimizer]:
        s = self.settings
        adam = torch.optim.Adam(modules["student"].parameters(), s.learning_rate, s.betas, weight_decay=s.weight_decay)
        return {"adam": adam}

    def _loss(self, modules: Modules, maps: list[Tensor], draws: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return distillation_loss(maps, modules["student"](maps), self.settings.loss), {}

    def _rate(self, epochs: float) -> float:
        s = self.settings
        grown = min(1.0, epochs / s.warmup) if s.warmup else 1.0
        return grown * (DECAY if s.decay_at is not None and epochs >= s.decay_at * s.epochs else 1.0)

    def _learn_beside(self, modules: Modules, kept: KeptMaps, trained: Tensor) -> None:
        if self._noising:
            batches = kept.batches(trained, self.settings.batch_size, self.device)
            self._normal = sample(batches, len(trained), self.config.selection.seed)

    def _scorer_of(self, modules: Modules) -> nn.Module:
        noise = None
        if self._noising and self._normal is not None and modules is self._trained:  # not of an earlier fit
            scoring = self.config.scoring
            noise = LayerNoise(self._normal, scoring.noise_scale, scoring.noise_draws, self.config.selection.seed)
        return _Distances(modules["student"], noise)

    def module(self) -> MethodModule:
        """As `Method.module`. BankError: of the scorer "distance" alone, as PatchCore's."""
        if self._noising:
            raise BankError(f'export: scorer must be "distance", got {self.config.scoring.scorer!r}')
        return super().module()

    def _tensors(self) -> dict[str, Tensor]:
        normal = self._normal if self._noising and self._normal is not None else []
        return super()._tensors() | {f"normal.{i}": rows for i, rows in enumerate(normal)}

    def _shapes(self, stored: dict[str, Tensor]) -> Shapes:
        channels = self._layout.channels  # looked at before: tensors of no memory follow
        if self._noising and "normal.0" not in stored:
            raise ValueError(
                'normal.0 is missing: "noising" needs normal features, checkpoints have none; take the model file'
            )
        found = super()._shapes(stored)
        for i, width in enumerate(channels if self._noising else ()):
            rows = stored[f"normal.{i}"].shape[0] if f"normal.{i}" in stored else 1
            found[f"normal.{i}"] = (torch.float32, (min(max(rows, 1), ROWS), width))
        return found

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        count = sum(name.startswith("normal.") for name in tensors)
        normal = [tensors[f"normal.{i}"] for i in range(count)]  # by number: as text 10 is before 2
        super()._restore({name: t for name, t in tensors.items() if not name.startswith("normal.")})
        self._normal = normal or None

    @property
    def _noising(self) -> bool:
        return self.config.scoring.scorer == "noising"

    @cached_property
    def _layout(self) -> Layout:
        """Whether maps have negative values a random image tells: one that ends in a ReLU has none for any.

        A file may name any size of images: of a large one a small image tells it too.
        """
        sides = zip(self.described.input_size, self.source.multiple, strict=True)
        size = self.source.fixed_size or tuple(min(side, -(-SIDE // m) * m) for side, m in sides)
        image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0), device="cpu")
        signed = any(bool((m < 0).any()) for m in self.maps(image))
        return layout_of(self.map_shapes, signed=signed)


class _Distances(nn.Module):
    """Maps and the size of the images to the summed distances at every pixel, [B, H, W]."""

    def __init__(self, student: nn.Module, noise: LayerNoise | None) -> None:
        super().__init__()
        self.student, self.noise = student, noise

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        decoded = self.student(maps)
        if self.noise is not None:
            return summed(self.noise(maps, decoded), size)
        return summed([distance(t, s) for t, s in zip(maps, decoded, strict=True)], size)
