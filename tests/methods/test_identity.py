"""The identity of a training changes with whatever changes its result, and with nothing else."""

from __future__ import annotations

import torch

from patchcore_fast.config.methods import MethodConfig, PadimSettings
from patchcore_fast.methods.identity import identity
from patchcore_fast.model.batches import batches_of

from .tiny import config, images


def test_settings_weights_and_images_count_batches_and_devices_do_not():
    def of(pictures: torch.Tensor, weights: str = "w", dim: int = 8, **changes) -> str:
        made = MethodConfig("padim", config(**changes), PadimSettings(dim=dim))
        return identity(made, weights, batches_of(pictures, made.base, "train"))

    pictures = images(3)
    other = pictures.clone()
    other[2, 1, 5, 7] += 1e-6
    same = of(pictures)
    assert of(pictures.clone(), batch_size=2, workers=3) == same
    changed = [of(other), of(pictures[[1, 0, 2]]), of(pictures[:2]), of(pictures, "v"), of(pictures, dim=9),
               of(pictures, seed=1)]  # fmt: skip
    assert len({same, *changed}) == 7
