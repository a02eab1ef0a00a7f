"""Fit on few images: a seeded draw of them, and augmented copies whose patches enrich the bank (docs/fewshot.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from patchcore_fast.config import PatchCoreConfig, recorded
from patchcore_fast.kernels.surroundings import undisturbed
from patchcore_fast.model.collect import Rows
from patchcore_fast.samplers import describe_sampler
from patchcore_fast.samplers.named import NAMED

Transform = Callable[[torch.Tensor], torch.Tensor]


def draw_shots(count: int, shots: int | None, seed: int) -> torch.Tensor:
    """Which of `count` images are used: [shots] int64, ascending; all when shots is None.

    The first `shots` of one permutation that the seed gives, so that of one seed fewer shots are among more.

    Raises
    ------
    ValueError : shots below 1, or more than there are images.
    """
    if shots is None:
        return torch.arange(count)
    if isinstance(shots, bool) or not isinstance(shots, int) or not 1 <= shots <= count:
        raise ValueError(f"PatchCore.fit: shots must lie in 1..{count}, the training images there are, got {shots!r}")
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:shots].sort().values


@undisturbed
def rotate(images: torch.Tensor, degrees: float) -> torch.Tensor:
    """Images [B, 3, H, W] turned counter-clockwise about their centre; same shape.

    Half turns, and quarter turns of squares, move pixels and change none. Other angles are bilinear; what lies outside
    is the mirrored image and no black corner, which would enter the bank as normal.
    """
    if not isinstance(images, torch.Tensor) or images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"rotate: images must be floating [B, C, H, W], got {_said(images)}")
    if not math.isfinite(degrees):
        raise ValueError(f"rotate: degrees must be finite, got {degrees!r}")
    quarters, rest = divmod(degrees % 360.0, 90.0)
    height, width = images.shape[2:]
    if rest == 0 and (quarters % 2 == 0 or height == width):
        return torch.rot90(images, int(quarters), (2, 3))
    cos, sin = _turn(degrees)
    theta = torch.tensor([[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]])
    grid = F.affine_grid(theta.to(images).expand(len(images), 2, 3), list(images.shape), align_corners=False)
    # Of rounding alone an average of values in [0, 1] can leave it.
    return F.grid_sample(images, grid, "bilinear", "reflection", align_corners=False).clamp(0, 1)


def _turn(degrees: float) -> tuple[float, float]:
    """Cosine and sine, exact for quarter turns."""
    return round(math.cos(math.radians(degrees)), 15), round(math.sin(math.radians(degrees)), 15)


def _said(images: Any) -> str:
    return f"shape {tuple(images.shape)} {images.dtype}" if isinstance(images, torch.Tensor) else type(images).__name__


class Augmentation:
    """Copies of each training image, and where on the image their patches come from.

    Parameters
    ----------
    how : None or "none": no copies. "rotate": `copies` turns by 360 / (copies + 1) degrees and its multiples. A
        callable, for instance a transform of torchvision.transforms.v2: an image [3, H, W] float in [0, 1] on the CPU
        -> the same shape and range, called `copies` times an image.
    copies : augmented copies of each image, at least 1.
    seed : of the callable's draws from torch's generator, which is put back afterwards. Each copy has its own draw,
        that of (seed, number of the image, number of the copy), so batches do not matter. Draws from other generators
        (Python's, NumPy's) are not held.
    """

    def __init__(self, how: str | Transform | None = None, copies: int = 3, seed: int = 0) -> None:
        """Check the options."""
        if not (how is None or how in ("none", "rotate") or callable(how)):
            raise ValueError(
                f'PatchCore.fit: augment must be "none", "rotate" or a transform of images [3, H, W], got {how!r}'
            )
        if isinstance(copies, bool) or not isinstance(copies, int) or copies < 1:
            raise ValueError(f"PatchCore.fit: augmentations must be an integer >= 1, got {copies!r}")
        self.how, self.seed = ("none" if how is None else how), seed
        self.copies = 0 if self.how == "none" else copies
        self.name = self.how if isinstance(self.how, str) else "custom"

    @property
    def per_image(self) -> int:
        """Images that one becomes: itself and its copies."""
        return 1 + self.copies

    def angle(self, copy: int) -> float:
        """Degrees of copy 0 (the image itself) to `copies`."""
        return 360.0 * copy / self.per_image

    def blocks(self, images: torch.Tensor, first: int) -> Iterator[torch.Tensor]:
        """Batches to extract features of: each image with its copies, or the batch as it is where there are none.

        images : [B, 3, H, W] in [0, 1].  first : number of the first of them among all training images.

        Raises
        ------
        ValueError, TypeError : what a transform returned is no such image.
        """
        if self.copies == 0:
            yield images
            return
        for i, image in enumerate(images):
            if self.how == "rotate":
                made = [rotate(image[None], self.angle(copy))[0] for copy in range(1, self.per_image)]
            else:
                made = [self._transformed(image, first + i, copy).to(image) for copy in range(1, self.per_image)]
            yield torch.stack([image, *made])

    def _transformed(self, image: torch.Tensor, number: int, copy: int) -> torch.Tensor:
        assert callable(self.how)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(((self.seed * 1_000_003 + number) * 10_007 + copy) % 2**63)
            out = self.how(image.detach().cpu().clone())
        if not isinstance(out, torch.Tensor) or not out.is_floating_point() or out.shape != image.shape:
            raise ValueError(
                f"PatchCore.fit: augment must return a floating image {tuple(image.shape)}, got {_said(out)}"
            )
        low, high = out.aminmax()
        if not (low >= -1e-3 and high <= 1.001):  # NaN fails this too
            raise ValueError(
                f"PatchCore.fit: augment must return an image in [0, 1], got {float(low):.3g} to {float(high):.3g}; "
                "leave normalisation out, and clamp where the transform overshoots"
            )
        return out.as_subclass(torch.Tensor)

    def originals(self, rows: Rows) -> torch.Tensor:
        """Numbers in `rows` of the images that are no copies."""
        return torch.arange(0, len(rows.grids), self.per_image)

    def sources(self, rows: Rows, indices: torch.Tensor) -> torch.Tensor:
        """(image, row, column) [M, 3] int32 of rows [M], as `MemoryBank.positions` has them.

        The image is the one that the copy was made of, counted without copies. Row and column of a turned patch are
        the place on that image where its centre comes from, patches taken as square; of a transform, whose geometry
        is unknown, they are those on the copy.
        """
        where = rows.positions(indices)
        if self.copies == 0:
            return where
        copy = where[:, 0] % self.per_image
        out = where.clone()
        out[:, 0] = where[:, 0] // self.per_image
        if self.how != "rotate":
            return out
        grid = torch.tensor(rows.grids, dtype=torch.float64)[where[:, 0].long()]
        turn = torch.tensor([_turn(self.angle(c)) for c in range(self.per_image)], dtype=torch.float64)[copy.long()]
        y, x = (where[:, 1:] + 0.5 - grid / 2).unbind(1)
        from_y = turn[:, 1] * x + turn[:, 0] * y
        from_x = turn[:, 0] * x - turn[:, 1] * y
        at = (torch.stack([from_y, from_x], dim=1) + grid / 2) % (2 * grid)
        at = torch.minimum(at, 2 * grid - at)  # folded back where the mirrored image was seen
        out[:, 1:] = torch.minimum(at.floor(), grid - 1).int()
        return out


def settle(
    config: PatchCoreConfig, shots: int | None, augment: str | Transform | None, sampler: Any
) -> tuple[PatchCoreConfig, Augmentation]:
    """The config that a fit follows, with what its arguments and its sampler say instead, and the augmentation.

    Raises
    ------
    ValueError : a config that was fitted with a transform, and no transform; or augmentation for a sampler that
        compares images (`uses_positions`), to which the copies of an image are no other images.
    """
    if (known := getattr(sampler, "recorded", None)) is not None:  # picks that say which sampler made them
        config, sampler = config.replace(**known), None
    how = config.selection.augment if augment is None else augment
    if how == "custom":
        raise ValueError('PatchCore.fit: augment="custom" stands for a transform: give fit(..., augment=TRANSFORM)')
    augmentation = Augmentation(how, config.selection.augmentations, config.selection.seed)
    asked = NAMED.get(config.selection.sampler) if sampler is None else sampler
    compares = getattr(asked, "uses_positions", False)
    if augmentation.copies and compares:
        raise ValueError(
            "PatchCore.fit: augment does not go with a sampler that compares images (elfs, composite, two-level): "
            "copies of an image would count as other images that support it"
        )
    settled = config.replace(shots=config.selection.shots if shots is None else shots, augment=augmentation.name)
    if sampler is not None:
        name, parameters = describe_sampler(sampler)
        settled = settled.replace(sampler=name, sampler_parameters=parameters, sampler_options=())
    return settled, augmentation


def described(config: Mapping[str, Any]) -> str:
    """How few images a bank was made of (its `config`) and with which copies, for tables: "4 + rotate x 3", "all"."""
    shots, augment = recorded(config, "shots"), recorded(config, "augment", "none")
    base = "all" if shots is None else str(shots)
    return base if augment == "none" else f"{base} + {augment} x {recorded(config, 'augmentations', 0)}"
