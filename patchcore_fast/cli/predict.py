"""predict: scores of images first, pictures of them as far as they can be drawn."""

from __future__ import annotations

import argparse
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_fast.cli.beforehand import check_bank, check_files, check_room, need_pipeline
from patchcore_fast.cli.decision import given_thresholds
from patchcore_fast.cli.models import load_runnable, model_said
from patchcore_fast.cli.outputs import check_folder, output_folder
from patchcore_fast.cli.pipeline import counted
from patchcore_fast.cli.process import PROGRAM, say
from patchcore_fast.cli.unusable import tell
from patchcore_fast.errors import DataError
from patchcore_fast.names import printable

if TYPE_CHECKING:
    from patchcore_fast.data import ImageRecord
    from patchcore_fast.model import Prediction
    from patchcore_fast.report.gallery import Gallery
    from patchcore_fast.report.region_files import RegionFiles

Row = Mapping[str, Any]

SCALE_IMAGES = 64  # the colour scale is set by this many images, so that the others can be drawn as they come
SCALE_PIXELS = 1 << 25  # or by fewer with so many pixels in all: their maps are kept until then


def predict(args: argparse.Namespace) -> int:
    """Score images; write scores.csv (`report.scores_csv`), overlays and a contact sheet of the highest scores.

    With a pixel threshold masks and regions too (`report.region_files`).

    The rows of scores.csv are written as the scores come, whatever happens to the pictures; the file is in place also
    when the run is stopped. Memory does not grow with the number of images.
    """
    given_thresholds(args)
    check_bank(args.bank)
    check_files(args.images)
    check_room(args.output)
    need_pipeline()

    from patchcore_fast.ahead import Ahead
    from patchcore_fast.data import scan_images
    from patchcore_fast.model.batches import at_once

    model = load_runnable(args)
    records = scan_images(args.images)
    check_folder(args.output, [("the bank", args.bank), *(("image", r.path) for r in records)],
                 [("IMAGES", folder) for folder in args.images])  # fmt: skip
    stream = model.iter_predict(records, on_error="return", maps=not args.no_maps)
    output = output_folder(args.output)
    print(model_said(model))
    pixel_threshold = None if args.no_maps else model.pixel_threshold
    if pixel_threshold is None and not args.no_maps:
        print("No masks and no regions: this file has no pixel threshold. "
              "Give one with --pixel-threshold, or find it with patchcore-fast calibrate BANK GOOD.")  # fmt: skip
    ahead = Ahead(stream, at_once(model.config))
    return write_predictions(output, records, ahead, model.threshold, pixel_threshold, maps=not args.no_maps)


def write_predictions(
    output: Path,
    records: Sequence[ImageRecord],
    stream: Iterable[Prediction],
    threshold: float | None,
    pixel_threshold: float | None = None,
    maps: bool = True,
) -> int:
    """Rows and pictures of predictions as they come, and a word on the screen; the exit code.

    Parameters
    ----------
    output : exists.  records : of the images, in the order of `stream`.
    threshold, pixel_threshold : that verdicts and regions are made with.
    maps : whether predictions have them; without there are no pictures.
    """
    from patchcore_fast.report.region_files import CSV, JSON, MASKS
    from patchcore_fast.report.scores_csv import append_scores
    from patchcore_fast.written import writing

    table = output / "scores.csv"
    room = sum(2 * len(os.fsencode(r.path)) + 80 for r in records)
    root = Path(os.path.commonpath([r.path.absolute().parent for r in records]))
    with writing(output) as note:
        run = _Run(output, root, threshold, pixel_threshold is not None, maps, note)
        note(table.name)
        try:
            with append_scores(table, room) as add:
                run.score(zip(records, stream, strict=True), add)
        except BaseException:
            if run.scored and table.is_file():
                say(f"{PROGRAM}: stopped, but the scores of {run.scored:,} of {counted(len(records))} are in "
                    f"{printable(table)}")  # fmt: skip
            raise
        finally:
            run.close_regions()
        if not run.scored:
            raise DataError(f"none of {counted(len(records))} can be read; {run.unread[0][1]}")
        if run.gallery is not None and run.gallery.count:
            with run.problems.attempt("contact_sheet.png"):
                run.gallery.write_sheet("contact_sheet.png", counted(run.scored))
    verdicts = "" if threshold is None else f", {run.anomalous:,} anomalous (above the threshold {threshold:.4g})"
    print(f"{counted(run.scored)} scored{verdicts}.")
    if not maps:
        print(f"Numbers are in {table}.")
        return tell(run.unread, run.problems)
    sheet = output / "contact_sheet.png"
    print(f"{f'Look at {sheet}; single' if sheet.is_file() else 'Single'} pictures are in {output / 'heatmaps'}, "
          f"numbers in {table}.")  # fmt: skip
    if run.regions is not None:
        count = run.regions.count
        print(f"{count:,} {'region' if count == 1 else 'regions'} above the pixel threshold {pixel_threshold:.4g}: "
              f"{output / CSV}, in COCO's format {output / JSON}; masks are in {output / MASKS}.")  # fmt: skip
    return tell(run.unread, run.problems)


