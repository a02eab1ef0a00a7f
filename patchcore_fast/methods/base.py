"""What all methods beside PatchCore are: fit, predict, evaluate, save and load, around what each one learns."""

from __future__ import annotations

import copy
import os
import time
from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from patchcore_fast.bank_file import bank_error
from patchcore_fast.config import RESCORED, PatchCoreConfig, RunningSettings, current
from patchcore_fast.config.base import Settings
from patchcore_fast.config.methods import MethodConfig, MethodSettings
from patchcore_fast.errors import DataError
from patchcore_fast.features import Backbone, FeatureSource
from patchcore_fast.features.modules import as_source
from patchcore_fast.kernels.surroundings import undisturbed
from patchcore_fast.methods.checkpoint import read_checkpoint
from patchcore_fast.methods.file import Learned, Shapes, check_tensors, read_model, write_model
from patchcore_fast.methods.module import FrozenMaps, MethodModule, score_images
from patchcore_fast.methods.reading import Read, Reading
from patchcore_fast.model.batches import Batch, batches_of
from patchcore_fast.model.decision import thresholds
from patchcore_fast.model.evaluation import evaluate_batches
from patchcore_fast.model.loading import built, check_weights, readers
from patchcore_fast.model.passes import make_source, predictions_of
from patchcore_fast.model.pixels import HeldOut, quantiles_of
from patchcore_fast.model.predicting import Predicting
from patchcore_fast.model.results import Evaluation, Prediction
from patchcore_fast.stages import stage

if TYPE_CHECKING:
    from typing_extensions import Self


