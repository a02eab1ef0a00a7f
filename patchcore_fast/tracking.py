"""Experiment logging by option: an evaluation's metrics, figures and settings to TensorBoard or Weights & Biases.

Both packages are extras and are imported when they are asked for. All that is logged is read from the folder that
`evaluate --output` wrote, so that a run can be logged again later, elsewhere.
"""

from __future__ import annotations

import importlib
import os
import warnings
from pathlib import Path
from typing import Any

from patchcore_fast.config import flat
from patchcore_fast.errors import DataError
from patchcore_fast.report.page.read import Record, number, read_record

BACKENDS = ("tensorboard", "wandb")
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


def log_evaluation(backend: str, folder: str | os.PathLike[str]) -> Path:
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

    Returns
    -------
    The folder of the run.

    Raises
    ------
    ValueError, ImportError : as `require`.  DataError : a folder that was not written by evaluate.
    """
    require(backend)
    record = read_record(Path(folder))
    return _tensorboard(record) if backend == "tensorboard" else _wandb(record)


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

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies, about themselves
        from torch.utils.tensorboard import SummaryWriter

    stamp = "".join(c for c in str(record.facts["created"])[:19] if c.isdigit() or c == "T")
    target = record.folder / "tensorboard" / (stamp or "run")
    with SummaryWriter(str(target)) as writer:
        for name, value in scalars(record).items():
            writer.add_scalar(name, value, 0)
        for name, path in _figures(record).items():
            writer.add_image(f"figures/{name}", _picture(path), 0, dataformats="HWC")
        for label, kind in ((0, "normal"), (1, "anomalous")):
            chosen = [image["score"] for image in record.images if image["label"] == label]
            if chosen:
                writer.add_histogram(f"scores/{kind}", np.asarray(chosen), 0)
        rows = (flat(record.config) | record.facts["environment"]).items()
        settings = "\n".join(f"| {_cell(k)} | {_cell(v)} |" for k, v in rows)
        writer.add_text("settings", f"| setting | value |\n|---|---|\n{settings}", 0)
    return target


def _cell(value: Any) -> str:
    """Of a Markdown table; TensorBoard itself takes HTML out."""
    return str(value).replace("|", "\\|")


def _wandb(record: Record) -> Path:
    import wandb

    # Silent, without its console capture, git and hardware probes: what goes out is what the docstring says.
    settings = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True,
                              x_disable_meta=True)  # fmt: skip
    alone = wandb.run is None
    mode: Any = os.environ.get("WANDB_MODE", "offline")
    run = wandb.init(project="patchcore_fast", name=record.name, dir=str(record.folder), mode=mode, settings=settings,
                     config=record.config | {"environment": record.facts["environment"]})  # fmt: skip
    try:
        columns: list[Any] = ["path", "score", "is_anomalous", "label", "defect_type"]
        rows = [[image.get(column) for column in columns] for image in record.images]
        logged: dict[str, Any] = {f"figures/{name}": wandb.Image(_picture(p)) for name, p in _figures(record).items()}
        logged["images"] = wandb.Table(columns=columns, data=rows)
        page = record.folder / "report.html"
        if page.is_file():
            logged["report"] = wandb.Html(page.read_text(encoding="utf-8"), inject=False)
        run.log(scalars(record) | logged)
        where = Path(str(run.dir)).parent
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()
    if alone:
        wandb.teardown()  # its service writes the last of the file after finish has returned
    return where
