"""Images to scores and maps as one module: what predictions come from, and what `export` writes down."""

from __future__ import annotations

import copy

import torch

from patchcore_fast.config import PatchCoreConfig, ScoringSettings
from patchcore_fast.features import FeatureSource
from patchcore_fast.scoring import anomaly_map, image_score


class MethodModule(torch.nn.Module):
    """Scores [B] and maps [B, H, W] of images [B, 3, H, W] float32 in [0, 1].

    Parameters
    ----------
    maps : images -> the backbone's maps [B, C, h, w], a list: a `FeatureSource`, or a `FrozenMaps`.
    scorer : (maps, (H, W)) -> patch scores [B, h, w], see `Method._scorer`.
    config : its scoring is used.  of_map : the image score is of the smoothed map and not of the patches.
    """

    def __init__(
        self, maps: torch.nn.Module, scorer: torch.nn.Module, config: PatchCoreConfig, of_map: bool = False
    ) -> None:
        """Nothing is computed."""
        super().__init__()
        self.maps, self.scorer, self.of_map = maps, scorer, of_map
        self._scoring = config.scoring

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Patch scores, laid over the image and smoothed; of the highest the image score."""
        size = (images.shape[2], images.shape[3])
        return score_images(self.scorer(self.maps(images), size), size, self._scoring, self.of_map)


def score_images(
    patches: torch.Tensor, size: tuple[int, int], scoring: ScoringSettings, of_map: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image scores [B] and maps [B, H, W] of patch scores [B, h, w] of images of a size (H, W)."""
    laid = anomaly_map(patches, size, scoring.sigma, scoring.upsample, scoring.border)
    return image_score((laid if of_map else patches).flatten(1), scoring.image_score), laid


class FrozenMaps(torch.nn.Module):
    """A source's maps in plain operations, for images of one size: a copy on the CPU that torch.export can write."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, source: FeatureSource, size: tuple[int, int]) -> None:
        """The source stays as it is."""
        super().__init__()
        net = source.at_one_size(size)
        self.net = copy.deepcopy(net).cpu().to(memory_format=torch.contiguous_format)
        self._channels_last = source._channels_last
        self.register_buffer("mean", source.mean.cpu().clone())
        self.register_buffer("std", source.std.cpu().clone())

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Maps [B, C, h, w]."""
        maps = self.net((images - self.mean) / self.std)
        return [m.permute(0, 3, 1, 2) for m in maps] if self._channels_last else list(maps)
