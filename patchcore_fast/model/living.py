"""Banks that go on after `fit`: new normal images join, banks become one, a size is kept (docs/living-banks.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.kernels import k_center_greedy, knn
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model.collect import FeatureRows
from patchcore_fast.model.decision import held_out_of, thresholds, undecided
from patchcore_fast.model.fewshot import Augmentation
from patchcore_fast.model.loading import completed
from patchcore_fast.model.pixels import HeldOut
from patchcore_fast.model.score import image_scores
from patchcore_fast.model.threshold import held_out_folds
from patchcore_fast.samplers.measures import farthest_from_mean
from patchcore_fast.samplers.projection import project
from patchcore_fast.scores import nearest_of_other_images

Progress = Callable[[int, int], None] | None


@dataclass(frozen=True)
class Growth:
    """How many new rows join a bank, by one of three rules.

    radius : until all are within this distance of it; None: the bank's own.  add : so many of them.
    size : so many that the bank has this many rows, chosen anew of its own and the new ones.
    """

    radius: float | None = None
    add: int | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        """TypeError or ValueError: more than one, or none that can be."""
        if sum(value is not None for value in (self.radius, self.add, self.size)) > 1:
            raise ValueError("PatchCore.update: radius, add and size: one of them is wanted")
        for name in ("add", "size"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise TypeError(f"PatchCore.update: {name} must be an integer, got {value!r}")
            if value is not None and value < 1:
                raise ValueError(f"PatchCore.update: {name} must be at least 1, got {value}")


class Space:
    """Where the distances of a bank's selection are measured: the projection that it keeps, or the features' own."""

    def __init__(self, bank: MemoryBank, device: torch.device) -> None:
        self._projection, self._device = bank.projection, device
        self.bank = self.rows(bank.features)

    def rows(self, features: torch.Tensor) -> torch.Tensor:  # [N, D] -> [N, d]
        """Features as they are measured."""
        if self._projection is None:
            return features.to(self._device)
        return project(features.to(self._device), self._projection, self._device)


def grow(space: Space, new: torch.Tensor, growth: Growth, radius: float, progress: Progress = None) -> torch.Tensor:
    """Rows [K] int64 of the bank's and behind them the new ones [N, d], in the order of the bank that comes of them."""
    held, count = len(space.bank), len(new)
    every = torch.cat([space.bank, new])
    if growth.size is not None:
        if growth.size > held + count:
            raise ValueError(f"PatchCore.update: size {growth.size} is more than the {held + count} rows there are")
        start = farthest_from_mean(every)
        return k_center_greedy(every, growth.size, start=start, progress=progress).indices.cpu()
    own = torch.arange(held)
    if growth.add is not None:
        most, stop = min(growth.add, count), None
    else:
        most, stop = count, radius
    found = k_center_greedy(every, most, selected=own, radius=stop, progress=progress)
    return torch.cat([own, found.indices.cpu()])


def updated(
    bank: MemoryBank,
    rows: FeatureRows,
    growth: Growth,
    config: PatchCoreConfig,
    augmentation: Augmentation,
    device: torch.device,
    images: Sequence[str],
    progress: Progress = None,
    asked: Progress = None,
) -> tuple[MemoryBank, float]:
    """The bank with rows of new images, and the radius within which these are covered.

    The threshold is of the scores that the bank had and of the new images', each by a bank that grew without it.

    Parameters
    ----------
    rows : of the new images, each followed by its copies.  images : their names, without copies; may be empty.

    Raises
    ------
    ValueError : no rule, and a bank that does not know its radius.
    """
    space = Space(bank, device)
    radius = _radius(bank, growth)
    order = grow(space, space.rows(rows.features), growth, radius, progress)
    features = _taken(bank, rows, order, device)
    base = max(bank.patches, int(bank.indices.max()) + 1)
    indices = torch.cat([bank.indices, base + torch.arange(rows.used)])[order]
    positions, named = _places(bank, rows, augmentation, order, images)
    support = _supported(bank, rows, order, augmentation.per_image, device)
    made = replace(
        bank, features=features, indices=indices, positions=positions, support=support, images=named,
        patches=base + rows.used, size=None,
        grid=bank.grid if bank.grid == rows.grid else None, searcher=None,
    )  # fmt: skip
    known = held_out_of(bank)
    known.extend(_held_out(bank, space, rows, growth, radius, config, augmentation, device, asked))
    made = replace(made, **thresholds(known, config.decision, config.squared))
    after = Space(made, device).bank
    if growth.add is not None or growth.size is not None:
        radius = _reach(space.rows(rows.features), after)
    if bank.radius is not None:
        moved = 0.0 if growth.size is None else _reach(space.bank, after)
        made = replace(made, radius=max(bank.radius + moved, radius))
    made = made.with_index(config.search.index, config.selection.seed)
    return made, radius