class _Run:
    """Predictions to rows and pictures, one by one.

    scored, anomalous : counts.  unread : (file, why) of images without a score.  problems : of pictures and regions.
    regions : None without a pixel threshold, before the first picture, and where their files cannot be opened.
    """

    def __init__(
        self,
        output: Path,
        root: Path,
        threshold: float | None,
        has_regions: bool,
        maps: bool,
        note: Callable[[str], None],
    ) -> None:
        from patchcore_fast.report.files import PictureNames
        from patchcore_fast.report.problems import Problems

        self._names, self._maps = PictureNames(root), maps
        self._output, self._threshold, self._has_regions, self._note = output, threshold, has_regions, note
        self._waiting: deque[tuple[ImageRecord, Prediction]] = deque()  # for the scale, then one by one
        self.gallery: Gallery | None = None
        self.regions: RegionFiles | None = None
        self.problems = Problems()
        self.unread: list[tuple[Path, str]] = []
        self.scored = self.anomalous = 0

    def close_regions(self) -> None:
        """Their files get their names, with what there is."""
        if self.regions is not None:
            with self.problems.attempt("regions.csv and regions.json"):
                self.regions.close()

    def score(self, stream: Iterable[tuple[ImageRecord, Prediction]], add: Callable[[Row], None]) -> None:
        """Take all there are. However it ends, each prediction that came has its row."""
        pixels = 0
        try:
            for pair in stream:
                self._waiting.append(pair)
                if not self._maps:
                    self._row(add, "")
                    continue
                pixels += pair[1].anomaly_map.size
                if self.gallery is not None or len(self._waiting) == SCALE_IMAGES or pixels >= SCALE_PIXELS:
                    self._draw(add)
            self._draw(add)
        finally:
            while self._waiting:
                self._row(add, "")

    def _draw(self, add: Callable[[Row], None]) -> None:
        from patchcore_fast.report import shared_scale
        from patchcore_fast.report.gallery import Gallery
        from patchcore_fast.report.region_files import RegionFiles

        maps = [p.anomaly_map for _, p in self._waiting if p.error is None]
        if self.gallery is None and maps:
            self.gallery = Gallery(self._output, *shared_scale(maps, self._threshold), self._note)
            if self._has_regions:
                with self.problems.attempt("regions.csv and regions.json"):
                    self.regions = RegionFiles(self._output, self._note)
        while self._waiting:
            record, prediction = self._waiting[0]
            picture = ""
            if self.gallery is not None and prediction.error is None:
                name = self._names.of(record.path)
                if self.regions is not None:
                    with self.problems.attempt(f"the regions of {record.path}"):
                        self.regions.add(record.path, prediction, name)
                with self.problems.attempt(f"the heat map of {record.path}"):
                    self.gallery.add(record, prediction, name)
                    picture = f"heatmaps/{name}"
            self._row(add, picture)

    def _row(self, add: Callable[[Row], None], picture: str) -> None:
        record, prediction = self._waiting.popleft()
        add({"path": str(record.path), "score": prediction.score, "is_anomalous": prediction.is_anomalous,
             "label": record.label, "heatmap": picture, "error": prediction.error})  # fmt: skip
        if prediction.error is None:
            self.scored += 1
            self.anomalous += bool(prediction.is_anomalous)
        else:
            self.unread.append((record.path, prediction.error))
