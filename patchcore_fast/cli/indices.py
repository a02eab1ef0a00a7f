"""fit --indices: rows that were picked before, in place of a selection."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from patchcore_fast.chain import kind_of, read_chain
from patchcore_fast.cli.options import flag, named_settings
from patchcore_fast.errors import DataError

if TYPE_CHECKING:
    from patchcore_fast.config import PatchCoreConfig
    from patchcore_fast.feature_store import FeatureStore
    from patchcore_fast.samplers import PrecomputedSampler


def check_indices(path: str) -> None:
    """DataError: no such file, or one of another command of the chain. Imports no torch; `picked` looks closer."""
    if not Path(path).is_file():
        raise DataError(f"{path}: {'is no file' if Path(path).exists() else 'no such file'}")
    if Path(path).suffix == ".safetensors" and kind_of(path) not in (None, "picks"):
        read_chain(path, "picks")


def picked(args: argparse.Namespace, config: PatchCoreConfig, store: FeatureStore) -> PrecomputedSampler:
    """The rows of --indices as a sampler for `PatchCore`.

    Parameters
    ----------
    config : of this fit, without what the file says.

    Raises
    ------
    DataError : a missing, damaged or foreign file, rows twice or out of range, of another store, or picked by other
        settings than were typed or stand in --config.
    """
    from patchcore_fast.model.picks import recorded
    from patchcore_fast.samplers import PrecomputedSampler

    sampler = PrecomputedSampler(args.indices)
    if sampler.picks is not None:
        sampler.picks.check_store(store, args.indices)
    if sampler.rows is not None and len(sampler.rows) and int(sampler.rows.max()) >= store.shape[0]:
        raise DataError(f"{args.indices}: has row {int(sampler.rows.max())}, {store.name} has {store.shape[0]:,} rows")
    there, here = sampler.recorded, recorded(config)
    for name in (name for name in here if name in named_settings(args)):
        if there is None:
            raise DataError(f"{flag(name)}: the rows are given by --indices, and not chosen")
        if there.get(name) != here[name]:
            raise DataError(
                f"{flag(name)}: the rows in {args.indices} were picked with {there.get(name)!r}, got {here[name]!r}"
            )
    if there is not None and config.selection.banks == "layer":
        raise DataError(f"--banks layer: the rows in {args.indices} were picked for one bank of all layers")
    return sampler
