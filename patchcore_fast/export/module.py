"""A fitted model as one module of plain torch operations that torch.export can write down whole."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from patchcore_fast.config import top_share
from patchcore_fast.errors import BankError
from patchcore_fast.features import FeatureExtractor
from patchcore_fast.kernels import knn
from patchcore_fast.layered_bank import LayeredBank
from patchcore_fast.model.layered import joined
from patchcore_fast.scoring import anomaly_map, top_patches
from patchcore_fast.search import widened

if TYPE_CHECKING:
    from patchcore_fast.model import PatchCore

CHUNK = 4096  # bank rows that queries are compared with at a time
SPARE = 7  # candidates beyond k, settled by differences: expanded float32 squares may order near ties wrongly


class ExportedPatchCore(torch.nn.Module):
    """Images to scores and maps, with backbone, memory bank and scoring inside.

    The search is exact up to float32: |x|^2 - 2 x.b + |b|^2 of centred rows, CHUNK bank rows at a time, gives k + SPARE
    candidates; their distances are then taken from differences, which do not cancel. Beyond its arguments it holds
    P x CHUNK and P x (k + SPARE) x D numbers for P patches, never P x M.

    Parameters
    ----------
    model : fitted, with the scorer "distance" and float32 features.

    Raises
    ------
    BankError : a model that cannot be exported; says which setting is why.
    """

    mean: torch.Tensor
    std: torch.Tensor
    around: torch.Tensor

    def __init__(self, model: PatchCore) -> None:
        """Copy what the model knows, on the CPU; the model stays as it is."""
        super().__init__()
        c = model.config
        _check(model)
        extractor = model.extractor
        self.config = c
        # A copy: the model may be on a GPU, and torch.export saves plain row-major weights best.
        assert c.features.seen_size is not None  # else it is refused before
        net = extractor.backbone.at_one_size(c.features.seen_size)
        self.net = copy.deepcopy(net).cpu().to(memory_format=torch.contiguous_format)
        self._channels_last = extractor.backbone._channels_last
        self.fuse = _Fusion(extractor)
        self.register_buffer("mean", extractor.backbone.mean.cpu().clone())
        self.register_buffer("std", extractor.backbone.std.cpu().clone())
        self.searches = torch.nn.ModuleList(
            Search(part.searched, min(c.neighbours, len(part))) for part in model.bank.parts
        )
        self.widths = [part.width for part in model.bank.parts]
        self.scales = model.bank.scales if isinstance(model.bank, LayeredBank) else None
        self.share = top_share(c.image_score)
        self.reweighted = c.image_score == "reweighted" and len(model.bank) > 1
        if self.reweighted:
            bank = model.bank.parts[0].features.cpu().float()
            # N_b(m) of Eq. 7 is of the bank alone: looked up, not searched again.
            self.register_buffer("around", knn(bank, bank, min(c.reweight_neighbours, len(bank)))[1])

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores [B] and maps [B, H, W] of images [B, 3, H, W] float32 in [0, 1], of the size that was exported."""
        c = self.config
        maps = self.net((images - self.mean) / self.std)
        fused = self.fuse([m.permute(0, 3, 1, 2) for m in maps] if self._channels_last else list(maps))
        height, width = fused.shape[2:]
        rows = fused.permute(0, 2, 3, 1).reshape(-1, fused.shape[1])
        layers, nearest = [], None
        for search, part in zip(self.searches, rows.split(self.widths, dim=1), strict=True):
            distance, nearest = search(widened(part, search.get_buffer("bank")))
            if c.squared:
                distance = distance.square()
            if c.metric == "cosine":
                distance = distance / 2
            layers.append(distance.mean(dim=1))
        scored = layers[0] if self.scales is None else joined(torch.stack(layers, dim=1), self.scales)
        patches = scored.reshape(images.shape[0], height * width)
        assert nearest is not None
        scores = self._image_scores(patches, rows, nearest)
        size = (images.shape[2], images.shape[3])
        return scores, anomaly_map(patches.reshape(images.shape[0], height, width), size, c.sigma, c.upsample, c.border)

    @property
    def bank(self) -> torch.Tensor:
        """Rows [M, D] of the bank without their price, of the first layer's where there are several."""
        return self.searches[0].get_buffer("bank")[:, : self.widths[0]]

    def _image_scores(self, patches: torch.Tensor, rows: torch.Tensor, nearest: torch.Tensor) -> torch.Tensor:
        """See `scoring.image_score`."""
        if self.share is not None:
            return patches.topk(top_patches(self.share, patches.shape[1]), dim=1).values.mean(dim=1)
        top, at = patches.max(dim=1)
        if not self.reweighted:
            return top
        x = rows.view(patches.shape[0], patches.shape[1], -1)
        x = x.gather(1, at[:, None, None].expand(-1, 1, x.shape[2]))  # [B, 1, D]
        star = nearest[:, 0].view(patches.shape).gather(1, at[:, None])[:, 0]
        d = (x - self.bank[self.around[star]]).square().sum(dim=2).sqrt()
        e = torch.exp(d - d.max(dim=1, keepdim=True).values)
        return top * (e[:, 1:].sum(dim=1) / e.sum(dim=1))


