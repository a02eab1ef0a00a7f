"""Numbers to HTML: tables, bars, and the map of where the bank comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from patchcore_fast.config import flat
from patchcore_fast.regions import IOU
from patchcore_fast.report.page.read import Record, number

NAMES = {
    "image_auroc": ("image AUROC", "area under the ROC curve of image scores"),
    "image_ap": ("image AP", "average precision of image scores"),
    "image_f1": ("image best F1", "largest F1 over all thresholds: the threshold is chosen on these images"),
    "accuracy": ("accuracy at the threshold", "share of right verdicts at the model's own threshold"),
    "pixel_auroc": ("pixel AUROC", "area under the ROC curve of all pixels"),
    "pixel_ap": ("pixel AP", "average precision of all pixels"),
    "pixel_f1": ("pixel best F1", "largest F1 over all thresholds: the threshold is chosen on these pixels"),
    "aupro": ("AUPRO", "per-region overlap up to 30 % false positives"),
    "pixel_iou_max": ("pixel IoU-max", "largest intersection over union over all thresholds, where F1 is largest"),
}
REGION_NAMES = {
    "region_recall": ("regions found", "true regions that a region overlaps, be it in one pixel"),
    "region_recall_iou": (f"regions found, IoU {IOU:g}", f"by an intersection over union of {IOU:g} or more"),
    "false_regions_per_image": ("false regions an image", "regions that overlap no true one"),
    "false_regions_per_normal_image": ("false regions a normal image", "all regions on normal images are false"),
}
STAGES = {"features": "fit: features", "selection": "fit: selection of the bank", "threshold": "fit: threshold",
          "predict": "evaluate: prediction", "metrics": "evaluate: metrics"}  # fmt: skip
PARTS = {"train": "training images", "test": "test images"}
LISTED = 12  # training images in the list of the bank's sources, and files that could not be used


def fixed(value: Any, digits: int = 3) -> str:
    """A number with so many decimals, "n/a" for none."""
    found = number(value)
    return "n/a" if found is None else f"{found:.{digits}f}"


def metrics_section(record: Record) -> str:
    """Metrics with their intervals, as numbers and as a strip from 0 to 1."""
    rows = []
    for key, (name, meaning) in NAMES.items():
        value, between = number(record.metrics.get(key)), record.interval(key)
        if value is None:
            continue
        text, strip = "n/a", ""
        if between is not None:
            low, high = between
            text = f"{low:.3f} to {high:.3f}"
            x, wide = _percent(low), _percent(high - low)
            strip = f'<rect class="span" x="{x}" y="4" width="{wide}" height="6" rx="3"/>'
        rows.append(
            f'<tr><th scope="row">{name}<small>{meaning}</small></th><td class="num big">{value:.3f}</td>'
            f'<td class="num">{text}</td><td class="strip-cell"><svg class="strip" aria-hidden="true">'
            f'<rect class="rail" y="6" width="100%" height="2"/>{strip}'
            f'<circle class="dot" cx="{_percent(value)}" cy="7" r="5"/></svg></td></tr>'
        )
    facts = record.facts["intervals"]
    normal, anomalous = (sum(i["label"] == label for i in record.images) for label in (0, 1))
    percent = f"{100 * facts['level']:g} %"
    masks = record.metrics.get("n_masks") or 0.0
    note = (f"{percent} percentile intervals of {facts['resamples']:,} bootstrap resamples of whole test images within "
            f"each type ({normal:,} normal, {anomalous:,} anomalous, {masks:,.0f} with a mask).")  # fmt: skip
    if min(normal, anomalous) < 30:
        note += (
            " With fewer than 30 images of a class these intervals are rough; where the classes are separated without "
            "an error they have no width, which is no certainty."
        )
    if normal == 0 or anomalous == 0:
        note += " Only one class of test images is here, so most metrics are undefined."
    return (f'<table class="metrics"><thead><tr><th scope="col">metric</th><th scope="col">value</th>'
            f'<th scope="col">{percent} interval</th><th scope="col"><span class="sr">on a scale from 0 to 1</span>'
            f'<span aria-hidden="true" class="scale"><i>0</i><i>0.5</i><i>1</i></span></th></tr></thead>'
            f'<tbody>{"".join(rows)}</tbody></table><p class="note">{note}</p>')  # fmt: skip


def regions_section(record: Record) -> str:
    """What the regions above the pixel threshold find; "" where nothing is known of them."""
    m = {key: number(value) for key, value in record.metrics.items()}
    images, threshold = m.get("n_region_images"), m.get("pixel_threshold")
    if images is None or threshold is None:
        return ""
    said = {"region_recall": ("regions_found", "true_regions"),
            "region_recall_iou": ("regions_found_iou", "true_regions"),
            "false_regions_per_image": ("false_regions", "n_region_images")}  # fmt: skip
    rows = []
    for key, (name, meaning) in REGION_NAMES.items():
        if m.get(key) is None:
            continue
        part, whole = (m.get(count) for count in said.get(key, ("", "")))
        of = "" if part is None or whole is None else f"{part:,.0f} {'on' if 'false' in key else 'of'} {whole:,.0f}"
        rows.append(f'<tr><th scope="row">{name}<small>{meaning}</small></th><td class="num big">{m[key]:.3f}</td>'
                    f'<td class="num">{of}</td></tr>')  # fmt: skip
    return (f'<h3>Regions above the pixel threshold {threshold:.4g}</h3><table class="regions"><tbody>{"".join(rows)}'
            f'</tbody></table><p class="note">Counted on {images:,.0f} images whose pixels are known, at the size of '
            "their files.</p>")  # fmt: skip


def defect_types_section(record: Record) -> str:
    """One row for each defect type; page.js sorts by a click on a heading."""
    headings = ("defect type", "images", "found", "image AUROC", "interval", "pixel AUROC", "pixel AP", "AUPRO",
                "mean score")  # fmt: skip
    rows = []
    for row in record.facts["defect_types"]:
        between = row.get("image_auroc_interval")
        found = row.get("true_positives")
        share = 0.0 if found is None else found / max(row["images"], 1)
        cells = [
            f'<th scope="row">{escape(row["defect_type"])}</th>',
            _cell(row["images"], str(row["images"])),
            _cell(share, "n/a" if found is None else f"{found} of {row['images']}"),
            _cell(row.get("image_auroc"), fixed(row.get("image_auroc"))),
            _cell(None if between is None else between[0],
                  "n/a" if between is None else f"{between[0]:.3f} to {between[1]:.3f}"),
            *(_cell(row.get(key), fixed(row.get(key))) for key in ("pixel_auroc", "pixel_ap", "aupro", "mean_score")),
        ]  # fmt: skip
        rows.append(f"<tr>{''.join(cells)}</tr>")
    if not rows:
        return '<p class="note">No anomalous test images.</p>'
    head = "".join(f'<th scope="col" aria-sort="none"><button type="button">{text}</button></th>' for text in headings)
    return ('<div class="scroll" tabindex="0" role="region" aria-label="Table of defect types">'
            f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
            '<p class="note">Each type against all normal test images. "Found": score above the model\'s threshold. '
            "Pixel numbers of a type come from binned scores; pixel AP may be off by 0.001. Types of fewer than 5 "
            "images get no interval.</p>")  # fmt: skip


def _cell(value: Any, text: str) -> str:
    found = number(value)
    return f'<td class="num" data-value="{-1e300 if found is None else found:.9g}">{text}</td>'


def bank_section(record: Record) -> str:
    """The grid of patches with how often the bank knows each place, and the training images that gave most."""
    bank = record.facts["bank"]
    if (model := record.facts["model"]) is not None:
        return f"<p>{escape(model)}: a method without a memory bank.</p>"
    if bank is None:
        return '<p class="note">This evaluation did not write down its memory bank.</p>'
    kept = f"{bank['rows']:,} rows of {bank['dim']:,} numbers"
    kept += f", chosen of {bank['patches']:,} patches" if bank["patches"] else ""
    if (cover := bank["coverage"]) is None:
        return f"<p>{kept}. The bank does not say which images and places its rows come from.</p>"
    h, w = len(cover["counts"]), len(cover["counts"][0])
    names, per_image = bank["images"], cover["per_image"]
    m = len(per_image)
    text = (f"<p>{kept} of {m:,} training images. {100 * cover['share']:.1f} % of the {h} &times; {w} places of the "
            f"patch grid occur (entropy {cover['entropy']:.3f} of 1); the bank is as even as "
            f"{cover['effective_images']:.1f} of {m:,} images; {cover['empty_images']:,} gave none.</p>")  # fmt: skip
    order = sorted(range(m), key=lambda i: (-per_image[i], i))
    top = max(per_image) or 1
    bars = "".join(
        f'<li><span class="name">{escape(names[i])}</span>{_bar(per_image[i] / top)}<b>{per_image[i]:,}</b></li>'
        for i in order[:LISTED]
    )
    more = f" ({LISTED} of {m:,})" if m > LISTED else ""
    return (f'{text}<div class="two"><figure><figcaption>Bank patches at each place of the image</figcaption>'
            f'{_grid(cover["counts"])}</figure><figure><figcaption>Training images that gave most{more}</figcaption>'
            f'<ol class="bars">{bars}</ol></figure></div>')  # fmt: skip


def _bar(share: float) -> str:
    """Attributes of SVG, for the page's policy takes no styles."""
    return f'<svg class="bar-box" aria-hidden="true"><rect width="{_percent(share)}" height="100%"/></svg>'


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def _grid(counts: Sequence[Sequence[int]]) -> str:
    """A cell a place, the darker the more; empty places hatched by their own colour, for none is no low count."""
    h, w = len(counts), len(counts[0])
    top = max(max(row) for row in counts) or 1
    cells = "".join(
        f'<rect x="{x}" y="{y}" width="1" height="1" class="{"some" if n else "none"}"'
        + (f' fill-opacity="{0.15 + 0.85 * n / top:.3f}"' if n else "")
        + f"><title>row {y}, column {x}: {n}</title></rect>"
        for y, row in enumerate(counts)
        for x, n in enumerate(row)
    )
    label = f"Patch grid of {h} rows and {w} columns; a place has at most {top} bank patches"
    return (f'<svg class="grid-map" viewBox="0 0 {w} {h}" role="img" aria-label="{label}" shape-rendering="crispEdges">'
            f'{cells}</svg><p class="legend"><span class="swatch none"></span>none<span class="swatch ramp"></span>'
            f"1 to {top}</p>")  # fmt: skip


