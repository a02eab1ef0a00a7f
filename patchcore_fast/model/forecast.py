"""What a fit will take, from some of its images: rows, bytes, seconds (docs/scale.md)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.data import ImageRecord
from patchcore_fast.errors import DataError
from patchcore_fast.kernels import k_center_greedy, knn
from patchcore_fast.memory import available_memory
from patchcore_fast.model.patchcore import PatchCore
from patchcore_fast.model.room import FIT, FIT_DISK
from patchcore_fast.model.sizing import chosen_rows, measured, row_bytes
from patchcore_fast.model.threshold import held_out_folds
from patchcore_fast.samplers.projection import project, random_projection
from patchcore_fast.samplers.space import STATE
from patchcore_fast.scratch import placed, refusal, scratch_folder

_PROJECTED = 128  # columns
_SAMPLE, _ROWS = 16, 40_000  # images that are looked at; rows of theirs that are selected from


@dataclass(frozen=True)
class Forecast:
    """Of a fit of all images.

    rows, columns : patches, and numbers of each.  picks : rows of the bank, or of each layer's.  Bytes: of the
    features, of their projection, of what the selection knows of rows, of the bank (by a budget with its prices); free
    ones of memory, and of the disk where what does not fit is kept.  Seconds: reading images and computing features,
    selecting, finding the threshold. Of `looked_at` images those of `unread` (why, with the file's name) could not be
    read; as large a share of all is left out of `images`.  budget : that of the settings; `search_s` is then the time
    of the search for one image in that bank, measured on `device`.
    """

    images: int
    rows: int
    columns: int
    picks: int
    features_bytes: int
    projected_bytes: int
    state_bytes: int
    bank_bytes: int
    free_memory_bytes: int
    free_disk_bytes: int
    features_s: float
    selection_s: float
    threshold_s: float
    looked_at: int
    unread: tuple[str, ...]
    budget: str | None = None
    search_s: float | None = None
    device: str = ""

    @property
    def unreadable(self) -> int:
        """Images looked at that could not be read."""
        return len(self.unread)

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.features_s + self.selection_s + self.threshold_s

    @property
    def on_disk_bytes(self) -> int:
        """What goes into files without a name because it would take half of the free memory."""
        return placed((self.features_bytes, self.projected_bytes), self.free_memory_bytes)[1]

    @property
    def memory_bytes(self) -> int:
        """What this process holds at most, beside the backbone."""
        held = self.features_bytes + self.projected_bytes - self.on_disk_bytes
        return held + self.state_bytes + self.bank_bytes

    def refusal(self) -> str | None:
        """Why it cannot be done here, and what would make it fit; None if it can."""
        sizes = (self.features_bytes, self.projected_bytes)
        more, memory, disk = self.state_bytes + self.bank_bytes, self.free_memory_bytes, self.free_disk_bytes
        return refusal(sizes, more, memory, disk, scratch_folder(), FIT, FIT_DISK)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"memory_bytes": self.memory_bytes, "on_disk_bytes": self.on_disk_bytes,
                               "seconds": self.seconds, "unreadable": self.unreadable,
                               "refusal": self.refusal()}  # fmt: skip


def forecast(config: PatchCoreConfig, images: Sequence[ImageRecord]) -> Forecast:
    """From a look at some of the images, evenly spread: a fraction of the time that the fit takes.

    Raises
    ------
    DataError : none of them can be read.  ValueError : settings without a ratio, or with too small a budget.
    """
    if config.selection.sampler_parameters is not None:
        raise ValueError("plan: the settings say a sampler that was given as an object; a ratio is wanted")
    count = len(images) if config.selection.shots is None else min(config.selection.shots, len(images))
    few = [images[i] for i in torch.linspace(0, len(images) - 1, min(count, _SAMPLE)).round().long().unique().tolist()]
    model = PatchCore(config.replace(shots=None), progress=False)
    _warm_up(model, few)
    clock = time.perf_counter()
    found = model.training_features(few, on_error="return")
    looked_at, unread = len(few), tuple(why for _, why in model.unread_)
    good = looked_at - len(unread)
    each_image = (time.perf_counter() - clock) / good
    count = max(1, round(count * good / looked_at))
    sample, per_image = found.features, found.used / good
    rows, columns = round(per_image * count), sample.shape[1]
    layered = config.selection.banks == "layer"  # one after the other
    widths = list(model.extractor.backbone.channels) if layered else [columns]
    item, learned = sample.element_size(), model.extractor.learned
    sized: dict[str, Any] = {}
    if (wanted := config.selection.count or config.selection.ratio) is not None:
        picks = int(rows * wanted) if config.selection.count is None else min(rows, int(wanted))
        bank_bytes = picks * columns * item
    else:
        h, w = found.grids[0]
        spent = measured(sample.split(widths, dim=1), h * w, config, model.device)
        each = row_bytes(config, widths, item, count)
        picks = chosen_rows(config, rows, len(widths), each, spent)
        bank_bytes = picks * each
        sized = {
            "budget": config.selection.budget,
            "search_s": spent.fixed + spent.each * picks,
            "device": spent.device,
        }
    seconds = [_selection_seconds(part, rows, picks, config) for part in sample.split(widths, dim=1)]
    selection, search = (sum(each) for each in zip(*seconds, strict=True))
    folds = list(held_out_folds(torch.arange(count), count)) if count > 1 else []
    asked = sum(len(fold) for fold in folds)
    gathered = columns * item if learned is None else len(learned.mean) * 4  # a reduction is learnt from whole rows
    return Forecast(
        images=count, rows=rows, columns=columns, picks=picks, features_bytes=rows * gathered,
        projected_bytes=4 * rows * _PROJECTED if set(widths) != {_PROJECTED} else 0, state_bytes=STATE * rows,
        bank_bytes=bank_bytes, free_memory_bytes=available_memory(),
        free_disk_bytes=shutil.disk_usage(scratch_folder()).free, features_s=count * each_image, selection_s=selection,
        threshold_s=len(folds) * selection + asked * per_image * search, looked_at=looked_at, unread=unread,
        **sized,
    )  # fmt: skip


def _warm_up(model: PatchCore, images: Sequence[ImageRecord]) -> None:
    """Build the backbone and compute one image that can be read."""
    model.extractor  # noqa: B018  # what is wrong with its weights is said once
    for record in images:
        try:
            model.training_features([record])
            return
        except DataError:
            continue


def _selection_seconds(sample: torch.Tensor, rows: int, picks: int, config: PatchCoreConfig) -> tuple[float, float]:
    """Of a selection of all rows; of the search of one row in the bank. By a selection of the sample, at its ratio.

    A selection looks at all rows some times and computes a share of rows x picks distances; projecting costs by rows.
    """
    some = sample[:: max(1, -(-len(sample) // _ROWS))]
    projected, project_s = some, 0.0
    if some.shape[1] != _PROJECTED:
        matrix = random_projection(some.shape[1], _PROJECTED, config.selection.seed)
        clock = time.perf_counter()
        projected = project(some, matrix, torch.device("cpu"))
        project_s = (time.perf_counter() - clock) / len(some) * rows
    # Two selections tell what rows cost by themselves, and what rows times picks do.
    few, many = max(1, min(int(len(some) * picks / rows), len(some) - 1)), max(2, min(len(some) // 8, picks))
    times = []
    for count in (few, max(many, few + 1)):
        k_center_greedy(projected, count, start=0)
        clock = time.perf_counter()
        found = k_center_greedy(projected, count, start=0)
        times.append(time.perf_counter() - clock)
    each = max(0.0, (times[1] - times[0]) / (len(some) * (max(many, few + 1) - few)))
    own = max(0.0, times[0] - each * len(some) * few)
    greedy_s = own * rows / len(some) + each * rows * picks
    bank = some[found.indices]
    clock = time.perf_counter()
    knn(some[:2000], bank, min(config.search.neighbours, len(bank)))
    search_s = (time.perf_counter() - clock) / min(2000, len(some)) * max(1.0, picks / len(bank))
    return project_s + greedy_s, search_s
