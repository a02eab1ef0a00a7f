"""The page of many categories: a table with a link to the page of each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Protocol
from urllib.parse import quote

from patchcore_fast.config import flat
from patchcore_fast.files import atomic_write
from patchcore_fast.names import printable
from patchcore_fast.report.page.build import CHIPS, POLICY, policy_digest
from patchcore_fast.report.page.sections import NAMES, REGION_NAMES, fixed, settings_table


class Row(Protocol):
    """What is shown of a category; see `report.categories.CategoryResult`."""

    @property
    def name(self) -> str: ...

    @property
    def metrics(self) -> Mapping[str, Any]: ...

    @property
    def error(self) -> str | None: ...

    @property
    def page(self) -> str | None: ...

    @property
    def status(self) -> str: ...


def write_index(
    path: Path, name: str, rows: Sequence[Row], mean: Mapping[str, tuple[float, int]], config: Mapping[str, Any]
) -> None:
    """Write the page; it needs no other file but those that it links to.

    Parameters
    ----------
    name : of the data.  mean : of a metric, its mean and of how many categories.  config : settings by group.
    """
    here = files(__package__)
    style = here.joinpath("page.css").read_text(encoding="utf-8")
    named = NAMES | REGION_NAMES
    columns = [key for key in named if key in mean]
    done, failed = (sum(row.status == status for row in rows) for status in ("done", "failed"))
    waiting = len(rows) - done - failed
    parts = [f"{done:,} of {len(rows):,} categories evaluated"]
    parts += [f"{failed:,} failed"] if failed else []
    parts += [f"{waiting:,} still to come"] if waiting else []
    values = {
        "policy": POLICY.format(style=policy_digest(style), script="'none'"),
        "title": escape(printable(name)),
        "summary": escape("; ".join(parts)),
        "chips": "".join(
            f"<li><b>{fixed(mean[key][0])}</b> mean {escape(CHIPS[key])}</li>" for key in CHIPS if key in mean
        ),
        "table": _table(rows, columns, mean),
        "note": escape(_whose({named[key][0]: mean[key][1] for key in columns}, len(rows))),
        "settings": settings_table(flat(config)),
        "style": style,
    }
    text = Template(here.joinpath("index.html").read_text(encoding="utf-8")).substitute(values)
    with atomic_write(path, "w", encoding="utf-8") as f:
        f.write(text)


def _whose(counts: Mapping[str, int], total: int) -> str:
    """Of how many categories each mean is."""
    if not counts:
        return "There is nothing to average yet."
    if all(n == total for n in counts.values()):
        return "Means are of all categories."
    if len(set(counts.values())) == 1:
        return f"Each mean is of {next(iter(counts.values())):,} of {total:,} categories."
    few = [f"{name} of {n:,}" for name, n in counts.items() if n < total]
    return f"Means are not of all {total:,} categories: {', '.join(few)}."


def _table(rows: Sequence[Row], columns: Sequence[str], mean: Mapping[str, tuple[float, int]]) -> str:
    head = "".join(f'<th scope="col">{escape((NAMES | REGION_NAMES)[key][0])}</th>' for key in columns)
    lines = []
    for row in rows:
        name = escape(printable(row.name))
        if row.page is not None:
            name = f'<a href="{quote(os.fsencode(row.page))}">{name}</a>'
        if row.status == "done":
            cells = "".join(f'<td class="num">{fixed(row.metrics.get(key))}</td>' for key in columns)
        else:
            text = "still to come" if row.error is None else escape(printable(row.error))
            cells = f'<td colspan="{max(len(columns), 1)}" class="wrong">{text}</td>'
        lines.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    last = "".join(f'<td class="num big">{fixed(mean[key][0])}</td>' for key in columns)
    lines.append(f'<tr><th scope="row">mean</th>{last}</tr>')
    return f'<table><thead><tr><th scope="col">category</th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