def timings_section(record: Record) -> str:
    """Seconds by stage, and what they ran on."""
    seconds = {key: value for key, value in record.facts["seconds"].items() if number(value) is not None}
    top = max(seconds.values(), default=0) or 1
    rows = "".join(
        f'<li><span class="name">{escape(STAGES.get(key, key))}</span>{_bar(value / top)}<b>{value:.2f} s</b></li>'
        for key, value in seconds.items()
    )
    each = 1000 * seconds["predict"] / len(record.images) if "predict" in seconds else None
    note = "" if each is None else f"<p>{each:.0f} ms an image in prediction, reading files included.</p>"
    return f'<ol class="bars wide">{rows}</ol>{note}'


def data_section(record: Record) -> str:
    """What the scan of the folder used and what it found: warnings open, the rest folded away."""
    data = record.facts["data"]
    if data is None:
        return '<p class="note">This evaluation did not write down what its folder held.</p>'
    rows = "".join(
        f'<tr><th scope="row">{escape(PARTS.get(part, part))}</th><td class="num">{sum(kinds.values()):,}</td>'
        f"<td>{escape(', '.join(f'{name} {n:,}' for name, n in kinds.items()))}</td></tr>"
        for part, kinds in data["images"].items()
    )
    rows += f'<tr><th scope="row">masks</th><td class="num">{data["masks"]:,}</td><td></td></tr>'
    text = f"<table><tbody>{rows}</tbody></table>"
    for is_warning in (True, False):
        found = "".join(f"<li>{escape(f['text'])}</li>" for f in data["findings"] if f["warning"] is is_warning)
        if found and is_warning:
            text += f'<p class="wrong">To look at:</p><ul>{found}</ul>'
        elif found:
            text += f"<details><summary>Passed over, and other remarks</summary><ul>{found}</ul></details>"
        elif is_warning:
            text += '<p class="note">Nothing looks wrong.</p>'
    return text


