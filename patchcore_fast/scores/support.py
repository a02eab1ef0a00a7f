"""How far each patch is from what the other images of the set show: what a defect in the training set gives away."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..inputs import Features
from ..kernels import k_center_greedy
from ..kernels.checks import check_int
from ..kernels.exact import root
from ..kernels.ranks import Held, Ranks
from ..kernels.surroundings import undisturbed
from ..progress import Progress, bar
from .foreign import nearest_of_other_images
from .layout import Layout
from .rows import CHUNK_SIZE, Rows, check_seed, read_rows

_LOWEST = 0.02  # share of the other images, the nearest ones, that the first look averages over
_IMAGES = 512  # compared with in the first look, at most
_CORESET, _CORESET_ROWS = 0.05, 16384  # of the second look, besides the representatives
_FIRST = (2.0, 0.0)  # thresholds of what the second look leaves out
_TRUSTED, _STEPS = 0.75, 3  # share of images that the others are compared with after it, and how often that is chosen
_CELLS = 1 << 22  # of maps held at a time
_BLOCK = 1 << 12  # representatives compared at a time
_RADIUS = 2  # patches: a feature sees its neighbours, so a defect colours them too
_FARTHEST = 10.0  # times as far counts no more than this


@dataclass(frozen=True)
class Bank:
    """What is compared in the later looks. R representatives, B rows of the bank, on the device of `support`.

    representative : [R, D] their features.  image : [R] int64, theirs, numbered as in the layout.
    features : [B, D], rows of the bank, and `rows` [B] their numbers.  owner : [B] int64, the image of each.
    """

    representative: Tensor
    image: Tensor
    features: Tensor
    rows: Tensor
    owner: Tensor

    def nearest(self, taken: Tensor, asked: Tensor | None = None) -> Tensor:
        """Distance of each (`asked` [R] bool: of some) representative to the nearest of the rows `taken` [B] bool that
        another image owns; float64, inf where there is none."""
        x, image = self.representative, self.image
        if asked is not None:
            x, image = x[asked.to(x.device)], image[asked]
        rows = taken.nonzero()[:, 0]
        block = (rows, self.features[rows.to(self.features.device)], self.owner[rows])
        return nearest_of_other_images(x, image, [block]).distance.double().cpu()

    @cached_property
    def nearest_of_all(self) -> Tensor:
        """`nearest` of every representative with all rows taken, [R]."""
        return self.nearest(torch.ones_like(self.rows, dtype=torch.bool))


@dataclass(frozen=True)
class Support:
    """What `support` found.

    distance : [N] float32, of each row's representative to the other images; small is supported, so minus this is the
        score that the name promises.
    image_distance : [I] float32, the largest of each image, in the order of `layout.names`.
    deviation : [I] float64, its logarithm in robust standard deviations above the median; see `deviations`.
    raw_deviation : [I] float64, the same before concentration, which sharpens the order of the images and lengthens
        the tail of a clean set: how many images stand out is told from these.
    layout : where the rows lie.
    bank : what was compared; `missed` asks it again.
    """

    distance: Tensor
    image_distance: Tensor
    deviation: Tensor
    raw_deviation: Tensor
    layout: Layout
    bank: Bank | None = field(default=None, repr=False, compare=False)

    @undisturbed
    def outlying(self, deviation: float = 3.0) -> float:
        """Share of images that deviate by more before concentration."""
        return float((self.raw_deviation > deviation).double().mean())

    @undisturbed
    def unsupported(self, high: float, low: float, radius: int = _RADIUS) -> Tensor:
        """[N] bool: in images that deviate by more than `high`, the rows that deviate by more than `low`, and around.

        Two thresholds (Canny, 1986): what stands out marks the image, and then its weaker surroundings count too.
        `radius` patches around are taken along where the grid is known; where it is not, the whole image is.
        """
        where = self.layout
        image = self.deviation[where.image] > high
        if where.row is None:
            return image
        return _around(image & (_deviation(self.distance, self.image_distance) > low), where, radius)

    @undisturbed
    def missed(self, gone: Tensor, deviation: float = 1.0) -> float:
        """How much the images that deviate by at most `deviation` would miss the rows `gone` [N] bool.

        The mean, over their representatives, of log(distance to the nearest row of another image that is not gone /
        the same of all rows), each ratio counted as at most 10. 0: nobody is nearest to what goes, as it should be with
        defects; rare but normal rows are the nearest that others have.

        Raises
        ------
        ValueError : no bank (this was not made by `support`), or `gone` does not fit.
        """
        if self.bank is None:
            raise ValueError("missed: there is no bank to ask; take what support returns")
        if gone.shape != self.distance.shape or gone.dtype != torch.bool:
            raise ValueError(
                f"missed: gone must be {tuple(self.distance.shape)} bool, got {tuple(gone.shape)} {gone.dtype}"
            )
        asked = (self.deviation <= deviation)[self.bank.image]
        left = ~gone[self.bank.rows]
        if not bool(asked.any()) or bool(left.all()):
            return 0.0
        ratio = self.bank.nearest(left, asked) / self.bank.nearest_of_all[asked]
        ratio = ratio.clamp_max(_FARTHEST).nan_to_num(nan=1.0)  # 0 / 0: repeated rows of which some stay
        return float(ratio.log().mean())


@undisturbed
def support(
    features: Features,
    *,
    image_ids: Any = None,
    positions: Any = None,
    representatives: int = 32,
    seed: int = 0,
    device: torch.device | str | None = None,
    chunk_size: int = CHUNK_SIZE,
    progress: Progress = None,
    group: Any = None,
) -> Support:
    """How near each patch comes to the other images of the set.

    Each image is represented by its own k-center rows, which hold whatever is odd in it; a row takes the value of the
    representative that is nearest to it. First look: the mean over the nearest 2 % of the other images (at least two)
    of the distance to their nearest representative. What stands out there is left out of the second look: the distance
    to the nearest row of another image among all representatives and an exact k-center coreset (5 % of the rows, at
    most 16,384) of the whole set. That is PatchCore's score of the row, had its image not been trained on. Then three
    steps of concentration: the same distance to the three quarters of the images that were nearest to others before.

    Parameters
    ----------
    features : [N, D] floating ndarray or tensor.
    image_ids : [N] integers, the image of each row.  positions : [N, 3] integers, (image, row, column) on its patch
        grid. With neither, the layout is read off the order of the rows (`Layout.inferred`).
    representatives : of an image, at most.
    seed : of the choice of images, where there are more than 512.
    device : where to compute; None: where the features are.
    chunk_size : rows at a time in looking over the values; changes speed and memory only.
    progress : see `patchcore_fast.progress.bar`; counts images.
    group : a torch.distributed process group. features, image_ids and positions are then this rank's, in the order of
        ranks, which may cut images anywhere; what is found is that of all rows, on every rank.

    Raises
    ------
    TypeError : wrong type or dtype.  ValueError : wrong shape or range, rows that are not finite, fewer than 3 images,
    or no layout given and none to be seen.

    References
    ----------
    The cross-image term is ours; fitting again to what the last fit finds nearest is Rousseeuw and Van Driessen's
    concentration step (A fast algorithm for the minimum covariance determinant estimator, 1999).
    """
    name = "support"
    check_int(name, "representatives", representatives, 1, 2**31 - 1)
    generator = torch.Generator().manual_seed(check_seed(name, seed))
    if group is None:
        rows = read_rows(name, features, device, chunk_size)
        return _support(name, rows, None, image_ids, positions, representatives, generator, progress)
    ranks = Ranks(name, group)
    with ranks.watched():
        rows = ranks.agree(lambda: read_rows(name, features, device, chunk_size, empty=True))
        shown = progress if ranks.rank == 0 else False
        return _support(name, rows, ranks, image_ids, positions, representatives, generator, shown)


def _support(
    name: str,
    rows: Rows,
    ranks: Ranks | None,
    image_ids: Any,
    positions: Any,
    representatives: int,
    generator: torch.Generator,
    progress: Progress,
) -> Support:
    held = Held(ranks, rows.x)
    layout = Layout.of(name, rows.shape[0], image_ids, positions, ranks) or Layout.inferred(rows.x, ranks)
    if layout is None:
        raise ValueError(
            f"{name}: image_ids or positions are wanted; the order of the {held.total} rows shows no images"
        )
    if layout.images < 3:
        raise ValueError(f"{name}: at least 3 images are wanted, got {layout.images}")
    with bar(2 * layout.images + 1 + _STEPS, name, progress) as done:
        chosen, own = _represent(held, rows.device, layout, representatives, done.update)
        features_of = held.rows(chosen).to(rows.device)
        image = layout.image[chosen]
        first = _first_look(features_of, image, layout.images, generator, done.update)
        unsupported = _result(first, first, own, image, layout).unsupported(*_FIRST)
        bank = _bank(held, rows.device, chosen, features_of, layout)
        raw, last = _later_looks(bank, layout.images, ~unsupported, done.update)
    return _result(raw, last, own, image, layout, bank)


@undisturbed
def deviations(distance: Tensor) -> Tensor:
    """Robust deviations of image distances [I]: (log d - median) / s, s the RMS of those below the median; [I] float64.

    Only the lower half sets the scale, so that outliers above, be they a quarter of all, do not widen it. 0 everywhere
    where it cannot be told (more than half of the distances are equal).
    """
    return _deviation(distance, distance)


def _deviation(distance: Tensor, reference: Tensor) -> Tensor:
    positive = reference[reference > 0].double()
    if positive.shape[0] == 0:
        return torch.zeros(distance.shape[0], dtype=torch.float64)
    floor = float(positive.median()) * 1e-3  # images that another one repeats lie at 0
    logs = reference.double().clamp_min(floor).log().sort().values  # the order of the images changes no sum
    middle = logs[(logs.shape[0] - 1) // 2]
    below = logs[logs <= middle] - middle
    spread = below.square().mean().sqrt()
    if float(spread) <= 1e-9:
        return torch.zeros(distance.shape[0], dtype=torch.float64)
    return (distance.double().clamp_min(floor).log() - middle) / spread


def _represent(held: Held, device: torch.device, layout: Layout, count: int, tell: Any) -> tuple[Tensor, Tensor]:
    """Representatives as row numbers [R], image by image, and for every row the number 0..R-1 of its own [N]."""
    ends = torch.bincount(layout.image, minlength=layout.images).clamp_max(count).cumsum(0).tolist()
    chosen, own = torch.zeros(ends[-1], dtype=torch.int64), torch.zeros(held.total, dtype=torch.int64)
    told = 0
    for image, members, x in held.blocks(layout.image, layout.images):
        x = x.to(device)
        picks = k_center_greedy(x, min(count, x.shape[0])).indices
        first = ends[image] - picks.shape[0]
        own[members] = _squared(x, x[picks]).argmin(1).cpu() + first
        chosen[first : ends[image]] = members[picks.cpu()]
        tell(image + 1 - told)  # those of other ranks too
        told = image + 1
    tell(layout.images - told)
    return held.joined(chosen), held.joined(own)


def _first_look(x: Tensor, image: Tensor, images: int, generator: torch.Generator, tell: Any) -> Tensor:
    """[R] float64: mean of the lowest distances to other images, some images at a time: never R x R."""
    compared = torch.randperm(images, generator=generator)[:_IMAGES].sort().values
    keep = min(max(2, round(_LOWEST * compared.shape[0])), compared.shape[0] - 1)
    order = image.argsort(stable=True)
    members = order.split(torch.bincount(image, minlength=images).tolist())
    most = max(m.shape[0] for m in members)
    here = image.to(x.device)
    parts = [slice(lo, lo + _BLOCK) for lo in range(0, x.shape[0], _BLOCK)]
    low = [torch.empty(x[part].shape[0], 0, device=x.device) for part in parts]
    for some in compared.split(16):
        # Images of fewer representatives repeat their first, which changes no minimum.
        bank = torch.stack([torch.cat([m, m[:1].expand(most - m.shape[0])]) for m in (members[j] for j in some)])
        others = x[bank.flatten().to(x.device)]
        for i, part in enumerate(parts):
            nearest = _squared(x[part], others).view(-1, *bank.shape).amin(2).clamp_min(0)
            d = root(nearest).float().masked_fill(here[part, None] == some.to(x.device), torch.inf)
            joined = torch.cat([low[i], d], 1)
            low[i] = joined.topk(min(keep, joined.shape[1]), 1, largest=False, sorted=True).values
        tell(some.shape[0])
    tell(images - compared.shape[0])
    return torch.cat(low).double().mean(1).cpu()


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """|x|^2 - 2 x.y + |y|^2 in float64, [R, D], [M, D] -> [R, M]: off by 1e-12 of the terms, and rounded away."""
    x, y = x.double(), y.double()
    return torch.addmm(x.square().sum(1)[:, None] + y.square().sum(1), x, y.t(), alpha=-2)


def _bank(held: Held, device: torch.device, chosen: Tensor, x: Tensor, layout: Layout) -> Bank:
    """All representatives and an exact coreset, which is where every later look looks."""
    count = max(1, min(int(held.total * _CORESET), _CORESET_ROWS))
    picks = k_center_greedy(held.x.to(device), count, group=held.group).indices.cpu()
    members = torch.cat([picks, chosen]).unique()
    return Bank(x, layout.image[chosen], held.rows(members).to(device), members, layout.image[members])


def _later_looks(bank: Bank, images: int, trusted: Tensor, tell: Any) -> tuple[Tensor, Tensor]:
    """[R] float64 twice: distance to the nearest trusted row of another image.

    At first `trusted` rows [N] are, then, for some steps, those of the images that were nearest to others.
    """
    raw = last = bank.nearest(trusted[bank.rows])
    tell(1)
    for _ in range(_STEPS):
        near = torch.zeros(images, dtype=torch.bool)
        near[largest(last, bank.image, images).argsort(stable=True)[: max(2, int(_TRUSTED * images))]] = True
        last = bank.nearest(near[bank.owner])
        tell(1)
    return raw, last


def largest(value: Tensor, image: Tensor, images: int) -> Tensor:
    """[I] float64, of values [R] float64 of rows of each image."""
    return torch.zeros(images, dtype=torch.float64).scatter_reduce(0, image, value, "amax")


def _result(raw: Tensor, last: Tensor, own: Tensor, image: Tensor, layout: Layout, bank: Bank | None = None) -> Support:
    before, after = (largest(value, image, layout.images).float() for value in (raw, last))
    return Support(last[own].float(), after, deviations(after), deviations(before), layout, bank)


def _around(rows: Tensor, layout: Layout, radius: int) -> Tensor:
    """The rows, and all within `radius` grid cells of one of them (Chebyshev)."""
    if layout.row is None or layout.column is None or not radius or not bool(rows.any()):
        return rows
    # By rank, so that positions in pixels are neighbours too and no map is larger than it must be.
    row, column = (v.unique(return_inverse=True)[1] for v in (layout.row, layout.column))
    height, width = int(row.max()) + 1, int(column.max()) + 1
    out = rows.clone()
    for images in layout.image[rows].unique().split(max(1, _CELLS // (height * width))):  # a map an image
        place = torch.full((layout.images,), -1)
        place[images] = torch.arange(images.shape[0])
        mine = (place[layout.image] >= 0).nonzero()[:, 0]
        at = (place[layout.image[mine]], row[mine], column[mine])
        grid = torch.zeros(images.shape[0], height, width)
        grid.index_put_(at, rows[mine].float(), accumulate=True)  # rows may share a cell
        out[mine] |= F.max_pool2d(grid[:, None], 2 * radius + 1, 1, radius)[:, 0][at] > 0
    return out
