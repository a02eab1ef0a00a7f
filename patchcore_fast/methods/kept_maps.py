"""Maps of the training images: the backbone is frozen, so it runs once, and not in every epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from patchcore_fast.scratch import room_for

_BLOCK = 256  # images in a block, where nobody knows how many come


class KeptMaps:
    """What a training sees of each image, float32, taken out by number.

    In memory, or where that would take half of what is free in a file without a name (`scratch.room_for`).

    Parameters
    ----------
    count : images to come at most, None when it cannot be known.
    """

    def __init__(self, count: int | None) -> None:
        """Nothing is taken yet."""
        self.count, self._size = 0, count or _BLOCK
        self._blocks: list[list[torch.Tensor]] = []  # [images, ...] of each map

    def add(self, maps: Sequence[torch.Tensor]) -> None:
        """The maps [B, ...] of the next images. OSError, MemoryError: there is no room for them."""
        for i in range(len(maps[0])):
            if self.count % self._size == 0:
                self._blocks.append([room_for((self._size, *m.shape[1:]), torch.float32) for m in maps])
            for block, m in zip(self._blocks[-1], maps, strict=True):
                block[self.count % self._size].copy_(m[i])
            self.count += 1

    def take(self, numbers: torch.Tensor, device: torch.device) -> list[torch.Tensor]:
        """The maps [B, ...] of images [B] int64, in new tensors: products of the same rows can differ with their place
        in memory."""
        found = [torch.empty(len(numbers), *m.shape[1:], dtype=torch.float32) for m in self._blocks[0]]
        for row, number in enumerate(numbers.tolist()):
            for out, block in zip(found, self._blocks[number // self._size], strict=True):
                out[row].copy_(block[number % self._size])
        return [m.to(device) for m in found]

    def batches(self, numbers: torch.Tensor, size: int, device: torch.device) -> Iterator[list[torch.Tensor]]:
        """`take` of so many images at a time."""
        for part in numbers.split(size):
            yield self.take(part, device)
