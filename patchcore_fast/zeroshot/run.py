"""From images to predictions: feature maps of all, scores of each by the others, and what that will take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.errors import DataError
from patchcore_fast.kernels import knn
from patchcore_fast.kernels.surroundings import undisturbed
from patchcore_fast.model.batches import Batch, Batches, batches_of
from patchcore_fast.model.evaluation import evaluate_predictions
from patchcore_fast.model.passes import make_extractor
from patchcore_fast.model.results import Evaluation, Prediction
from patchcore_fast.progress import bar
from patchcore_fast.scoring import anomaly_map
from patchcore_fast.scratch import room_for
from patchcore_fast.zeroshot.mutual import mutual_scores, neighbourhood_rows, searches

DEGREES, SHARE = (1, 3, 5), 0.3  # of the paper
LONGEST = 24 * 3600.0  # seconds of work that are begun without being asked for by a smaller group
_FEATURES = ("backbone", "layers", "norm", "weights", "image_size", "crop")
_TIMED = 2048  # rows that are searched to see what a search costs


class ZeroShot:
    """Scores of unlabelled images by each other.

    A patch is anomalous that few other images have one like. Most images must be normal, and normal places alike.

    Parameters
    ----------
    config : settings of the backbone, layers, image size, upsampling and smoothing, seed, running; others mean nothing.
    degrees : odd sides of the neighbourhoods that patches are averaged over.
    share : of the other images, those that know a patch best and score it, in (0, 1].
    group : images of a group, about; groups are drawn by the seed, and only images of one group score each other.
        None: all are one group. Work grows with images times group.
    progress : as of `PatchCore`.

    Attributes
    ----------
    seconds_ : that the last scoring took.  forecast_ : that it was expected to take once the features were there.

    Raises
    ------
    ValueError : degrees that are not odd and positive, a share outside (0, 1], a group below 2, tiles, or images of
        many sizes.
    """

    def __init__(
        self,
        config: PatchCoreConfig | None = None,
        *,
        degrees: Sequence[int] = DEGREES,
        share: float = SHARE,
        group: int | None = None,
        progress: bool | None = None,
    ) -> None:
        """Keep the settings; the backbone is built when it is needed."""
        if not degrees or any(isinstance(d, bool) or not isinstance(d, int) or d < 1 or d % 2 == 0 for d in degrees):
            raise ValueError(f"ZeroShot: degrees must be odd and positive, got {list(degrees)}")
        if not 0 < share <= 1:
            raise ValueError(f"ZeroShot: share must lie in (0, 1], got {share}")
        if group is not None and group < 2:
            raise ValueError(f"ZeroShot: group must be 2 images or more, or None, got {group}")
        self.config = config or PatchCoreConfig()
        if self.config.features.tile is not None or self.config.input_size is None:
            raise ValueError('ZeroShot: images of one size are compared whole: no tile, and aspect="squash"')
        self.degrees, self.share, self.group, self.progress = tuple(degrees), share, group, progress
        self.device = torch.device(self.config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.seconds_ = self.forecast_ = 0.0

    def predict(self, data: Any, *, on_error: str = "raise") -> Iterator[Prediction]:
        """A prediction of each image, in order, without a verdict; a folder means all images below it.

        Parameters
        ----------
        data : a folder, paths, ImageRecords, an ImageSet (its test part), a tensor or a loader as `PatchCore.predict`
            takes them.
        on_error : "raise" ends at the first file that cannot be read; "return" gives a `Prediction` with its `error`.

        Raises
        ------
        DataError : fewer than two images, grids that differ, or work of more than a day; says what would help.
        """
        _, batches, patches, grid = self._scored(batches_of(data, self.config, "any", on_error=on_error))
        yield from self._predictions(batches, patches, grid)

    def evaluate(self, data: Any, *, on_error: str = "raise") -> Evaluation:
        """Score the test images of a set, and compare with the truth afterwards; errors as `predict`."""
        source, batches, patches, grid = self._scored(batches_of(data, self.config, "test", on_error=on_error))
        predictions = list(self._predictions(batches, patches, grid))
        found = evaluate_predictions(predictions, batches, source.name, None, None, self.config, self.seconds_)
        return replace(found, config=self.settings())

    def settings(self) -> dict[str, Any]:
        """What decides the scores, by group, for reports; of the config's groups what has a meaning here."""
        groups = self.config.to_dict()
        kept = {"features": _FEATURES, "scoring": ("upsample", "sigma", "border"), "running": None}
        found = {name: {key: value for key, value in groups[name].items() if names is None or key in names}
                 for name, names in kept.items()}  # fmt: skip
        return found | {"zeroshot": {"degrees": list(self.degrees), "share": self.share, "group": self.group,
                                     "seed": self.config.selection.seed}}  # fmt: skip

    @undisturbed
    def _scored(self, source: Batches) -> tuple[Batches, list[Batch], torch.Tensor, tuple[int, int]]:
        """The batches without their images, scores [images that could be read, h * w], and (h, w)."""
        clock = time.perf_counter()
        batches, layers = self._features(source)
        count = len(layers[0])
        if count < 2:
            raise DataError(f"ZeroShot: two images or more score each other, got {count}")
        groups = self._groups(count)
        self.forecast_ = sum(len(group) ** 2 for group in groups) * self._search_seconds(layers)
        if self.forecast_ > LONGEST:
            raise DataError(
                f"ZeroShot: {count:,} images would score each other for about {self.forecast_ / 3600:,.0f} hours; "
                "smaller groups (--group), fewer layers or degrees, or a smaller --image-size would make it less"
            )
        grid = max((layer.shape[2:] for layer in layers), key=math.prod)
        scores = torch.zeros(count, *grid)
        each = [
            searches(len(group), math.prod(layer.shape[2:]), layer.shape[1]) for group in groups for layer in layers
        ]
        with bar(sum(each) * len(self.degrees), "mutual scores", self.progress) as shown:
            for group in groups:
                own = layers if len(group) == count else [layer[group] for layer in layers]
                scores[group] = self._group_scores(own, grid, lambda *_: shown.update())
        self.seconds_ = time.perf_counter() - clock
        return source, batches, scores.flatten(1), (grid[0], grid[1])

    def _group_scores(
        self, layers: list[torch.Tensor], grid: torch.Size, progress: Callable[[int, int], None]
    ) -> torch.Tensor:
        """[images, h, w]: the mean over layers and degrees; coarse layers are resized to the finest grid."""
        total = torch.zeros(len(layers[0]), *grid, dtype=torch.float64)
        for layer in layers:
            own = torch.zeros(len(layer), 1, *layer.shape[2:], dtype=torch.float64)
            for degree in self.degrees:
                rows = neighbourhood_rows(layer, degree)
                own += mutual_scores(rows, self.share, progress, self.device).view(own.shape)
            if own.shape[2:] != grid:
                own = F.interpolate(own, size=grid, mode="bilinear", align_corners=False)
            total += own[:, 0]
        return (total / (len(layers) * len(self.degrees))).float()

    def _features(self, source: Batches) -> tuple[list[Batch], list[torch.Tensor]]:
        """All batches without images, and the maps [N, C, h, w] of each layer of those images that could be read."""
        backbone = make_extractor(self.config, self.device).backbone
        batches: list[Batch] = []
        layers: list[torch.Tensor] = []
        used = 0
        for batch in source.shown("features", self.progress):
            batches.append(replace(batch, images=batch.images[:0]))
            read = batch.only([i for i, error in enumerate(batch.errors) if error is None])
            if not len(read.images):
                continue
            maps = [m.float().cpu() for m in backbone(read.images.to(self.device))]
            if layers and [m.shape[1:] for m in maps] != [layer.shape[1:] for layer in layers]:
                raise DataError("ZeroShot: images of one size are wanted, so that their patches lie alike")
            layers = _with(layers, maps, used, source.count)
            used += len(read.images)
        if not used:
            errors = [error for batch in batches for error in batch.errors if error is not None]
            raise DataError(f"ZeroShot: none of {len(errors)} images can be read; {errors[0]}")
        return batches, [layer[:used] for layer in layers]

    def _groups(self, count: int) -> list[torch.Tensor]:
        if self.group is None or self.group >= count:
            return [torch.arange(count)]
        drawn = torch.randperm(count, generator=torch.Generator().manual_seed(self.config.selection.seed))
        number = min(-(-count // self.group), count // 2)  # each has two images or more
        return [part.sort().values for part in drawn.tensor_split(number)]

    def _search_seconds(self, layers: list[torch.Tensor]) -> float:
        """Of the patches of one image among those of another, all layers and degrees."""
        total = 0.0
        for layer in layers:
            rows = neighbourhood_rows(layer[:2], 1).to(self.device)
            patches = rows.shape[1]
            queries = rows[0].repeat(-(-_TIMED // patches), 1)[:_TIMED]
            times = []
            for _ in range(3):
                clock = time.perf_counter()
                knn(queries, rows[1], 1)
                times.append(time.perf_counter() - clock)
            total += min(times) * patches / _TIMED * len(self.degrees)
        return total

    def _predictions(self, batches: list[Batch], patches: torch.Tensor, grid: tuple[int, int]) -> Iterator[Prediction]:
        s, row = self.config.scoring, 0
        for batch in batches:
            size = (batch.images.shape[2], batch.images.shape[3])
            for record, original, error in zip(batch.records, batch.sizes, batch.errors, strict=True):
                path: Path | None = None if record is None else record.path
                if error is not None:
                    yield Prediction(path, math.nan, np.full(size, np.nan, np.float32), error=error)
                    continue
                own = patches[row].view(1, *grid)
                heat = anomaly_map(own, size, s.sigma, s.upsample, s.border)[0].numpy()
                row += 1
                yield Prediction(path, float(own.max()), heat, None, original,
                                 None if original is None else self.config.resize)  # fmt: skip


def _with(layers: list[torch.Tensor], maps: list[torch.Tensor], used: int, count: int | None) -> list[torch.Tensor]:
    """The layers with the maps of more images behind the first `used`; larger where they do not fit."""
    wanted = used + len(maps[0])
    if not layers or wanted > len(layers[0]):
        room = [room_for((max(wanted, count or 2 * used), *m.shape[1:]), torch.float32) for m in maps]
        for new, old in zip(room, layers, strict=bool(layers)):
            new[:used] = old[:used]
        layers = room
    for layer, m in zip(layers, maps, strict=True):
        layer[used:wanted] = m
    return layers