class Search(torch.nn.Module):
    """Exact neighbours in a bank; see `ExportedPatchCore`."""

    bank: torch.Tensor
    center: torch.Tensor
    half_norms: torch.Tensor

    def __init__(self, bank: torch.Tensor, k: int) -> None:
        super().__init__()
        self.k = k
        bank = bank.cpu().float().clone()  # a loaded bank may be a view of its whole file
        center = bank.double().mean(dim=0)
        self.register_buffer("bank", bank)
        self.register_buffer("center", center.float())
        self.register_buffer("half_norms", (bank - center.float()).double().square().sum(dim=1).div(2).float())

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances [Q, k], ascending, and bank rows [Q, k] of the nearest."""
        count, centred = len(self.bank), rows - self.center
        wide = min(self.k + SPARE, count)
        best, where = None, None
        for lo in range(0, count, CHUNK):
            hi = min(lo + CHUNK, count)
            # Half the square without |x|^2, which is the same for all rows of the bank.
            half = self.half_norms[lo:hi] - centred @ (self.bank[lo:hi] - self.center).T
            near, at = half.topk(min(wide, hi - lo), dim=1, largest=False)
            at = at + lo
            if best is None or where is None:
                best, where = near, at
            else:
                best, where = torch.cat([best, near], 1), torch.cat([where, at], 1)
                best, order = best.topk(min(wide, best.shape[1]), dim=1, largest=False)
                where = where.gather(1, order)
        assert where is not None
        squared = (rows[:, None] - self.bank[where]).square().sum(dim=2)
        squared, order = squared.topk(self.k, dim=1, largest=False)
        return squared.sqrt(), where.gather(1, order)


class _Fusion(torch.nn.Module):
    """`FeatureExtractor.fuse` without loops over the batch: averages over channels become products with constants."""

    last: torch.Tensor | None
    mean: torch.Tensor | None

    def __init__(self, extractor: FeatureExtractor) -> None:
        super().__init__()
        self.patch, self.fusion, self.mode = extractor.patch_size, extractor.fusion, extractor.resize
        last, mean = None, None
        self.units = extractor.units if extractor.cosine else None
        if self.fusion == "amazon":
            self.mode = "bilinear"
            for i, channels in enumerate(extractor.backbone.channels):
                pool = _average(channels * self.patch**2, extractor.layer_dim)
                self.register_buffer(f"pool{i}", pool.view(extractor.layer_dim, channels, self.patch, self.patch))
            last = _average(len(extractor.backbone.channels) * extractor.layer_dim, extractor.dim)
        elif extractor.learned is not None:
            mean, last = extractor.learned.mean.cpu().float().clone(), extractor.learned.matrix.T.cpu().float().clone()
        elif extractor.dim < sum(extractor.backbone.channels):
            last = extractor.projection
            last = (
                _average(sum(extractor.backbone.channels), extractor.dim)
                if last is None
                else last.cpu().float().clone()
            )
        self.register_buffer("mean", None if mean is None else mean[:, None, None])
        self.register_buffer("last", None if last is None else last[:, :, None, None])

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        # "concat" and "amazon" align to the first map, "interpolated" to the largest, of equals the first.
        size = maps[0].shape[2:]
        if self.fusion == "interpolated":
            size = max((m.shape[2:] for m in maps), key=lambda s: s[0] * s[1])
        parts = []
        for i, m in enumerate(maps):
            if self.fusion == "amazon":
                m = F.conv2d(m, getattr(self, f"pool{i}"), padding=self.patch // 2)
            else:
                m = F.avg_pool2d(m, self.patch, stride=1, padding=self.patch // 2)
            if m.shape[2:] != size:
                align = False if self.mode == "bilinear" else None
                m = F.interpolate(m, size=size, mode=self.mode, align_corners=align)
            parts.append(m)
        fused = torch.cat(parts, dim=1)
        if self.mean is not None:
            fused = fused - self.mean
        fused = fused if self.last is None else F.conv2d(fused, self.last)
        if self.units is None:
            return fused
        return torch.cat([_unit(part) for part in fused.split(self.units, dim=1)], dim=1)


def _unit(x: torch.Tensor) -> torch.Tensor:
    """[B, C, h, w] of length 1 at each place, zeros as they are."""
    length = x.square().sum(dim=1, keepdim=True).sqrt()
    return x / torch.where(length > 0, length, torch.ones_like(length))


def _average(source: int, target: int) -> torch.Tensor:
    """[target, source]: adaptive average pooling from `source` values to `target` as a matrix."""
    return F.adaptive_avg_pool1d(torch.eye(source), target).T.contiguous()


def _check(model: PatchCore) -> None:
    c = model.config
    if c.scoring.scorer != "distance":
        raise BankError(f'export: scorer must be "distance", got {c.scoring.scorer!r}')
    if c.features.precision != "float32":
        raise BankError(f'export: precision must be "float32", got {c.features.precision!r}')
    if c.features.fusion == "graph":
        raise BankError('export: fusion must not be "graph", whose neighbours the exact kernel finds')
