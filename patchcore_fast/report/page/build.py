"""The page put together: numbers, charts and pictures into page.html, with page.css and page.js inside."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from patchcore_fast.config import recorded
from patchcore_fast.config.sampler_options import sampler_text
from patchcore_fast.files import atomic_write
from patchcore_fast.names import printable
from patchcore_fast.report.page.charts import curves_chart, histogram_chart
from patchcore_fast.report.page.read import Record, number, read_record
from patchcore_fast.report.page.sections import (
    bank_section,
    data_section,
    defect_types_section,
    fixed,
    metrics_section,
    regions_section,
    settings_section,
    timings_section,
    unread_section,
)
from patchcore_fast.report.page.size import size_section

IMAGES = 400  # in the gallery unless asked for others: some 12 MB of page
POLICY = (
    "default-src 'none'; img-src data:; style-src {style}; script-src {script}; base-uri 'none'; form-action 'none'"
)
CHIPS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP", "aupro": "AUPRO"}


def write_report(
    folder: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, *, images: int = IMAGES
) -> Path:
    """Write one self-contained HTML page of what `evaluate --output` left in a folder.

    Parameters
    ----------
    folder : has metrics.json, report.json and layers/.
    output : page to write; report.html in the folder when None.
    images : in the gallery at most: wrong verdicts first, then those nearest to the threshold. The curves, counts and
        tables are always of all images.

    Returns
    -------
    The page's path.

    Raises
    ------
    ValueError : images < 1, or no integer.
    DataError : a folder that was not written by evaluate, or is damaged.
    """
    if isinstance(images, bool) or not isinstance(images, int) or images < 1:
        raise ValueError(f"write_report: images must be a positive integer, got {images!r}")
    record = read_record(Path(folder))
    path = Path(folder) / "report.html" if output is None else Path(output)
    text = render(record, images)
    with atomic_write(path, "w", encoding="utf-8") as f:
        f.write(text)
    return path


def render(record: Record, images: int = IMAGES) -> str:
    """The page's text."""
    here = files(__package__)
    threshold, source = _threshold(record)
    chosen = choose(record, threshold, images)
    data = {
        "threshold": threshold,
        "threshold_source": source,
        "scores": [i["score"] for i in record.images],
        "labels": [i["label"] for i in record.images],
        "images": [_image(record, i) for i in chosen],
    }
    other = record.facts["model"] is not None  # a method that has no bank
    total = len(record.images)
    few = f"{len(chosen):,} of {total:,} images are here: wrong verdicts first, then those nearest to the threshold."
    some = "" if len(chosen) == total else few
    chips = [(name, fixed(record.metrics.get(key))) for key, name in CHIPS.items()
             if number(record.metrics.get(key)) is not None]  # fmt: skip
    style, script = (here.joinpath(f"page.{suffix}").read_text(encoding="utf-8") for suffix in ("css", "js"))
    values = {
        "policy": POLICY.format(style=policy_digest(style), script=policy_digest(script)),
        "title": escape(record.name),
        "created": escape(record.facts["created"].replace("T", " ").replace("+00:00", " UTC")),
        "summary": escape(_summary(record)),
        "unread": unread_section(record),
        "chips": "".join(f"<li><b>{value}</b> {escape(name)}</li>" for name, value in chips),
        "metrics": metrics_section(record) + regions_section(record),
        "histogram": _histogram(record, threshold),
        "threshold_note": {
            "bank": "The dashed line starts at the model's threshold." + _expected(record),
            "f1": "The model has no threshold: the dashed line starts where F1 is largest on these very test images.",
            "none": "There is no threshold: the dashed line starts at the median score.",
        }[source],
        "curves": _curves(record),
        "defect_types": defect_types_section(record),
        "some": some,
        "bank_link": "Model" if other else "Bank",
        "bank_title": "The model" if other else "Where the bank comes from",
        "bank": bank_section(record) + size_section((record.facts["bank"] or {}).get("size")),
        "data_summary": data_section(record),
        "timings": timings_section(record),
        "settings": settings_section(record),
        "style": style,
        "script": script,
        # "<" could end the script element: a file may be called anything.
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    return Template(here.joinpath("page.html").read_text(encoding="utf-8")).substitute(values)


def policy_digest(text: str) -> str:
    """What the policy calls the one script and the one style sheet: any other, and any style attribute, is refused."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def _threshold(record: Record) -> tuple[float, str]:
    if record.threshold is not None:
        return record.threshold, "bank"
    best = number(record.metrics.get("image_f1_threshold"))
    return (best, "f1") if best is not None else (float(np.median([i["score"] for i in record.images])), "none")


def _expected(record: Record) -> str:
    """What the training images that were held out say of the bank's threshold; nothing where none were."""
    low, high = (number(record.metrics.get(f"expected_{end}")) for end in ("low", "high"))
    if low is None or high is None:
        return ""
    return (
        f" By the held-out training images {100 * low:.1f} to {100 * high:.1f} % of normal images lie above it (95 %)."
    )


def choose(record: Record, threshold: float, count: int) -> list[int]:
    """Positions of at most `count` images in their order: wrong verdicts first, then those nearest to the threshold."""

    def wrong(image: dict[str, Any]) -> bool:
        return image["label"] >= 0 and (image["score"] > threshold) != bool(image["label"])

    order = sorted(range(len(record.images)), key=lambda i: (
        not wrong(record.images[i]), abs(record.images[i]["score"] - threshold), i))  # fmt: skip
    return sorted(order[:count])


def _image(record: Record, i: int) -> dict[str, Any]:
    row, layer = record.images[i], record.facts["layers"][i]
    photo = layer["photo"] or row["path"]
    stem = printable(Path(photo).as_posix().removeprefix("layers/").removesuffix("_photo.jpg"))
    pictures = {part: _uri(record.folder, layer[part], "jpeg" if part == "photo" else "png") for part in layer}
    return {"name": stem} | {key: row[key] for key in ("path", "score", "label", "defect_type")} | pictures


def _uri(folder: Path, name: str | None, kind: str) -> str | None:
    if name is None:
        return None
    return f"data:image/{kind};base64,{base64.b64encode((folder / name).read_bytes()).decode('ascii')}"


def _summary(record: Record) -> str:
    normal, anomalous = (sum(i["label"] == label for i in record.images) for label in (0, 1))
    types = len(record.facts["defect_types"])
    of_types = f" of {types} defect types" if types > 1 else ""
    parts = [f"{normal:,} normal and {anomalous:,} anomalous test images{of_types}"]
    config = record.config
    if backbone := recorded(config, "backbone"):
        ratio, count = number(recorded(config, "ratio")), number(recorded(config, "count"))
        share = "" if ratio is None else f" {100 * ratio:g} %"
        share = share if count is None else f" {count:,.0f} rows"
        options = recorded(config, "sampler_options")
        name = recorded(config, "sampler", "")
        sampler = sampler_text(name, options if isinstance(options, dict) else {}) if name else ""
        parts.append(f"{backbone}, {sampler}{share}" if sampler else str(backbone))
    if model := record.facts["model"]:
        parts.append(model)
    if "zeroshot" in config:
        parts.append("images scored by each other, without training")
    if (scorer := recorded(config, "scorer", "distance")) != "distance":
        parts.append(f"scored by {scorer}")
    if shots := recorded(config, "shots"):
        parts.append(f"{shots} training images of all")
    return "; ".join(parts)


def _labelled(record: Record) -> tuple[list[float], list[int]]:
    known = [i for i in record.images if i["label"] >= 0]
    return [i["score"] for i in known], [i["label"] for i in known]


def _histogram(record: Record, threshold: float) -> str:
    scores, labels = _labelled(record)
    if not scores:
        return '<p class="note">No image has a label.</p>'
    title = (
        f"Histogram of image scores: {labels.count(0)} normal, {labels.count(1)} anomalous, threshold {threshold:.4g}"
    )
    return histogram_chart(scores, labels, threshold, title)


def _curves(record: Record) -> str:
    """ROC, precision-recall and PRO, those that exist; a legend with the areas under each."""
    found, m = {name: curve for name, curve in record.curves.items() if curve is not None}, record.metrics
    kinds = ("image", "pixel")

    def figure(title: str, chart: str, legend: Sequence[tuple[str, str]]) -> str:
        keys = "".join(f'<span class="key {style}">{escape(text)}</span>' for style, text in legend)
        return f'<figure><figcaption>{title}</figcaption>{chart}<p class="legend">{keys}</p></figure>'

    parts = []
    roc = [(k, found[f"{k}_roc"]["fpr"], found[f"{k}_roc"]["tpr"]) for k in kinds if f"{k}_roc" in found]
    if roc:
        legend = [(k, f"{k}s {fixed(m.get(f'{k}_auroc'))}") for k, *_ in roc]
        point = _operating_point(record)
        if point is not None:
            legend.append(("marker", "at the model's threshold"))
        chart = curves_chart(roc, "false positive rate", "true positive rate",
                             "ROC curves, area: " + ", ".join(text for _, text in legend[: len(roc)]),
                             diagonal=True, marker=point)  # fmt: skip
        parts.append(figure("Receiver operating characteristic", chart, legend))
    pr = [(k, found[f"{k}_pr"]["recall"], found[f"{k}_pr"]["precision"]) for k in kinds if f"{k}_pr" in found]
    if pr:
        legend = [(k, f"{k}s {fixed(m.get(f'{k}_ap'))}") for k, *_ in pr]
        title = "Precision-recall curves, average precision: " + ", ".join(text for _, text in legend)
        chart = curves_chart(pr, "recall", "precision", title, steps=True)
        parts.append(figure("Precision and recall", chart, legend))
    if "pro" in found:
        text = f"AUPRO {fixed(m.get('aupro'))} (up to a false positive rate of 0.3)"
        chart = curves_chart([("pixel", found["pro"]["fpr"], found["pro"]["pro"])], "false positive rate of pixels",
                             "mean overlap with regions", f"Per-region overlap, {text}", diagonal=True)  # fmt: skip
        parts.append(figure("Per-region overlap", chart, [("pixel", text)]))
    if not parts:
        return '<p class="note">Curves need normal and anomalous test images.</p>'
    return f'<div class="charts">{"".join(parts)}</div>'


def _operating_point(record: Record) -> tuple[float, float] | None:
    """(false, true positive rate) of the images at the bank's threshold."""
    scores, labels = (np.asarray(v) for v in _labelled(record))
    if record.threshold is None or len(set(labels.tolist())) < 2:
        return None
    called = scores > record.threshold
    return float(called[labels == 0].mean()), float(called[labels == 1].mean())
