"""Tables and picture of docs/graphcore.md, from results/*/graphcore/.

    python -m benchmarks.pages.graphcore [--check]

`fewshot*.json` are accuracy/fewshot.py's, `--arms none "rotate x 3" graph "graph, rotate x 3"`, together all sets;
`isometry.json` is accuracy/isometry.py's. `--check` writes nothing and fails where the page is stale.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ROOT
from benchmarks.accuracy.isometry import ANOTHER, FUSIONS
from benchmarks.accuracy.sets import label
from benchmarks.harness import records
from benchmarks.pages.render import with_table
from patchcore_fast.files import atomic_write
from patchcore_fast.report.plots import LINES, new_figure, quiet, save_figure

PAGE, PICTURE = ROOT / "docs" / "graphcore.md", ROOT / "docs" / "images" / "isometry.png"
NAMES = {"image_auroc": "image AUROC", "turned_image_auroc": "test images turned", "pixel_auroc": "pixel AUROC",
         "pixel_ap": "pixel AP", "pixel_aupro": "AUPRO"}  # fmt: skip


def read(root: Path) -> dict[str, dict[str, Any]]:
    """The results by name of their file."""
    return {
        path.stem: records.read(path) for path in sorted((root / "benchmarks" / "results").glob("*/graphcore/*.json"))
    }


def table(head: list[str], lines: list[list[str]]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(x) + " |" for x in (head, ["---"] * len(head), *lines))


def gains(found: dict[str, dict[str, Any]]) -> str:
    """Differences to "none" of the same draws, means over sets that have so many images."""
    rows = [r for name, result in found.items() if name.startswith("fewshot") for r in result["means"]]
    lines = []
    for shots, arm in dict.fromkeys((r["shots"], r["arm"]) for r in sorted(rows, key=lambda r: r["shots"])):
        mine = [r for r in rows if (r["shots"], r["arm"]) == (shots, arm)]
        if arm == "none":
            values = [f"{np.mean([r[m][0] for r in mine]):.3f}" for m in NAMES]
        else:
            values = [f"{np.mean([r[f'{m}_gain'] for r in mine]):+.3f}" for m in NAMES]
        lines.append([f"{shots}", arm, f"{len(mine)}", *values])
    return table(["images", "bank", "sets", *NAMES.values()], lines)


def fewshot(found: dict[str, dict[str, Any]]) -> str:
    """Every set, number of images and arm: mean and standard deviation over draws."""
    lines = []
    for name, result in found.items():
        if name.startswith("fewshot"):
            for r in result["means"]:
                values = [f"{r[m][0]:.3f} ± {r[m][1]:.3f}" for m in NAMES]
                lines.append([r["set"], f"{r['shots']}", r["arm"], f"{r['rows']:,}", *values])
            for r in result["references"]:
                values = [f"{r[m]:.3f}" for m in NAMES]
                lines.append([r["set"], f"all {r['shots']}", "none, 1 %", f"{r['rows']:,}", *values])
    order = list(dict.fromkeys(line[0] for line in lines))
    return table(
        ["set", "images", "bank", "rows", *NAMES.values()], sorted(lines, key=lambda line: order.index(line[0]))
    )


def cosines(result: dict[str, Any]) -> str:
    """Matched patches by kind of features, means over views."""
    lines = []
    for one in _kinds(result["cosines"]):
        by_view = {r["view"]: r for r in result["cosines"] if (r["network"], r["weights"], r["features"]) == one}
        values = [f"{np.mean([r[x] for r in by_view.values()]):.3f}" for x in ("mean", "low", "unmatched")]
        worst = min(by_view.values(), key=lambda r: r["mean"])
        lines.append([*_said(one), *values, f"{worst['mean']:.3f} ({worst['view']})"])
    head = [
        "network",
        "features",
        "matched patches: mean",
        "5 % quantile",
        "patches that do not match: mean",
        "worst view",
    ]
    return table(head, lines)


def radii(result: dict[str, Any], shown: tuple[int, ...] = (8, 32, 128)) -> str:
    """Relative covering radii by kind of features: turned (means over the views) and another image."""
    at = [result["options"]["picks"].index(n) for n in shown]
    lines = []
    for one in _kinds(result["radii"]):
        mine = [r for r in result["radii"] if (r["network"], r["weights"], r["features"]) == one]
        groups = (
            [r["ratio"] for r in mine if r["view"] != ANOTHER],
            [r["ratio"] for r in mine if r["view"] == ANOTHER],
        )
        lines.append([*_said(one), *(f"{np.mean(g, axis=0)[i]:.2f}" for i in at for g in groups)])
    return table(["network", "features", *(f"{what}, {n} picks" for n in shown for what in ("turned", ANOTHER))], lines)


def _kinds(rows: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys((r["network"], r["weights"], r["features"]) for r in rows))


def _said(kind: tuple[str, str, str]) -> list[str]:
    network, weights, features = kind
    return [network + (", random weights" if weights == "random" else ""), features]


def draw(result: dict[str, Any], path: Path) -> None:
    """Left the cosines by layer, right what first picks cover of the turned image, by the first network."""
    figure = new_figure(10, 3.4, dpi=80)
    left, right = figure.subplots(1, 2)
    kinds = _kinds(result["cosines"])
    for i, one in enumerate(kinds):
        mine = [r for r in result["cosines"] if (r["network"], r["weights"], r["features"]) == one]
        value, low, apart = (float(np.mean([r[x] for r in mine])) for x in ("mean", "low", "unmatched"))
        colour = LINES[list(dict.fromkeys(k[0] for k in kinds)).index(one[0])]
        first = one[0] not in [k[0] for k in kinds[:i]]
        left.plot([i, i], [low, value], color=colour, linewidth=1.5)
        left.plot(i, value, "o", color=colour, label=label(_said(one)[0]) if first else None)
        left.plot(i, apart, "_", color="#5f6368", markersize=12, label="patches that do not match" if not i else None)
    left.set_xticks(range(len(kinds)), [k[2] for k in kinds], rotation=60, fontsize=8)
    left.set_ylabel("cosine: mean, down to 5 % quantile")
    for one in [k for k in _kinds(result["radii"]) if k[0] == kinds[0][0]]:
        mine = [r for r in result["radii"] if (r["network"], r["weights"], r["features"]) == one]
        for other, style in ((False, "-"), (True, ":")):
            ratios = np.mean([r["ratio"] for r in mine if (r["view"] == ANOTHER) == other], axis=0)
            said = f"{label(one[0])}, {one[2]}: {ANOTHER if other else 'turned'}"
            right.plot(result["options"]["picks"], ratios, style, color=LINES[FUSIONS.index(one[2])], label=said)
    right.set_xscale("log", base=2)
    right.set_xlabel("first picks from the image as it was")
    right.set_ylabel("covering radius over own")
    for axes, corner in ((left, "lower right"), (right, "upper left")):
        quiet(axes)
        axes.legend(fontsize=7, loc=corner)
    save_figure(figure, path)


PARTS: dict[str, Callable[[dict[str, dict[str, Any]]], str]] = {
    "cosines": lambda found: cosines(found["isometry"]),
    "radii": lambda found: radii(found["isometry"]),
    "gains": gains,
    "fewshot": fewshot,
}


def page(text: str, found: dict[str, dict[str, Any]]) -> str:
    """The page with its tables between their marks."""
    for name, part in PARTS.items():
        text = with_table(text, part(found), (f"<!-- {name}:begin -->", f"<!-- {name}:end -->"))
    return text


def main(argv: list[str] | None = None) -> None:
    """Write, or look whether it would change anything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail where the page is stale")
    args = parser.parse_args(argv)
    found, before = read(ROOT), PAGE.read_text(encoding="utf-8")
    after = page(before, found)
    if args.check:
        if after != before or not PICTURE.exists():
            sys.exit("stale, run python -m benchmarks.pages.graphcore: docs/graphcore.md")
        return
    with atomic_write(PAGE, "w", encoding="utf-8") as f:
        f.write(after)
    draw(found["isometry"], PICTURE)


if __name__ == "__main__":
    main()
