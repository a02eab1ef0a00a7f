"""How far each training patch moves under views of its photograph, without a table of the views' features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from patchcore_fast.kernels.surroundings import undisturbed
from patchcore_fast.model.batches import batches_of
from patchcore_fast.model.collect import FeatureRows
from patchcore_fast.model.views import VIEWS, undone
from patchcore_fast.scores import instability

if TYPE_CHECKING:
    from patchcore_fast.model.patchcore import PatchCore


@undisturbed
def view_instability(model: PatchCore, data: Any, rows: FeatureRows) -> torch.Tensor:
    """`scores.instability` of rows under the views of `model.views`: mirrored, darker, less contrast.

    One more pass over the images, one batch at a time: features of views are compared and dropped.

    Parameters
    ----------
    data : the images that `rows` were made of, as in `PatchCore.training_features`.
    rows : what that gave; images may differ in grid.

    Returns
    -------
    [N] float32, mean distance in feature units.

    Raises
    ------
    ValueError : a model that augments (copies are no images), or images that give another number of rows.
    """
    found = torch.empty(rows.total, dtype=torch.float32)
    for first, views in _views("view_instability", model, data, rows.total):
        part = slice(first, first + len(views[0]))
        found[part] = instability(rows.read(part.start, part.stop).to(model.device), views, progress=False)
    return found


def _views(name: str, model: PatchCore, data: Any, total: int) -> Iterator[tuple[int, list[torch.Tensor]]]:
    """(first row, features of each view) batch by batch."""
    config = model.config
    if config.selection.augment != "none":
        raise ValueError(f"{name}: rows of images and of no copies are wanted, got augment={config.selection.augment}")
    batches = batches_of(data, config, "train", config.selection.shots)
    done = 0
    for batch in batches.shown("views", model.progress):
        images = batch.images.to(model.device)
        views = []
        for view in VIEWS.values():
            features, grid = model.extractor(view.change(images))
            views.append(undone(view, features, grid))
        if done + len(views[0]) > total:
            break
        yield done, views
        done += len(views[0])
    else:
        if done == total:
            return
    raise ValueError(f"{name}: {total:,} rows are wanted, and these images give another number")
