"""What a training is of: two trainings of one identity learn the same, so that one may go on with the other's state."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import torch

from patchcore_fast.config.methods import MethodConfig
from patchcore_fast.model.batches import Batch


def identity(config: MethodConfig, weights: str, batches: Iterable[Batch]) -> str:
    """Hex digest of the settings but those that change no result, of the backbone's weights, and of all images.

    Parameters
    ----------
    weights : `FeatureSource.fingerprint()`.  batches : the images in their order, as they are decoded and resized; how
        they are cut into batches does not matter.
    """
    values = config.to_dict()
    found = hashlib.blake2b(digest_size=16)
    found.update(json.dumps([{k: v for k, v in values.items() if k != "running"}, weights]).encode())
    for batch in batches:
        for image in batch.images:
            found.update(str(tuple(image.shape)).encode())
            found.update(image.detach().cpu().float().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
