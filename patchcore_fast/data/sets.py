"""scan: what a folder, or a list of images, holds as a data set."""

from __future__ import annotations

import os
from pathlib import Path

from patchcore_fast.data.folders import ImageSet, read_folder, warn_of_findings
from patchcore_fast.data.meta import list_of, read_meta
from patchcore_fast.data.summary import Notes


def scan(root: str | os.PathLike[str]) -> ImageSet:
    """Read what a folder holds (docs/data.md has all the layouts that are understood).

    With a `train` or `test` folder inside it is taken as MVTec layout: train/good (or images directly in train),
    test/<defect>, masks by `conventions.CONVENTIONS`. Masks and either part may be missing. A meta.json of one class,
    given by its name or in a folder that is neither so nor holds such sets, lists a set; META.JSON/CLASS is one of
    several. Any other folder is plain: every image below it, sorted by path, is a normal training image, but for those
    whose mask or folder says otherwise.

    The set has a summary of it all; what may be a mistake is warned of (UserWarning), the whole goes to the log.
    Headers of all images are read, masks of defects are decoded, files of equal size compared.

    Raises
    ------
    DataError : no such folder, no images, a mask whose size is not its image's, or a list that is wrong.
    """
    found = read_set(root)
    warn_of_findings(found.summary)
    return found


def read_set(root: str | os.PathLike[str], strict: bool = True, notes: Notes | None = None) -> ImageSet:
    """`scan` without its warnings. Unless `strict`, a mask of another size is a finding and not an error.

    notes : of `root_of`, for a caller who has more to add.
    """
    listed = list_of(root)
    return read_folder(root, strict, notes) if listed is None else read_meta(*listed, strict, notes)


def root_of(root: str | os.PathLike[str]) -> Path:
    """The folder that a set's names are relative to."""
    listed = list_of(root)
    return Path(root) if listed is None else listed[0].parent
