"""A bank for each layer: chosen one by one, their scores brought to one scale on training images (docs/layers.md)."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from math import isfinite

import torch

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.kernels import PreparedBank, prepare
from patchcore_fast.layered_bank import Bank, LayeredBank
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model.collect import FeatureRows, Rows
from patchcore_fast.model.decision import thresholds
from patchcore_fast.model.fewshot import Augmentation
from patchcore_fast.model.pixels import HeldOut, laid_quantiles
from patchcore_fast.model.score import ImageScorer, Score
from patchcore_fast.model.selection import Selection, Selector, random_state_kept, stages_shown
from patchcore_fast.model.sizing import greedy_radii
from patchcore_fast.progress import bar
from patchcore_fast.scoring import image_score
from patchcore_fast.search import Search, priced_search

_NORMAL = 1.4826  # the standard deviation of a normal distribution over its median absolute deviation
Span = tuple[int, int]


class Columns(Rows):
    """Rows of which only the columns of one layer are looked at; nothing is copied."""

    def __init__(self, rows: Rows, span: Span) -> None:
        self._rows, self._span = rows, slice(*span)
        self.grids, self.ranks, self.first, self.sizes = rows.grids, rows.ranks, rows.first, rows.sizes

    @property
    def first_row(self) -> int:
        """As of the rows; so are all that follow."""
        return self._rows.first_row

    @property
    def local(self) -> Rows:
        """Of this process."""
        own = self._rows.local
        return self if own is self._rows else Columns(own, (self._span.start, self._span.stop))

    @property
    def columns(self) -> int:
        """Of the layer."""
        return self._span.stop - self._span.start

    @property
    def dtype(self) -> torch.dtype:
        """Of the numbers."""
        return self._rows.dtype

    def embeddings(self) -> torch.Tensor | None:
        """Of all layers."""
        return self._rows.embeddings()

    @property
    def features(self) -> torch.Tensor:
        """A view."""
        return self._rows.features[:, self._span]

    def read(self, low: int, high: int) -> torch.Tensor:
        """A view of what is read."""
        return self._rows.read(low, high)[:, self._span]

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        """A copy."""
        return self._rows.take(indices)[:, self._span].contiguous()


def _columns(views: Sequence[FeatureRows], span: Span) -> list[FeatureRows]:
    return [FeatureRows.of(v.features[:, slice(*span)], v.grids) for v in views]


def scale_of(scores: torch.Tensor) -> float:
    """What scores [n] of normal patches are divided by: their robust standard deviation, 1.4826 median |s - median s|.

    Where more than half of them are equal their median takes its place, and 1 where that is zero too.
    """
    middle = scores.median()
    for found in (_NORMAL * float((scores - middle).abs().median()), float(middle)):
        if isfinite(found) and found > 0:
            return found
    return 1.0


def _joined_scores(config: PatchCoreConfig, apart: Sequence[torch.Tensor], scales: Sequence[float]) -> list[float]:
    """Image scores of patches' scores [P, L], image by image."""
    return [float(image_score(joined(one, scales)[None], config.scoring.image_score)) for one in apart]


def joined(layers: torch.Tensor, scales: Sequence[float]) -> torch.Tensor:
    """Scores of patches [..., L] by their layers' banks as one: the mean over layers of score / scale.

    That is the mean of the standardised scores (s - median s) / scale but for the medians, which add the same to every
    patch: so scores stay positive, as distances are.
    """
    return (layers / layers.new_tensor(scales)).mean(dim=-1)


