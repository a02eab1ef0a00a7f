"""Training features, and which image and grid cell each row came from; here those in one block of memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from patchcore_fast.kernels.ranks import Ranks
from patchcore_fast.scratch import room_for

_BLOCK = 65_536  # rows that are converted at a time
Sizes = dict[tuple[int, int], tuple[tuple[int, int], tuple[int, int]]]


class Rows(ABC):
    """Rows [N, D] of images, in their order.

    Where several ranks fit together each has the rows of some images, and `model.shared.RankRows` stands for all of
    them; what knows of no others is all there is.

    Attributes
    ----------
    grids : (h, w) of each image.  columns, dtype : of the rows.
    ranks : None, or the ranks that have parts; `take` is then called by all of them.
    first, first_row : numbers of the first image and row that this process has.
    sizes : of a grid (h, w), (height, width) in pixels that it covers and that images have which gave it: of the
        first such image. Grids are missing where nobody knows.
    """

    grids: list[tuple[int, int]]
    ranks: Ranks | None = None
    first = 0
    sizes: Sizes

    @property
    def first_row(self) -> int:
        """Number of the first row that this process has."""
        return 0

    @property
    def local(self) -> Rows:
        """The rows that this process has."""
        return self

    @property
    @abstractmethod
    def columns(self) -> int: ...

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype: ...

    @property
    @abstractmethod
    def features(self) -> torch.Tensor:
        """All rows of this process, [N, D]."""

    @abstractmethod
    def read(self, low: int, high: int) -> torch.Tensor:
        """Rows low to high of this process: [high - low, D]."""

    @abstractmethod
    def take(self, indices: torch.Tensor) -> torch.Tensor:
        """Some rows: [k] int64 -> [k, D] on the CPU."""

    def embeddings(self) -> torch.Tensor | None:
        """[images, E] float32, the global embeddings of this process's images, where somebody kept them."""
        return None

    @property
    def total(self) -> int:
        """N."""
        return sum(h * w for h, w in self.grids)

    @property
    def starts(self) -> torch.Tensor:
        """[images + 1] int64: rows starts[i] to starts[i + 1] are those of image i."""
        sizes = torch.tensor([0] + [h * w for h, w in self.grids])
        return sizes.cumsum(0)

    @property
    def grid(self) -> tuple[int, int] | None:
        """The common grid, None when images differ."""
        return self.grids[0] if len(set(self.grids)) == 1 else None

    def positions(self, indices: torch.Tensor) -> torch.Tensor:
        """(image, row, column) of rows [M], as [M, 3] int32."""
        starts = self.starts
        image = torch.searchsorted(starts, indices, right=True) - 1
        width = torch.tensor([w for _, w in self.grids], dtype=torch.int64)[image]
        cell = indices - starts[image]
        return torch.stack([image, cell // width, cell % width], dim=1).int()


class FeatureRows(Rows):
    """Rows [N, D] gathered batch by batch on the CPU, in the type that the first batch has.

    With the count of images known the block is allocated once, after the first batch shows how many rows an
    image has; otherwise it doubles. Where it would take half of the free memory it lies in a file (`scratch`).
    Images may differ in grid.

    Parameters
    ----------
    count : number of images to come, or None.
    """

    def __init__(self, count: int | None) -> None:
        """Nothing is allocated yet."""
        self.count, self.used = count, 0
        self.grids: list[tuple[int, int]] = []
        self.sizes = {}
        self._block = torch.empty(0, 0)
        self._embedded: list[torch.Tensor] = []

    def add(self, features: torch.Tensor, grid: tuple[int, int], embeddings: torch.Tensor | None = None) -> None:
        """Append rows [B * h * w, D] of B images with the grid (h, w), and perhaps their embeddings [B, E]."""
        if embeddings is not None:
            self._embedded.append(embeddings.cpu())
        images = len(features) // (grid[0] * grid[1])
        if self.used == 0:
            images_ahead = max(images, self.count or 0)
            self._block = room_for((images_ahead * grid[0] * grid[1], features.shape[1]), features.dtype)
        if self.used + len(features) > len(self._block):
            wanted = max(2 * len(self._block), self.used + len(features))
            larger = room_for((wanted, features.shape[1]), self._block.dtype)
            larger[: self.used] = self._block[: self.used]
            self._block = larger
        self._block[self.used : self.used + len(features)] = features
        self.used += len(features)
        self.grids += [grid] * images

    def convert(self, change: Callable[[torch.Tensor], torch.Tensor], device: torch.device) -> None:
        """Replace rows [n, D] by change(rows) [n, d], block by block in the same memory; no row may grow in bytes.

        `change` gets and gives rows on the device.
        """
        out, done = None, 0
        for part in self.features.split(_BLOCK):
            found = change(part.to(device))
            if out is None:
                size = (self.used, found.shape[1])
                out = self._block.view(-1).view(found.dtype)[: size[0] * size[1]].view(size)
            out[done : done + len(found)] = found  # never beyond what was read: rows do not grow
            done += len(found)
        if out is not None:
            self._block = out

    def embeddings(self) -> torch.Tensor | None:
        """Those that were added."""
        return torch.cat(self._embedded) if self._embedded else None

    @property
    def features(self) -> torch.Tensor:
        """All rows so far, [N, D]; a view."""
        return self._block[: self.used]

    @property
    def columns(self) -> int:
        """D, 0 before there are rows."""
        return self._block.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows."""
        return self._block.dtype

    def read(self, low: int, high: int) -> torch.Tensor:
        """A view."""
        return self.features[low:high]

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        """A copy."""
        return self.features[indices.to(self._block.device)].cpu()

    @classmethod
    def of(
        cls, features: torch.Tensor, grids: list[tuple[int, int]], embeddings: torch.Tensor | None = None
    ) -> FeatureRows:
        """Rows [N, D] that are there already, of images with these grids, and their embeddings; not copied."""
        made = cls(len(grids))
        made._embedded = [] if embeddings is None else [embeddings]
        made._block, made.used, made.grids = features, len(features), list(grids)
        return made

    @contextmanager
    def set_aside(self, images: torch.Tensor) -> Iterator[tuple[FeatureRows, FeatureRows, torch.Tensor]]:
        """The rows of all other images, those of `images` [J], and the numbers of these; all in their old order.

        With one grid nothing is copied but the rows of `images`: while the block runs they lie at the end of the
        memory, the others have moved up, both parts are views of it, and this object must not be used. Images that
        differ in grid are copied.
        """
        chosen = torch.zeros(len(self.grids), dtype=torch.bool)
        chosen[images] = True
        out, left = chosen.nonzero()[:, 0], (~chosen).nonzero()[:, 0]
        grids = [[self.grids[i] for i in part.tolist()] for part in (left, out)]
        seen = self.embeddings()
        rest = None if seen is None else seen[left]
        if not len(out):
            yield self, self.of(self.features[:0], []), out
            return
        if self.grid is None:
            starts = self.starts
            inside = torch.repeat_interleave(chosen, starts[1:] - starts[:-1]).to(self._block.device)
            yield self.of(self.features[~inside], grids[0], rest), self.of(self.features[inside], grids[1]), out
            return
        cut = len(left) * self.grid[0] * self.grid[1]
        pictures = self.features.view(len(chosen), -1, self._block.shape[1])
        kept = _room_like(pictures, len(out))
        for place, image in enumerate(out.tolist()):
            kept[place] = pictures[image]
        moved = [(place, image) for place, image in enumerate(left.tolist()) if place != image]
        for place, image in moved:
            pictures[place] = pictures[image]
        pictures[len(left) :] = kept
        try:
            yield self.of(self.features[:cut], grids[0], rest), self.of(self.features[cut:], grids[1]), out
        finally:
            for place, image in reversed(moved):
                pictures[image] = pictures[place]
            for place, image in enumerate(out.tolist()):
                pictures[image] = kept[place]


def _room_like(pictures: torch.Tensor, count: int) -> torch.Tensor:
    shape = (count, *pictures.shape[1:])
    if pictures.device.type == "cpu":
        return room_for(shape, pictures.dtype)
    return pictures.new_empty(shape)
