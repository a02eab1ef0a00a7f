"""The estimator: fit on normal images, then predict, evaluate, save and load."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from patchcore_fast.errors import BankError
from patchcore_fast.features import Backbone, FeatureExtractor
from patchcore_fast.kernels import knn
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model.batches import Batch, Batches, batches_of
from patchcore_fast.model.collect import FeatureRows
from patchcore_fast.model.config import PatchCoreConfig
from patchcore_fast.model.evaluation import evaluate_predictions
from patchcore_fast.model.results import Evaluation, Prediction
from patchcore_fast.model.threshold import leave_out_scores, threshold_from
from patchcore_fast.model.views import VIEWS, undone
from patchcore_fast.progress import bar
from patchcore_fast.samplers import make_sampler
from patchcore_fast.scoring import anomaly_map, image_score, patch_scores


class PatchCore:
    """PatchCore (Roth et al., CVPR 2022): a bank of normal patch features; what is far from it is anomalous.

    Parameters
    ----------
    config : settings, `PatchCoreConfig()` when None.
    sampler : an object with `select(features [N, D]) -> indices [k]` in place of the config's sampler. With a
        true attribute `uses_positions` it gets positions=[N, 3] (image, row, column) too; with `instability`
        == "views" also views=[[N, D], ...], the features of mirrored, darker and flatter images.
    progress : True or False forces progress bars on or off; None shows them on a terminal.

    Attributes
    ----------
    bank : the MemoryBank of fit or load; ValueError before.
    timings_ : seconds of the last fit: "features", "selection", "threshold".

    Examples
    --------
    >>> model = PatchCore().fit("data/normal")            # doctest: +SKIP
    >>> [p.score for p in model.predict("data/new")]      # doctest: +SKIP
    """

    def __init__(
        self, config: PatchCoreConfig | None = None, sampler: Any = None, *, progress: bool | None = None
    ) -> None:
        """Keep the settings; the backbone is built when it is first needed."""
        if config is not None and not isinstance(config, PatchCoreConfig):
            raise TypeError(f"PatchCore: config must be a PatchCoreConfig, got {type(config).__name__}")
        if sampler is not None and not callable(getattr(sampler, "select", None)):
            raise TypeError(f"PatchCore: sampler must have select(features), got {type(sampler).__name__}")
        self.config = config or PatchCoreConfig()
        self.sampler = sampler
        self.progress = progress
        self.device = torch.device(self.config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"PatchCore: device {self.device} was asked for, but torch sees no CUDA device")
        self._bank: MemoryBank | None = None
        self.timings_: dict[str, float] = {}
        self._extractor: FeatureExtractor | None = None

    @property
    def extractor(self) -> FeatureExtractor:
        """Backbone and fusion of the config, built on first use."""
        if self._extractor is None:
            c = self.config
            backbone = Backbone(c.backbone, c.layers, c.weights, self.device, c.seed)
            self._extractor = FeatureExtractor(backbone, c.fusion, c.patch_size, c.dim, c.layer_dim, c.feature_resize)
        return self._extractor

    @property
    def bank(self) -> MemoryBank:
        """What fit or load made, on the model's device."""
        return self._fitted("bank")

    @property
    def threshold(self) -> float | None:
        """Image score above which an image is anomalous; None where it cannot be known."""
        return self._fitted("threshold").threshold

    def fit(self, data: Any) -> PatchCore:
        """Fill the memory bank with patches of normal images.

        The threshold comes from up to 64 training images, each scored against the bank without its own rows: it
        is the smallest of these scores that reaches `threshold_quantile` (of fewer than 20 images the
        largest). By default about 1 new normal image in 20 exceeds it. A single image gives none. Images of which the
        sampler pruned patches that no other image supports are not asked.

        Parameters
        ----------
        data : a folder (its train/good, or all its images), an ImageSet (its train part), paths or
            ImageRecords, a tensor [N, 3, H, W], or a loader of tensors or of dicts with "image". Tensors lie
            in [0, 1], not normalised, and keep their size; files are resized as the config says.

        Returns
        -------
        self

        Raises
        ------
        DataError : no images, or one that cannot be read.  ValueError, TypeError : tensors that are no
            images, or a coreset of fewer rows than `neighbours`.
        """
        batches = batches_of(data, self.config, "train")
        clock = time.perf_counter()
        rows, views = self._rows(batches, getattr(self.sampler, "instability", None) == "views")
        self.timings_ = {"features": time.perf_counter() - clock}

        clock = time.perf_counter()
        indices, projection, trusted = self._select(rows, views)
        self.timings_["selection"] = time.perf_counter() - clock

        clock = time.perf_counter()
        bank = rows.features[indices]
        positions = rows.positions(indices)
        on_device = bank.to(self.device)
        scores = leave_out_scores(
            rows.features, rows.starts, on_device, positions[:, 0],
            lambda own, others: float(self._score(own, 1, others)[0]), self.config.neighbours, trusted,
        )  # fmt: skip
        self.timings_["threshold"] = time.perf_counter() - clock
        self._bank = MemoryBank(
            on_device, indices, positions, projection,
            config=self.config.to_dict(), threshold=threshold_from(scores, self.config.threshold_quantile),
            images=[batches.name(r.path) for r in batches.records or []], grid=rows.grid, patches=rows.used,
            weights=self.extractor.backbone.fingerprint(),
        )  # fmt: skip
        return self

    def training_features(self, data: Any) -> FeatureRows:
        """The patch features that `fit` would choose from: `.features` [N, D], `.positions(indices)`, `.grid`.

        `data` and errors as in `fit`; the model stays as it is.
        """
        return self._rows(batches_of(data, self.config, "train"))[0]

    def predict(self, data: Any) -> list[Prediction]:
        """Score images; `data` as in `fit`, but a folder means all its images, an ImageSet its test part."""
        return list(self.iter_predict(data))

    def iter_predict(self, data: Any) -> Iterator[Prediction]:
        """`predict` one image at a time, holding one batch in memory."""
        self._fitted("predict")
        batches = batches_of(data, self.config, "any")
        for batch in self._bar(batches, "predict"):
            yield from self._predict(batch)

    def evaluate(self, data: Any) -> Evaluation:
        """Compare predictions with the truth; see `Evaluation`.

        Parameters
        ----------
        data : a folder in MVTec layout or an ImageSet (its test part), ImageRecords with labels, or a loader
            of dicts with "image", "label" and where known "mask" [B, H, W] and "has_mask".
        """
        self._fitted("evaluate")
        batches = batches_of(data, self.config, "test")
        clock = time.perf_counter()
        predictions: list[Prediction] = []
        seen: list[Batch] = []
        for batch in self._bar(batches, "evaluate"):
            predictions += self._predict(batch)
            seen.append(replace(batch, images=batch.images[:0]))  # only the truth is wanted later
        taken = time.perf_counter() - clock
        return evaluate_predictions(predictions, seen, batches.name, self.threshold, self.config, taken)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the memory bank, whole or not at all; see `MemoryBank.save`."""
        self._fitted("save").save(path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        device: str | torch.device | None = None,
        *,
        weights: str | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
        progress: bool | None = None,
    ) -> PatchCore:
        """A model from a saved bank.

        Parameters
        ----------
        device : where to run; None chooses as on a new machine, whatever the bank was made on.
        weights : where the backbone's weights are now, when not where the bank's config says.
        batch_size, workers : in place of the config's.

        Raises
        ------
        BankError : a file that is no usable bank, or weights other than those it was made with.
        """
        bank = MemoryBank.load(path)
        try:
            config = PatchCoreConfig.from_dict(bank.config)
        except (TypeError, ValueError) as error:
            raise BankError(f"{os.fspath(path)}: its settings cannot be used ({error})") from error
        here: dict[str, Any] = {"weights": weights, "batch_size": batch_size, "workers": workers}
        here = {name: value for name, value in here.items() if value is not None}
        model = cls(replace(config, device=None if device is None else str(device), **here), progress=progress)
        backbone = model.extractor.backbone
        if bank.weights and backbone.fingerprint() != bank.weights:
            raise BankError(f"{os.fspath(path)}: was made with other weights of {backbone.name} than are here")
        if bank.features.shape[1] != model.extractor.dim:
            raise BankError(
                f"{os.fspath(path)}: its rows have {bank.features.shape[1]} features, its settings give "
                f"{model.extractor.dim}"
            )
        model._bank = bank.to(model.device)
        return model

    def _rows(self, batches: Batches, views: bool = False) -> tuple[FeatureRows, list[FeatureRows]]:
        """Features of all images and, with `views`, of each view of them, in one pass over the source."""
        rows, more = FeatureRows(batches.count), [FeatureRows(batches.count) for _ in VIEWS if views]
        for batch in self._bar(batches, "features"):
            images = batch.images.to(self.device)
            rows.add(*self.extractor(images))
            for view, found in zip(VIEWS.values(), more, strict=False):
                features, grid = self.extractor(view.change(images))
                found.add(undone(view, features, grid), grid)
        return rows, more

    def _select(
        self, rows: FeatureRows, views: list[FeatureRows]
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Row numbers, the projection, and the images without a doubt of the sampler (None: it did not look)."""
        c, features = self.config, rows.features
        sampler = self.sampler or make_sampler(c.sampler, ratio=c.ratio, seed=c.seed, device=self.device)
        where: dict[str, Any] = {}
        if getattr(sampler, "uses_positions", False):
            where["positions"] = rows.positions(torch.arange(rows.used))
        if views:
            where["views"] = [v.features for v in views]
        with bar(None, "coreset", self.progress) as shown:
            if getattr(sampler, "progress", False) is None:
                with _set(sampler, "progress", shown.at):
                    indices = sampler.select(features, **where)
            else:
                indices = sampler.select(features, **where)
        indices = torch.as_tensor(indices).cpu().long()
        if len(indices) < c.neighbours:
            raise ValueError(
                f"PatchCore.fit: the coreset has {len(indices)} of {len(features)} patches, at least {c.neighbours} "
                "wanted: give more images or a larger ratio"
            )
        projection = getattr(sampler, "projection_", None)
        unsupported = getattr(sampler, "pruned_", {}).get("support")
        trusted = None
        if unsupported is not None:
            doubted = rows.positions(unsupported.nonzero()[:, 0])[:, 0].unique()
            trusted = torch.arange(len(rows.starts) - 1)
            trusted = trusted[~torch.isin(trusted, doubted)]
        return indices, None if projection is None else projection.detach().float().cpu(), trusted

    def _score(self, features: torch.Tensor, images: int, bank: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Image scores [B] and patch scores [B, P] of rows [B * P, D]."""
        c = self.config
        dist, nearest = knn(features, bank, c.neighbours)
        patches = patch_scores(dist, c.distance == "squared").view(images, -1)
        scores = image_score(
            patches, c.score, features=features, nearest=nearest[:, 0], bank=bank, b=c.reweight_neighbours
        )
        return scores, patches

    def _predict(self, batch: Batch) -> Iterator[Prediction]:
        c, bank = self.config, self.bank
        features, grid = self.extractor(batch.images.to(self.device))
        scores, patches = self._score(features, len(batch.images), bank.features)
        size = (batch.images.shape[2], batch.images.shape[3])
        maps = anomaly_map(patches.view(-1, *grid), size, c.sigma, c.upsample, c.border).cpu().numpy()
        for i, score in enumerate(scores.tolist()):
            record, original = batch.records[i], batch.sizes[i]
            yield Prediction(
                None if record is None else record.path, score, maps[i],
                None if bank.threshold is None else score > bank.threshold,
                original, None if original is None else c.resize,
            )  # fmt: skip

    def _fitted(self, name: str) -> MemoryBank:
        if self._bank is None:
            raise ValueError(f"PatchCore.{name}: there is no memory bank yet, call fit or load first")
        return self._bank

    def _bar(self, batches: Batches, what: str) -> Iterator[Batch]:
        with bar(batches.count, what, self.progress) as shown:
            for batch in batches:
                yield batch
                shown.update(len(batch.images))


@contextmanager
def _set(thing: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(thing, name)
    setattr(thing, name, value)
    try:
        yield
    finally:
        setattr(thing, name, before)