def settings_section(record: Record) -> str:
    """Configuration and versions, folded away."""

    settings, versions = settings_table(flat(record.config)), settings_table(record.facts["environment"])
    return (
        f"<details><summary>Settings of the model</summary>{settings}</details>"
        f"<details><summary>Versions and device</summary>{versions}</details>"
    )


def settings_table(values: Mapping[str, Any]) -> str:
    """Names and values."""
    rows = "".join(
        f'<tr><th scope="row">{escape(str(k))}</th><td>{escape(_plain(v))}</td></tr>' for k, v in values.items()
    )
    return f'<table class="settings"><tbody>{rows}</tbody></table>'


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"  # as the command line has it
    return "none" if value is None else str(value)


def unread_section(record: Record) -> str:
    """Files that could not be used: images that are in no number of the page, and masks whose pixels are in none."""
    masks = [row for row in record.images if row["error"]]
    if not record.unread and not masks:
        return ""
    parts = []
    for rows, what in ((record.unread, "test images could not be read and are in no number of this page"),
                       (masks, "masks could not be used; the pixels of their images are in no number")):  # fmt: skip
        if rows:
            items = "".join(f"<li>{escape(row['path'])}: {escape(row['error'])}</li>" for row in rows[:LISTED])
            more = f"<li>and {len(rows) - LISTED:,} more</li>" if len(rows) > LISTED else ""
            parts.append(f'<p class="wrong">{len(rows):,} {what}:</p><ul>{items}{more}</ul>')
    return f'<div class="unread" role="note">{"".join(parts)}</div>'
