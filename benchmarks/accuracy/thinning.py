"""Exact greedy selection against thinning, at equal bank sizes, up to 100,000 rows: accuracy, time, memory.

    python -m benchmarks.accuracy.thinning DATA... --json benchmarks/results/DEVICE/thinning/lite0.json
    python -m benchmarks.accuracy.thinning DATA... --backbone vit_small_patch14_dinov2 --weights FILE --image-size 252

DATA are folders in MVTec AD's layout. Compared are exact k-center greedy, random rows, and rows thinned by density
as SuperADD does it (`Thinning`). Features are extracted once for a set; every bank is chosen from them, searched, and
measured on the test images. A bank of --rows is chosen where a set has twice as many patches. Selections are timed
one arm after the other, seed by seed, after one of each arm that is not counted.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.accuracy import cells, sets
from benchmarks.harness import records
from benchmarks.harness.environment import describe
from patchcore_fast.kernels import knn
from patchcore_fast.metrics import binary_curve
from patchcore_fast.model import PatchCoreConfig
from patchcore_fast.progress import bar
from patchcore_fast.samplers import GreedyCoresetSampler, RandomSampler
from patchcore_fast.samplers.base import Sampler, check_percentage

ROUNDS, NEIGHBOURS, GROWTH = 100, 100, 1.1  # SuperADD's, as anomalib 2.7 has them
ARMS = ("greedy", "thinning", "random")


class Thinning(Sampler):
    """Rows thinned by density, the selection of SuperADD (VAND 4.0, 2026), with exact neighbours.

    In each of ROUNDS a random N / ROUNDS of the rows not kept yet are looked at alone: a row stays with the
    probability 1 / (1 + its neighbours within a distance, itself one of them), the distance growing until no more than
    the round's share stay. Random rows fill what is missing.

    The published steps grow the distance without end where a round's share is below about 1 / (NEIGHBOURS + 1) of its
    rows, or these are all equal, and keep ROUNDS rows where fewer are wanted. Here the distance ends when all
    NEIGHBOURS are within it, and what then stays too much is cut at random.
    """

    def __init__(self, percentage: float, seed: int = 0) -> None:
        super().__init__()
        self.percentage, self.seed = check_percentage(percentage), seed

    def _select(self, features: Tensor) -> Tensor:
        n = len(features)
        wanted, drawing = int(n * self.percentage), torch.Generator().manual_seed(self.seed)
        each = max(1, wanted // ROUNDS)
        kept = torch.zeros(n, dtype=torch.bool)
        for _ in range(ROUNDS):
            some = _drawn(~kept, max(1, n // ROUNDS), drawing)
            if not len(some):
                break
            rows = features[some]
            distances, _ = knn(rows, rows, min(NEIGHBOURS, len(rows)))
            within, farthest = distances.mean() / 10, distances.max()
            chance = torch.rand(len(rows), generator=drawing)
            while True:
                stays = chance < 1.0 / ((distances < within).sum(dim=1) + 1)
                if int(stays.sum()) <= each or not 0 < within <= farthest:  # a larger distance has no more neighbours
                    break
                within = within * GROWTH
            kept[some[_drawn(stays, each, drawing)]] = True
        rows = _drawn(kept, wanted, drawing)
        return torch.cat([rows, _drawn(~kept, wanted - len(rows), drawing)])


def _drawn(those: Tensor, most: int, drawing: torch.Generator) -> Tensor:
    """The numbers of those [n] bool that are true, `most` of them at random where there are more."""
    found = those.nonzero()[:, 0]
    return found[torch.randperm(len(found), generator=drawing)[:most]]


def made(arm: str, share: float, seed: int) -> Sampler:
    """The sampler of one of ARMS."""
    kinds = {"greedy": GreedyCoresetSampler, "thinning": Thinning, "random": RandomSampler}
    return kinds[arm](share, seed=seed)


def measure(folder: Path, config: PatchCoreConfig, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each bank, seed and arm, in the order of the runs: what slows the machine for a while hits all arms."""
    truth = sets.read_truth(folder, args.map_size)
    features = sets.extract(truth, config)
    what = sets.draw(truth, 0.0, 0)
    rows, positions = sets.training_rows(features, what)
    shares = list(args.banks) + [args.rows / len(rows)] * (len(rows) >= 2 * args.rows)
    plan = [(share, arm, seed) for share in shares for seed in args.seeds for arm in ARMS]
    for arm in ARMS:  # the first one pays for imports and the start of threads
        cells.select(made(arm, min(shares), 0), rows, positions, torch.device("cpu"))
    found = []
    with bar(len(plan), truth.name) as shown:
        for share, arm, seed in plan:
            chosen = cells.select(made(arm, share, seed), rows, positions, torch.device("cpu"))
            scores, maps = cells.score(features, rows[chosen.rows], what.kept, config, args.map_size, args.sigma)
            image = binary_curve(scores, truth.labels)
            pixel = binary_curve(maps[truth.known], truth.masks[truth.known])
            assert image is not None  # a set has normal and anomalous images
            found.append({
                "set": truth.name, "patches": len(rows), "share": share, "bank": len(chosen.rows), "arm": arm,
                "seed": seed, "image_auroc": image.auroc, "pixel_auroc": None if pixel is None else pixel.auroc,
                "pixel_ap": None if pixel is None else pixel.average_precision, "select_s": chosen.seconds,
                "extra_bytes": chosen.extra_bytes,
            })  # fmt: skip
            shown.update()
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, an arm beside the other: accuracy is the mean over seeds, of image AUROC with its range where there are
    several; seconds their median, megabytes the largest."""
    several = len({r["seed"] for r in rows}) > 1
    title = f"image AUROC{' (min..max)' * several} / pixel AUROC / AP"
    lines = ["| set | bank | " + " | ".join(f"{arm}: {title} | s | MB" for arm in ARMS) + " |",
             "| --- " * (2 + 3 * len(ARMS)) + "|"]  # fmt: skip
    for name, bank in dict.fromkeys((r["set"], r["bank"]) for r in rows):
        own = [r for r in rows if (r["set"], r["bank"]) == (name, bank)]
        parts = [name, f"{bank:,} of {own[0]['patches']:,}"]
        for arm in ARMS:
            group = [r for r in own if r["arm"] == arm]
            means = [_mean(group, key) for key in ("image_auroc", "pixel_auroc", "pixel_ap")]
            values = ["" if v is None else f"{v:.3f}" for v in means]
            if several:
                image = [r["image_auroc"] for r in group]
                values[0] += f" ({min(image):.3f}..{max(image):.3f})"
            parts += [" / ".join(values), f"{np.median([r['select_s'] for r in group]):.1f}",
                      f"{max(r['extra_bytes'] for r in group) / 1e6:.0f}"]  # fmt: skip
        lines.append("| " + " | ".join(parts) + " |")
    return "\n".join(lines)


def _mean(rows: list[dict[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows]
    return None if None in values else float(np.mean(values))


def main(argv: list[str] | None = None) -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DATA")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--image-size", type=int, help="the backbone's default when left out")
    parser.add_argument("--layers", nargs="+", type=int, metavar="N", help="each alone, as `fit --banks layer` selects")
    parser.add_argument("--banks", nargs="+", type=float, default=[0.001, 0.01, 0.1, 0.25], metavar="SHARE")
    parser.add_argument("--rows", type=int, default=100_000, help="of one more bank, where a set has twice as many")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--map-size", type=int, default=128)
    parser.add_argument("--sigma", type=float, default=2.0, help="of the maps' smoothing, in their pixels")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    config = PatchCoreConfig(
        backbone=args.backbone, weights=args.weights, image_size=args.image_size, device="cpu", **sets.NEAREST
    )
    if args.layers is None:
        rows = [row for folder in args.folders for row in measure(folder, config, args)]
    else:
        rows = [row | {"set": f"{row['set']}, layer {layer}"} for folder in args.folders for layer in args.layers
                for row in measure(folder, config.replace(layers=(layer,)), args)]  # fmt: skip
    print(table(rows))
    if args.json:
        options = {name: value for name, value in vars(args).items() if name not in ("folders", "json", "weights")}
        result = {"benchmark": "thinning", "environment": describe("cpu"), "options": options,
                  "weights": Path(args.weights).name, "rows": rows}  # fmt: skip
        records.write(args.json, result)


if __name__ == "__main__":
    main()
