"""Training images that are scored by a model without them: their features are kept while all stream by."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from patchcore_fast.model.threshold import ASKED, held_out_folds


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

    @property
    def features(self) -> torch.Tensor:
        """Those of the kept images, [n, ...]."""
        return torch.stack(self._kept)

    def folds(self) -> Iterator[torch.Tensor]:
        """Which of the kept ones to hold out together; none where no other image would be left."""
        if self.count > 1:
            yield from held_out_folds(torch.arange(len(self._kept)), self.count)
