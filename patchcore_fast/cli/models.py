"""Model files of any method where a command takes a bank: loaded, and what they say of themselves."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from patchcore_fast.cli.decision import REGIONS, given_thresholds
from patchcore_fast.cli.options import given_settings
from patchcore_fast.cli.pipeline import prepared
from patchcore_fast.cli.sampling import bank_said
from patchcore_fast.config.methods import METHODS
from patchcore_fast.errors import DataError

if TYPE_CHECKING:
    from patchcore_fast.export import ExportedModel
    from patchcore_fast.methods.base import Method
    from patchcore_fast.model import PatchCore


def load_model(args: argparse.Namespace) -> PatchCore | Method:
    """The model of `args.bank`, a bank or another method's; settings as of `pipeline.load_bank`."""
    from patchcore_fast.methods import load_any

    model: PatchCore | Method = prepared(args, load_any)
    return model


def load_runnable(args: argparse.Namespace) -> PatchCore | Method | ExportedModel:
    """`load_model`, or an exported file in its place: of it thresholds, regions and how it runs can be set.

    Raises
    ------
    DataError : another setting was typed.
    """
    from patchcore_fast.export import ExportedModel, is_exported

    if not is_exported(args.bank):
        return load_model(args)
    given = given_settings(args)
    running = {name: given.pop(name) for name in ("batch_size", "workers") if name in given}
    regions = {name: given.pop(name) for name in REGIONS if name in given}
    if given.pop("device", "cpu") != "cpu":
        raise DataError(f"--device: an exported file runs on the processor, got {args.device}")
    if given:
        option = f"--{next(iter(given)).replace('_', '-')}"
        raise DataError(f"{option}: {args.bank} is an exported file, which scores as it was exported")
    model = ExportedModel.load(args.bank, **running)
    if decided := given_thresholds(args):
        model.decide(**decided)
    model.config = model.config.replace(**regions)
    return model


def facts_of(model: Any) -> Any:
    """What holds a model's threshold, held-out scores and settings: its bank, or what another method learned."""
    return model.learned if is_method(model) else model.bank


def model_said(model: Any) -> str:
    """A line of what was fitted."""
    return f"{model.said()}." if hasattr(model, "said") else bank_said(model.bank)


def scored_by(model: Any) -> dict[str, str]:
    """A column of the table of metrics: the method with its image score, or PatchCore's scorer."""
    if not is_method(model):
        return {"scorer": model.config.scorer_name}
    by = model.config.scorer_name
    return {"method": model.name if by == "distance" else f"{model.name}, {by}"}


def is_method(model: Any) -> bool:
    """Whether it is no PatchCore."""
    return getattr(model, "name", None) in METHODS
