"""predict, the same of every model: images in, one prediction after the other out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.kernels.surroundings import undisturbed
from patchcore_fast.model.batches import Batch, batches_of
from patchcore_fast.model.results import Prediction


class Predicting(ABC):
    """A model that predicts a batch by `_predict` once `_fitted` lets it."""

    config: PatchCoreConfig
    progress: bool | None

    def predict(self, data: Any, *, on_error: str = "raise", maps: bool = True) -> list[Prediction]:
        """Score images; `data` as in `fit`, but a folder means all its images, an ImageSet its test part.

        on_error : "raise" ends at the first file that cannot be read; "return" gives a `Prediction` with its `error`.
        maps : False gives the same scores and no maps (`Prediction.anomaly_map` is then [0, 0]): PatchCore searches the
            whole bank for few patches only (docs/search.md).

        Raises
        ------
        ValueError : no maps, of a model whose image scores want all patches; says what is in the way.
        """
        return list(self.iter_predict(data, on_error=on_error, maps=maps))

    def iter_predict(self, data: Any, *, on_error: str = "raise", maps: bool = True) -> Iterator[Prediction]:
        """`predict` one image at a time, holding one batch in memory."""
        self._fitted("predict")
        return self._predictions(data, on_error, self._predict if maps else self._predict_scores())

    @undisturbed
    def _predictions(
        self, data: Any, on_error: str, predict: Callable[[Batch], Iterator[Prediction]]
    ) -> Iterator[Prediction]:
        batches = batches_of(data, self.config, "any", on_error=on_error)
        for batch in batches.shown("predict", self.progress):
            yield from predict(batch)

    @abstractmethod
    def _predict(self, batch: Batch) -> Iterator[Prediction]:
        """A prediction for each image."""

    def _predict_scores(self) -> Callable[[Batch], Iterator[Prediction]]:
        """As `_predict`, without maps. ValueError: this model wants all patches."""
        raise ValueError(f"{type(self).__name__}.predict: only PatchCore scores images without their maps")

    @abstractmethod
    def _fitted(self, name: str) -> Any:
        """What fit or load made. ValueError: neither was called; `name` says for what it was wanted."""
