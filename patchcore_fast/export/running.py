"""An exported file in place of the model: the same images in, the same predictions out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from patchcore_fast.bank_file import bank_error, is_finite
from patchcore_fast.config import PatchCoreConfig, RunningSettings
from patchcore_fast.config.methods import MethodConfig
from patchcore_fast.errors import BankError
from patchcore_fast.export.formats import SUFFIXES, Facts, Run, read_files, unpack
from patchcore_fast.kernels.surroundings import undisturbed
from patchcore_fast.model.batches import Batch, batches_of
from patchcore_fast.model.evaluation import evaluate_batches
from patchcore_fast.model.loading import completed
from patchcore_fast.model.passes import predictions_of
from patchcore_fast.model.predicting import Predicting
from patchcore_fast.model.results import Evaluation, Prediction


@dataclass(frozen=True)
class _Known:
    """What predictions and `evaluate_batches` ask of a bank: a file has the thresholds alone."""

    threshold: float | None
    pixel_threshold: float | None
    normal_scores: torch.Tensor | None = None
    normal_pixels: torch.Tensor | None = None
    calibrated: int = 0
    config: dict[str, Any] = field(default_factory=dict)


class ExportedModel(Predicting):
    """What `export_model` wrote, run on the CPU by its format's runtime; no backbone is built, timm is not needed.

    Attributes
    ----------
    facts : what the file says of itself, see `programs.facts`.
    threshold, pixel_threshold : of the file, or what `decide` made of them; None where there is none.
    config : settings of the model. Images are read as its features say.
    """

    def __init__(self, about: Facts, run: Run, *, progress: bool | None = None) -> None:
        """Of `formats.unpack`. ValueError, TypeError: facts that cannot be used."""
        self.facts, self.progress, self._run = about, progress, run
        if (tile := about.get("tile")) is not None:
            raise ValueError(f"it takes single tiles of {tile} pixels, which predict does not join: use the bank")
        if not isinstance(about.get("config"), dict):
            raise ValueError("its facts have no settings")
        settings = about["config"]
        self.config: PatchCoreConfig = (
            MethodConfig.from_dict(settings).base if "method" in about else completed(settings)
        )
        if self.config.input_size is None or list(self.config.input_size) != about.get("input_size"):
            raise ValueError(f"it takes {about.get('input_size')} pixels, its settings say {self.config.input_size}")
        self._known = _Known(about.get("threshold"), about.get("pixel_threshold"))
        for name in ("threshold", "pixel_threshold"):
            if (value := getattr(self._known, name)) is not None and not is_finite(value):
                raise ValueError(f"its {name} is {value!r}")

    @classmethod
    @undisturbed
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        batch_size: int = RunningSettings.batch_size,
        workers: int = RunningSettings.workers,
        progress: bool | None = None,
    ) -> ExportedModel:
        """A model from its file; of OpenVINO the .xml, whose .bin lies beside it.

        A .pt2 is read by torch.export, which like all of torch's archives is for files that you trust.

        Raises
        ------
        BankError : no file that `export_model` wrote.  ImportError : the format's runtime is missing.
        """
        path = Path(path)
        try:
            model = cls(*unpack(read_files(path)), progress=progress)
        except (TypeError, ValueError) as error:
            raise bank_error(path, f"cannot be used as an exported model ({error})") from error
        model.config = model.config.replace(running=RunningSettings(batch_size, workers, "cpu"))
        return model

    def said(self) -> str:
        """ "Exported in fp32 of a bank of 512 rows"."""
        rows = self.facts.get("bank_rows")
        of = f"a model of the method {self.facts.get('method')}" if rows is None else f"a bank of {rows:,} rows"
        return f"Exported in {self.facts.get('precision', 'fp32')} of {of}"

    @undisturbed
    def evaluate(self, data: Any, *, on_error: str = "raise") -> Evaluation:
        """As `PatchCore.evaluate`."""
        batches = batches_of(data, self.config, "test", on_error=on_error)
        return evaluate_batches(
            batches.shown("evaluate", self.progress), self._predict, batches.name, self._known, self.config
        )

    def _predict(self, batch: Batch) -> Iterator[Prediction]:
        wanted = (3, *self.facts["input_size"])
        if tuple(batch.images.shape[1:]) != wanted:
            raise ValueError(f"ExportedModel: images must be [B, {', '.join(map(str, wanted))}], got shape "
                             f"{tuple(batch.images.shape)}")  # fmt: skip
        yield from predictions_of(batch, *self._run(batch.images.float().contiguous()), self._known, self.config)

    def _decided(self, facts: Any) -> None:
        self._known = facts

    def _fitted(self, name: str) -> Any:
        return self._known


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether a file is an exported model by its name, and no bank that has such a name."""
    if Path(path).suffix not in SUFFIXES:
        return False
    try:
        with open(path, "rb") as f:
            return f.read(9)[8:] != b"{"  # where the header of safetensors begins
    except OSError as error:
        raise BankError(f"{os.fspath(path)}: {error.strerror}") from error
