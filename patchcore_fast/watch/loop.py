"""The loop: take what waits, score it, write it down, put it where it belongs, say it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from patchcore_fast.data import ImageRecord, make_loader
from patchcore_fast.files import Appending
from patchcore_fast.model import Prediction
from patchcore_fast.model.batches import at_once
from patchcore_fast.names import encodable
from patchcore_fast.report.images import drawn_size, shared_scale
from patchcore_fast.report.layers import HEAT_SIDE
from patchcore_fast.report.problems import Problems, reason
from patchcore_fast.report.scores_csv import append_scores, scores_line
from patchcore_fast.watch.journal import Entry, Journal
from patchcore_fast.watch.placing import Placing, draw, heatmap_name
from patchcore_fast.watch.recent import Card, Recent
from patchcore_fast.watch.source import Arrival, Done, Source, keys_below

TABLE = "scores.csv"
TRIES = 2  # readings of a file before it counts as unreadable: it may have been in its writer's hands
SCALE_IMAGES, MAP_SIDE = 64, 128  # the scale of heat maps is that of the first images, seen at this side
NAMED = 10  # outputs that could not be written, and files that went, are named


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    folder : that is watched.  output : where results go; exists.
    once, poll, settle : as of `Source`.
    way : as of `Placing`.  heatmaps : draw those of anomalous images.
    page : whether a page shows the last images, which then keep their maps.
    """

    folder: Path
    output: Path
    once: bool = False
    poll: float | None = None
    settle: float = 0.5
    way: str = "link"
    heatmaps: bool = False
    page: bool = False


