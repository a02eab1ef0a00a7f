"""Experiment logging by option: evaluations and the curves of a training to TensorBoard or Weights & Biases.

Both packages are extras and are imported when they are asked for. All that is logged of an evaluation is read from the
folder that `evaluate --output` wrote, so that a run can be logged again later, elsewhere.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from patchcore_fast.config import flat
from patchcore_fast.config.tracking import BACKENDS, TrackingSettings
from patchcore_fast.errors import DataError
from patchcore_fast.report.page.read import Record, number, read_record

if TYPE_CHECKING:
    from typing_extensions import Self

FIGURES = ("roc", "pr", "histogram", "provenance", "contact_sheet")  # those of them that the folder has
_BY_DEFECT_TYPE = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro", "mean_score", "images", "true_positives")


def require(backend: str) -> None:
    """Import a backend's package, so that a missing one is told before the long work.

    Raises
    ------
    ValueError : a backend that is not in BACKENDS.  ImportError : its package is missing; says what to install.
    """
    if backend not in BACKENDS:
        raise ValueError(f"tracking: backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    try:
        importlib.import_module("torch.utils.tensorboard" if backend == "tensorboard" else "wandb")
    except ImportError as error:
        raise ImportError(f'--log {backend} needs {backend}: pip install "patchcore_fast[{backend}]"') from error


def log_evaluation(
    backend: str,
    folder: str | os.PathLike[str],
    settings: TrackingSettings | None = None,
    model_file: str | os.PathLike[str] | None = None,
) -> Path:
    """Log what `evaluate --output` wrote into a folder, as one run below that folder.

    Scalars: every metric that is defined, the ends of its bootstrap interval (interval_low/, interval_high/), the
    numbers of each defect type (defect_type/TYPE/), seconds of each stage (seconds/). Pictures: roc, pr, histogram,
    provenance, contact_sheet, those that are there; W&B also takes report.html and a table of the images. Settings
    become text, or W&B's config.

    Parameters
    ----------
    backend : "tensorboard" writes tensorboard/TIME/, "wandb" writes wandb/: offline, unless the environment variable
        WANDB_MODE says otherwise.
    folder : has metrics.json and report.json.
    settings : project, entity, name and tags of the run (W&B).
    model_file : a bank or model file, which becomes an artifact of the run with its settings and metrics where
        `settings.log_model` asks for it (W&B).

    Returns
    -------
    The folder of the run.

    Raises
    ------
    ValueError, ImportError : as `require`.  DataError : a folder that was not written by evaluate.
    """
    require(backend)
    record = read_record(Path(folder))
    if backend == "tensorboard":
        return _tensorboard(record)
    return _wandb(record, settings or TrackingSettings(), model_file)


def scalars(record: Record) -> dict[str, float]:
    """Name -> finite number of all that is logged as a scalar."""
    found: dict[str, Any] = dict(record.metrics)
    for metric in record.metrics:
        if (between := record.interval(metric)) is not None:
            found[f"interval_low/{metric}"], found[f"interval_high/{metric}"] = between
    for row in record.facts["defect_types"]:
        found |= {f"defect_type/{row['defect_type']}/{key}": row.get(key) for key in _BY_DEFECT_TYPE}
    found |= {f"seconds/{stage}": value for stage, value in record.facts["seconds"].items()}
    return {name: float(value) for name, value in found.items() if number(value) is not None}


def _figures(record: Record) -> dict[str, Path]:
    paths = {name: record.folder / f"{name}.png" for name in FIGURES}
    return {name: path for name, path in paths.items() if path.is_file()}


def _picture(path: Path) -> Any:
    """[H, W, 3] uint8."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path}: damaged picture ({error})") from error


def _tensorboard(record: Record) -> Path:
    import numpy as np

    stamp = "".join(c for c in str(record.facts["created"])[:19] if c.isdigit() or c == "T")
    target = record.folder / "tensorboard" / (stamp or "run")
    with _summary_writer(target) as writer:
        for name, value in scalars(record).items():
            writer.add_scalar(name, value, 0)
        for name, path in _figures(record).items():
            writer.add_image(f"figures/{name}", _picture(path), 0, dataformats="HWC")
        for label, kind in ((0, "normal"), (1, "anomalous")):
            chosen = [image["score"] for image in record.images if image["label"] == label]
            if chosen:
                writer.add_histogram(f"scores/{kind}", np.asarray(chosen), 0)
        writer.add_text("settings", _settings_table(flat(record.config) | record.facts["environment"]), 0)
    return target


def _settings_table(values: Mapping[str, Any]) -> str:
    """In Markdown."""
    rows = [f"| {_cell(k)} | {_cell(v)} |" for k, v in values.items()]
    return "\n".join(["| setting | value |", "|---|---|", *rows])


def _cell(value: Any) -> str:
    """Of a Markdown table; TensorBoard itself takes HTML out."""
    return str(value).replace("|", "\\|")


def _summary_writer(folder: Path, **more: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies, about themselves
        from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), **more)