class LayeredScorer:
    """Image and patch scores by the banks of a `LayeredBank`."""

    def __init__(self, config: PatchCoreConfig, bank: LayeredBank) -> None:
        """What a scorer wants to know of each bank is computed here, once."""
        self.config, self.bank = config, bank
        self.scorers = [ImageScorer(config, part.features).patches for part in bank.parts]

    def __call__(self, features: torch.Tensor, images: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image scores [B] and patch scores [B, P] of rows [B * P, D], D the columns of all layers."""
        layers = []
        for scorer, part, (begin, end) in zip(self.scorers, self.bank.parts, self.bank.spans, strict=True):
            layers.append(scorer(features[:, begin:end].contiguous(), *_rows_and_search(part))[0])
        patches = joined(torch.stack(layers, dim=1), self.bank.scales).view(images, -1)
        return image_score(patches, self.config.scoring.image_score), patches


def _rows_and_search(bank: MemoryBank) -> tuple[torch.Tensor | PreparedBank, Search | None]:
    """What a scorer takes: the prepared rows, where the exact neighbours by distance are what is wanted."""
    if bank.searcher is None and bank.searched is bank.features:
        return bank.exact.prepared, None
    return bank.features, bank.search


def scorer_of(config: PatchCoreConfig, bank: Bank) -> Score:
    """From rows [B * P, D] and B to image scores [B] and patch scores [B, P]."""
    if isinstance(bank, LayeredBank):
        return LayeredScorer(config, bank)
    scorer = ImageScorer(config, bank.features)
    return lambda features, images: scorer(features, images, *_rows_and_search(bank))


def choose_layers(
    rows: Rows,
    views: Sequence[FeatureRows],
    selector: Selector,
    augmentation: Augmentation,
    widths: Sequence[int],
    *,
    images: list[str],
    weights: str,
    progress: bool | None = None,
) -> tuple[LayeredBank, dict[str, float]]:
    """As `fitting.choose_bank`, one bank after the other of columns of the rows; `widths` has their number by layer."""
    config, device = selector.config, selector.device
    timings: dict[str, float] = {}
    spans = list(pairwise(accumulate(widths, initial=0)))
    if spans[-1][1] != rows.columns:
        raise ValueError(f"PatchCore.fit: layers of {list(widths)} columns for rows of {rows.columns}")
    if len(images) != len(augmentation.originals(rows)):
        images = []
    layers = [Columns(rows, span) for span in spans]
    selector.settle(layers, len(augmentation.originals(rows)))
    clock = time.perf_counter()
    parts: list[MemoryBank] = []
    radii: list[torch.Tensor | None] = []
    priced = 0.0
    trusted: torch.Tensor | None = None
    for own, span in zip(layers, spans, strict=True):
        with stages_shown(selector.sampler, progress), bar(None, f"coreset of layer {len(parts)}", progress) as shown:
            chooser = copy.copy(selector)
            chosen = chooser.select(own, _columns(views, span), shown.at)
        trusted = _both(trusted, chosen)
        radii.append(greedy_radii(chooser.sampler))
        begun = time.perf_counter()
        support = chooser.support(own, chosen.indices, augmentation.per_image)
        priced += time.perf_counter() - begun
        parts.append(MemoryBank(
            own.take(chosen.indices).to(device), chosen.indices, augmentation.sources(rows, chosen.indices),
            chosen.projection, config=config.to_dict(), images=images, grid=rows.grid, patches=rows.total,
            weights=weights, radius=chosen.radius, support=support,
        ))  # fmt: skip
        del chooser  # and with it the projected rows of this layer
    timings |= {"selection": time.perf_counter() - clock - priced, "price": priced}

    clock = time.perf_counter()
    sizing = selector.sizing
    asked: list[int] = []  # the images of the last count
    by_count: list[list[torch.Tensor]] = [[] for _ in range(1 if sizing is None else len(sizing.counts))]
    per_image = augmentation.per_image
    with bar(None, "threshold", progress) as shown, random_state_kept():
        folds = []
        for number, (own, span) in enumerate(zip(layers, spans, strict=True)):
            at = partial(_nth, shown.at, number, len(spans))
            # Another copy: a selector keeps the projected rows, which are as large as a wide layer's own. They are made
            # again, for `trusted` is known only now; a selection takes far longer.
            folds.append(list(copy.copy(selector).held_out(own, _columns(views, span), trusted, per_image, at)))
        for found in zip(*folds, strict=True):
            if all(len(indices) for _, indices, _ in found):
                banks = [(own.take(indices).to(device), s) for own, (_, indices, s) in zip(layers, found, strict=True)]
                images_here = found[0][0]
                cuts = [selector.prefixes(rows, images_here, per_image, len(bank)) for bank, _ in banks]
                for apart, counts in zip(by_count, zip(*cuts, strict=True), strict=True):
                    if all(counts):
                        first = [
                            (bank[:n], None if s is None else s[:n]) for n, (bank, s) in zip(counts, banks, strict=True)
                        ]
                        apart += _by_layer(config, first, spans, rows, device, images_here * per_image)
                        if apart is by_count[-1]:
                            asked += images_here.tolist()
    # A single image says nothing of others; its own patches still say how far apart the layers' scores are.
    everything = torch.arange(len(rows.grids))
    known = by_count[-1] or _by_layer(
        config, [(part.features, part.support) for part in parts], spans, rows, device, everything
    )
    scales = tuple(scale_of(layer) for layer in torch.cat(known).unbind(dim=1))
    each = [_joined_scores(config, apart, scales) for apart in by_count]
    maps = [
        laid_quantiles(joined(one, scales), rows.grids[i * per_image], rows.sizes, config.scoring)
        for one, i in zip(by_count[-1], asked, strict=True)
    ]
    held = HeldOut(each[-1], [m for m in maps if m is not None])
    timings["threshold"] = time.perf_counter() - clock
    bank = LayeredBank(
        tuple(parts), scales, config.to_dict(),
        **thresholds(held, config.decision, config.squared),
        size=None if sizing is None else sizing.facts(radii, each, sum(map(len, parts))),
    )  # fmt: skip
    return bank.with_index(config.search.index, config.selection.seed), timings


def _by_layer(
    config: PatchCoreConfig,
    banks: Sequence[tuple[torch.Tensor, torch.Tensor | None]],
    spans: Sequence[Span],
    rows: Rows,
    device: torch.device,
    images: torch.Tensor,
) -> list[torch.Tensor]:
    """Scores [P, L] of the patches of these images [J], ascending, by the bank of each layer and its support."""
    scorers = [ImageScorer(config, bank).patches for bank, _ in banks]
    searches = [priced_search(bank, support, config.search.price) for bank, support in banks]
    ready = [prepare(bank) if search is None else bank for (bank, _), search in zip(banks, searches, strict=True)]
    local = rows.local
    starts, own = local.starts.tolist(), (images - rows.first).tolist()

    def here() -> torch.Tensor:
        found = [torch.empty(0, len(spans))]
        for number in own:
            if 0 <= number < len(local.grids):
                image = local.read(starts[number], starts[number + 1]).to(device)
                scores = [
                    scorer(image[:, begin:end].contiguous(), bank, search)[0]
                    for scorer, bank, search, (begin, end) in zip(scorers, ready, searches, spans, strict=True)
                ]
                found.append(torch.stack(scores, dim=1).cpu())
        return torch.cat(found)

    scores = here() if rows.ranks is None else rows.ranks.gather(rows.ranks.agree(here))
    return list(scores.split([rows.grids[i][0] * rows.grids[i][1] for i in images.tolist()]))


def _nth(at: Callable[[int, int], None], number: int, layers: int, done: int, total: int) -> None:
    """Progress of one layer as part of that of all, each of which does the same."""
    at(number * total + done, layers * total)


def _both(trusted: torch.Tensor | None, chosen: Selection) -> torch.Tensor | None:
    """Images that no layer's selection doubts; None where none looked."""
    if trusted is None or chosen.trusted is None:
        return chosen.trusted if trusted is None else trusted
    return trusted[torch.isin(trusted, chosen.trusted)]
