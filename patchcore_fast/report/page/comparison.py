"""The page of a comparison: sortable tables, pictures, what was run; one file that asks the network for nothing."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from patchcore_fast.config import flat
from patchcore_fast.files import atomic_write
from patchcore_fast.names import printable
from patchcore_fast.report.comparison import COLUMNS, COSTS, METRICS, Line, best
from patchcore_fast.report.page.build import POLICY, policy_digest
from patchcore_fast.report.page.sections import settings_table

MEANINGS = {
    "image_auroc": "area under the ROC curve of image scores", "image_ap": "average precision of image scores",
    "image_f1": "largest F1 over all thresholds of the image score",
    "pixel_auroc": "area under the ROC curve of all pixels", "pixel_ap": "average precision of all pixels",
    "pixel_f1": "largest F1 over all thresholds of the pixels",
    "aupro": "per-region overlap up to 30 % false positives",
    "pixel_iou_max": "largest overlap of prediction and mask over all thresholds of the pixels",
    "train_s": "seconds of fit, reading the images included",
    "image_ms": "milliseconds for one image in memory, by itself: median, warm",
    "peak_mib": "largest resident memory of the process in training and prediction",
}  # fmt: skip


def write_comparison(
    path: Path, name: str, summary: str, lines: Sequence[Line], notes: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]], pictures: Mapping[str, Path],
) -> None:  # fmt: skip
    """Write the page; it needs no other file.

    Parameters
    ----------
    lines : of sets, and of their mean.  notes : what was run, in sentences.
    settings : method -> its groups.  pictures : caption -> PNG; those that are not there are left out.
    """
    here = files(__package__)
    style = "".join(here.joinpath(file).read_text(encoding="utf-8") for file in ("page.css", "comparison.css"))
    script = here.joinpath("comparison.js").read_text(encoding="utf-8")
    names = list(dict.fromkeys(line.set for line in lines))
    names.sort(key=lambda part: part is not None)  # the mean comes first
    head = [line for line in lines if line.set == names[0]]
    values = {
        "policy": POLICY.format(style=policy_digest(style), script=policy_digest(script)),
        "title": escape(printable(name)),
        "summary": escape(summary),
        "chips": _chips(head),
        "failed": _failed(lines),
        "tables": "".join(
            _table(i, part, [line for line in lines if line.set == part]) for i, part in enumerate(names)
        ),
        "pictures": "".join(_picture(text, file) for text, file in pictures.items() if file.is_file())
        or '<p class="note">There is nothing to draw yet.</p>',
        "notes": f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in notes)}</ul>',
        "settings": "".join(
            f"<details><summary>{escape(method)}</summary>{settings_table(flat(groups))}</details>"
            for method, groups in settings.items()
        ),
        "style": style,
        "script": script,
    }
    text = Template(here.joinpath("comparison.html").read_text(encoding="utf-8")).substitute(values)
    with atomic_write(path, "w", encoding="utf-8") as f:
        f.write(text)


def _chips(lines: Sequence[Line]) -> str:
    """Who leads in what matters most."""
    led, parts = best(lines), []
    for column in ("image_auroc", "aupro", "train_s", "image_ms"):
        leaders = [line for line in lines if line.method in led.get(column, ())]
        if leaders:
            said = ", ".join(line.method for line in leaders)
            heading, digits, _ = COLUMNS[column]
            value = leaders[0].values[column].mean
            parts.append(f"<li><b>{value:,.{digits}f}</b> {escape(heading)}: {escape(said)}</li>")
    return "".join(parts)


def _failed(lines: Sequence[Line]) -> str:
    found = [f"{line.set}, {line.method}: {error}" for line in lines for error in line.errors]
    waiting = sum(line.waiting for line in lines)
    if not found and not waiting:
        return ""
    items = "".join(f"<li>{escape(printable(text))}</li>" for text in found)
    more = f"<li>{waiting:,} cells are still to come: the same command goes on.</li>" if waiting else ""
    return ('<section class="unread" aria-labelledby="h-failed"><h2 id="h-failed" class="wrong">Not in the numbers</h2>'
            f"<ul>{items}{more}</ul></section>")  # fmt: skip


def _table(number: int, name: str | None, lines: Sequence[Line]) -> str:
    columns = [column for column in COLUMNS if any(column in line.values for line in lines)]
    title = "Mean over sets" if name is None else escape(printable(name))
    led = best(lines)
    head = '<th scope="col" aria-sort="none" data-first="ascending"><button type="button">method</button></th>'
    for column in columns:
        heading, _, less = COLUMNS[column]
        first = "ascending" if less else "descending"
        head += (f'<th scope="col" aria-sort="none" data-first="{first}"{_edge(column, columns)}><button type="button" '
                 f'title="{escape(MEANINGS[column])}">{escape(heading)}</button></th>')  # fmt: skip
    most = max((value.count for line in lines for value in line.values.values()), default=0)
    rows = []
    for line in lines:
        few = max((value.count for value in line.values.values()), default=0)
        said = escape(printable(line.method))
        said += f"<small>of {few} of {most} sets</small>" if name is None and 0 < few < most else ""
        if line.values:
            cells = "".join(_cell(line, column, line.method in led.get(column, ()), columns) for column in columns)
        else:
            why = "; ".join(line.errors) or ("still to come" if name is not None else "no set")
            cells = f'<td class="wrong reason" colspan="{max(len(columns), 1)}">{escape(printable(why))}</td>'
        rows.append(f'<tr><th scope="row">{said}</th>{cells}</tr>')
    return (
        f'<section aria-labelledby="h-{number}"><h2 id="h-{number}">{title}</h2><div class="scroll">'
        f'<table class="compared sortable"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        "</div></section>"
    )


def _cell(line: Line, column: str, leads: bool, columns: Sequence[str]) -> str:
    value, digits = line.values.get(column), COLUMNS[column][1]
    edge = " first-cost" if _edge(column, columns) else ""
    if value is None:
        return f'<td class="num{edge}">n/a</td>'
    spread = "" if value.spread is None else f"<small>± {value.spread:,.{digits}f}</small>"
    mark = '<span class="sr">best: </span>' if leads else ""
    return (f'<td class="num{edge}{" best" if leads else ""}" data-value="{value.mean:.9g}">{mark}'
            f"{value.mean:,.{digits}f}{spread}</td>")  # fmt: skip


def _edge(column: str, columns: Sequence[str]) -> str:
    """A line before the first cost, where metrics stand before it."""
    first = next((c for c in columns if c in COSTS), None)
    return ' class="first-cost"' if column == first and columns[0] in METRICS else ""


def _picture(text: str, file: Path) -> str:
    data = base64.b64encode(file.read_bytes()).decode("ascii")
    caption = escape(text)
    return (f'<figure class="picture"><figcaption>{caption}</figcaption>'
            f'<img src="data:image/png;base64,{data}" alt="{caption}"></figure>')  # fmt: skip
