"""The training images of a fit, as often as it reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from patchcore_fast.model.batches import Batch, Batches

Read = Callable[..., Iterable[Batch]]  # (what="features") -> all images once, under a progress bar of that name


class Reading:
    """Batches without the images that cannot be read; each call begins anew.

    Parameters
    ----------
    check : looks at the images of each batch.  progress : see `progress.bar`.

    Attributes
    ----------
    used : images of the last pass.  unread : (file, why) of its others.
    """

    def __init__(self, batches: Batches, check: Callable[[torch.Tensor], None], progress: bool | None = None) -> None:
        """Nothing is read yet."""
        self._batches, self._check, self._progress = batches, check, progress
        self.used, self.unread = 0, list[tuple[Path, str]]()

    def __call__(self, what: str = "features") -> Iterator[Batch]:
        """One pass."""
        self.used, self.unread = 0, []
        for whole in self._batches.shown(what, self._progress):
            self.unread += [(Path() if record is None else record.path, error)
                            for record, error in zip(whole.records, whole.errors, strict=True)
                            if error is not None]  # fmt: skip
            batch = whole.only([i for i, error in enumerate(whole.errors) if error is None])
            self.used += len(batch.images)
            if len(batch.images):
                self._check(batch.images)
                yield batch
