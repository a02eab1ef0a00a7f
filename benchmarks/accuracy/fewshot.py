"""Accuracy with few training images, with and without turned copies of them in the bank: curves over shots.

    python -m benchmarks.accuracy.fewshot FOLDER [FOLDER ...] [--draws 5] [--arms NAME ...] [--output FILE.json]
        [--plot FILE.png]

Every draw takes 1, 2, 4 and 8 images (fewer are among more, `draw_shots`) and makes a bank by greedy selection:

    none            the images alone
    rotate x 3      with their turns by 90, 180 and 270 degrees; the bank has four times the rows
    rotate x 7      with turns by 45 degrees and its multiples; eight times the rows
    rotate x 3, same rows   as "rotate x 3", cut to the rows of "none": what diversity does without size
    graph           the images alone, their features by fusion="graph": twice the numbers a row
    graph, rotate x 3       both

Each bank scores all test images as they are and, by a fixed draw for each set, turned by quarter turns (image AUROC
only). The result holds every draw, mean and standard deviation over draws, and as a reference the bank of all training
images (1 %). Features, search and map are the pipeline's own. Nothing here is a time.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.accuracy import cells, sets
from benchmarks.harness import records
from benchmarks.harness.environment import describe
from patchcore_fast.data import make_loader
from patchcore_fast.features import Backbone, FeatureExtractor
from patchcore_fast.files import atomic_write
from patchcore_fast.metrics import aupro, binary_curve
from patchcore_fast.model import PatchCoreConfig
from patchcore_fast.model.collect import FeatureRows
from patchcore_fast.model.fewshot import Augmentation, draw_shots
from patchcore_fast.samplers import make_sampler

WHOLE = 0.01  # share of the rows that the reference bank of all images keeps
SIDE, SIGMA = 128, 2.0  # of the maps that pixels are measured on
METRICS = ("image_auroc", "pixel_auroc", "pixel_ap", "pixel_aupro", "turned_image_auroc")


class Arm(NamedTuple):
    """copies : which of 8 turns by 45 degrees go in.  part : of the ratio.  fusion : of the features."""

    copies: tuple[int, ...]
    part: float = 1.0
    fusion: str = "concat"


QUARTERS = (0, 2, 4, 6)
ARMS = {
    "none": Arm((0,)),
    "rotate x 3": Arm(QUARTERS),
    "rotate x 7": Arm(tuple(range(8))),
    "rotate x 3, same rows": Arm(QUARTERS, 0.25),
    "graph": Arm((0,), fusion="graph"),
    "graph, rotate x 3": Arm(QUARTERS, fusion="graph"),
}


class Images:
    """A set's truth, and the features of its images by one extractor for each fusion, of one pass of the backbone."""

    def __init__(self, truth: sets.Truth, config: PatchCoreConfig, fusions: Iterable[str], copies: int) -> None:
        self.config, self.truth, self.copies = config, truth, copies
        self.device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.backbone = Backbone(config.backbone, config.layers, config.weights, self.device, config.seed)
        self.extractors = {fusion: FeatureExtractor(self.backbone, fusion) for fusion in fusions}
        self.grid = (0, 0)
        self.test, self.turned = self._test()

    def _loader(self, which: list[Any]) -> Any:
        c = self.config
        return make_loader(which, c.resize, c.crop, c.batch_size, c.workers)

    def _rows(self, count: int, fusions: Iterable[str] = ()) -> dict[str, FeatureRows]:
        return {fusion: FeatureRows(count) for fusion in fusions or self.extractors}

    def _add(self, rows: dict[str, FeatureRows], images: torch.Tensor) -> None:
        maps = self.backbone(images.to(self.device))
        for fusion, found in rows.items():
            fused = self.extractors[fusion].fuse(maps)
            self.grid = (fused.shape[2], fused.shape[3])
            found.add(self.extractors[fusion].finish(fused.permute(0, 2, 3, 1).flatten(0, 2)), self.grid)

    def _test(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """[m, P, D] of the test images by fusion, and of the same turned by quarter turns."""
        quarters = np.random.default_rng([0, sets.number_of(self.truth.name)]).integers(0, 4, len(self.truth.test))
        found, done = (self._rows(len(quarters)), self._rows(len(quarters))), 0
        for batch in self._loader(self.truth.test):
            images = batch["image"]
            turned = [torch.rot90(im, int(q), (1, 2)) for im, q in zip(images, quarters[done:], strict=False)]
            for rows, part in zip(found, (images, torch.stack(turned)), strict=True):
                self._add(rows, part)
            done += len(images)
        plain, turns = ({f: r.features.view(len(quarters), -1, r.columns) for f, r in rows.items()} for rows in found)
        return plain, turns

    def train(self, chosen: torch.Tensor, copies: int, fusions: Iterable[str] = ()) -> dict[str, torch.Tensor]:
        """[n, 1 + copies, P, D] of training images and their turns, by fusion; of all fusions where none is named."""
        augmentation = Augmentation("rotate" if copies else "none", max(copies, 1))
        each, done = augmentation.per_image, 0
        rows = self._rows(len(chosen) * each, fusions)
        for batch in self._loader([self.truth.train[i] for i in chosen.tolist()]):
            for images in augmentation.blocks(batch["image"], done):
                self._add(rows, images)
            done += len(batch["image"])
        return {f: r.features.view(len(chosen), each, -1, r.columns) for f, r in rows.items()}

    def measure(self, bank: torch.Tensor, fusion: str) -> dict[str, float]:
        """METRICS of a bank."""
        truth, every = self.truth, np.ones(len(self.truth.test), dtype=bool)
        values = {}
        for name, block in (("", self.test[fusion]), ("turned_", self.turned[fusion])):
            features = sets.Features(block[:0], block, self.grid, "")
            scores, maps = cells.score(features, bank, every, self.config, SIDE, SIGMA)
            curve = binary_curve(scores, truth.labels)
            assert curve is not None  # read_truth wants both kinds
            values[f"{name}image_auroc"] = curve.auroc
            pixels = binary_curve(maps[truth.known], truth.masks[truth.known]) if not name else None
            if pixels is not None:
                values["pixel_auroc"], values["pixel_ap"] = pixels.auroc, pixels.average_precision
                values["pixel_aupro"] = aupro(maps[truth.known], truth.masks[truth.known])
        return values


def fewer(truth: sets.Truth, most: int | None) -> sets.Truth:
    """At most so many test images, evenly from those of each kind (good, defective), in proportion."""
    total = len(truth.test)
    if most is None or most >= total:
        return truth
    kept = []
    for kind in (False, True):
        mine = np.flatnonzero(truth.labels == kind)
        kept.append(mine[np.linspace(0, len(mine) - 1, max(1, round(most * len(mine) / total))).round().astype(int)])
    at = np.sort(np.concatenate(kept))
    arrays = {n: getattr(truth, n)[at] for n in ("labels", "known", "strata", "masks", "gains", "regions")}
    return replace(truth, test=[truth.test[i] for i in at], **arrays)


def bank_of(rows: torch.Tensor, ratio: float, seed: int, device: torch.device) -> torch.Tensor:
    """Greedy choice from rows [n, copies, P, D]."""
    flat = rows.flatten(0, 2)
    return flat[make_sampler("greedy", ratio=ratio, seed=seed, device=device).select(flat)]


def reference(images: Images, fusion: str) -> dict[str, Any]:
    """What a bank of all training images gives, by the features of the first arm."""
    count = len(images.truth.train)
    whole = bank_of(images.train(torch.arange(count), 0, [fusion])[fusion], WHOLE, 0, images.device)
    return {"set": images.truth.name, "shots": count, "rows": len(whole)} | images.measure(whole, fusion)


def run(images: Images, args: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """The cells of one draw after the other: each number of shots, each arm."""
    count = len(images.truth.train)
    for seed in range(args.draws):
        most = draw_shots(count, min(max(args.shots), count), seed)
        features, found = images.train(most, images.copies), []
        for shots in args.shots:
            if shots > count:
                continue
            inside = torch.isin(most, draw_shots(count, shots, seed))
            for name in args.arms:
                arm = ARMS[name]
                rows = features[arm.fusion][inside][:, [c * (1 + images.copies) // 8 for c in arm.copies]]
                bank = bank_of(rows, args.ratio * arm.part, seed, images.device)
                cell = {"set": images.truth.name, "seed": seed, "shots": shots, "arm": name, "rows": len(bank)}
                found.append(cell | images.measure(bank, arm.fusion))
        yield found


def means(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over draws, and of an arm the mean difference to the first of the same draw."""
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for cell in found:
        groups.setdefault((cell["set"], cell["shots"], cell["arm"]), []).append(cell)
    out = []
    first = found[0]["arm"]
    for (name, shots, arm), mine in groups.items():
        row: dict[str, Any] = {"set": name, "shots": shots, "arm": arm, "draws": len(mine), "rows": mine[0]["rows"]}
        for metric in METRICS:
            if any(metric not in cell for cell in mine):  # a set without masks
                continue
            values = np.array([cell[metric] for cell in mine])
            base = np.array([cell[metric] for cell in groups[name, shots, first]])
            row[metric] = [float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None]
            row[f"{metric}_gain"] = float((values - base).mean())
        out.append(row)
    return out


def table(result: dict[str, Any]) -> str:
    """Text of the means."""
    lines = [f"{'set':24}{'shots':>6}  {'arm':24}{'rows':>7}" + "".join(f"{m:>22}" for m in METRICS)]
    for row in result["means"]:
        text = "".join(
            f"{row[m][0]:>14.3f} +- {0 if row[m][1] is None else row[m][1]:.3f}" if m in row else f"{'-':>22}"
            for m in METRICS
        )
        lines.append(f"{row['set']:24}{row['shots']:>6}  {row['arm']:24}{row['rows']:>7}{text}")
    for row in result["references"]:
        text = "".join(f"{row[m]:>22.3f}" if m in row else f"{'-':>22}" for m in METRICS)
        lines.append(f"{row['set']:24}{row['shots']:>6}  {'all images, 1 %':24}{row['rows']:>7}{text}")
    return "\n".join(lines)


def plot(result: dict[str, Any], path: Path) -> None:
    """Curves over shots, a row of axes for each of three metrics, a column for each set; bands: +- 1 std of draws."""
    from patchcore_fast.report.plots import ANOMALOUS, LINES, NEUTRAL, NORMAL, new_figure, quiet

    names = [r["set"] for r in result["references"]]
    shown = (("image_auroc", "image AUROC"), ("turned_image_auroc", "image AUROC, test images turned"),
             ("pixel_ap", "pixel AP"))  # fmt: skip
    styles = dict(zip(ARMS, ((NEUTRAL, "o"), (NORMAL, "s"), (ANOMALOUS, "^"), (LINES[2], "D"), (LINES[3], "v"),
                                  (LINES[4], "P")), strict=True))  # fmt: skip
    figure = new_figure(4.2 * len(names), 9.5, dpi=90)
    for column, name in enumerate(names):
        for line, (metric, text) in enumerate(shown):
            axes = figure.add_subplot(len(shown), len(names), 1 + column + line * len(names))
            for arm, (colour, marker) in styles.items():
                rows = [r for r in result["means"] if r["set"] == name and r["arm"] == arm and metric in r]
                if not rows:  # pixels of a set without masks
                    continue
                xs, mid = [r["shots"] for r in rows], np.array([r[metric][0] for r in rows])
                std = np.array([r[metric][1] or 0.0 for r in rows])
                axes.fill_between(xs, mid - std, np.minimum(mid + std, 1), color=colour, alpha=0.13, linewidth=0)
                axes.plot(xs, mid, color=colour, marker=marker, markersize=5, label=arm)
            reference = next(r for r in result["references"] if r["set"] == name)
            if metric in reference:
                axes.axhline(
                    reference[metric], color="#555555", linestyle=":", label=f"all {reference['shots']} images"
                )
            shots = sorted({r["shots"] for r in result["means"] if r["set"] == name})
            axes.set_xscale("log", base=2)
            axes.set_xticks(shots, [str(x) for x in shots])
            axes.set_xlabel("training images")
            axes.set_ylabel(text)
            axes.set_title(name)
            quiet(axes)
            if not line:
                axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as f:
        figure.savefig(f, format="png")


def main(argv: list[str] | None = None) -> None:
    """Measure each set, write after each draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="MVTec layout, with train/good")
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 2, 4, 8], metavar="N")
    parser.add_argument("--draws", type=int, default=5, metavar="N", help="default 5")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="NAME",
                        help="of the banks above, the first to compare with (default: all)")  # fmt: skip
    parser.add_argument("--ratio", type=float, default=0.1, metavar="R", help="rows that the bank keeps (default 0.1)")
    parser.add_argument("--test-images", type=int, metavar="N", help="test images of a set at most (default: all)")
    parser.add_argument("--image-size", type=int, default=256, metavar="PX")
    parser.add_argument("--weights", default="auto", metavar="W", help='"auto", "random" or a weight file')
    parser.add_argument("--device", metavar="D")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    args = parser.parse_args(argv)
    if min(*args.shots, args.draws, 2 if args.test_images is None else args.test_images) < 1 or not 0 < args.ratio < 1:
        parser.error("--shots, --draws and --test-images must be at least 1, --ratio in (0, 1)")
    args.shots, args.arms = sorted(set(args.shots)), list(dict.fromkeys(args.arms))
    config = PatchCoreConfig(image_size=args.image_size, weights=args.weights, device=args.device, **sets.NEAREST)
    options = {
        n: getattr(args, n)
        for n in ("shots", "draws", "arms", "ratio", "test_images", "image_size", "weights", "device")
    }
    result: dict[str, Any] = {
        "benchmark": "fewshot", "environment": describe(args.device or "cpu") | {"load": os.getloadavg()[0]},
        "options": options | {"backbone": config.backbone, "side": SIDE, "sigma": SIGMA, "reference_ratio": WHOLE},
        "sets": [], "references": [], "means": [], "cells": [],
    }  # fmt: skip
    wanted = {c for name in args.arms for c in ARMS[name].copies}
    copies = next(n for n in (0, 1, 3, 7) if all(c * (1 + n) % 8 == 0 for c in wanted))  # that have all these turns
    for folder in args.folders:
        truth = fewer(sets.read_truth(folder, SIDE), args.test_images)
        images = Images(truth, config, dict.fromkeys(ARMS[name].fusion for name in args.arms), copies)
        result["sets"].append(truth.describe([]))
        result["references"].append(reference(images, ARMS[args.arms[0]].fusion))
        for found in run(images, args):
            result["cells"] += found
            result["means"] = means(result["cells"])
            if args.output is not None:
                records.write(args.output, result)
    print(table(result))
    if args.plot is not None:
        plot(result, args.plot)


if __name__ == "__main__":
    main()