def _radius(bank: MemoryBank, growth: Growth) -> float:
    """Where the growth ends by distance; 0 where it goes by numbers."""
    if growth.add is not None or growth.size is not None:
        return 0.0
    if growth.radius is not None:
        return growth.radius
    if bank.radius is None:
        raise ValueError(
            "PatchCore.update: the bank does not say how far a patch may be from it (its sampler is not greedy, it has "
            "one row, or an earlier version wrote it): give radius, add or size"
        )
    return bank.radius


def merged(banks: Sequence[MemoryBank], size: int | None, device: torch.device) -> MemoryBank:
    """One bank of several that were made alike: all their rows, or `size` of them by exact greedy.

    The thresholds are of the held-out images of all: an image is no farther from more rows. Where `size` leaves rows
    out, which no score has seen, there are none, nor where a bank was calibrated.

    Raises
    ------
    ValueError : fewer than two banks, or of other settings, weights or projections than the first; or settings that
        this version cannot use.
    """
    if len(banks) < 2:
        raise ValueError(f"merge: two banks or more are wanted, got {len(banks)}")
    first, configs = banks[0], [_settings(bank, number) for number, bank in enumerate(banks, 1)]
    for number, (bank, config) in enumerate(zip(banks[1:], configs[1:], strict=True), 2):
        if what := _different(first, configs[0], bank, config):
            raise ValueError(f"merge: bank {number} has other {what} than the first")
    features = torch.cat([bank.features for bank in banks])
    starts = torch.tensor([0, *(max(b.patches, int(b.indices.max()) + 1) for b in banks)]).cumsum(0)
    indices = torch.cat([bank.indices + int(start) for bank, start in zip(banks, starts, strict=False)])
    named = all(bank.images and bank.positions is not None for bank in banks)
    positions, images = None, [name for bank in banks for name in bank.images] if named else []
    if named:
        counts = torch.tensor([0, *(len(bank.images) for bank in banks)]).cumsum(0)
        shift = [torch.tensor([int(c), 0, 0], dtype=torch.int32) for c in counts[:-1]]
        positions = torch.cat([b.positions + s for b, s in zip(banks, shift, strict=True) if b.positions is not None])
    grid = first.grid if len({bank.grid for bank in banks}) == 1 else None
    known = [bank.radius for bank in banks if bank.radius is not None]
    radius = max(known) if len(known) == len(banks) else None
    support = _supported_by_others(banks)
    whole = replace(first, features=features, indices=indices, positions=positions, images=images, grid=grid,
                    support=support,
                    patches=int(starts[-1]), radius=radius, searcher=None, size=None)  # fmt: skip
    whole = undecided(whole)
    if size is None or size >= len(features):
        if any(bank.calibrated for bank in banks):
            return whole
        held = HeldOut([], [])
        for bank in banks:
            held.extend(held_out_of(bank))
        return replace(whole, **thresholds(held, configs[0].decision, configs[0].squared))
    every = Space(whole, device).bank
    order = k_center_greedy(every, size, start=farthest_from_mean(every)).indices.cpu()
    return replace(whole, features=features[order], indices=indices[order],
                   positions=None if positions is None else positions[order],
                   support=None if support is None else support[order],
                   radius=None if radius is None else radius + _reach(every, every[order]))  # fmt: skip


def _supported_by_others(banks: Sequence[MemoryBank]) -> torch.Tensor | None:
    """How far each row of all banks is from other images, of other banks too; None where one does not say."""
    known = [bank.support for bank in banks if bank.support is not None]
    if len(known) < len(banks):
        return None
    features = torch.cat([bank.features for bank in banks])
    owners = torch.repeat_interleave(torch.arange(len(banks)), torch.tensor([len(bank) for bank in banks]))
    found = nearest_of_other_images(features, owners, [(torch.arange(len(features)), features, owners)]).distance
    return torch.minimum(found.cpu(), torch.cat([s.cpu() for s in known]))


def _settings(bank: MemoryBank, number: int) -> PatchCoreConfig:
    try:
        return completed(bank.config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"merge: settings of bank {number} cannot be used ({error})") from error


