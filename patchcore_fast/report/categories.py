"""Many categories side by side: a table, results.json, results.csv, and index.html with a link to each one's page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patchcore_fast.metrics import ADER_PIXELS, HEADLINE
from patchcore_fast.report.page.index import write_index
from patchcore_fast.report.scores_csv import write_scores_csv
from patchcore_fast.report.tables import metrics_table, write_json
from patchcore_fast.report.text import shorten

JSON, CSV, INDEX, FORMAT, FORMAT_VERSION = "results.json", "results.csv", "index.html", "patchcore_fast.results", 1
REGIONS = ("region_recall", "region_recall_iou", "false_regions_per_image", "false_regions_per_normal_image")
AVERAGED = (*HEADLINE, *ADER_PIXELS, "accuracy", *REGIONS)
SHOWN = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP", "aupro": "AUPRO",
         "pixel_iou_max": "IoU-max", "image_f1": "best F1"}  # fmt: skip
SHOWN_REGIONS = {"region_recall": "regions found", "false_regions_per_image": "false regions"}  # where they are known
COUNTS = ("threshold", "n_test", "n_unread", "n_masks", "pixel_threshold", "true_regions", "regions_found",
          "regions_found_iou", "false_regions", "n_region_images")  # fmt: skip
REASON = 60  # characters of a reason in the table on the screen


@dataclass(frozen=True)
class CategoryResult:
    """One row.

    Attributes
    ----------
    name : of the category.  metrics : of `model.Evaluation`, empty unless it was evaluated; None or NaN for none.
    seconds : by stage, of fit and evaluation.  error : why it failed; None where it did not.
    page : of its own, relative to the index; None for none.
    """

    name: str
    metrics: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    page: str | None = None

    @property
    def status(self) -> str:
        """ "done", "failed", or "pending": it has not been its turn yet."""
        return "failed" if self.error is not None else "done" if self.metrics else "pending"


def means(rows: Sequence[CategoryResult]) -> dict[str, tuple[float, int]]:
    """Of each of AVERAGED, the mean over the categories that have it and how many these are; without those that none
    has."""
    found = {}
    for name in AVERAGED:
        values = [float(v) for row in rows if (v := row.metrics.get(name)) is not None and math.isfinite(v)]
        if values:
            found[name] = (math.fsum(values) / len(values), len(values))
    return found


def results_table(rows: Sequence[CategoryResult]) -> str:
    """Plain text: a line a category, and the mean; below it of how many categories a mean is where it is not of all."""
    table: dict[str, dict[str, Any]] = {}
    mean = means(rows)
    shown = SHOWN | {key: text for key, text in SHOWN_REGIONS.items() if key in mean}
    for row in rows:
        cells: dict[str, Any] = {text: _float(row.metrics.get(key)) for key, text in shown.items()}
        cells["images"] = None if row.status != "done" else int(row.metrics["n_test"])
        if row.error is not None:
            cells["failed because"] = shorten(row.error, REASON)
        table[row.name] = cells
    lines = metrics_table({**table, "": {text: mean.get(key, (math.nan, 0))[0] for key, text in shown.items()}},
                          corner="category").split("\n")  # fmt: skip
    width = len(lines[1])
    text = "\n".join([*lines[:-1], "-" * width, "mean" + lines[-1][4:]])
    few = [f"{shown[key]} of {n:,}" for key, (_, n) in mean.items() if key in shown and n < len(rows)]
    return f"{text}\nMeans are not of all {len(rows):,} categories: {', '.join(few)}." if few else text


def write_results(folder: Path, name: str, rows: Sequence[CategoryResult], config: Mapping[str, Any]) -> None:
    """Write results.json, results.csv and index.html, each whole.

    Parameters
    ----------
    folder : exists.  name : of the data.  config : settings of all categories, as `PatchCoreConfig.to_dict` gives them.
    """
    write_json(folder / JSON, results_dict(name, rows, config))
    stages = tuple(dict.fromkeys(stage for row in rows for stage in row.seconds))
    columns = ("category", "status", *AVERAGED, *COUNTS, *(f"{stage}_s" for stage in stages), "error")
    lines: list[dict[str, Any]] = [
        {"category": row.name, "status": row.status, "error": row.error}
        | {key: row.metrics.get(key) for key in (*AVERAGED, *COUNTS)}
        | {f"{stage}_s": row.seconds.get(stage) for stage in stages}
        for row in rows
    ]
    lines.append({"category": "mean", "status": "mean"} | {key: value for key, (value, _) in means(rows).items()})
    write_scores_csv(folder / CSV, lines, columns)
    write_index(folder / INDEX, name, rows, means(rows), config)


def results_dict(name: str, rows: Sequence[CategoryResult], config: Mapping[str, Any]) -> dict[str, Any]:
    """What results.json holds."""
    categories = [{"category": row.name, "status": row.status, "error": row.error, "metrics": dict(row.metrics),
                   "seconds": dict(row.seconds)} for row in rows]  # fmt: skip
    mean = {key: {"value": value, "categories": n} for key, (value, n) in means(rows).items()}
    return {"format": FORMAT, "format_version": FORMAT_VERSION, "name": name, "config": dict(config),
            "categories": categories, "mean": mean}  # fmt: skip


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)
