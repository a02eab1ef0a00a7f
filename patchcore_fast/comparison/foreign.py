"""A model of anomalib, where that is installed, behind the same fit, predict and evaluate.

Its network, its training step and its scores are anomalib's; images, the backbone's weights where it can be told which
backbone, and metrics are ours. Imported in a cell's process alone. Tried with anomalib 2.2 (docs/compare.md).
"""

from __future__ import annotations

import importlib
import inspect
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from patchcore_fast.comparison.plan import plain
from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.data import ImageRecord, ImageSet, make_loader
from patchcore_fast.features.networks import build, outline
from patchcore_fast.model.batches import Batch, batches_of
from patchcore_fast.model.evaluation import evaluate_predictions
from patchcore_fast.model.results import Evaluation, Prediction

# Models that can be told backbone and layers, and what else they then want: Padim knows its width for two networks.
SAME = {"padim": {"n_features": 100}, "patchcore": {}, "stfpm": {}}
# Those that scale their maps by normal images that they were not trained on, and train with one image a step.
CALIBRATED, HELD_OUT = ("efficientad",), 10  # one of so many training images
PARTS = ("evaluator", "visualizer", "post_processor")  # of a model: metrics, pictures and thresholds of theirs


class AnomalibModel:
    """See the module's text.

    Parameters
    ----------
    name : of the model, "Padim" or "padim".  config : its features, seed and running count.
    epochs : of a model that is trained for more than one; None takes its own number.

    Attributes
    ----------
    notes : what is not as the config says.  unread_ : (file, why) of training images that the fit left out.

    Raises
    ------
    ValueError : no such model, or images of no one size.
    """

    def __init__(self, name: str, config: PatchCoreConfig, epochs: int | None) -> None:
        """Build the model, with the weights of its backbone."""
        if config.input_size is None:
            raise ValueError(
                "anomalib's models take images of one size: give --image-size, and --crop with --aspect keep"
            )
        self.config, self.epochs = config, epochs
        self.device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.notes: list[str] = []
        self.unread_: list[tuple[Path, str]] = []
        for noisy in ("lightning", "lightning.pytorch", "anomalib"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        self._lightning = importlib.import_module("lightning.pytorch")
        self._batch = importlib.import_module("anomalib.data").ImageBatch
        self._lightning.seed_everything(config.seed % 2**32, verbose=False)
        self.model = self._built(_kind(name))

    def fit(self, data: ImageSet, *, on_error: str = "raise") -> AnomalibModel:
        """Train as anomalib does, by its own arguments for the trainer, for all epochs."""
        given = dict(self.model.trainer_arguments)
        own = given.pop("max_epochs", None)
        name = type(self.model).__name__
        if own is None and self.epochs is None:
            raise ValueError(f"anomalib's {name} has no number of epochs of its own: give --epochs")
        epochs = own if own == 1 or self.epochs is None else self.epochs
        if own != 1:
            self.notes.append(f"trained for {epochs} epochs")
        records = [r for r in data.train if r.label <= 0]
        drawn = torch.Generator().manual_seed(self.config.seed % 2**63)
        records = [records[i] for i in torch.randperm(len(records), generator=drawn).tolist()]
        held = max(1, len(records) // HELD_OUT) if plain(name) in CALIBRATED else 0
        step = 1 if held else self.config.running.batch_size
        if held:
            self.notes.append(f"scaled by {held} training images that it was not trained on; one image a step")
        parts = [_Images(part, step, self.config, self._batch, on_error, drawn)
                 for part in (records[held:], records[:held])]  # fmt: skip

        class Data(self._lightning.LightningDataModule):  # type: ignore[name-defined]
            train_batch_size = step

            def train_dataloader(self) -> Any:
                return parts[0]

            def val_dataloader(self) -> Any:
                return parts[1]

        trainer = self._lightning.Trainer(**{
            **given, "max_epochs": epochs, "accelerator": "gpu" if self.device.type == "cuda" else "cpu", "devices": 1,
            "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
            "limit_val_batches": 1.0 if held else 0, "check_val_every_n_epoch": epochs, "num_sanity_val_steps": 0,
        })  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(self.model, datamodule=Data())
        self.unread_ = list(dict.fromkeys(u for part in parts for u in part.unread))
        self.model.to(self.device).eval()
        return self

    def predict(self, data: torch.Tensor) -> list[Prediction]:
        """Of images [N, 3, H, W] in [0, 1]."""
        return [p for batch in batches_of(data, self.config, "any") for p in self._predict(batch)]

    def evaluate(self, data: ImageSet, *, on_error: str = "raise") -> Evaluation:
        """Its scores and maps through the metrics of `PatchCore.evaluate`; pixel metrics where it has maps."""
        batches = batches_of(data, self.config, "test", on_error=on_error)
        clock = time.perf_counter()
        found, seen = list[Prediction](), list[Batch]()
        for batch in batches:
            found += self._predict(batch)
            seen.append(replace(batch, images=batch.images[:0].clone(), masks=batch.masks if self._maps else None))
        taken = time.perf_counter() - clock
        return evaluate_predictions(found, seen, batches.name, None, None, self.config, taken)

    @torch.inference_mode()
    def _predict(self, batch: Batch) -> list[Prediction]:
        found = self.model(batch.images.to(self.device))
        size, n = batch.images.shape[2:], len(batch.images)
        self._maps = found.anomaly_map is not None
        maps = np.full((n, *size), np.nan, np.float32)
        if self._maps:
            theirs = found.anomaly_map.float().reshape(n, 1, *found.anomaly_map.shape[-2:])
            maps = torch.nn.functional.interpolate(theirs, size, mode="bilinear").squeeze(1).cpu().numpy()
        scores = maps.max((1, 2)) if found.pred_score is None else found.pred_score.reshape(n).float().cpu().numpy()
        return [
            Prediction(
                None if record is None else record.path,
                float("nan" if error else score),
                level,
                None,
                original,
                error=error,
            )
            for score, level, record, original, error in zip(
                scores, maps, batch.records, batch.sizes, batch.errors, strict=True
            )
        ]

    def _built(self, kind: Any) -> Any:
        f, takes = self.config.features, inspect.signature(kind).parameters
        options: dict[str, Any] = {name: False for name in PARTS if name in takes}
        if "image_size" in inspect.signature(kind.configure_pre_processor).parameters:
            options["pre_processor"] = kind.configure_pre_processor(image_size=self.config.input_size)
        if (more := SAME.get(plain(kind.__name__))) is not None:
            known = outline(f.backbone)
            options |= {"backbone": f.backbone, "layers": [known.modules[i] for i in known.numbers(f.layers)], **more}
            _give_weights(self.config)
        elif "backbone" in takes:
            self.notes.append(f"its own backbone {takes['backbone'].default}")
        if f.weights == "random" and "pre_trained" in takes and more is None:
            options["pre_trained"] = False
        if f.weights == "random":
            self.notes.append("random weights in its backbone")
        made = kind(**options)
        if made.input_size not in (None, self.config.input_size):
            self.notes.append(f"its own image size, {made.input_size[0]} x {made.input_size[1]}")
        from importlib.metadata import version

        self.notes.append(f"anomalib {version('anomalib')}")
        return made


def _kind(name: str) -> Any:
    """The class of a model."""
    models = importlib.import_module("anomalib.models")
    for found in vars(models).values():
        if inspect.isclass(found) and plain(found.__name__) == plain(name):
            return found
    raise ValueError(f"anomalib.models has no {name}")


def _give_weights(config: PatchCoreConfig) -> None:
    """Let anomalib's extractor of timm's features have our weights where it wants pretrained ones of our backbone.

    For this process alone, which has no other model.
    """
    theirs: Any = importlib.import_module("anomalib.models.components.feature_extractors.timm")
    f = config.features

    class Timm:
        def __getattr__(self, name: str) -> Any:
            return getattr(original, name)

        def create_model(self, name: Any, pretrained: bool = False, **options: Any) -> Any:
            if name == f.backbone and pretrained and options.get("features_only"):
                known = outline(f.backbone)
                return build(known, tuple(options["out_indices"]), f.weights, False, known.size(config.input_size))
            return original.create_model(name, pretrained=pretrained, **options)

    original, theirs.timm = theirs.timm, Timm()


class _Images:
    """Normal images as batches of anomalib, in another order each time.

    unread : (file, why) of those that could not be read, at each time.
    """

    def __init__(
        self, records: Sequence[ImageRecord], step: int, config: PatchCoreConfig, kind: Any, on_error: str,
        drawn: torch.Generator,
    ) -> None:  # fmt: skip
        self.records, self.step, self.config, self.kind, self.on_error = records, step, config, kind, on_error
        self.unread: list[tuple[Path, str]] = []
        self._drawn = drawn

    def __len__(self) -> int:
        return -(-len(self.records) // self.step)

    def __iter__(self) -> Iterator[Any]:
        f = self.config.features
        order = torch.randperm(len(self.records), generator=self._drawn).tolist()
        records, workers = [self.records[i] for i in order], self.config.running.workers
        for item in make_loader(records, f.resize, f.crop, self.step, workers, self.on_error, f.aspect):
            bad = {i: error for i, error in enumerate(item["error"]) if error}
            self.unread += [(records[int(item["index"][i])].path, error) for i, error in bad.items()]
            good = [i for i in range(len(item["error"])) if i not in bad]
            if good:
                labels = torch.zeros(len(good), dtype=torch.long)
                yield self.kind(image=item["image"][good], gt_label=labels)
