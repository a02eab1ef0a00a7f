"""Backbones by the size of their bank: accuracy by the default score, time and bytes.

    python -m benchmarks.accuracy.sizes DATA... --backbone tf_efficientnet_lite0 tf_efficientnet_lite2 --json FILE
    python -m benchmarks.accuracy.sizes DATA... --backbone vit_small_patch14_dinov2 --weights FILE --json FILE

DATA are folders in MVTec layout, cut as `benchmarks.accuracy.price` cuts them: at most 100 training, 50 normal and 60
anomalous test images. Features are extracted once for a set and a backbone. Exact greedy picks in an order whose first
rows are the smaller bank's, so that one selection gives every size: 1 % of the rows, and each of --rows that is smaller
than half of them. A patch is scored as `fit` does it by default. Seconds are the processor's, of the process: of an
image's features, and of its search in the bank.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F

from benchmarks.accuracy import sets
from benchmarks.accuracy.price import MEASURES, measured, some
from benchmarks.harness import records
from benchmarks.harness.environment import describe
from patchcore_fast.kernels import knn
from patchcore_fast.model import PatchCoreConfig
from patchcore_fast.model.pricing import every_of
from patchcore_fast.progress import bar
from patchcore_fast.samplers import GreedyCoresetSampler
from patchcore_fast.scores import support_distance
from patchcore_fast.scoring import anomaly_map, image_score
from patchcore_fast.search import with_price

SHARE = 0.01  # the size that is the default, and so the base of the table


def sizes(total: int, numbers: list[int]) -> list[tuple[str, int]]:
    """Names and rows of the banks of a set, the default first."""
    return [(f"{SHARE:.0%}", int(total * SHARE)), *((f"{n:,}", n) for n in numbers if 2 * n < total)]


def measure(folder: Path, config: PatchCoreConfig, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each seed and size."""
    truth = some(sets.read_truth(folder, args.map_size), *args.images)
    begun = time.process_time()
    features = sets.extract(truth, config)
    each = (time.process_time() - begun) / (len(truth.train) + len(truth.test))
    kept = np.ones(len(truth.test), dtype=bool)
    rows, positions = sets.training_rows(features, sets.draw(truth, 0.0, 0))
    plan = sizes(len(rows), args.rows)
    found = []
    with bar(len(args.seeds) * len(plan), f"{truth.name} {config.backbone}") as shown:
        for seed in args.seeds:
            most = max(n for _, n in plan)
            order = GreedyCoresetSampler((most + 0.5) / len(rows), seed=seed, device="cpu").select(rows)
            support = support_distance(
                rows, order, image_ids=positions[:, 0].long(), every=every_of(len(rows))
            ).distance
            for name, n in plan:
                bank = with_price(rows[order[:n]], support[:n], config.search.price)
                begun = time.process_time()
                distance = knn(F.pad(features.test.flatten(0, 1), (0, 1)), bank, min(config.search.neighbours, n))[0]
                taken = time.process_time() - begun
                patches = distance.mean(dim=1).view(len(kept), -1)
                small = patches.view(-1, *features.grid)
                maps = anomaly_map(small, (args.map_size,) * 2, args.sigma, config.upsample, config.border)
                values = measured(truth, kept, image_score(patches).numpy(), maps.numpy())
                found.append({
                    "set": truth.name, "backbone": config.backbone, "seed": seed, "size": name, "bank": n,
                    "patches": len(rows), "columns": rows.shape[1], "bytes": bank.nbytes, **values,
                    "features_s": each, "search_s": taken / len(kept),
                })  # fmt: skip
                shown.update()
    return found


def means(rows: list[dict[str, Any]], backbone: str, size: str) -> dict[str, dict[str, float]]:
    """By set, each measure's mean over seeds, for a backbone and a size."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(r["set"] for r in rows):
        own = [r for r in rows if (r["set"], r["backbone"], r["size"]) == (name, backbone, size)]
        if own:
            found[name] = {m: float(np.mean([r[m] for r in own])) for m in MEASURES if all(m in r for r in own)}
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: means over the sets that have every size, and what is more than the first backbone's 1 %."""
    backbones = list(dict.fromkeys(r["backbone"] for r in rows))
    plan = list(dict.fromkeys((r["backbone"], r["size"]) for r in rows))
    all_of = {pair: means(rows, *pair) for pair in plan}
    names = [name for name in dict.fromkeys(r["set"] for r in rows) if all(name in of for of in all_of.values())]
    base = all_of[backbones[0], f"{SHARE:.0%}"]
    lines = ["| backbone | bank | image AUROC / pixel AUROC / AP | more than the first line, worst set's image AUROC | "
             "ms an image: features, search | bank, MB |", "| --- " * 6 + "|"]  # fmt: skip
    for pair in plan:
        found = all_of[pair]
        values = [[found[n][m] for n in names if m in found[n]] for m in MEASURES]
        more = [[found[n][m] - base[n][m] for n in names if m in found[n]] for m in MEASURES]
        own = [r for r in rows if (r["backbone"], r["size"]) == pair and r["set"] in names]
        milli = [1e3 * float(np.median([r[what] for r in own])) for what in ("features_s", "search_s")]
        lines.append(
            f"| {sets.label(pair[0])} | {pair[1]} | {_slashed(values, '.3f')} | "
            + ("" if found is base else f"{_slashed(more, '+.3f')} ({min(more[0]):+.3f})")
            + f" | {milli[0]:.0f}, {milli[1]:.1f} | {np.median([r['bytes'] for r in own]) / 1e6:.2f} |"
        )
    return "\n".join([*lines, "", f"Means over {len(names)} sets: {', '.join(names)}."])


def _slashed(values: list[list[float]], form: str) -> str:
    return " / ".join(format(float(np.mean(v)), form) if v else "" for v in values)


def main(argv: list[str] | None = None) -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DATA")
    parser.add_argument("--backbone", nargs="+", default=["tf_efficientnet_lite0", "tf_efficientnet_lite2"])
    parser.add_argument("--weights", default="auto", help="of the backbone, where it is one")
    parser.add_argument("--image-size", type=int, help="the backbone's default when left out")
    parser.add_argument("--rows", nargs="*", type=int, default=[2000, 5000], metavar="N")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--images", nargs=3, type=int, default=[100, 50, 60], metavar=("TRAIN", "GOOD", "BAD"))
    parser.add_argument("--map-size", type=int, default=128)
    parser.add_argument("--sigma", type=float, default=2.0, help="of the maps' smoothing, in their pixels")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    configs = [PatchCoreConfig(backbone=b, weights=args.weights, image_size=args.image_size, device="cpu")
               for b in args.backbone]  # fmt: skip
    options = {n: v for n, v in vars(args).items() if n not in ("folders", "json", "weights")}
    result: dict[str, Any] = {"benchmark": "sizes", "environment": describe("cpu"), "options": options,
                              "weights": Path(args.weights).name, "rows": []}  # fmt: skip
    for folder in args.folders:
        for config in configs:
            result["rows"] += measure(folder, config, args)
            if args.json:
                records.write(args.json, result)
    print(table(result["rows"]))


if __name__ == "__main__":
    main()
