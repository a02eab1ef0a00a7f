"""extract: the features of images into a store; and a store in the place of images."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from patchcore_fast.cli.beforehand import check_images, check_room, need_pipeline
from patchcore_fast.cli.exclusion import check_exclude, training_set
from patchcore_fast.cli.options import chosen_config, flag, named_settings
from patchcore_fast.cli.together import joined, rank_here
from patchcore_fast.cli.unusable import tell
from patchcore_fast.errors import DataError

if TYPE_CHECKING:
    from patchcore_fast.config import PatchCoreConfig
    from patchcore_fast.data import ImageRecord
    from patchcore_fast.feature_store import FeatureStore


def extract(args: argparse.Namespace) -> int:
    """Write a store, or what is missing of it; images that cannot be read are left out and named."""
    config = chosen_config(args)
    check_images(args.folder)
    check_exclude(args)
    check_room(args.output)
    need_pipeline()
    rank = quiet_rank()

    from patchcore_fast.model import PatchCore

    images, config = training_set(args, config)
    check_apart("--output", args.output, images.train)
    with joined(args.rank_timeout) as group:
        model = PatchCore(config, group=group)
        with model.extract(images, args.output, dtype=args.store_dtype, on_error="return") as store:
            rows, columns = store.shape
            what = f"{len(store.images):,} images, {rows:,} patches of {columns} numbers, {store.about['type']}"
    if rank:
        return 0
    print(f"Features in {args.output}: {what}.")
    print(f"Next, a bank of them:  patchcore-fast fit --features {args.output} --output bank.safetensors")
    return tell(model.unread_)


def quiet_rank() -> int:
    """The rank of this process. Of several only the first one warns."""
    rank, _ = rank_here()
    if rank:
        logging.getLogger("patchcore_fast").setLevel(logging.ERROR)
    return rank


def check_apart(option: str, store: str, images: Iterable[ImageRecord]) -> None:
    """DataError: a store in the folder of images would be looked through as one of them."""
    place = Path(store).resolve()
    if any(place == folder or folder in place.parents for folder in {r.path.resolve().parent for r in images}):
        raise DataError(f"{option}: {store} lies in a folder of training images: give another place")


def stored_settings(args: argparse.Namespace, store: FeatureStore) -> PatchCoreConfig:
    """The settings of a fit from a store: those that it has, and of others what was typed or stands in --config.

    Raises
    ------
    DataError : a setting that the store has otherwise.
    """
    from patchcore_fast.model.stored import fixed_settings

    config = chosen_config(args)
    there = store.config
    fixed = [name for group in fixed_settings(there).values() for name in group]
    for name in named_settings(args):
        if name in fixed and getattr(config, name) != getattr(there, name):
            raise DataError(
                f"{flag(name)}: the features in {store.name} were made with {getattr(there, name)!r}, "
                f"got {getattr(config, name)!r}"
            )
    return config.replace(excluded=there.excluded, **{name: getattr(there, name) for name in fixed})
