"""How long a prediction takes, and which part of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from patchcore_fast.ahead import Ahead
from patchcore_fast.data import ImageRecord, make_loader
from patchcore_fast.model.batches import at_once
from patchcore_fast.model.results import Prediction
from patchcore_fast.progress import bar
from patchcore_fast.stages import stage, stages

Draw = Callable[[ImageRecord, Prediction], Any]


@dataclass(frozen=True)
class Speed:
    """Of one number of threads and one batch size.

    milliseconds : stage -> an image's share, one stage after the other: "decode", "features", "search" and "map" (of
        other methods "model" in place of these three), "write", "other".
    images_per_second : with the stages overlapped, as `predict` runs.
    """

    threads: int
    batch: int
    milliseconds: dict[str, float]
    images_per_second: float


def speeds(
    model: Any,
    records: Sequence[ImageRecord],
    threads: Sequence[int],
    batches: Sequence[int],
    draw: Draw,
    rounds: int = 3,
    progress: bool | None = None,
) -> list[Speed]:
    """Predict all images with each number of threads and each batch size; medians of `rounds`, which take turns.

    A round before them is not counted. Images have one size, or are taken one by one.

    Parameters
    ----------
    model : fitted; its settings and torch's number of threads are afterwards what they were.
    draw : what is done with each prediction: the stage "write".
    """
    ways = [(t, b) for t in threads for b in batches]
    alone: dict[tuple[int, int], list[dict[str, float]]] = {way: [] for way in ways}
    whole: dict[tuple[int, int], list[float]] = {way: [] for way in ways}
    shown, config = model.progress, model.config
    model.progress = False
    try:
        with bar((rounds + 1) * len(ways), "rounds", progress) as counting:
            for turn in range(rounds + 1):
                for way in ways:
                    model.config = config.replace(batch_size=way[1], workers=0)
                    with _threads(way[0]):
                        parts, seconds = _one_by_one(model, records, draw), _overlapped(model, records, draw)
                    if turn:
                        alone[way].append(parts)
                        whole[way].append(seconds)
                    counting.update()
    finally:
        model.progress, model.config = shown, config
    return [
        Speed(*way, {name: 1e3 * statistics.median(parts[name] for parts in alone[way]) / len(records)
                     for name in alone[way][0]}, len(records) / statistics.median(whole[way]))
        for way in ways
    ]  # fmt: skip


def _one_by_one(model: Any, records: Sequence[ImageRecord], draw: Draw) -> dict[str, float]:
    f = model.config.features
    loader = make_loader(records, f.resize, f.crop, at_once(model.config), 0, "raise", f.aspect)
    with stages() as taken:
        start = time.perf_counter()
        for record, prediction in zip(records, model.iter_predict(loader), strict=True):
            with stage("write"):
                draw(record, prediction)
        whole = time.perf_counter() - start
    return taken | {"other": whole - sum(taken.values())}


def _overlapped(model: Any, records: Sequence[ImageRecord], draw: Draw) -> float:
    start = time.perf_counter()
    for record, prediction in zip(records, Ahead(model.iter_predict(records), at_once(model.config)), strict=True):
        draw(record, prediction)
    return time.perf_counter() - start


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