def _different(first: MemoryBank, one: PatchCoreConfig, other: MemoryBank, two: PatchCoreConfig) -> str | None:
    """What keeps two banks, and their settings, from being one."""
    if first.weights != other.weights:
        return "weights of the backbone"
    for group in ("features", "scoring"):
        if getattr(one, group) != getattr(two, group):
            return f"settings of {group}"
    for name in ("neighbours", "price"):  # their scores, and so their thresholds, would not be of one kind
        if getattr(one.search, name) != getattr(two.search, name):
            return name
    if first.features.shape[1] != other.features.shape[1] or first.features.dtype != other.features.dtype:
        return "features"
    if not _same(first.projection, other.projection):
        return "projection (another seed)"
    if not _same(first.reduction_mean, other.reduction_mean) or not _same(
        first.reduction_matrix, other.reduction_matrix
    ):
        return "reduction, which was learnt from other images"
    return None


def _same(one: torch.Tensor | None, two: torch.Tensor | None) -> bool:
    return one is two or (one is not None and two is not None and torch.equal(one, two))


def _taken(bank: MemoryBank, rows: FeatureRows, order: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Features of rows of the bank and, counted on, of the new ones: only what is taken is copied."""
    own, at = order < len(bank), order.to(device)
    out = torch.empty(len(order), bank.features.shape[1], dtype=bank.features.dtype, device=device)
    out[own.to(device)] = bank.features.to(device)[at[own.to(device)]]
    out[~own.to(device)] = rows.features[order[~own] - len(bank)].to(out)
    return out


def _supported(
    bank: MemoryBank, rows: FeatureRows, order: torch.Tensor, per_image: int, device: torch.device
) -> torch.Tensor | None:
    """How far rows of the bank and, counted on, of the new ones are from other images [len(order)]; None as the bank's.

    Of the images of the bank there are its rows only: they support new rows, and new rows support them.
    """
    if bank.support is None:
        return None
    held = len(bank)
    sizes = torch.tensor([h * w for h, w in rows.grids], dtype=torch.int64)
    image = torch.repeat_interleave(torch.arange(len(rows.grids)) // per_image, sizes)
    owners = torch.cat([torch.full((held,), -1), image])[order]
    blocks = [(torch.arange(held), bank.features, torch.full((held,), -1))]
    blocks += [(held + numbers, rows.features[numbers[0] : numbers[-1] + 1], of) for numbers, of in
               zip(torch.arange(rows.used).split(65_536), image.split(65_536), strict=True)]  # fmt: skip
    found = nearest_of_other_images(_taken(bank, rows, order, device), owners, blocks).distance.cpu()
    before = torch.cat([bank.support.cpu(), torch.full((rows.used,), torch.inf)])[order]
    return torch.minimum(found, before)


def _places(
    bank: MemoryBank, rows: FeatureRows, augmentation: Augmentation, order: torch.Tensor, images: Sequence[str]
) -> tuple[torch.Tensor | None, list[str]]:
    """Positions of the chosen rows, and names of the images that they count, where the bank has them."""
    count = len(augmentation.originals(rows))
    if bank.positions is None or not bank.images or len(images) != count:
        return None, []
    new = augmentation.sources(rows, torch.arange(rows.used))
    new[:, 0] += len(bank.images)
    return torch.cat([bank.positions, new])[order], [*bank.images, *images]


def _held_out(
    bank: MemoryBank,
    space: Space,
    rows: FeatureRows,
    growth: Growth,
    radius: float,
    config: PatchCoreConfig,
    augmentation: Augmentation,
    device: torch.device,
    asked: Progress,
) -> HeldOut:
    """What new images say, each by the bank as it grows without it and its copies."""
    each, count = augmentation.per_image, len(augmentation.originals(rows))
    plan = list(held_out_folds(torch.arange(count), count)) if count > 1 else []
    found = HeldOut([], [])
    for done, fold in enumerate(plan, 1):
        members = (fold[:, None] * each + torch.arange(each)).reshape(-1)
        with rows.set_aside(members) as (rest, held, numbers):
            order = grow(space, space.rows(rest.features), _without(growth, len(space.bank) + rest.used), radius)
            support = _supported(bank, rest, order, each, device) if config.search.price else None
            originals = [i for i, number in enumerate(numbers.tolist()) if number % each == 0]
            grown = _taken(bank, rest, order, device)
            found.extend(image_scores(config, grown, support, held, device, originals, rows.sizes))
        if asked is not None:
            asked(done, len(plan))
    return found


def _without(growth: Growth, rows: int) -> Growth:
    return growth if growth.size is None else Growth(size=min(growth.size, rows))


def _reach(rows: torch.Tensor, bank: torch.Tensor) -> float:  # [N, d], [M, d]
    """The largest distance of a row to the bank, not rounded down."""
    distance, _ = knn(rows, bank, 1)
    return float(torch.nextafter(distance.max(), distance.new_tensor(torch.inf)))