class Watch:
    """A model that scores what comes into a folder, each file once, over kills and restarts.

    Parameters
    ----------
    model : `PatchCore` or another method's, fitted.
    emit : called with the dicts of a batch for standard output; what it raises ends the watch, and they are said again
        by the next one.
    warn : called with a line for the user.
    stopped : asked between batches, and ten times a second while nothing comes.
    bearable : whether an error of one image alone (that memory ran out) makes it unreadable, or ends the watch.

    Attributes
    ----------
    recent : what a page shows.  scored, unread, gone : images of this run: done, of these unreadable, and those that
    were gone before they could be read.  problems : outputs of this run that could not be written.

    Raises
    ------
    DataError : another watch has the output, its journal is another folder's or damaged, or a folder cannot be opened.
    OSError : what the file system says.
    """

    def __init__(
        self,
        model: Any,
        options: Options,
        normal: Sequence[float],
        *,
        emit: Callable[[list[dict[str, Any]]], None],
        warn: Callable[[str], None],
        stopped: Callable[[], bool],
        bearable: Callable[[BaseException], bool] = lambda error: isinstance(error, MemoryError),
    ) -> None:
        """Read the journal, and mend what a kill left."""
        self.model, self.options = model, options
        self._emit, self._warn, self._stopped, self._bearable = emit, warn, stopped, bearable
        self.recent = Recent(normal, model.threshold)
        self.scored = self.unread = self.gone = self.problems = 0
        self._placing = Placing(options.folder, options.output, options.way)
        self._maps: list[Any] = []
        self._table: Appending | None = None
        self._source: Source | None = None
        self._journal = Journal(options.output, options.folder)
        try:
            self._resume()
        except BaseException:
            self.close()
            raise

    def find(self, entry: Entry) -> Path:
        """Where the image of an entry is now."""
        return self._placing.find(entry)

    def close(self) -> None:
        """Let go of files and threads."""
        if self._source is not None:
            self._source.close()
        if self._table is not None:
            self._table.close()
        self._journal.close()

    def run(self) -> Iterator[int]:
        """Say what a killed run did not; then score until `stopped`, or with `once` until all is done.

        Gives the number of images of this run after each batch.
        """
        assert self._source is not None
        if self._journal.unsaid:
            self._finish(self._journal.unsaid, {}, time.time())
        most = max(at_once(self.model.config), 1)
        while not self._stopped():
            batch = self._source.take(most, self._stopped)
            if not batch:
                return
            self._do(batch)
            yield self.scored

    # --- within ------------------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        o, done = self.options, Done()
        there = keys_below(o.folder, o.output)
        entries = self._journal.read()
        if (first := next(entries, None)) is not None:
            with self._new_table() as add:
                for entry in chain([first], entries):
                    add(self._row(entry))
                    self.recent.add(Card(entry))
                    if entry.key in there:
                        done.add(entry.key)
        self._source = Source(o.folder, o.output, done, settle=o.settle, poll=o.poll, once=o.once)

    def _do(self, batch: list[Arrival]) -> None:
        assert self._source is not None
        begin = time.time()
        predictions, read = self._predict(batch)
        spent = {"read": read, "score": time.time() - begin - read}
        kept: list[tuple[Arrival, Prediction]] = []
        for arrival, prediction in zip(batch, predictions, strict=True):
            unchanged = arrival.is_unchanged()
            if unchanged is None and prediction.error is not None:
                self.gone += 1
                if self.gone <= NAMED:
                    self._warn(f"{arrival.path}: went before it could be read")
            elif unchanged is False:
                self._source.give_back(arrival, arrival.tries)
            elif prediction.error is not None and arrival.tries + 1 < TRIES:
                self._source.give_back(arrival, arrival.tries + 1)
            else:
                kept.append((arrival, prediction))
        if not kept:
            return
        heatmaps = self._pictures(kept)
        spent["draw"] = time.time() - begin - sum(spent.values())
        entries = [
            self._entry(i, arrival, prediction, picture, spent | {"wait": max(begin - arrival.arrived, 0.0)})
            for i, ((arrival, prediction), picture) in enumerate(zip(kept, heatmaps, strict=True), 1)
        ]
        written = time.time()
        self._journal.add(entries)
        if self._table is None:
            with self._new_table() as add:
                for entry in entries:
                    add(self._row(entry))
        else:
            self._table.append(b"".join(scores_line(self._row(entry)) for entry in entries))
        self._finish(entries, {e.index: pair for e, pair in zip(entries, kept, strict=True)}, written)
        self.scored += len(entries)

    def _finish(self, entries: Sequence[Entry], fresh: dict[int, tuple[Arrival, Prediction]], written: float) -> None:
        """What may be done twice: place the images of entries, and say them.

        fresh : arrival and prediction of entries of this run; those of an earlier one are said as such.
        written : when writing began, seconds since 1970.
        """
        assert self._source is not None
        problems, files = Problems(), list[Path]()
        for entry in entries:
            files.append(self.options.folder / entry.name)
            with problems.attempt(f"the place of {files[-1]}"):
                files[-1] = self._placing.place(entry)
            self._source.done.add(entry.key)
        self._tell(problems)
        now, lines = time.time(), list[dict[str, Any]]()
        for entry, file in zip(entries, files, strict=True):
            line: dict[str, Any] = {
                "index": entry.index, "path": encodable(self.options.folder / entry.name), "score": entry.score,
                "is_anomalous": entry.is_anomalous, "threshold": entry.threshold, "error": entry.error,
                "file": encodable(file), "heatmap": entry.heatmap,
                "seconds": {k: round(v, 6) for k, v in (entry.seconds | {"write": now - written}).items()},
            }  # fmt: skip
            if entry.index in fresh:
                line["latency"] = round(max(now - fresh[entry.index][0].arrived, 0.0), 6)
            else:
                line["again"] = True
            lines.append(line)
        if lines:
            self._emit(lines)
        self._journal.mark_said()
        self.unread += sum(entry.error is not None for entry in entries)
        for entry, line in zip(entries, lines, strict=True):
            if entry.index in fresh:
                self.recent.add(Card(entry, self._small(fresh[entry.index][1])), line["latency"])

    def _predict(self, batch: list[Arrival]) -> tuple[list[Prediction], float]:
        """Predictions, and the seconds that reading took."""
        try:
            return self._scored(batch)
        except Exception as error:
            if not self._bearable(error):
                raise
            if len(batch) == 1:
                path, why = batch[0].path, f"{batch[0].path}: {reason(error)}"
                return [Prediction(path, math.nan, np.full((1, 1), np.nan, np.float32), error=why)], 0.0
        alone = [self._predict([arrival]) for arrival in batch]
        return [found[0] for found, _ in alone], sum(read for _, read in alone)

    def _scored(self, batch: list[Arrival]) -> tuple[list[Prediction], float]:
        config = self.model.config
        f, records = config.features, [ImageRecord(arrival.path) for arrival in batch]
        loader = _Timed(make_loader(records, f.resize, f.crop, at_once(config), 0, "return", f.aspect))
        return list(self.model.iter_predict(loader)), loader.seconds

    def _entry(
        self, i: int, arrival: Arrival, prediction: Prediction, picture: str, seconds: dict[str, float]
    ) -> Entry:
        score, error = prediction.score, prediction.error
        if error is None and not math.isfinite(score):
            error = f"{arrival.path}: its score is {score}"
        known = error is None
        return Entry(
            self._journal.count + i, arrival.name, arrival.size, arrival.mtime_ns, time.time(),
            score if known else None, prediction.is_anomalous if known else None, self.recent.threshold, picture,
            error, {name: round(value, 6) for name, value in seconds.items()},
        )  # fmt: skip

    def _pictures(self, kept: list[tuple[Arrival, Prediction]]) -> list[str]:
        """Draw heat maps; the names of those that are there, "" for others."""
        if not (self.options.heatmaps or self.options.page):
            return [""] * len(kept)
        for _, prediction in kept:
            if prediction.error is None and len(self._maps) < SCALE_IMAGES:
                step = -(-max(prediction.anomaly_map.shape) // MAP_SIDE)
                self._maps.append(prediction.anomaly_map[::step, ::step].copy())
                self.recent.scale = None
        if self.recent.scale is None and self._maps:
            self.recent.scale = shared_scale(self._maps, self.recent.threshold)
        names, problems = [], Problems()
        for arrival, prediction in kept:
            names.append("")
            if self.options.heatmaps and prediction.is_anomalous and self.recent.scale is not None:
                with problems.attempt(f"the heat map of {arrival.path}"):
                    name = heatmap_name(arrival.name, arrival.key)
                    draw(arrival.path, prediction, self.recent.scale, self.options.output / name)
                    names[-1] = name
        self._tell(problems)
        return names

    def _small(self, prediction: Prediction) -> Any:
        if not self.options.page or prediction.error is not None:
            return None
        return prediction.full_map(drawn_size(prediction.original_size or prediction.anomaly_map.shape, HEAT_SIDE))

    def _tell(self, problems: Problems) -> None:
        for name, why in problems.failed:
            self.problems += 1
            if self.problems <= NAMED:
                self._warn(f"{name} could not be written ({why}); the scores are complete")

    def _row(self, entry: Entry) -> dict[str, Any]:
        """Of scores.csv."""
        return {"path": str(self.options.folder / entry.name), "score": entry.score,
                "is_anomalous": entry.is_anomalous, "heatmap": entry.heatmap, "error": entry.error}  # fmt: skip

    @contextmanager
    def _new_table(self) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """A new scores.csv in place of an older one, which then grows."""
        path = self.options.output / TABLE
        with append_scores(path) as add:
            yield add
        self._table = Appending(path)


class _Timed:
    """A loader that knows the seconds which its batches took."""

    def __init__(self, loader: Any) -> None:
        self.dataset, self._loader, self.seconds = loader.dataset, loader, 0.0

    def __iter__(self) -> Iterator[Any]:
        items = iter(self._loader)
        while True:
            begin = time.perf_counter()
            item = next(items, None)
            self.seconds += time.perf_counter() - begin
            if item is None:
                return
            yield item
