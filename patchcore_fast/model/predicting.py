"""predict, the same of every model: images in, one prediction after the other out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.kernels.surroundings import undisturbed
from patchcore_fast.model.batches import Batch, batches_of
from patchcore_fast.model.calibration import Calibration, calibrated
from patchcore_fast.model.decision import with_thresholds
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

    @property
    def threshold(self) -> float | None:
        """Image score above which an image is anomalous; None where it cannot be known."""
        found: float | None = self._fitted("threshold").threshold
        return found

    @property
    def pixel_threshold(self) -> float | None:
        """Value of an anomaly map above which a pixel is anomalous; None where it cannot be known."""
        found: float | None = self._fitted("pixel_threshold").pixel_threshold
        return found

    def decide(
        self,
        *,
        threshold: float | None = None,
        max_false_alarms: float | None = None,
        pixel_threshold: float | None = None,
        max_false_pixels: float | None = None,
    ) -> None:
        """Call images and pixels anomalous from now on above other thresholds; what is not given stays.

        Parameters
        ----------
        threshold, max_false_alarms : one of both; image score, or the share of normal images that may exceed it.
        pixel_threshold, max_false_pixels : one of both; value of a map, or the share of the pixels of normal images
            that may exceed it.

        Shares go by what the training images said that `fit` held out, or by those of `calibrate`; errors as of
        `decision.with_thresholds`.
        """
        self._decided(with_thresholds(
            self._fitted("decide"), threshold=threshold, max_false_alarms=max_false_alarms,
            pixel_threshold=pixel_threshold, max_false_pixels=max_false_pixels,
        ))  # fmt: skip
        shares = {"max_false_alarms": max_false_alarms, "max_false_pixels": max_false_pixels}
        self.config = self.config.replace(**{name: float(s) for name, s in shares.items() if s is not None})

    def calibrate(
        self,
        good: Any,
        defects: Any = None,
        *,
        max_false_alarms: float | None = None,
        max_false_pixels: float | None = None,
        on_error: str = "raise",
    ) -> Calibration:
        """Set both thresholds by images that the model was not fitted on, as `fit` sets them by held-out ones.

        With defects, and without `max_false_alarms`, the image threshold parts them best from the good images
        (`calibration.balanced_threshold`); that of the map goes by the good images.

        Parameters
        ----------
        good, defects, on_error : as `predict` takes images.
        max_false_alarms, max_false_pixels : shares in (0, 1); the settings' when None.

        Raises
        ------
        ValueError : fewer than two good images, or defects that score no higher than they do.
        """
        facts = self._fitted("calibrate")
        shares = {"max_false_alarms": max_false_alarms, "max_false_pixels": max_false_pixels}
        config = self.config.replace(**{name: s for name, s in shares.items() if s is not None})
        balance = defects is not None and max_false_alarms is None
        bad = () if defects is None else self.iter_predict(defects, on_error=on_error)
        good = self.iter_predict(good, on_error=on_error)
        changed, said = calibrated(facts, good, bad, config.decision, config.squared, balance)
        self._decided(changed)
        self.config = config
        return said

    @abstractmethod
    def _predict(self, batch: Batch) -> Iterator[Prediction]:
        """A prediction for each image."""

    def _predict_scores(self) -> Callable[[Batch], Iterator[Prediction]]:
        """As `_predict`, without maps. ValueError: this model wants all patches."""
        raise ValueError(f"{type(self).__name__}.predict: only PatchCore scores images without their maps")

    @abstractmethod
    def _decided(self, facts: Any) -> None:
        """What fit or load made, with other thresholds, is what counts from now on."""

    @abstractmethod
    def _fitted(self, name: str) -> Any:
        """What fit or load made. ValueError: neither was called; `name` says for what it was wanted."""
