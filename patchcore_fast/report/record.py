"""report.json: what an evaluation leaves for the page beside metrics.json, while maps, masks and model are at hand."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from patchcore_fast.bootstrap import areas, image_counts, interval, pixel_counts, resample_weights
from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.data import ImageSet, load_truth
from patchcore_fast.report.tables import write_json

FILE, FORMAT, FORMAT_VERSION = "report.json", "patchcore_fast.report", 2
RESAMPLES, LEVEL, SEED = 1000, 0.95, 0
FEW = 5  # a defect type of fewer images gets no interval: resampling two images says nothing


def write_record(
    folder: Path,
    name: str,
    images: ImageSet,
    result: Any,
    layers: Sequence[dict[str, str | None]],
    limits: tuple[float, float],
    model: Any = None,
) -> None:
    """Write report.json: bootstrap intervals, numbers by defect type, the bank's provenance, times, and versions.

    Parameters
    ----------
    folder : exists.  name : of the data.  images : the set that was evaluated.
    result : `model.Evaluation` of it, with its predictions.
    layers : one for each test image, paths relative to `folder`.  limits : the scale of the heat layers.
    model : the fitted `PatchCore`, or of another method, which has no bank; without it the record has neither that
        nor the times of fitting.
    """
    intervals, defect_types = bootstrap(images, result)
    write_json(folder / FILE, {
        "format": FORMAT, "format_version": FORMAT_VERSION, "name": name,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "intervals": intervals, "defect_types": defect_types, "layers": list(layers), "scale": list(limits),
        "bank": bank_facts(model) if hasattr(model, "bank") else None,
        "model": model.said() if hasattr(model, "said") else None, "data": images.summary.to_dict(),
        "seconds": ({} if model is None else dict(model.timings_)) | result.timings,
        "environment": _environment(model),
    })  # fmt: skip


def bootstrap(images: ImageSet, result: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Intervals of the metrics, and one row of numbers for each defect type (see `patchcore_fast.bootstrap`).

    A type's numbers compare its images with all normal ones. Its pixel numbers come from binned scores: average
    precision is off by some 0.001 at most, the others by far less. The metrics of the whole set are exact.
    """
    labels = np.array([row["label"] for row in result.images])
    types = [row["defect_type"] for row in result.images]
    scores = np.array([row["score"] for row in result.images], dtype=np.float64)
    truths = _masks(images, result)
    known = np.array([truth is not None for truth in truths])
    weights = resample_weights(list(zip(labels.tolist(), types, known.tolist(), strict=True)), RESAMPLES, SEED)
    tables = {"image": image_counts(scores, labels)}
    if (counts := pixel_counts([p.anomaly_map for p in result.predictions], truths)) is not None:
        tables["pixel"] = counts

    found: dict[str, tuple[float, float] | None] = {}
    for part, table in tables.items():
        middle = areas(np.ones((1, len(labels))), table)
        for short, values in areas(weights, table).items():
            metric = "aupro" if short == "aupro" else f"{part}_{short}"
            exact = result.metrics[metric]
            found[metric] = interval(values, LEVEL, float(exact - middle[short][0])) if np.isfinite(exact) else None
    threshold = result.metrics["threshold"]
    if np.isfinite(threshold) and (labels >= 0).any():
        # Of images whose label is known, as Evaluation's accuracy.
        right = ((scores > threshold) == (labels == 1)) * (labels >= 0)
        found["accuracy"] = interval((weights @ right) / (weights @ (labels >= 0)), LEVEL)
    intervals = {"level": LEVEL, "resamples": RESAMPLES, "seed": SEED, "metrics": found}

    rows = []
    for name in dict.fromkeys(t for t, label in zip(types, labels, strict=True) if label == 1):
        mine = np.array([t == name and label == 1 for t, label in zip(types, labels, strict=True)])
        group = mine | (labels == 0)
        above = int((scores[mine] > threshold).sum()) if np.isfinite(threshold) else None
        row: dict[str, Any] = {"defect_type": name, "images": int(mine.sum()), "masks": int((mine & known).sum()),
                               "mean_score": float(scores[mine].mean()), "true_positives": above}  # fmt: skip
        for part, table in tables.items():
            for short, values in areas(group[None].astype(np.float64), table).items():
                row["aupro" if short == "aupro" else f"{part}_{short}"] = float(values[0])
        enough = min(mine.sum(), (labels == 0).sum()) >= FEW
        row["image_auroc_interval"] = (
            interval(areas(weights * group, tables["image"])["auroc"], LEVEL) if enough else None
        )
        rows.append(row)
    return intervals, rows


def _masks(images: ImageSet, result: Any) -> list[Any]:
    """Masks at the size of the maps; zeros for normal images, None where an anomalous one's pixels are not known."""
    f = PatchCoreConfig.from_dict({"features": result.config["features"]}).features
    found: list[Any] = []
    for record, prediction in zip(images.test, result.predictions, strict=True):
        truth = load_truth(record, prediction.anomaly_map.shape, f.resize, f.crop, f.aspect)
        found.append(None if truth is None else truth.numpy())
    return found


def bank_facts(model: Any) -> dict[str, Any]:
    """Size of the bank and, where it says which images and places its rows come from, how they spread."""
    from patchcore_fast.coverage import spatial_coverage

    bank = model.bank
    facts: dict[str, Any] = {"rows": len(bank), "dim": bank.width, "patches": bank.patches,
                             "coverage": None, "images": [],
                             "size": None if bank.size is None else bank.size.to_dict()}  # fmt: skip
    if bank.positions is not None and bank.grid is not None:
        count = max(len(bank.images), int(bank.positions[:, 0].max()) + 1)
        facts["coverage"] = spatial_coverage(bank.positions, count, bank.grid).to_dict()
        facts["images"] = [*bank.images, *(f"image {i}" for i in range(len(bank.images), count))]
    return facts


def _environment(model: Any) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from patchcore_fast import __version__

    found = {"patchcore_fast": __version__, "torch": str(torch.__version__), "threads": str(torch.get_num_threads())}
    for package in ("torchvision", "timm", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if model is not None:
        device = model.device
        found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return found
