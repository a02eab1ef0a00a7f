"""--exclude: training images that a list leaves out, of whatever command fits on a folder."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from patchcore_fast.cli.beforehand import check_files
from patchcore_fast.errors import DataError

if TYPE_CHECKING:
    from patchcore_fast.config import PatchCoreConfig
    from patchcore_fast.data import ImageSet


def add_exclude(parser: argparse.ArgumentParser) -> None:
    """The option."""
    parser.add_argument("--exclude", metavar="LIST",
                        help="leave out the training images that this file names, one path a line, relative to DIR "
                             "(see audit)")  # fmt: skip


def check_exclude(args: argparse.Namespace) -> None:
    """DataError: no such list."""
    if args.exclude is not None:
        check_files([args.exclude])


def refuse_exclude(args: argparse.Namespace, why: str) -> None:
    """DataError: a list where no training images are read."""
    if args.exclude is not None:
        raise DataError(f"--exclude: {why}")


def training_set(args: argparse.Namespace, config: PatchCoreConfig) -> tuple[ImageSet, PatchCoreConfig]:
    """The images of DIR without those of the list, and the settings with their number on record.

    Raises
    ------
    DataError : as `data.scan` and `data.without`.
    """
    from patchcore_fast.data import scan, without

    images, gone = scan(args.folder), 0
    if args.exclude is not None:
        images, gone = without(images, args.exclude)
    return images, config.replace(excluded=gone)
