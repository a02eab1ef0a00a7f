"""Training images that are scored by a model without them: their features are kept while all stream by."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from patchcore_fast.model.threshold import ASKED, held_out_folds


def where_float64(x: torch.Tensor) -> torch.Tensor:
    """The same on its device, or on the CPU where that has no float64."""
    return x.cpu() if x.device.type == "mps" else x


class Kept:
    """Features of evenly spread images, of all up to ASKED and of half as many to ASKED where there are more.

    Memory does not grow with the number of images, which need not be known beforehand.
    """

    def __init__(self, most: int = ASKED) -> None:
        """most : images, an even number."""
        self.count, self._most, self._step = 0, most, 1
        self._kept: list[torch.Tensor] = []

    def add(self, features: torch.Tensor) -> None:
        """The next images' features [B, ...]."""
        for one in features:
            if self.count % self._step == 0:
                if len(self._kept) == self._most:
                    self._kept, self._step = self._kept[::2], 2 * self._step
                if self.count % self._step == 0:
                    self._kept.append(one.clone())
            self.count += 1

    def __len__(self) -> int:
        """Images that are kept."""
        return len(self._kept)

    def take(self, numbers: torch.Tensor, part: slice = slice(None)) -> torch.Tensor:
        """Features [n, ...] of some of the kept ones in float64, or a part of their first dimension."""
        return torch.stack([self._kept[i][part] for i in numbers.tolist()]).double()

    def folds(self) -> Iterator[torch.Tensor]:
        """Which of the kept ones to hold out together; none where no other image would be left."""
        if self.count > 1:
            yield from held_out_folds(torch.arange(len(self._kept)), self.count)
