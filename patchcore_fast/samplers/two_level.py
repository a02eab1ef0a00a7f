"""Two-level selection: first images, then patches of the chosen images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..inputs import Features
from ..scores import Layout, support
from .base import Sampler
from .pruning import SupportRule


class SupportedImages:
    """Chooses the images that the others support: an image sampler for `TwoLevelSampler`.

    An image is as isolated as its most isolated patch; see `scores.support`. With "auto", where the set looks
    contaminated, images are left out of which `ELFSCoresetSampler` would prune patches, and none otherwise.

    Parameters
    ----------
    prune : "auto", or the share of images to leave out, in (0, 1).
    seed, device : of `scores.support`.
    """

    def __init__(self, prune: str | float = "auto", *, seed: int = 0, device: torch.device | str | None = None) -> None:
        self.prune, self.rule = prune, SupportRule.of(prune)
        if not self.rule.active:
            raise ValueError(f'SupportedImages: prune must be "auto" or a share in (0, 1), got {prune!r}')
        self.seed, self.device = seed, device
        self.report_: dict[str, Any] = {}

    def select_images(self, features: Tensor, layout: Layout) -> Tensor:
        """[N, D] rows and where they lie -> [J] int64 numbers of the chosen images in `layout.names`, ascending."""
        if told := self.rule.refusal(layout):
            if self.rule.share is not None:
                raise ValueError(f"SupportedImages: prune={self.rule.share:g} cannot be done: {told}")
            self.report_ = {"skipped": told}
            return torch.arange(layout.images)
        found = support(features, **layout.given(), seed=self.seed, device=self.device, progress=False)
        rows, self.report_ = self.rule.judge(found)
        left = torch.ones(layout.images, dtype=torch.bool)
        left[layout.image[rows]] = False
        return left.nonzero()[:, 0]


class TwoLevelSampler(Sampler):
    """Images first, then patches of the chosen images.

    Parameters
    ----------
    image_sampler : `SupportedImages`, or any sampler; it then chooses among the images' mean patch features [I, D].
    patch_sampler : any sampler; its percentage counts the patches of the chosen images.

    Attributes
    ----------
    images_ : [J] int64, the caller's numbers of the chosen images, in the order in which they were chosen.
    """

    uses_positions = True

    def __init__(self, image_sampler: Any, patch_sampler: Any) -> None:
        super().__init__()
        for what, sampler in (("image_sampler", image_sampler), ("patch_sampler", patch_sampler)):
            if not callable(getattr(sampler, "select", None)) and not (
                what == "image_sampler" and callable(getattr(sampler, "select_images", None))
            ):
                raise TypeError(f"TwoLevelSampler: {what} must be a sampler, got {type(sampler).__name__}")
        self.image_sampler, self.patch_sampler = image_sampler, patch_sampler
        self.images_: Tensor | None = None

    def select(self, features: Features, image_ids: Any = None, positions: Any = None) -> Tensor:
        """Row numbers of the selection; image_ids [N] and positions [N, 3] as for `ELFSCoresetSampler.select`.

        ValueError where neither is given and the order of the rows does not show the images.
        """
        return self._choose(features, image_ids=image_ids, positions=positions)

    def _select(self, features: Tensor, image_ids: Any = None, positions: Any = None) -> Tensor:
        name = type(self).__name__
        layout = Layout.of(name, features.shape[0], image_ids, positions) or Layout.inferred(features)
        if layout is None:
            raise ValueError(f"{name}: image_ids or positions are wanted; the order of the rows shows no images")
        if callable(getattr(self.image_sampler, "select_images", None)):
            images = self.image_sampler.select_images(features, layout)
        else:
            images = torch.as_tensor(self.image_sampler.select(image_means(features, layout))).cpu()
        if images.shape[0] == 0:
            raise ValueError(f"{name}: the image sampler chose none of {layout.images} images")
        self.images_ = layout.names[images]
        chosen = torch.zeros(layout.images, dtype=torch.bool)
        chosen[images] = True
        rows = chosen[layout.image].nonzero()[:, 0]
        where: dict[str, Any] = {}
        if getattr(self.patch_sampler, "uses_positions", False):
            where = {name: values[rows] for name, values in layout.given().items()}
        watched = self.progress is not None and getattr(self.patch_sampler, "progress", False) is None
        if watched:
            self.patch_sampler.progress = self.progress
        try:
            picks = torch.as_tensor(self.patch_sampler.select(features[rows.to(features.device)], **where)).cpu()
        finally:
            if watched:
                self.patch_sampler.progress = None
        self.radii_ = getattr(self.patch_sampler, "radii_", None)
        self.projection_ = getattr(self.patch_sampler, "projection_", None)
        return rows[picks]


def image_means(features: Tensor, layout: Layout) -> Tensor:
    """Mean patch feature of each image, [N, D] -> [I, D] float32; float64 sums in the order of the rows."""
    total = torch.zeros(layout.images, features.shape[1], dtype=torch.float64)
    for lo in range(0, features.shape[0], 1 << 16):
        part = slice(lo, lo + (1 << 16))
        total.index_add_(0, layout.image[part], features[part].double().cpu())
    return (total / torch.bincount(layout.image, minlength=layout.images)[:, None]).float().to(features.device)
