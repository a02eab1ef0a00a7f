"""The budget of a bank on the page: what it came to, and what fewer rows would have given."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from patchcore_fast.bank_size import BankSize
from patchcore_fast.report.page.charts import steps_chart


def size_section(told: Mapping[str, Any] | None) -> str:
    """A table and two small plots; nothing of a bank without a budget. `told` has passed `schema`."""
    if told is None:
        return ""
    size, curve = BankSize.from_dict(told), told["curve"]
    spent = "" if size.search_ms is None else f", searched in about {size.search_ms:.3g} ms an image on {size.device}"
    text = f"<p>Budget {escape(size.budget)}: {size.rows:,} rows in {size.bytes_said}{escape(spent)}.</p>"
    some = any(step["radius"] for step in curve)
    rows = "".join(
        f'<tr><td class="num">{step["rows"]:,}</td>'
        + (f'<td class="num">{" / ".join(f"{r:.4g}" for r in step["radius"]) or "n/a"}</td>' if some else "")
        + f'<td class="num">{"n/a" if step["score"] is None else format(step["score"], ".4g")}</td></tr>'
        for step in curve
    )
    heads = ["rows of the bank", *(["covering radius"] if some else []), "median score of held-out images"]
    table = (f'<table class="budget"><thead><tr>{"".join(f"""<th scope="col">{h}</th>""" for h in heads)}</tr></thead>'
             f"<tbody>{rows}</tbody></table>")  # fmt: skip
    layers = len(curve[0]["radius"]) if curve and all(len(s["radius"]) == len(curve[0]["radius"]) for s in curve) else 0
    radii = [[step["radius"][i] for step in curve] for i in range(layers)]
    scored = [step for step in curve if step["score"] is not None]
    charts = [
        _figure("Covering radius", [s["rows"] for s in curve], radii, "radius"),
        _figure("Held-out score", [s["rows"] for s in scored], [[s["score"] for s in scored]], "score"),
    ]
    note = (
        '<p class="note">Fewer rows are the first of this bank. Both fall without an elbow, whether accuracy still '
        f"gains or not: no size follows from them.{'' if some else ' The sampler measures no radius.'}</p>"
    )
    return f'{text}{table}<div class="charts">{"".join(charts)}</div>{note}'


def _figure(title: str, rows: list[int], lines: list[list[float]], label: str) -> str:
    if len(set(rows)) < 2 or not lines:
        return ""
    chart = steps_chart(rows, lines, label, f"{title} against the rows of the bank")
    return f"<figure><figcaption>{title}</figcaption>{chart}</figure>"
