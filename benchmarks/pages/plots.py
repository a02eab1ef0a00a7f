"""Figures from results: time against rows and against picks, memory against rows; bars for searches."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.harness import records
from patchcore_fast.files import atomic_write
from patchcore_fast.report.plots import ANOMALOUS, LINES, NEUTRAL, NORMAL, new_figure, quiet

# Families keep colour and marker in every figure; labels stand at the lines, so colour is never needed to tell them.
_STYLE = {
    "ours": (NORMAL, "o"),
    "loop": (ANOMALOUS, "s"),
    "anomalib": (LINES[4], "D"),
    "amazon": (LINES[3], "^"),
    "amazon exact": ("#b08fc0", "v"),
    "torch-quickfps": (LINES[2], "P"),
    "torch-fps": (LINES[5], "X"),
    "k-center": ("#8c510a", "<"),
    "fpsample": ("#7a8f3c", ">"),
    "ours torch": ("#3f8f8f", "o"),
    "ours for anomalib": ("#7fb2d1", "D"),
    "ours for amazon": ("#5b8fb5", "^"),
}
_STYLE.update({"faiss": (LINES[4], "D"), "scikit-learn": (LINES[3], "^"), "torch chunks": (LINES[5], "X"),
               "torch whole": ("#8fa1ab", "v"), "KeOps": (LINES[2], "P")})  # fmt: skip
_SPARE = (("#555555", "h"), ("#999999", "p"), ("#333333", "*"))
_NAMES = {"ours": "patchcore_fast", "ours torch": "patchcore_fast torch", "loop": "gemv loop"}
Series = dict[str, list[tuple[float, float, bool]]]


def style(family: str) -> tuple[str, str]:
    """Colour and marker."""
    if family.startswith("ours native"):
        return "#9bbfd4", "o"
    return _STYLE.get(family) or _SPARE[sum(family.encode()) % len(_SPARE)]


def save(figure: Any, path: str | os.PathLike[str]) -> None:
    """As PNG or SVG, by the suffix; whole. The same figure gives the same bytes."""
    suffix = Path(path).suffix.lstrip(".").lower() or "png"
    with atomic_write(path) as f:
        figure.savefig(f, format=suffix, metadata={"Software": None} if suffix == "png" else {"Date": None})


def series(problems: list[dict[str, Any]], x: str, value: str) -> Series:
    """family -> [(x, seconds or MB, extrapolated)], ascending. Leaves held to an instruction set: see the tables."""
    lines: dict[str, dict[float, tuple[float, float, bool]]] = defaultdict(dict)
    for problem in problems:
        for row in problem["rows"]:
            if row["status"] != "ok" or row["family"].startswith("ours native"):
                continue
            if value.endswith("bytes"):
                point = (problem[x], max(1.0, row[value] / 2**20), False)
            else:
                point = (problem[x], row[value], bool(row["extrapolated_from"]))
            known = lines[row["family"]].get(problem[x])
            if known is None or point[1] < known[1]:
                lines[row["family"]][problem[x]] = point
    return {family: [points[at] for at in sorted(points)] for family, points in lines.items()}


def groups(result: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The problems of the first case that form a line over N (equal share of picks), and over k (equal N)."""
    problems = result["problems"]
    if not problems:
        return [], []
    first = problems[0]
    same = [p for p in problems if (p["case"], p["d"]) == (first["case"], first["d"])]
    share = first["k"] / first["n"]
    over_n = [p for p in same if abs(p["k"] / p["n"] - share) <= 1.01 / p["n"]]
    sizes = [p["n"] for p in same]
    largest = max(set(sizes), key=lambda n: (sizes.count(n), n))
    return over_n, [p for p in same if p["n"] == largest]


