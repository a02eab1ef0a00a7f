"""Accuracy of the scorers side by side: the same features and banks, only the scores differ.

    python -m benchmarks.accuracy.scorers FOLDER [FOLDER ...] --json benchmarks/results/DEVICE/scorers.json

Folders are in MVTec layout. For each seed a bank is selected by exact greedy (`PatchCoreConfig`'s defaults: 256 px,
EfficientNet-Lite0, 1 %), and every scorer scores the test images with it. Pixel metrics are of maps of 128 x 128, sigma
2. Shown are means over seeds. The interval is of the difference in image AUROC to "distance": 95 % of 2,000 bootstrap
resamples of the test images, drawn within each class, the same for both, AUROC averaged over the seeds. Seconds are of
scoring all test patches, in one run after the other with the selection's seed: they compare cost, roughly.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy import sets
from benchmarks.harness import records
from benchmarks.harness.environment import describe
from patchcore_fast import metrics
from patchcore_fast.data import load_mask, scan
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.score import ImageScorer
from patchcore_fast.samplers import make_sampler
from patchcore_fast.scoring import anomaly_map

MAP, SIGMA, RESAMPLES, IMAGES = 128, 2.0, 2000, 16


def variants(k: int) -> dict[str, dict[str, Any]]:
    """Name -> settings of the config. The scale of the noise is shown at three values: it is not fitted to anything."""
    noise = {f"noising, scale {s:g}": {"scorer": "noising", "noise_scale": s} for s in (0.5, 1.0, 2.0)}
    plain = {name: {"scorer": name} for name in ("distance", "reweighted", "influence")}
    return {name: {"neighbours": k} | own for name, own in (plain | noise).items()}


def test_set(model: PatchCore, folder: str) -> tuple[torch.Tensor, tuple[int, int], np.ndarray, np.ndarray]:
    """Features of all test images [n * h * w, D], the grid, labels [n], masks [n, MAP, MAP] bool."""
    found = scan(folder).test
    rows = model.training_features([r.path for r in found])
    masks = np.zeros((len(found), MAP, MAP), bool)
    for i, record in enumerate(found):
        if record.mask is not None:
            mask = load_mask(record.mask).float()[None, None]
            masks[i] = (torch.nn.functional.interpolate(mask, (MAP, MAP)) > 0)[0, 0].numpy()
        elif record.label:
            raise SystemExit(f"{record.path}: a defect without a mask")
    assert rows.grid is not None
    return rows.features, rows.grid, np.array([r.label for r in found]), masks


def scored(
    scorer: ImageScorer, x: torch.Tensor, bank: torch.Tensor, grid: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Image scores [n] and patch scores [n, h, w], some images at a time."""
    pairs = [scorer(part, len(part) // (grid[0] * grid[1]), bank) for part in x.split(IMAGES * grid[0] * grid[1])]
    return torch.cat([s for s, _ in pairs]).numpy(), torch.cat([p for _, p in pairs]).view(-1, *grid).numpy()


def wins(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[defective, normal]: 1 where the defective image scores higher, 1/2 where equal. Its mean is the AUROC."""
    bad, good = scores[labels == 1][:, None], scores[labels == 0][None]
    return (bad > good) + 0.5 * (bad == good)


def interval(difference: np.ndarray) -> list[float]:
    """95 % percentile interval of the mean of [defective, normal] over resamples of both."""
    rng = np.random.default_rng(0)
    bad, good = difference.shape
    p = rng.multinomial(bad, np.full(bad, 1 / bad), RESAMPLES) / bad
    n = rng.multinomial(good, np.full(good, 1 / good), RESAMPLES) / good
    return np.quantile(((p @ difference) * n).sum(1), [0.025, 0.975]).tolist()


def problem(folder: str, seeds: int, k: int) -> dict[str, Any]:
    """Every scorer on one folder."""
    model = PatchCore(PatchCoreConfig(device="cpu"), progress=False)
    train = model.training_features(folder).features
    x, grid, labels, masks = test_set(model, folder)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in variants(k)}
    won: dict[str, list[np.ndarray]] = {name: [] for name in variants(k)}
    for seed in range(seeds):
        bank = train[make_sampler("greedy", ratio=0.01, seed=seed).select(train)]
        for name, settings in variants(k).items():
            start = time.perf_counter()
            scorer = ImageScorer(PatchCoreConfig(seed=seed, **(sets.NEAREST | settings)), bank)
            prepared = time.perf_counter()
            scores, patches = scored(scorer, x, bank, grid)
            seconds = time.perf_counter() - prepared
            maps = anomaly_map(torch.from_numpy(patches), (MAP, MAP), SIGMA).numpy()
            found[name].append({
                "image_auroc": metrics.image_auroc(scores, labels), "pixel_auroc": metrics.pixel_auroc(maps, masks),
                "pixel_ap": metrics.average_precision(maps, masks), "aupro": metrics.aupro(maps, masks),
                "seconds": seconds, "seconds_prepare": prepared - start,
            })  # fmt: skip
            won[name].append(wins(scores, labels))
    rows = []
    for name, runs in found.items():
        mean = {key: float(np.mean([r[key] for r in runs])) for key in runs[0]}
        change = np.mean(won[name], axis=0) - np.mean(won["distance"], axis=0)
        rows.append({"scorer": name, **mean, "change": float(change.mean()), "interval": interval(change),
                     "image_auroc_by_seed": [r["image_auroc"] for r in runs]})  # fmt: skip
    name = Path(folder).resolve().name
    return {"case": name, "neighbours": k, "seeds": seeds, "n_test": len(labels), "bank": len(bank), "rows": rows}


def as_text(p: dict[str, Any]) -> str:
    """A Markdown table."""
    head = ["scorer", "image AUROC", "change to distance", "pixel AUROC", "pixel AP", "AUPRO", "seconds"]
    what = f"k = {p['neighbours']}, {p['n_test']} test images, bank of {p['bank']:,}, {p['seeds']} seeds"
    lines = [f"**{p['case']}**, {what}", "", "| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for r in p["rows"]:
        low, high = r["interval"]
        change = "" if r["scorer"] == "distance" else f"{r['change']:+.3f} ({low:+.3f} .. {high:+.3f})"
        four = " | ".join(f"{r[key]:.3f}" for key in ("pixel_auroc", "pixel_ap", "aupro"))
        lines.append(f"| {r['scorer']} | {r['image_auroc']:.3f} | {change} | {four} | {r['seconds']:.1f} |")
    return "\n".join([*lines, ""])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="DIR")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--neighbours", type=int, default=1, metavar="K")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(argv)
    result: dict[str, Any] = {"benchmark": "scorers", "environment": describe("cpu"), "problems": []}
    for folder in args.folders:
        result["problems"].append(problem(folder, args.seeds, args.neighbours))
        print(as_text(result["problems"][-1]), flush=True)
        if args.json:
            records.write(args.json, result, schema=None)


if __name__ == "__main__":
    main()
