"""Scorer "noising" on reverse distillation: the mean distance over noisy copies of the teacher's features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from patchcore_fast.methods.reverse_distillation.loss import distance
from patchcore_fast.scorers import NoiseProposal

ROWS = 1024  # of normal features that say how much noise is usual, in each layer


class LayerNoise:
    """Per layer and position, with the teacher's feature t and the student's s,

        S = 1/T sum_t d(t + eps_t, s),    d(t, s) = 1 - cos(t, s)

    where eps is `NoiseProposal`'s for normal features of the layer and the gradient of d in t. The student sees the
    image without noise: eps asks how far d holds around t, and a student that follows the noise would hide that.

    Parameters
    ----------
    rows : [M, C] normal features of each layer.  scale, draws, seed : as of `NoiseProposal`.
    """

    def __init__(self, rows: Sequence[Tensor], scale: float, draws: int, seed: int) -> None:
        """Cluster the rows of every layer."""
        self._proposals = [NoiseProposal(layer, scale, draws, seed) for layer in rows]

    def __call__(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> list[Tensor]:
        """S at every place of maps [B, C, h, w]: [B, h, w] each."""
        return [_mean(p, t, s) for p, t, s in zip(self._proposals, teacher, student, strict=True)]


def _mean(proposal: NoiseProposal, teacher: Tensor, student: Tensor) -> Tensor:
    x = teacher.movedim(1, -1).flatten(0, 2)
    spread = proposal.spread(x, gradient(teacher, student).movedim(1, -1).flatten(0, 2))
    shape = (teacher.shape[0], *teacher.shape[2:], -1)
    spread = spread.view(shape).movedim(-1, 1)
    total = torch.zeros_like(teacher[:, 0])
    for z in proposal.table:
        for signed in (z, -z):
            total += distance(teacher + spread * signed[:, None, None], student)
    return total / proposal.draws


def gradient(teacher: Tensor, student: Tensor) -> Tensor:
    """That of 1 - cos in the teacher's features times their length, [B, C, h, w]; zeros where either is zero."""
    t, s = F.normalize(teacher, dim=1), F.normalize(student, dim=1)
    return (t * s).sum(1, keepdim=True) * t - s


def sample(maps: Iterable[Sequence[Tensor]], count: int, seed: int) -> list[Tensor]:
    """About ROWS places of the maps of `count` images, equally many of each image and drawn by the seed: [M, C] of
    each layer."""
    generators: list[torch.Generator] = []  # one a layer: how images are batched changes nothing
    found: list[list[Tensor]] = []
    for batch in maps:
        for i, layer in enumerate(batch):
            if i == len(found):
                found.append([])
                generators.append(torch.Generator().manual_seed(seed))
            for rows in layer.flatten(2).movedim(1, -1):
                drawn = torch.randperm(len(rows), generator=generators[i])[: -(-ROWS // count)]
                found[i].append(rows[drawn.to(rows.device)])
    return [torch.cat(layer)[:ROWS].clone() for layer in found]