def kcenter(result: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Time against N, time against k, memory against N, as far as the result has more than one; else bars."""
    over_n, over_k = groups(result)
    panels = []
    share = ""
    if len(over_n) > 1:
        share = f"{over_n[-1]['k'] / over_n[-1]['n']:.2%}".rstrip("0%").rstrip(".") + " %"
        panels.append((over_n, "n", "median_s", "rows N", f"time: {share} of N rows picked"))
    if len(over_k) > 1:
        panels.append((over_k, "k", "median_s", "picks k", f"time: picks from {over_k[0]['n']:,} rows"))
    if len(over_n) > 1:
        panels.append((over_n, "n", "extra_bytes", "rows N", f"peak memory beyond the features: {share} of N picked"))
    if not panels:
        bars(result, path)
        return
    figure = new_figure(4.9 * len(panels), 5.2)
    for i, (problems, x, value, label, title) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        _lines(axes, series(problems, x, value), memory="bytes" in value)
        axes.set_xlabel(label)
        axes.set_title(title, fontsize=11, loc="left")
    _heading(figure, result, "Exact coreset selection")
    save(figure, path)


def _lines(axes: Any, lines: Series, memory: bool) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    for family, points in lines.items():
        colour, marker = style(family)
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        heavy = family == "ours"
        guessed = any(p[2] for p in points)
        axes.plot(xs, ys, color=colour, linewidth=2.6 if heavy else 1.4, linestyle="--" if guessed else "-",
                  zorder=4 if heavy else 2)  # fmt: skip
        for x, y, extrapolated in points:
            axes.plot([x], [y], marker, color=colour, markersize=7 if heavy else 5.5, zorder=5 if heavy else 3,
                      markerfacecolor="white" if extrapolated else colour)  # fmt: skip
    axes.margins(0.06, 0.08)
    quiet(axes)
    ticks = sorted({p[0] for points in lines.values() for p in points})
    axes.set_xticks(ticks, [f"{t:,.0f}" for t in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:g} MB" if memory else _second(v))
    _labels(axes, lines, memory)
    if not memory and any(p[2] for points in lines.values() for p in points):
        axes.text(0.02, 0.98, "hollow, dashed: extrapolated\nfrom fewer picks", transform=axes.transAxes, va="top",
                  fontsize=8, color=NEUTRAL)  # fmt: skip


def _second(value: float) -> str:
    return f"{value * 1000:g} ms" if value < 1 else f"{value:g} s" if value < 3600 else f"{value / 3600:.2g} h"


def _labels(axes: Any, lines: Series, memory: bool) -> None:
    """A name at the end of each line, moved apart where they would cover each other; with the ratio to ours."""
    low, high = (math.log10(v) for v in axes.get_ylim())
    wanted = sorted((math.log10(points[-1][1]), family) for family, points in lines.items())
    placed = apart([y for y, _ in wanted], 0.047 * (high - low))  # the height of a line of text
    right = max(p[0] for points in lines.values() for p in points)
    for y, (true, family) in zip(placed, wanted, strict=True):
        x, value, _ = lines[family][-1]
        text = _NAMES.get(family, family)
        ours = {p[0]: p[1] for p in lines.get(f"ours for {family}") or lines.get("ours", [])}
        if not memory and family != "ours" and x in ours:
            text += f"  {records.ratio(value / ours[x])}"
        colour = style(family)[0]
        at = (right, 10**y) if x == right else (x, 10**true)
        axes.annotate(text, at, (9, 0), textcoords="offset points", va="center", fontsize=8.5, color=colour,
                      weight="bold" if family == "ours" else "normal", annotation_clip=False)  # fmt: skip


def apart(wanted: list[float], step: float) -> list[float]:
    """Ascending positions, moved as little as keeps them `step` apart: crowds are spread about their own middle."""
    crowds: list[list[float]] = []  # [middle, number]
    for y in wanted:
        crowds.append([y, 1])
        while len(crowds) > 1 and crowds[-1][0] - crowds[-2][0] < step * (crowds[-1][1] + crowds[-2][1]) / 2:
            middle, number = crowds.pop()
            before, count = crowds[-1]
            crowds[-1] = [(before * count + middle * number) / (count + number), count + number]
    return [middle + step * (i - (number - 1) / 2) for middle, number in crowds for i in range(int(number))]


def bars(result: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Horizontal bars of time for each problem, and of peak memory where it was limited.

    What is wrong or failed is written, not drawn.
    """
    problems = [p for p in result["problems"] if any(r["status"] == "ok" for r in p["rows"])]
    if not problems:
        raise SystemExit("no provider finished: there is nothing to draw")
    limit = result["options"].get("memory_gb")
    panels = [(p, memory) for p in problems for memory in ([False, True] if limit else [False])]
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    most = max(sum(r["status"] != "not run" for r in p["rows"]) for p in problems)
    figure = new_figure(5.6 * across + 0.6, (0.34 * most + 1.1) * down + 0.6)
    for i, (problem, memory) in enumerate(panels):
        axes = figure.add_subplot(down, across, i + 1)
        rows = [r for r in records.ordered(problem["rows"]) if r["status"] != "not run"][::-1]
        (_memory_bars if memory else _time_bars)(axes, rows, limit)
        axes.set_yticks(range(len(rows)), [r["provider"] for r in rows], fontsize=8.5)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_title("peak memory, features included" if memory else records.title(problem), fontsize=9.5, loc="left")
        quiet(axes)
        axes.grid(False, axis="y")
    names = {"knn": "Nearest neighbours", "rarity": "Rarity"}
    name = names.get(result["benchmark"], "Exact coreset selection")
    _heading(figure, result, name)
    save(figure, path)


def _time_bars(axes: Any, rows: list[dict[str, Any]], limit: float | None) -> None:
    for at, row in enumerate(rows):
        if row["status"] != "ok":
            reason = f"more than {limit:g} GB" if limit and "needs more than" in row["message"] else row["status"]
            axes.text(0, at, f" {reason}", va="center", fontsize=8, color=ANOMALOUS)
            continue
        colour = style(row["family"])[0]
        hollow = bool(row["extrapolated_from"])
        axes.barh(at, row["median_s"], height=0.62, color="white" if hollow else colour, edgecolor=colour,
                  linestyle="--" if hollow else "-")  # fmt: skip
        text = ("~" if hollow else "") + records.seconds(row["median_s"])
        ours = records.like(row, rows)
        if ours and row is not ours:
            text += f"  ({records.ratio(row['median_s'] / ours['median_s'])})"
        axes.annotate(text, (row["median_s"], at), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xlim(0, 1.3 * max(r["median_s"] for r in rows if r["status"] == "ok"))
    axes.xaxis.set_major_formatter(lambda v, _: _second(v) if v else "0")


def _memory_bars(axes: Any, rows: list[dict[str, Any]], limit: float) -> None:
    for at, row in enumerate(rows):
        if row["status"] == "ok":
            gb = row["peak_bytes"] / 2**30
            axes.barh(at, gb, height=0.62, color=style(row["family"])[0])
            axes.annotate(f"{gb:.1f} GB", (gb, at), (4, 0), textcoords="offset points", va="center", fontsize=8)
        else:
            axes.barh(at, limit, height=0.62, color="white", edgecolor=ANOMALOUS, hatch="///", linewidth=0.6)
    axes.axvline(limit, color=ANOMALOUS, linewidth=1)
    axes.set_xlim(0, 1.25 * limit)
    axes.set_xlabel(f"GB; the line is the limit of {limit:g} GB, hatched: ended there")


def _heading(figure: Any, result: dict[str, Any], name: str) -> None:
    place = result["environment"]
    shapes = ", ".join(dict.fromkeys(f"{p['case']} ({p['d']:,} columns)" for p in result["problems"]))
    figure.suptitle(f"{name}: {shapes}\n{place['device']}, torch {place['torch']}", fontsize=10, x=0.01, ha="left")
