"""Figures of accuracy/grid.py: trade-off with bank size, fall with contamination, ablation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.accuracy.bootstrap import METRICS, NAMES
from benchmarks.accuracy.samplers import BASELINE, OURS
from benchmarks.accuracy.sets import label
from benchmarks.pages import plots
from patchcore_fast.report.plots import ANOMALOUS, LINES, NEUTRAL, NORMAL, new_figure, quiet

_COLOURS = {OURS: (NORMAL, "o", "-"), BASELINE: (ANOMALOUS, "s", "-"), "random": (NEUTRAL, "^", "-")}
_SPARE = ((LINES[2], "D"), (LINES[3], "v"), (LINES[4], "P"), (LINES[5], "X"))


def figures(result: dict[str, Any], stem: str) -> dict[str, Callable[[Path], None]]:
    """File name -> what draws it; only those that the result has points for."""
    found: dict[str, Callable[[Path], None]] = {}
    means = [r for r in result["means"] if r["set"] is None]
    for backbone in dict.fromkeys(r["backbone"] for r in means):
        rows = [r for r in means if r["backbone"] == backbone]
        name = f"{stem}-{label(backbone)}"
        kinds = (("tradeoff", tradeoff, len({r["bank"] for r in rows}) > 1),
                 ("contamination", contamination, len({r["share"] for r in rows}) > 1),
                 ("ablation", ablation, any(kind(result, r["sampler"]) == "ablation" for r in rows)))  # fmt: skip
        for what, draw, worth in kinds:
            if worth:
                found[f"{name}-{what}.png"] = functools.partial(draw, result, rows)
    return found


def kind(result: dict[str, Any], sampler: str) -> str:
    """ "main" or "ablation"."""
    return str(result["samplers"][sampler]["kind"])


def _style(result: dict[str, Any], sampler: str) -> tuple[str, str, str]:
    """Colour, marker, line; dashed where the colours begin again."""
    if sampler in _COLOURS:
        return _COLOURS[sampler]
    others = [n for n in result["samplers"] if n not in _COLOURS and kind(result, n) == "main"]
    again, spare = divmod(others.index(sampler), len(_SPARE))
    return (*_SPARE[spare], ":" if again else "-")


def _measured(rows: list[dict[str, Any]]) -> list[str]:
    return [m for m in METRICS if any(r["metrics"][m] for r in rows)]


def _line(axes: Any, result: dict[str, Any], sampler: str, points: list[tuple[float, list[float]]]) -> None:
    colour, marker, line = _style(result, sampler)
    xs = [x for x, _ in points]
    axes.fill_between(xs, [v[1] for _, v in points], [v[2] for _, v in points], color=colour, alpha=0.13, linewidth=0)
    axes.plot(xs, [v[0] for _, v in points], color=colour, marker=marker, markersize=5, label=sampler, linestyle=line,
              linewidth=2.4 if sampler == OURS else 1.5)  # fmt: skip


def tradeoff(result: dict[str, Any], rows: list[dict[str, Any]], path: Path) -> None:
    """Metric against bank size: a column for each metric, a row for each contamination; bands are intervals."""
    rows = [r for r in rows if not r.get("among")]
    _curves(result, rows, path, "bank", "share", "bank, share of the patches", _clean)


def contamination(result: dict[str, Any], rows: list[dict[str, Any]], path: Path) -> None:
    """Metric against contamination: a column for each metric, a row for each bank size; the same sets throughout."""
    # Where not every set could be contaminated there are means over those that could: only these compare.
    some = [r for r in rows if r.get("among")]
    same = {(r["share"], r["bank"], r["sampler"]) for r in some}
    rows = some + [r for r in rows if (r["share"], r["bank"], r["sampler"]) not in same]
    _curves(result, rows, path, "share", "bank", "defect images in training", lambda bank: f"bank {100 * bank:g} %")


def _curves(result: dict[str, Any], rows: list[dict[str, Any]], path: Path, x: str, down: str, label_x: str,
            title: Callable[[float], str]) -> None:  # fmt: skip
    rows = [r for r in rows if kind(result, r["sampler"]) == "main"]
    metrics, levels = _measured(rows), sorted({r[down] for r in rows})
    figure = new_figure(2.9 * len(metrics), 2.5 * len(levels) + 0.6)
    for i, level in enumerate(levels):
        here = [r for r in rows if r[down] == level]
        ticks = sorted({100 * r[x] for r in here})
        for j, m in enumerate(metrics):
            axes = figure.add_subplot(len(levels), len(metrics), i * len(metrics) + j + 1)
            drawn = [r for r in here if r["metrics"][m]]
            for sampler in dict.fromkeys(r["sampler"] for r in drawn):
                own = [(100 * r[x], r["metrics"][m]) for r in drawn if r["sampler"] == sampler]
                _line(axes, result, sampler, sorted(own))
            if x == "bank":
                axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{t:g} %" for t in ticks])
            axes.minorticks_off()
            axes.set_title(f"{NAMES[m]}, {title(level)}", fontsize=9, loc="left")
            if i == len(levels) - 1:
                axes.set_xlabel(label_x, fontsize=8)
            _finish(axes, legend=i == j == 0)
    _heading(figure, result, rows)
    plots.save(figure, path)


def ablation(result: dict[str, Any], rows: list[dict[str, Any]], path: Path) -> None:
    """Differences to greedy of ELFS and of what is left without each part: a column for each metric, a row for each
    contamination, at the bank size that most ablations have."""
    cut = [r for r in rows if kind(result, r["sampler"]) == "ablation"]
    sizes = [r["bank"] for r in cut]
    bank = max(set(sizes), key=lambda b: (sizes.count(b), -abs(b - 0.01)))
    names = [n for n in result["samplers"] if n == OURS or kind(result, n) == "ablation"]
    rows = [r for r in rows if r["bank"] == bank and r["sampler"] in names and not r.get("among")]
    metrics, shares = _measured(rows), sorted({r["share"] for r in rows})
    figure = new_figure(2.6 * len(metrics) + 1.4, (0.26 * len(names) + 0.8) * len(shares) + 0.6)
    for i, share in enumerate(shares):
        for j, m in enumerate(metrics):
            axes = figure.add_subplot(len(shares), len(metrics), i * len(metrics) + j + 1)
            for y, name in enumerate(names[::-1]):
                for r in rows:
                    if (r["share"], r["sampler"]) == (share, name) and (v := r["metrics"][m]):
                        colour = NORMAL if name == OURS else "#9bbfd4"
                        # An interval of percentiles need not hold the value; an error bar has no negative length.
                        bars = [[max(0.0, v[3] - v[4])], [max(0.0, v[5] - v[3])]]
                        axes.barh(
                            y, v[3], height=0.62, color=colour, xerr=bars, ecolor=NEUTRAL, error_kw={"linewidth": 1}
                        )
            axes.axvline(0, color=ANOMALOUS, linewidth=1)
            axes.set_yticks(range(len(names)), names[::-1] if j == 0 else [""] * len(names), fontsize=8)
            axes.set_title(f"{NAMES[m]}, {_clean(share)}", fontsize=9, loc="left")
            _finish(axes, legend=False)
            axes.grid(False, axis="y")
    _heading(figure, result, rows, f"difference to greedy, bank {100 * bank:g} %")
    plots.save(figure, path)


def _clean(share: float) -> str:
    return f"{100 * share:g} % contaminated" if share else "clean"


def _finish(axes: Any, legend: bool) -> None:
    axes.tick_params(labelsize=8)
    quiet(axes)
    if legend:
        axes.legend(frameon=False, fontsize=8)


def _heading(figure: Any, result: dict[str, Any], rows: list[dict[str, Any]], more: str = "") -> None:
    sets = sorted({r["sets"] for r in rows})
    over = f"{sets[0]}" if len(sets) == 1 else f"{sets[0]} to {sets[-1]}"
    text = f"{label(rows[0]['backbone'])}, means over {over} set{'s' * (sets[-1] > 1)}, "
    text += f"{rows[0]['seeds']} seed{'s' * (rows[0]['seeds'] > 1)}"
    figure.suptitle(f"{text}{'; ' if more else ''}{more}; 95 % intervals", fontsize=10, x=0.01, ha="left")