class Method(Predicting):
    """A method of anomaly detection on the maps of a frozen backbone.

    A subclass gives `name`, `title`, `settings_type`, `_fit`, `_scorer`, `_tensors`, `_shapes` and `_restore`.

    Parameters
    ----------
    config : PatchCore's settings, of which the method takes `settings_type.uses`; defaults when None.
    settings : the method's own, defaults when None.
    backbone : a network of yours in place of the config's, as `PatchCore` takes it; `load` wants it again.
    progress : True or False forces progress bars on or off; None shows them on a terminal.

    Attributes
    ----------
    config, settings : as above, with what follows from the backbone.
    learned : facts of fit or load; ValueError before.
    timings_ : seconds of the last fit: "fit", and what a method has beside.
    unread_ : (file, why) of each training image that the last fit left out; empty unless it was told to.
    report_ : what the last fit reports beside, empty here.
    """

    name: ClassVar[str]
    title: ClassVar[str]  # for people
    settings_type: ClassVar[type[MethodSettings]]
    of_map: ClassVar[bool] = False  # the image score is of the smoothed map and not of the patches
    settings: Any

    def __init__(
        self,
        config: PatchCoreConfig | None = None,
        settings: Settings | None = None,
        *,
        backbone: Any = None,
        progress: bool | None = None,
    ) -> None:
        """Keep the settings; the backbone is built when it is first needed."""
        given = self.settings_type() if settings is None else settings
        made = MethodConfig(self.name, config or PatchCoreConfig(), given)  # type: ignore[arg-type]  # it looks
        self.config, self.settings, self.progress = made.base, made.settings, progress
        self.device = torch.device(self.config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"{self.title}: device {self.device} was asked for, but torch sees no CUDA device")
        self.timings_: dict[str, float] = {}
        self.unread_: list[tuple[Path, str]] = []
        self.report_: list[dict[str, Any]] = []
        self._learned: Learned | None = None
        self._source: FeatureSource | None = None
        self._ready: MethodModule | None = None  # of this fit, made when it is first needed
        if backbone is not None:
            self._source = as_source(backbone, self.config.features.layers, self.config.features.seen_size, self.device)
            self.config = self.config.replace(
                backbone=self._source.name, layers=self._source.layers, weights="given"
            )  # fmt: skip

    # --- what a subclass gives ---------------------------------------------------------------------------------------

    @abstractmethod
    def _fit(self, batches: Read, count: int | None, **options: Any) -> HeldOut:
        """Learn from the training images; what some of them say by a model that has not seen them, for the thresholds.

        What the model is may change at the end only, so that a fit that fails leaves it as it was. Gradients are off
        here: who wants them says `torch.enable_grad()`.

        Parameters
        ----------
        batches : each call reads all images once more, in the same order; see `Read`. Those that cannot be read are
            left out, all have `config.input_size`.
        count : how many come, None when it cannot be known; those that cannot be read count too.
        options : what `fit` was given beside its own arguments.
        """

    @abstractmethod
    def _scorer(self) -> torch.nn.Module:
        """A module on the device: (maps, a list of [B, C, h, w]; (H, W) of the images) -> patch scores [B, h, w].

        Of plain operations, which torch.export can write. The grid is the method's to choose, up to (H, W).
        """

    @abstractmethod
    def _tensors(self) -> dict[str, torch.Tensor]:
        """What a file holds of the fitted model."""

    @abstractmethod
    def _shapes(self, stored: dict[str, torch.Tensor]) -> Shapes:
        """Names, types and shapes of the tensors that a file must hold, given what one holds.

        They follow from the settings and from `map_shapes`; from `stored` only what these leave open.
        """

    @abstractmethod
    def _restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Be the model of these tensors, which have the names, types and shapes of `_shapes` and are finite.

        ValueError: their values cannot be.
        """

    def said(self) -> str:
        """The fitted model in a few words: "PaDiM, fitted on 34 images"."""
        return f"{self.title}, {self.learned.fitted_on}"

    # --- the model ---------------------------------------------------------------------------------------------------

    @property
    def described(self) -> MethodConfig:
        """All settings."""
        return MethodConfig(self.name, self.config, self.settings)

    @property
    def learned(self) -> Learned:
        """Facts of fit or load."""
        return self._fitted("learned")

    @property
    def source(self) -> FeatureSource:
        """The backbone, built on first use. ValueError: other weights than the model's."""
        if self._source is None:
            made = make_source(self.config, self.device)
            if self._learned is not None and self._learned.weights not in ("", made.fingerprint()):
                raise ValueError(
                    f"{self.title}: the weights of the backbone are others than those that it was fitted on"
                )
            self._source = made
        return self._source

    @cached_property
    @undisturbed
    def map_shapes(self) -> list[tuple[int, int, int]]:
        """(C, h, w) of each map of the backbone."""
        source, device = self.source, self.device
        if isinstance(source, Backbone):  # a file may name any size: nothing is computed, and no memory taken
            source, device = copy.deepcopy(source).to("meta"), torch.device("meta")
        black = torch.zeros(1, 3, *self.described.input_size, device=device)
        return [(m.shape[1], m.shape[2], m.shape[3]) for m in source(black)]

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The backbone's maps [B, C, h, w] of images [B, 3, H, W]: without gradients, but one may compute such of them.

        What torch makes in inference mode, as the backbone does, may not be kept for a backward pass: these are copies.
        """
        return [m.clone() for m in self.source(images.to(self.device))]

    def patch_scores(self, images: torch.Tensor) -> torch.Tensor:
        """Patch scores [B, h, w] of images [B, 3, H, W] in [0, 1]."""
        self._fitted("patch_scores")
        return self._ready_module().scorer(self.maps(images), (images.shape[2], images.shape[3]))

    @undisturbed
    def fit(self, data: Any, *, on_error: str = "raise", **options: Any) -> Self:
        """Learn what is normal; the threshold is the score that a new normal image exceeds with `max_false_alarms`.

        It goes by scores of training images that were left out when they were scored (docs/threshold.md); fewer than
        two give none.

        Parameters
        ----------
        data : as `PatchCore.fit` takes it, but no `FeatureStore`; images have the config's size.
        on_error : "raise" ends at the first file that cannot be read; "return" leaves it out and names it in `unread_`.
        options : of the method's own `fit`, where it has more.

        Raises
        ------
        DataError : no images, or one that cannot be read (with "return": none that can).
        ValueError, TypeError : tensors that are no images, or of another size.
        """
        clock, self.timings_ = time.perf_counter(), {}
        batches = batches_of(data, self.config, "train", self.config.selection.shots, on_error)
        reading = Reading(batches, self._check_size, self.progress)
        held = self._fit(reading, batches.count, **options)
        if not reading.used:
            raise DataError(f"{self.title}.fit: none of {len(reading.unread)} images can be read; "
                            f"{reading.unread[0][1]}")  # fmt: skip
        self.unread_, self._ready = reading.unread, None
        self.timings_.setdefault("fit", time.perf_counter() - clock)
        unread = {path for path, _ in reading.unread}
        self._learned = Learned(
            **thresholds(held, self.config.decision, False),
            config=self.described.to_dict(),
            images=[batches.name(r.path) for r in batches.records or [] if r.path not in unread],
            weights=self.source.fingerprint(),
            count=reading.used,
        )
        return self

    @undisturbed
    def evaluate(self, data: Any, *, on_error: str = "raise") -> Evaluation:
        """Compare predictions with the truth; arguments as of `PatchCore.evaluate`."""
        learned = self._fitted("evaluate")
        batches = batches_of(data, self.config, "test", on_error=on_error)
        shown = batches.shown("evaluate", self.progress)
        return evaluate_batches(shown, self._predict, batches.name, learned, self.described)

    def rescore(self, **settings: Any) -> None:
        """Score from now on with other settings of `config.RESCORED`, as far as the method uses them.

        A change takes the thresholds away: they were found with the scores of `fit`, and say nothing about others.
        """
        learned, settings = self._fitted("rescore"), current(settings)
        if unknown := sorted(set(settings) - set(RESCORED)):
            raise ValueError(f"{self.title}.rescore: settings of the scoring are wanted, got {', '.join(unknown)}")
        before, self.config = self.config, MethodConfig(self.name, self.config.replace(**settings), self.settings).base
        if self.config != before:
            self._ready = None
            self._learned = Learned(None, None, learned.config | settings, learned.images, learned.weights,
                                    learned.count, learned.versions)  # fmt: skip

    def module(self) -> MethodModule:
        """The fitted model as a module of its own on the CPU: images [B, 3, H, W] -> (scores [B], maps [B, H, W]).

        Of plain operations and of images of the config's size, as `export` writes it.
        """
        self._fitted("module")
        maps = FrozenMaps(self.source, self.described.input_size)
        scorer = copy.deepcopy(self._scorer()).cpu()
        return MethodModule(maps, scorer, self.config, self.of_map).eval().requires_grad_(False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model, whole or not at all; see `methods.file`."""
        learned = self._fitted("save")
        write_model(path, learned, self._tensors())

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
        backbone: Any = None,
        progress: bool | None = None,
    ) -> Self:
        """A model from its file, or from a folder of checkpoints, then without a threshold (`methods.checkpoint`).

        Arguments and errors as of `PatchCore.load`.
        """
        path = Path(path)
        learned, tensors = (read_checkpoint if path.is_dir() else read_model)(path)
        settings = learned.settings
        if settings.method != cls.name:
            raise bank_error(path, f"a model of the method {settings.method}, and {cls.name} is wanted")
        try:
            config = readers(settings.base, weights, allow_download, backbone is not None)
        except (TypeError, ValueError) as error:
            raise bank_error(path, f"its settings cannot be used ({error})") from error
        running = RunningSettings(batch_size, workers, None if device is None else str(device))
        model = cls(config.replace(running=running), settings.settings, progress=progress)
        f = model.config.features
        given = None if backbone is None else as_source(backbone, f.layers, f.seen_size, model.device)
        model._source = built(path, lambda: given or make_source(model.config, model.device))
        check_weights(path, model.source, learned.weights, given is not None)
        try:
            check_tensors(tensors, model._shapes(tensors))
            model._restore({name: t.to(model.device) for name, t in tensors.items()})
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise bank_error(path, f"is no {cls.title} of its settings ({error})") from error
        model._learned = learned
        return model

    def _ready_module(self) -> MethodModule:
        if self._ready is None:
            self._ready = MethodModule(self.source, self._scorer(), self.config, self.of_map).eval()
        return self._ready

    def _predict(self, batch: Batch) -> Iterator[Prediction]:
        self._check_size(batch.images)
        with torch.inference_mode(), stage("model"):
            scores, maps = self._ready_module()(batch.images.to(self.device))
        yield from predictions_of(batch, scores, maps, self.learned, self.config)

    def _held_out(self, patches: torch.Tensor) -> HeldOut:
        """Scores and maps of images whose patch scores [B, h, w] are known, as predictions have them."""
        size, scoring, found = self.described.input_size, self.config.scoring, HeldOut([], [])
        for one in patches:
            scores, maps = score_images(one[None].float(), size, scoring, self.of_map)
            found.add(float(scores[0]), quantiles_of(maps)[0])
        return found

    def _check_size(self, images: torch.Tensor) -> None:
        if tuple(images.shape[2:]) != (size := self.described.input_size):
            raise ValueError(f"{self.title}: images must have the {size[0]} x {size[1]} pixels of the settings, got "
                             f"{images.shape[2]} x {images.shape[3]}")  # fmt: skip

    def _decided(self, facts: Learned) -> None:
        self._learned = facts

    def _fitted(self, name: str) -> Learned:
        if self._learned is None:
            raise ValueError(f"{self.title}.{name}: there is no model yet, call fit or load first")
        return self._learned