def _wandb(record: Record, settings: TrackingSettings, model_file: str | os.PathLike[str] | None) -> Path:
    import wandb

    columns: list[Any] = ["path", "score", "is_anomalous", "label", "defect_type"]
    rows = [[image.get(column) for column in columns] for image in record.images]
    config = record.config | {"environment": record.facts["environment"]}
    with _Wandb(settings, record.folder, record.name, None, config) as w:
        logged: dict[str, Any] = {f"figures/{name}": wandb.Image(_picture(p)) for name, p in _figures(record).items()}
        logged["images"] = wandb.Table(columns=columns, data=rows)
        page = record.folder / "report.html"
        if page.is_file():
            logged["report"] = wandb.Html(page.read_text(encoding="utf-8"), inject=False)
        w.run.log(scalars(record) | logged)
        if model_file is not None:
            w.model(model_file, {"config": record.config, "metrics": record.metrics})
    return w.folder


class CurveLogger:
    """Where the curves of a training go; `curve_logger` makes one, and a `with` block closes it.

        with curve_logger(settings, folder, name="bottle", config=config.to_dict(), first=epoch) as curves:
            for epoch in range(epoch, epochs + 1):
                ...
                curves.log({"loss": loss, "learning_rate": rate}, epoch, last=epoch == epochs)
            curves.model(file, {"config": config.to_dict(), "metrics": metrics})

    This one, of no backend, drops everything. A block that ends with an error marks the run as failed (W&B).
    """

    def __init__(self, settings: TrackingSettings) -> None:
        self.settings = settings

    def log(self, values: Mapping[str, float], step: int, last: bool = False) -> None:
        """Write numbers by name ("loss", "image_auroc", "best/image_auroc") at a step, the number of the epoch.

        Of every `log_freq` steps one is written: those that `log_freq` divides, and the last one. Numbers that are not
        finite are left out, as the metrics of an epoch without test images are. Steps must rise.
        """
        if last or step % self.settings.log_freq == 0:
            self._write({name: float(v) for name, v in values.items() if number(v) is not None}, step)

    def model(self, path: str | os.PathLike[str], metadata: Mapping[str, Any]) -> None:
        """Keep a model file with what is to be known of it, where `log_model` asks for it.

        metadata : plain JSON, {"config": ..., "metrics": ...}; W&B takes at most 100 keys, not counting inner ones.
        """

    def close(self, failed: bool = False) -> None:
        """End the run; once."""

    def _write(self, values: Mapping[str, float], step: int) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)


def curve_logger(
    settings: TrackingSettings,
    folder: str | os.PathLike[str],
    *,
    name: str,
    config: Mapping[str, Any] | None = None,
    first: int = 0,
) -> CurveLogger:
    """What takes the curves of a training, by `settings.log`; of None it drops them.

    Parameters
    ----------
    folder : exists. TensorBoard writes into its tensorboard/curves/, W&B into its wandb/.
    name : of the run where `settings` give none.  config : settings of the run, by group.
    first : the step that comes first. A training that goes on from a checkpoint goes on in the same curves of
        TensorBoard, where what an ended run wrote at `first` and later is forgotten; W&B gets a new run of the same
        group, which begins there.

    Raises
    ------
    ImportError : the package is missing; `require` tells it before the long work.
    """
    if settings.log is None:
        return CurveLogger(settings)
    require(settings.log)
    given = dict(config or {})
    if settings.log == "wandb":
        return _Wandb(settings, Path(folder), name, settings.name or name, given)
    return _TensorBoard(settings, Path(folder) / "tensorboard" / "curves", given, first)


class _TensorBoard(CurveLogger):
    def __init__(self, settings: TrackingSettings, folder: Path, config: dict[str, Any], first: int) -> None:
        super().__init__(settings)
        self.writer = _summary_writer(folder, purge_step=first or None)
        self.writer.add_text("settings", _settings_table(flat(config)), first)

    def _write(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()  # a training may be killed

    def close(self, failed: bool = False) -> None:
        self.writer.close()


class _Wandb(CurveLogger):
    """A run of W&B: offline unless WANDB_MODE says otherwise; silent, without its console capture, git and hardware
    probes: what goes out is what the docstrings say."""

    def __init__(
        self, settings: TrackingSettings, folder: Path, name: str, group: str | None, config: dict[str, Any]
    ) -> None:
        super().__init__(settings)
        import wandb

        quiet = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True,
                               x_disable_meta=True)  # fmt: skip
        self._alone = wandb.run is None
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        self.run = wandb.init(project=settings.project, entity=settings.entity, name=settings.name or name,
                              group=group, tags=settings.tags or None, dir=str(folder), mode=mode,
                              settings=quiet, config=config)  # fmt: skip
        self.folder = Path(str(self.run.dir)).parent

    def _write(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def model(self, path: str | os.PathLike[str], metadata: Mapping[str, Any]) -> None:
        import wandb

        if self.settings.log_model:
            label = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in str(self.run.name))
            artifact = wandb.Artifact(f"{label}-model", type="model", metadata=dict(metadata))
            artifact.add_file(os.fspath(path), name=Path(path).name)
            self.run.log_artifact(artifact)

    def close(self, failed: bool = False) -> None:
        self.run.finish(exit_code=int(failed))
        if self._alone:
            import wandb

            wandb.teardown(exit_code=int(failed))  # its service writes the last of the file after finish has returned
