"""predict, the same of every model: images in, one prediction after the other out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.kernels.surroundings import undisturbed
from patchcore_fast.model.batches import Batch, batches_of
from patchcore_fast.model.results import Prediction


class Predicting(ABC):
    """A model that predicts a batch by `_predict` once `_fitted` lets it."""

    config: PatchCoreConfig
    progress: bool | None

    def predict(self, data: Any, *, on_error: str = "raise") -> list[Prediction]:
        """Score images; `data` as in `fit`, but a folder means all its images, an ImageSet its test part.

        on_error : "raise" ends at the first file that cannot be read; "return" gives a `Prediction` with its `error`.
        """
        return list(self.iter_predict(data, on_error=on_error))

    @undisturbed
    def iter_predict(self, data: Any, *, on_error: str = "raise") -> Iterator[Prediction]:
        """`predict` one image at a time, holding one batch in memory."""
        self._fitted("predict")
        batches = batches_of(data, self.config, "any", on_error=on_error)
        for batch in batches.shown("predict", self.progress):
            yield from self._predict(batch)

    @abstractmethod
    def _predict(self, batch: Batch) -> Iterator[Prediction]:
        """A prediction for each image."""

    @abstractmethod
    def _fitted(self, name: str) -> Any:
        """What fit or load made. ValueError: neither was called; `name` says for what it was wanted."""
