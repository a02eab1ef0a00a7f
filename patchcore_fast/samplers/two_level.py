"""Two-level selection: first images, then patches of the chosen images."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..config.budget import percentage_of
from ..inputs import Features
from ..kernels.ranks import Held, Ranks
from ..scores import Layout, support
from .base import Sampler
from .parts import Parts
from .pruning import SupportRule

_SILENT = {"progress": None, "show_progress": False}  # attributes of samplers, where nobody watches


class SupportedImages:
    """Chooses the images that the others support: an image sampler for `TwoLevelSampler`.

    An image is as isolated as its most isolated patch; see `scores.support`. With "auto", where the set looks
    contaminated, images are left out of which `ELFSCoresetSampler(prune_support="rule")` would prune patches, and none
    otherwise; on sets that the rule was not made on it decides badly (docs/elfs.md).

    Parameters
    ----------
    prune : "auto", or the share of images to leave out, in (0, 1).
    seed, device : of `scores.support`.

    Attributes
    ----------
    group : a process group whose ranks have a part of the rows each; `TwoLevelSampler` sets its own here.
    """

    takes_group = True

    def __init__(self, prune: str | float = "auto", *, seed: int = 0, device: torch.device | str | None = None) -> None:
        self.prune, self.rule = prune, SupportRule.of(prune)
        if not self.rule.active or self.rule.asks:
            raise ValueError(f'SupportedImages: prune must be "auto" or a share in (0, 1), got {prune!r}')
        self.seed, self.device = seed, device
        self.group: Any = None
        self.show_progress: bool | None = False  # see `Sampler`
        self.report_: dict[str, Any] = {}

    def select_images(self, features: Tensor, layout: Layout) -> Tensor:
        """[N, D] rows and where they lie -> [J] int64 numbers of the chosen images in `layout.names`, ascending.

        With a group features are this rank's, the layout is that of all rows.
        """
        if told := self.rule.refusal(layout):
            if self.rule.share is not None:
                raise ValueError(f"SupportedImages: prune={self.rule.share:g} cannot be done: {told}")
            self.report_ = {"skipped": told}
            return torch.arange(layout.images)
        held = Held(None if self.group is None else Ranks("SupportedImages", self.group), features)
        given: dict[str, Any] = {what: held.own(values) for what, values in layout.given().items()}
        found = support(features, **given, seed=self.seed, device=self.device, group=self.group,
                        progress=self.show_progress)  # fmt: skip
        rows, self.report_ = self.rule.judge(found)
        left = torch.ones(layout.images, dtype=torch.bool)
        left[layout.image[rows]] = False
        return left.nonzero()[:, 0]


class TwoLevelSampler(Sampler):
    """Images first, then patches of the chosen images.

    Parameters
    ----------
    image_sampler : `SupportedImages`, `ELFSImageSampler`, or any sampler; it then chooses among the images' mean patch
        features [I, D].
    patch_sampler : any sampler; its percentage counts the patches of the chosen images.

    Attributes
    ----------
    images_ : [J] int64, the caller's numbers of the chosen images, in the order in which they were chosen.
    percentage : None, or the share of *all* rows that is picked, in place of the patch sampler's own; all patches of
        the chosen images where these are fewer. Set it.
    report_ : "images_chosen", "seconds" and "memory" (bytes) of both levels, and what their samplers report, by
        "images" and "patches", as JSON types.

    With a group `select` takes this rank's part of everything; the patch sampler must take a group too, and an image
    sampler with `select_images` as well. Means are compared by every rank alike.
    """

    uses_positions = True
    takes_group = True

    def __init__(self, image_sampler: Any, patch_sampler: Any) -> None:
        super().__init__()
        for what, sampler in (("image_sampler", image_sampler), ("patch_sampler", patch_sampler)):
            if not callable(getattr(sampler, "select", None)) and not (
                what == "image_sampler" and callable(getattr(sampler, "select_images", None))
            ):
                raise TypeError(f"TwoLevelSampler: {what} must be a sampler, got {type(sampler).__name__}")
        self.image_sampler, self.patch_sampler = image_sampler, patch_sampler
        self.uses_embeddings = bool(getattr(image_sampler, "uses_embeddings", False))
        self.images_: Tensor | None = None
        self.percentage: float | None = None
        self.report_: dict[str, Any] = {}

    def __copy__(self) -> TwoLevelSampler:
        """A copy whose samplers are copies too: what it finds then stays with it."""
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        made.image_sampler, made.patch_sampler = copy.copy(self.image_sampler), copy.copy(self.patch_sampler)
        return made

    def select(
        self, features: Features, image_ids: Any = None, positions: Any = None, embeddings: Features | None = None
    ) -> Tensor:
        """Row numbers of the selection; image_ids [N] and positions [N, 3] as for `ELFSCoresetSampler.select`.

        embeddings : [I, E] of the images in the order of their first rows, for an image sampler that `uses_embeddings`.

        ValueError where neither is given and the order of the rows does not show the images.
        """
        return self._choose(features, image_ids=image_ids, positions=positions, embeddings=embeddings)

    def _select(
        self, features: Tensor, image_ids: Any = None, positions: Any = None, embeddings: Features | None = None
    ) -> Tensor:
        name, held = type(self).__name__, Held(self.ranks, features)
        layout = Layout.of(name, features.shape[0], image_ids, positions, self.ranks)
        layout = layout or Layout.inferred(features, self.ranks)
        if layout is None:
            raise ValueError(f"{name}: image_ids or positions are wanted; the order of the rows shows no images")
        report: dict[str, Any] = {}
        parts = Parts(report, features.device)
        with parts("images"):
            if callable(getattr(self.image_sampler, "select_images", None)):
                more = {} if embeddings is None or not self.uses_embeddings else {"embeddings": embeddings}
                with self._grouped(self.image_sampler), self._followed(self.image_sampler, ("show_progress",)):
                    images = self.image_sampler.select_images(features, layout, **more)
            else:
                images = torch.as_tensor(self.image_sampler.select(image_means(held, layout))).cpu()
        if images.shape[0] == 0:
            raise ValueError(f"{name}: the image sampler chose none of {layout.images} images")
        self.images_ = layout.names[images]
        chosen = torch.zeros(layout.images, dtype=torch.bool)
        chosen[images] = True
        taken = chosen[layout.image]
        rows, own = taken.nonzero()[:, 0], held.own(taken)
        where: dict[str, Any] = {}
        if getattr(self.patch_sampler, "uses_positions", False):
            where = {what: held.own(values)[own] for what, values in layout.given().items()}
        share = self._share(layout.image.shape[0], rows.shape[0])
        grouped, followed = self._grouped(self.patch_sampler), self._followed(self.patch_sampler, tuple(_SILENT))
        with parts("patches"), grouped, followed, share:
            picks = torch.as_tensor(self.patch_sampler.select(features[own.to(features.device)], **where)).cpu()
        self.radii_ = getattr(self.patch_sampler, "radii_", None)
        self.projection_ = getattr(self.patch_sampler, "projection_", None)
        levels = {"images": self.image_sampler, "patches": self.patch_sampler}
        found = {level: getattr(sampler, "report_", None) for level, sampler in levels.items()}
        for level, of in found.items():  # their parts reset the peak that is counted on CUDA
            report["memory"][level] = max([report["memory"][level], *(of or {}).get("memory", {}).values()])
        self.report_ = {"images_chosen": int(images.shape[0])} | report
        self.report_ |= {level: of for level, of in found.items() if of}
        return rows[picks]

    @contextmanager
    def _followed(self, sampler: Any, ways: tuple[str, ...]) -> Iterator[None]:
        """While inside, a sampler tells of its progress as this one does, unless it was told otherwise."""
        told = []
        for way in ways:
            mine, silent = getattr(self, way, _SILENT[way]), _SILENT[way]
            if mine is not silent and getattr(sampler, way, mine) is silent:
                setattr(sampler, way, mine)
                told.append(way)
        try:
            yield
        finally:
            for way in told:
                setattr(sampler, way, _SILENT[way])

    @contextmanager
    def _share(self, total: int, left: int) -> Iterator[None]:
        """While inside, the patch sampler picks of `left` rows what is wanted of `total`."""
        if self.percentage is None:
            yield
            return
        before = self.patch_sampler.percentage
        self.patch_sampler.percentage = percentage_of(int(total * self.percentage), left)
        try:
            yield
        finally:
            self.patch_sampler.percentage = before

    @contextmanager
    def _grouped(self, sampler: Any) -> Iterator[None]:
        """While inside, the sampler is told of the group, if there is one."""
        if self.group is None:
            yield
            return
        if not getattr(sampler, "takes_group", False):
            raise ValueError(f"{type(self).__name__}: {type(sampler).__name__} selects in one process only")
        before, sampler.group = sampler.group, self.group
        try:
            yield
        finally:
            sampler.group = before


def image_means(held: Held, layout: Layout) -> Tensor:
    """Mean patch feature of each image, [N, D] -> [I, D] float32; float64 sums in the order of the rows."""
    total = torch.zeros(layout.images, held.x.shape[1], dtype=torch.float64)
    for image, _, rows in held.blocks(layout.image, layout.images):
        total.index_add_(0, torch.full((rows.shape[0],), image), rows.double().cpu())
    count = torch.bincount(layout.image, minlength=layout.images)
    return (held.joined(total) / count[:, None]).float().to(held.x.device)
