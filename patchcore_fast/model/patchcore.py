"""The estimator: fit on normal images, then predict, evaluate, save and load."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from patchcore_fast.config import RESCORED, PatchCoreConfig, RunningSettings, current
from patchcore_fast.feature_store import FeatureStore
from patchcore_fast.features import FeatureExtractor
from patchcore_fast.features.modules import as_source
from patchcore_fast.kernels.surroundings import undisturbed
from patchcore_fast.layered_bank import Bank, LayeredBank, load_bank
from patchcore_fast.model.batches import Batch, Batches, batches_of
from patchcore_fast.model.collect import FeatureRows
from patchcore_fast.model.decision import undecided
from patchcore_fast.model.evaluation import evaluate_batches
from patchcore_fast.model.fewshot import Augmentation, settle
from patchcore_fast.model.fitting import choose_bank
from patchcore_fast.model.highest import highest_scorer
from patchcore_fast.model.layered import choose_layers, scorer_of
from patchcore_fast.model.living import Growth, updated
from patchcore_fast.model.loading import fitting_extractor, stored_config
from patchcore_fast.model.passes import check_read, make_extractor, predict_batch, predict_scores, training_rows
from patchcore_fast.model.predicting import Predicting
from patchcore_fast.model.results import Evaluation, Prediction
from patchcore_fast.model.score import Score
from patchcore_fast.model.selection import Selector
from patchcore_fast.model.stored import unread_of
from patchcore_fast.model.training import Source, together
from patchcore_fast.progress import bar


class PatchCore(Predicting):
    """PatchCore (Roth et al., CVPR 2022): a bank of normal patch features; what is far from it is anomalous.

    Parameters
    ----------
    config : settings, `PatchCoreConfig()` when None.
    sampler : an object with `select(features [N, D]) -> indices [k]` in place of the config's sampler. With a
        true attribute `uses_positions` it gets positions=[N, 3] (image, row, column) too; with `instability`
        == "views" also views=[[N, D], ...], the features of changed images; which, its `view_kinds` says
        (`model.views.KINDS`), mirrored, darker and flatter ones without it.
    backbone : a network of yours in place of the config's: what `Backbone.of` made, or an nn.Module or callable that it
        can make one of, with the config's layers where these are names. The bank says its class and the fingerprint of
        its weights, and `load` wants it again.
    progress : True or False forces progress bars on or off; None shows them on a terminal.
    group : a torch.distributed process group whose ranks fit together, or None: each calls `fit` alike, computes its
        share of the images, and gets the bank of all (docs/scale.md). Progress is shown on rank 0.

    Attributes
    ----------
    bank : of fit or load, a MemoryBank, or with banks="layer" a LayeredBank; ValueError before.
    timings_ : seconds of the last fit: "features", "selection", "price", "threshold".
    unread_ : (file, why) of each training image that the last fit left out; empty unless it was told to.
    report_ : what the sampler of the last fit reports (its `report_`; of one that reports nothing seconds and
        the process's peak memory in "projection" and "selection"), of each layer's selection with banks="layer".
    """

    def __init__(
        self,
        config: PatchCoreConfig | None = None,
        sampler: Any = None,
        *,
        backbone: Any = None,
        progress: bool | None = None,
        group: Any = None,
    ) -> None:
        """Keep the settings; the backbone is built when it is first needed."""
        if config is not None and not isinstance(config, PatchCoreConfig):
            raise TypeError(f"PatchCore: config must be a PatchCoreConfig, got {type(config).__name__}")
        if sampler is not None and not callable(getattr(sampler, "select", None)):
            raise TypeError(f"PatchCore: sampler must have select(features), got {type(sampler).__name__}")
        self.config = config or PatchCoreConfig()
        self.sampler = sampler
        self.progress, self.group = progress, group
        self.device = torch.device(self.config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"PatchCore: device {self.device} was asked for, but torch sees no CUDA device")
        self._bank: Bank | None = None
        self._scorer: Score | None = None  # of this bank, made when it is first needed
        self.timings_: dict[str, float] = {}
        self.unread_: list[tuple[Path, str]] = []
        self.report_: list[dict[str, Any]] = []
        self._extractor: FeatureExtractor | None = None
        if backbone is not None:
            source = as_source(backbone, self.config.features.layers, self.config.features.seen_size, self.device)
            self.config = self.config.replace(backbone=source.name, layers=source.layers, weights="given")
            self._extractor = make_extractor(self.config, self.device, source)

    @property
    def extractor(self) -> FeatureExtractor:
        """Backbone and fusion of the config, built on first use. ValueError: other weights than the bank's."""
        if self._extractor is None:
            made = self._built()
            if self._bank is not None and self._bank.weights not in ("", made.backbone.fingerprint()):
                self._extractor = None
                raise ValueError("PatchCore: the weights of the backbone are others than those that the bank comes of")
        return self._built()

    @property
    def bank(self) -> Bank:
        """What fit or load made, on the model's device."""
        return self._fitted("bank")

    @undisturbed
    def fit(
        self,
        data: Any,
        *,
        shots: int | None = None,
        augment: Any = None,
        on_error: str = "raise",
        store: str | os.PathLike[str] | None = None,
    ) -> PatchCore:
        """Fill the memory bank with patches of normal images.

        The threshold is the score that a new normal image exceeds with the probability `max_false_alarms`, by up to 200
        training images, each scored by a bank that was selected without it (docs/threshold.md). A single image gives
        none. Images of which the sampler pruned patches that no other image supports are not asked.
        Maps of the same images give the pixel threshold, which `max_false_pixels` of new normal pixels exceed.

        Parameters
        ----------
        data : a folder (its train/good, or all its images), an ImageSet (its train part), paths or ImageRecords, a
            tensor [N, 3, H, W], or a loader of tensors or of dicts with "image". Tensors lie in [0, 1], not normalised,
            and keep their size; files are resized as the config says. Or a `FeatureStore`, with the settings that it
            was made with: then no image is read.
        shots : images drawn of them by the config's seed; the config's when None. One shot gives no threshold.
        augment : "none", "rotate", or a transform (torchvision.transforms.v2) of an image [3, H, W]: the patches of the
            config's `augmentations` copies of each image join its own before the selection; the config's when None.
            The threshold is of the images themselves, each without its own rows and those of its copies.
        on_error : "raise" ends at the first file that cannot be read; "return" leaves it out and names it in `unread_`.
        store : a folder for the features, which are selected from there; see `extract`.

        Raises
        ------
        DataError : no images, or one that cannot be read (with "return": none that can).  ValueError, TypeError :
            tensors that are no images, a coreset of fewer rows than `neighbours`, or a store of other settings.
        MemoryError, OSError : there is no room for so many patches, said before the long work begins.
        RankError : another rank of the group has failed or died.
        """
        config, augmentation = settle(self.config, shots, augment, self.sampler)
        selector = Selector(config, self.sampler, self.device, self.group)
        clock = time.perf_counter()
        learned = None if self._extractor is None else self._extractor.learned  # of an earlier fit
        if self._extractor is not None:
            self._extractor.learned = None
        try:
            with together("PatchCore.fit", self.group) as ranks, ExitStack() as opened:
                known = None if self._extractor is None else self._extractor.widths
                source = Source(config, augmentation, self._built, ranks, self.progress, known)
                found = source.training(data, store, selector, on_error, opened)
                timings = {"features": time.perf_counter() - clock}
                if ranks is not None:
                    ranks.where = "the bank was being chosen"
                facts: dict[str, Any] = {
                    "images": found.images, "weights": found.weights, "progress": source.progress
                }  # fmt: skip
                made: tuple[Bank, dict[str, float]]
                if config.selection.banks == "layer":
                    made = choose_layers(found.rows, found.views, selector, augmentation, found.widths, **facts)
                else:
                    reduction = None if self._extractor is None else self._extractor.learned
                    made = choose_bank(found.rows, found.views, selector, augmentation, learned=reduction, **facts)
        except BaseException:
            if self._extractor is not None:
                self._extractor.learned = learned  # it goes with the bank that there still is
            raise
        bank, spent = made
        if self._extractor is not None and self._extractor.backbone.fingerprint() != bank.weights:
            self._extractor = None  # a store of other weights: the next use compares
        self.unread_, self._bank = found.unread, bank
        self.timings_, self.report_, self._scorer = timings | spent, selector.reports, None
        return self

    @undisturbed
    def extract(
        self,
        data: Any,
        store: str | os.PathLike[str],
        *,
        dtype: str | None = None,
        shots: int | None = None,
        augment: Any = None,
        on_error: str = "raise",
    ) -> FeatureStore:
        """Write the features that `fit` would choose from into a folder, and open it.

        What is there already of the same images, settings and weights is kept, so that a run which was interrupted goes
        on behind its last whole shard. `fit` then takes the store in place of the images.

        Parameters
        ----------
        data : a folder, an ImageSet or paths.  shots, augment, on_error : as in `fit`.
        store : the folder; made where it is not there.
        dtype : "float32", or "float16", to which rows are then rounded; the config's precision when None.

        Raises
        ------
        DataError : the folder holds other things, a damaged store or one of other features; or as in `fit`.
        OSError : there is no room for them.
        """
        config, augmentation = settle(self.config, shots, augment, self.sampler)
        with together("PatchCore.extract", self.group) as ranks:
            source = Source(config, augmentation, self._built, ranks, self.progress)
            found = source.extract(data, store, dtype, on_error)
        self.unread_ = unread_of(found)
        return found

    @undisturbed
    def update(
        self,
        data: Any,
        *,
        radius: float | None = None,
        add: int | None = None,
        size: int | None = None,
        on_error: str = "raise",
    ) -> float:
        """Let new normal images join the bank; returns the radius within which their patches then are of it.

        Without an argument rows are added until the new patches are as near to the bank as those that it was fitted
        on: `bank.radius`, in the space of the selection. See docs/living-banks.md.

        Parameters
        ----------
        data, on_error : as in `fit`.
        radius : another distance.  add : so many rows instead.
        size : the bank has so many rows afterwards: exact greedy of its own and the new ones.

        Raises
        ------
        ValueError : more than one of the three; none, and a bank that does not know its radius; a bank for each layer.
        """
        bank, growth = self._fitted("update"), Growth(radius, add, size)
        if isinstance(bank, LayeredBank):
            raise ValueError(
                'PatchCore.update: banks="layer": the scales of the layers are those of all training images, fit again'
            )
        _, augmentation = settle(self.config, None, None, None)
        batches = batches_of(data, self.config, "train", on_error=on_error)
        rows, self.unread_ = self._rows(batches, augmentation)
        unread = {path for path, _ in self.unread_}
        names = [batches.name(r.path) for r in batches.records or [] if r.path not in unread]
        with bar(None, "coreset", self.progress) as shown, bar(None, "threshold", self.progress) as asked:
            self._bank, reached = updated(
                bank, rows, growth, self.config, augmentation, self.device, names, shown.at, asked.at
            )
        self._scorer = None
        return reached

    @undisturbed
    def training_features(self, data: Any, *, on_error: str = "raise") -> FeatureRows:
        """The patch features that `fit` would choose from: `.features` [N, D], `.positions(indices)`, `.grid`.

        As in `fit`; the bank stays. Of a config that augments, copies follow their image and count.
        """
        config, augmentation = settle(self.config, None, None, self.sampler)
        if self._bank is None:
            self.extractor.learned = None  # of other images
        batches = batches_of(data, config, "train", config.selection.shots, on_error)
        rows, self.unread_ = self._rows(batches, augmentation)
        return rows

    @undisturbed
    def evaluate(self, data: Any, *, on_error: str = "raise") -> Evaluation:
        """Compare predictions with the truth; see `Evaluation`.

        Parameters
        ----------
        data : a folder in MVTec layout or an ImageSet (its test part), ImageRecords with labels, or a loader of dicts
            with "image", "label" and where known "mask" [B, H, W] and "has_mask".
        on_error : "raise" ends at the first image or mask that cannot be used; "return" measures on the others and
            lists it in `Evaluation.unread`, or beside its image where only the mask is broken.
        """
        self._fitted("evaluate")
        batches = batches_of(data, self.config, "test", on_error=on_error)
        return evaluate_batches(
            batches.shown("evaluate", self.progress), self._predict, batches.name, self.bank, self.config
        )

    def rescore(self, **settings: Any) -> None:
        """Score from now on with other settings of RESCORED; the bank stays.

        A change takes the thresholds away: they were found with the scores of `fit`, and say nothing about others.
        """
        bank, settings = self._fitted("rescore"), current(settings)
        if unknown := sorted(set(settings) - set(RESCORED)):
            raise ValueError(f"PatchCore.rescore: settings of the scoring are wanted, got {', '.join(unknown)}")
        config = self.config.replace(**settings)
        repriced = config.search.price != self.config.search.price
        if repriced and config.search.price > 0 and all(part.support is None for part in bank.parts):
            raise ValueError("PatchCore.rescore: price: the bank does not know how far its rows are from other images; "
                             "fit several images with a price")  # fmt: skip
        if config != self.config:
            self.config, self._scorer = config, None
            bank = undecided(replace(bank, config=bank.config | settings))
            if repriced and isinstance(bank, LayeredBank):
                bank = replace(bank, parts=tuple(replace(p, config=bank.config) for p in bank.parts))
            self._bank = bank.with_index(config.search.index, config.selection.seed) if repriced else bank

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the memory bank, whole or not at all; see `MemoryBank.save`."""
        self._fitted("save").save(path)

    @classmethod
    @undisturbed
    def load(
        cls,
        path: str | os.PathLike[str],
        device: str | torch.device | None = None,
        *,
        weights: str | None = None,
        allow_download: bool = False,
        batch_size: int = RunningSettings.batch_size,
        workers: int = RunningSettings.workers,
        index: str | None = None,
        backbone: Any = None,
        progress: bool | None = None,
    ) -> PatchCore:
        """A model from a saved bank; docs/bank-file.md says what a file may decide and what only its reader.

        Parameters
        ----------
        device, batch_size, workers : how it runs here, whatever the file says.
        weights : where the backbone's weights are: "random" and those of packages that are installed are found without.
        allow_download : whether timm may fetch the backbone that the file names.
        index : a search in place of the file's, made anew.
        backbone : the network, where the bank was fitted with one that was given.

        Raises
        ------
        BankError : a file that is no usable bank, that wants weights or a download which were not given, or that was
            made with other weights.  DataError : `weights` cannot be read.  ConnectionError : the download failed.
        """
        bank = load_bank(path, index)
        config = stored_config(path, bank, weights, allow_download, index, backbone is not None)
        running = RunningSettings(batch_size, workers, None if device is None else str(device))
        model = cls(config.replace(running=running), progress=progress)
        model._extractor = fitting_extractor(path, bank, model.config, model.device, backbone)
        model._bank = bank.to(model.device)
        return model

    def _built(self) -> FeatureExtractor:
        if self._extractor is None:
            self._extractor = make_extractor(self.config, self.device)
        return self._extractor

    def _rows(self, batches: Batches, augmentation: Augmentation) -> tuple[FeatureRows, list[tuple[Path, str]]]:
        shown = batches.shown("features", self.progress)
        rows, _, unread = training_rows(shown, batches.count, self.extractor, self.device, augmentation)
        check_read(rows, unread)
        return rows, unread

    def _predict(self, batch: Batch) -> Iterator[Prediction]:
        if self._scorer is None:
            self._scorer = scorer_of(self.config, self.bank)
        return predict_batch(batch, self.config, self.extractor, self._scorer, self.bank, self.device)

    def _decided(self, facts: Bank) -> None:
        self._bank = facts

    def _predict_scores(self) -> Callable[[Batch], Iterator[Prediction]]:
        scorer, bank = highest_scorer(self.config, self.bank), self.bank
        return lambda batch: predict_scores(batch, self.config, self.extractor, scorer, bank, self.device)

    def _fitted(self, name: str) -> Bank:
        if self._bank is None:
            raise ValueError(f"PatchCore.{name}: there is no memory bank yet, call fit or load first")
        return self._bank
