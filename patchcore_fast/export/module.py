"""A fitted model as one module of plain torch operations that torch.export can write down whole."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from patchcore_fast.config import top_share
from patchcore_fast.errors import BankError
from patchcore_fast.export.patches import PatchScore
from patchcore_fast.features import FeatureExtractor
from patchcore_fast.inputs import PRECISIONS
from patchcore_fast.kernels import knn
from patchcore_fast.layered_bank import LayeredBank
from patchcore_fast.model.layered import joined
from patchcore_fast.scoring import anomaly_map, top_patches

if TYPE_CHECKING:
    from patchcore_fast.model import PatchCore


class ExportedPatchCore(torch.nn.Module):
    """Images to scores and maps, with backbone, memory bank and scoring inside.

    The search is exact up to float32: |x|^2 - 2 x.b + |b|^2 of centred rows, CHUNK bank rows at a time, gives k + SPARE
    candidates; their distances are then taken from differences, which do not cancel. Beyond its arguments it holds
    P x CHUNK and P x (k + SPARE) x D numbers for P patches, never P x M.

    Parameters
    ----------
    model : fitted, by whatever scorer. Of features in half precision the network computes in float32 here, as it does
        on a processor without instructions for them, and the rows are rounded.
    dynamic : take images of any size whose sides are multiples of `multiple`, and not of the config's alone.

    Attributes
    ----------
    multiple : (height, width), None unless dynamic.

    Raises
    ------
    BankError : a model that cannot be exported; says which setting is why.
    """

    mean: torch.Tensor
    std: torch.Tensor
    around: torch.Tensor

    def __init__(self, model: PatchCore, dynamic: bool = False) -> None:
        """Copy what the model knows, on the CPU; the model stays as it is."""
        super().__init__()
        c = model.config
        _check(model, dynamic)
        extractor = model.extractor
        self.config = c
        # A copy: the model may be on a GPU, and torch.export saves plain row-major weights best.
        assert c.features.seen_size is not None  # else it is refused before
        self.multiple: tuple[int, int] | None = None
        if dynamic:
            try:
                net, step = extractor.backbone.at_many_sizes()
            except ValueError as error:
                raise BankError(f"export: no dynamic size: {error}") from error
            if any(side % step or side < 2 * step for side in c.features.seen_size):
                raise BankError(
                    f"export: no dynamic size: sides must be multiples of {step} from {2 * step} on, the model's "
                    f"images have {c.features.seen_size[0]} x {c.features.seen_size[1]} pixels"
                )
            if 4 * c.sigma >= 2 * step:
                raise BankError(f"export: no dynamic size: sigma {c.sigma:g} is too wide for {2 * step} pixels")
            self.multiple = (step, step)
        else:
            net = extractor.backbone.at_one_size(c.features.seen_size)
        self.net = copy.deepcopy(net).cpu().to(memory_format=torch.contiguous_format)
        self._channels_last = extractor.backbone._channels_last
        self.fuse = _Fusion(extractor)
        self.register_buffer("mean", extractor.backbone.mean.cpu().clone())
        self.register_buffer("std", extractor.backbone.std.cpu().clone())
        self.patches = torch.nn.ModuleList(PatchScore(c, part) for part in model.bank.parts)
        self.dtype = PRECISIONS[c.features.precision]
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
        rows = fused.permute(0, 2, 3, 1).reshape(-1, fused.shape[1]).to(self.dtype).float()
        layers, nearest = [], None
        for score, part in zip(self.patches, rows.split(self.widths, dim=1), strict=True):
            found, nearest = score(part)
            layers.append(found)
        scored = layers[0] if self.scales is None else joined(torch.stack(layers, dim=1), self.scales)
        patches = scored.reshape(images.shape[0], height * width)
        assert nearest is not None
        scores = self._image_scores(patches, rows, nearest)
        size = (images.shape[2], images.shape[3])
        return scores, anomaly_map(patches.reshape(images.shape[0], height, width), size, c.sigma, c.upsample, c.border)

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
        first = self.patches[0]
        assert isinstance(first, PatchScore)
        d = (x - first.bank[self.around[star]]).square().sum(dim=2).sqrt()
        e = torch.exp(d - d.max(dim=1, keepdim=True).values)
        return top * (e[:, 1:].sum(dim=1) / e.sum(dim=1))


class Halved(torch.nn.Module):
    """A network that computes in float16; what goes in and comes out stays float32."""

    def __init__(self, net: torch.nn.Module) -> None:
        """The weights are rounded in place."""
        super().__init__()
        self.net = net.half()

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Maps of normalised images."""
        return [m.float() for m in self.net(x.half())]


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


def _check(model: PatchCore, dynamic: bool) -> None:
    c = model.config
    if c.features.fusion == "graph":
        raise BankError('export: fusion must not be "graph", whose neighbours the exact kernel finds')
    if not dynamic:
        return
    if c.features.tile is not None:
        raise BankError("export: no dynamic size: the model works in tiles, which are of one size")
    if top_share(c.image_score) is not None:
        raise BankError(
            f"export: no dynamic size: image_score {c.image_score!r} counts the patches of one size; take "
            '"max" or "reweighted"'
        )
