"""An experiment from end to end: features, all combinations, the choice, tables; resumable at every point."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.data import ImageSet
from patchcore_fast.experiments.choice import Best, best_config, choose
from patchcore_fast.experiments.combinations import Combination
from patchcore_fast.experiments.material import HELD_OUT, Material, gather
from patchcore_fast.experiments.signals import Signals
from patchcore_fast.experiments.table import Row, Table
from patchcore_fast.experiments.trial import tried
from patchcore_fast.files import atomic_write
from patchcore_fast.model import PatchCore
from patchcore_fast.progress import Progress, bar

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Outcome:
    """rows : of the plan, in order.  best : None where nothing was to be chosen.  fresh : rows computed by this run.
    about : `Material.about`."""

    rows: list[Row]
    best: Best | None
    fresh: int
    about: dict[str, Any]


def run(
    kind: str, images: ImageSet, config: PatchCoreConfig, plan: Sequence[Combination], folder: Path, *,
    share: float = HELD_OUT, backbone: Any = None, progress: Progress = None,
) -> Outcome:  # fmt: skip
    """Try what `folder` has not yet, and write KIND.csv after each; of kind "grid" also best.toml.

    A run that was killed goes on where it was, and its table is that of one run but for seconds and memory, which are
    measured once for each row. Rows with an error are tried again.

    Parameters
    ----------
    kind : "grid" or "steps".  images : scanned; the training images are normal, test images may be missing.
    folder : the output, made by the caller.  share : of the training images that is held out.
    backbone : a network of your own, as of `PatchCore`.

    Raises
    ------
    DataError : see `material.gather` and `table.Table`.
    """
    model = PatchCore(config, backbone=backbone)
    table = Table(folder / f"{kind}.csv", plan)
    material = gather(images, config, model.extractor, model.device, folder, share, progress)
    missing, signals = table.missing, Signals()
    with bar(len(table.plan), kind, progress) as shown:
        shown.update(len(table.plan) - len(missing))
        for combination in missing:
            table.add(combination, _facts(combination, material, config, model.device, signals))
            shown.update()
    table.write()
    best = choose(table.planned, plan, material.about) if kind == "grid" else None
    if best is not None:
        with atomic_write(folder / "best.toml", "w", encoding="utf-8") as f:
            f.write(best_config(best, config))
    return Outcome(table.planned, best, len(missing), material.about)


def _facts(
    combination: Combination, material: Material, config: PatchCoreConfig, device: torch.device, signals: Signals
) -> Row:
    """The measures; of what cannot be done the reason, and the others go on."""
    try:
        return tried(combination, material, config, device, signals)
    except (ValueError, MemoryError) as error:
        text = " ".join(str(error).split())
        log.warning("%s: %s", combination.name, text)
        return {"error": text}
