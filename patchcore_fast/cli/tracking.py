"""--log and its settings: of an evaluation, and of a training."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_fast.cli.beforehand import need_log
from patchcore_fast.config.base import settings_of
from patchcore_fast.config.tracking import BACKENDS, TrackingSettings
from patchcore_fast.errors import DataError

if TYPE_CHECKING:
    from patchcore_fast.methods.base import Method
    from patchcore_fast.model import PatchCore

WANDB = ("project", "entity", "name", "tags", "log_model")
CURVES = ("log_freq",)  # of a training


def flag(name: str) -> str:
    """The option of a setting: --log, --log-freq, --log-model, --wandb-project, ..."""
    return f"--{name.replace('_', '-')}" if name.startswith("log") else f"--wandb-{name}"


def add_tracking(parser: argparse.ArgumentParser, curves: bool = False) -> None:
    """The options; `curves`: of a command that trains."""
    part = parser.add_argument_group(TrackingSettings.group, "over the table [tracking] of --config")
    for f in settings_of(TrackingSettings):
        if f.name in CURVES and not curves:
            continue
        of = "W&B: " if f.name in WANDB else ""
        default = f" (default {f.default})" if isinstance(f.default, str | int) and f.default is not False else ""
        given: dict[str, Any] = {"dest": f"tracking_{f.name}", "default": argparse.SUPPRESS,
                                 "help": f"{of}{f.metadata['help']}{default}"}  # fmt: skip
        if f.name == "log_model":
            part.add_argument(flag(f.name), action="store_true", **given)
        elif f.name == "log":
            part.add_argument(flag(f.name), choices=BACKENDS, **given)
        else:
            part.add_argument(flag(f.name), type=f.metadata["parse"], metavar=f.metadata["metavar"], **given)


def chosen_tracking(args: argparse.Namespace) -> TrackingSettings:
    """What was typed, over the table [tracking] of --config; the backend can be imported.

    Raises
    ------
    DataError : a setting that is wrong, or one of W&B's without it.  ImportError : the backend's package is missing.
    """
    file = getattr(args, "config", None)
    settings = TrackingSettings() if file is None else TrackingSettings.from_toml(file)
    prefix = "tracking_"
    typed = {name.removeprefix(prefix): value for name, value in vars(args).items() if name.startswith(prefix)}
    log = typed.get("log", settings.log)
    if (idle := [name for name in typed if name in WANDB]) and log != "wandb":
        raise DataError(f"{', '.join(map(flag, idle))}: goes with --log wandb")
    try:
        settings = settings.replace(**typed)
    except (TypeError, ValueError) as error:
        raise DataError(str(error)) from error
    if settings.log is not None:
        need_log(settings.log)
    return settings


def log_page(settings: TrackingSettings, output: Path, model: PatchCore | Method) -> None:
    """Log an evaluation with its page, which is made for it, and with the model's file where it is asked for."""
    from patchcore_fast.report.page import write_report
    from patchcore_fast.tracking import log_evaluation

    assert settings.log is not None
    page = write_report(output)
    with tempfile.TemporaryDirectory() as folder:
        file = None
        if settings.log_model:
            file = Path(folder) / "model.safetensors"
            model.save(file)
        run = log_evaluation(settings.log, output, settings, file)  # W&B has its own copy of the file then
    print(f"Logged for {settings.log}: {run} (and the page: {page})")
