"""The native engine's results as tables and as a roofline: how near each part is to what the machine can do.

Operations are multiplications and additions of the expanded form: 2 D for a distance. A run's rate counts the distances
that it computed (k-center: without pruning), its intensity those operations over the bytes of features that it reads at
most: all rows once a pass for k-center, queries and bank once for k-NN.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any

from benchmarks.harness import records
from benchmarks.harness.providers.own import forced
from benchmarks.pages.plots import save
from patchcore_fast.report.plots import ANOMALOUS, LINES, NEUTRAL, NORMAL, new_figure, quiet

_COLOURS = {"portable": NEUTRAL, "avx2": LINES[3], "avx512f": LINES[4], "avx512": ANOMALOUS, "amx": NORMAL}
_SETS = {"L1": "o", "L2": "s", "L3": "^"}


def pick(rows: Iterable[dict[str, Any]], **wanted: Any) -> dict[str, Any] | None:
    """The first row with these members."""
    return next((r for r in rows if all(r.get(name) == value for name, value in wanted.items())), None)


def operations(problem: dict[str, Any], row: dict[str, Any]) -> float:
    """Of one run."""
    if problem.get("queries"):
        return 2.0 * problem["d"] * problem["n"] * problem["queries"]
    return 2.0 * problem["d"] * row["facts"]["share_of_distances"] * problem["n"] * problem["k"]


def bytes_read(problem: dict[str, Any], row: dict[str, Any]) -> float:
    """Of float32 features, from memory, at most."""
    rows = problem["n"] + problem["queries"] if problem.get("queries") else problem["n"] * row["facts"]["passes"]
    return 4.0 * problem["d"] * rows


def timed(problem: dict[str, Any], isa: str, suffix: str = "") -> dict[str, Any] | None:
    """The row of a provider, if it was right."""
    return pick(problem["rows"], provider=forced(isa, suffix), status="ok")


def computed(problem: dict[str, Any], isa: str) -> dict[str, Any] | None:
    """The row whose operations are known: every distance computed, on all threads."""
    return timed(problem, isa, "" if problem.get("queries") else " unpruned")


def _threads(result: dict[str, Any]) -> int:
    return result["environment"]["threads"]


def _table(heads: list[str], lines: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in [heads, ["---"] * len(heads), *lines]] + [""]


def tables(result: dict[str, Any]) -> list[str]:
    """Lines of Markdown: limits, tiles, rows, runs."""
    lines = []
    if "message" in result["machine"]:
        lines.append(f"The machine was not measured: {result['machine']['message']}.\n")
    else:
        lines += _limits(result) + _tiles(result) + _rows(result)
    return lines + runs_table(result)


def _limits(result: dict[str, Any]) -> list[str]:
    told, most = result["machine"], _threads(result)
    teams = sorted({1, most})
    lines = []
    for peak in (p for p in told["peaks"] if p["threads"] == 1):
        best = [pick(told["peaks"], isa=peak["isa"], threads=t)["best"] for t in teams]
        lines.append([f"{peak['isa']}: `{peak['instruction']}` in registers", *(f"{b:,.0f} GFLOP/s" for b in best)])
    for band in (b for b in told["bandwidth"] if b["threads"] == 1):
        best = [pick(told["bandwidth"], level=band["level"], threads=t)["best"] for t in teams]
        what = f"reading {band['bytes'] >> 10:,} KB a thread again and again ({band['level']})"
        lines.append([what, *(f"{b:,.0f} GB/s" for b in best)])
    text = f"Limits: the best of rounds ({told['rounds']}). A multiply-add counts as two, one of integers too.\n"
    return [text, *_table(["limit", *(f"{t} thread{'s' * (t > 1)}" for t in teams)], lines)]


def _tiles(result: dict[str, Any]) -> list[str]:
    told = result["machine"]
    depths = sorted({t["depth"] for t in told["tiles"]})
    lines = []
    for kernel in told["kernels"]:
        peak = pick(told["peaks"], isa=kernel["isa"], threads=1)
        for level in _SETS:
            cells = []
            for depth in depths:
                tile = pick(told["tiles"], isa=kernel["isa"], set=level, depth=depth, threads=1)
                share = f" ({100 * tile['median'] / peak['best']:.0f} %)" if tile and peak else ""
                cells.append(f"{tile['median']:,.0f}{share}" if tile else "")
            if any(cells):
                shape = f"{kernel['isa']}, {kernel['lanes']} x {kernel['points']}"
                lines.append([shape, level, *cells])
    text = "Tiles: median GFLOP/s on one thread (of the peak above), with the points read from that level of cache.\n"
    return [text, *_table(["kernel, lanes x points", "points in", *(f"depth {d:,}" for d in depths)], lines)]


def _rows(result: dict[str, Any]) -> list[str]:
    told = result["machine"]
    kinds = list(dict.fromkeys(r["what"] for r in told["rows"]))
    lines = []
    for kernel in told["kernels"]:
        for depth in (128, 1024):
            found = [pick(told["rows"], isa=kernel["isa"], depth=depth, what=w, threads=1) for w in kinds]
            lines.append([kernel["isa"], f"{depth:,}", *(f"{r['median']:,.0f}" if r else "" for r in found)])
    text = "The rest, in median nanoseconds on one thread: packing a row, measuring it, a canonical distance.\n"
    return [text, *_table(["kernel", "depth", *(k.replace("_", " ") for k in kinds)], lines)]


def runs_table(result: dict[str, Any]) -> list[str]:
    """Whole runs: times by threads, the rate where its operations are known, and its share of the peak."""
    most, peaks = _threads(result), result["machine"].get("peaks", [])
    lines = []
    for problem in result["problems"]:
        for isa in result["options"]["isas"]:
            all_, one, known = timed(problem, isa), timed(problem, isa, " x1"), computed(problem, isa)
            if all_ is None:
                failed = pick(problem["rows"], provider=forced(isa))
                lines.append([records.title(problem), isa, records.time_cell(failed) if failed else "", *[""] * 5])
                continue
            rate = operations(problem, known) / known["median_s"] / 1e9 if known else None
            peak = pick(peaks, isa=isa, threads=most)
            lines.append([
                records.title(problem), isa, records.seconds(all_["median_s"]),
                records.seconds(one["median_s"]) if one else "",
                f"{one['median_s'] / all_['median_s']:.2f} x" if one else "",
                records.seconds(known["median_s"]) if known and not problem.get("queries") else "",
                f"{rate:,.0f}" if rate else "", f"{100 * rate / peak['best']:.0f} %" if rate and peak else "",
            ])  # fmt: skip
    team = f"{most} thread{'s' * (most > 1)}"
    heads = ["run", "kernel", team, "1 thread", "scaling", "without pruning", "GFLOP/s", "of the peak"]
    text = f"Whole runs, checked before they were timed: medians of {result['options']['repeat']} interleaved runs.\n"
    return [text, *_table(heads, lines)]


def drawable(result: dict[str, Any]) -> bool:
    """Whether there is a roofline."""
    return "message" not in result["machine"] and bool(result["machine"]["peaks"])


def plot(result: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Intensity against GFLOP/s on all threads: ceilings, a point for each tile, a star for each run."""
    told, most = result["machine"], _threads(result)
    peaks = {p["isa"]: p["best"] for p in told["peaks"] if p["threads"] == most}
    figure = new_figure(10.5, 7)
    axes: Any = figure.add_subplot()
    left, right, top = 0.5, 1e4, max(peaks.values())
    for band in (b for b in told["bandwidth"] if b["threads"] == most):
        end = min(right, top / band["best"])
        axes.plot([left, end], [band["best"] * left, band["best"] * end], color=NEUTRAL, linewidth=1)
        axes.text(1.1 * left, 1.25 * band["best"] * left, f"{band['level']} {band['best']:,.0f} GB/s", fontsize=8,
                  color=NEUTRAL, rotation=math.degrees(math.atan(band["best"])), rotation_mode="anchor",
                  transform_rotates_text=True)  # fmt: skip
    for isa, peak in peaks.items():
        axes.axhline(peak, color=_COLOURS[isa], linewidth=1, linestyle="--")
        axes.annotate(f"{isa}\n{peak:,.0f} GFLOP/s", (right, peak), (5, 0), textcoords="offset points", fontsize=8,
                      color=_COLOURS[isa], va="center", annotation_clip=False)  # fmt: skip
    for tile in (t for t in told["tiles"] if t["threads"] == most and t["depth"] in (128, 1024)):
        colour = _COLOURS[tile["isa"]]
        axes.plot([tile["intensity"]], [tile["median"]], _SETS[tile["set"]], color=colour, markersize=5.5,
                  markerfacecolor=colour if tile["depth"] == 1024 else "white")  # fmt: skip
    key = []
    for letter, problem in zip("abcdefghij", result["problems"], strict=False):
        key.append(f"{letter}  {records.title(problem)}")
        for isa in result["options"]["isas"]:
            if row := computed(problem, isa):
                done = operations(problem, row)
                at = (done / bytes_read(problem, row), done / row["median_s"] / 1e9)
                axes.plot(*at, "*", color=_COLOURS[isa], markersize=11)
                axes.annotate(letter, at, (6, -3), textcoords="offset points", fontsize=8.5, color=_COLOURS[isa])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    axes.set_ylim(min(t["median"] for t in told["tiles"]) / 2, 1.6 * top)
    marks = (
        "operations for each byte read (tiles: from the level of the marker; runs: from memory)\n\n"
        "circles, squares, triangles: tiles with points from L1, L2, L3; hollow: depth 128, filled: depth 1,024\n"
        "stars: whole runs, every distance computed\n"
    )
    axes.set_xlabel(marks + "\n".join(_in_pairs(key)), fontsize=8.5, loc="left", linespacing=1.4)
    axes.set_ylabel("GFLOP/s", fontsize=9)
    quiet(axes)
    place = result["environment"]
    figure.suptitle(f"Native engine: {place['device']}, threads: {most}", fontsize=10, x=0.01, ha="left")
    save(figure, path)


def _in_pairs(items: list[str]) -> list[str]:
    return ["        ".join(items[i : i + 2]) for i in range(0, len(items), 2)]
