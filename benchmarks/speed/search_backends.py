"""Search indexes of a bank side by side: recall of neighbours, AUROC, time of a search, bytes in the bank file.

    python -m benchmarks.speed.search_backends path/to/set [more sets] --ratios 0.01 0.25 --json out.json

A set is a folder in MVTec layout. Its training patches give banks of several sizes (exact greedy, the same rows for all
indexes), its test patches are the queries. Before any time stands: the distances of every index are compared with those
of float64 brute force to the rows that it named, on 500 queries; the flat index must give our distances. Recall is the
share of queries whose nearest bank row is the true one, or equally near. Searches of all test patches are interleaved;
medians are shown, and ratios to our exact search, which is the default.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import records
from benchmarks.harness.environment import describe
from patchcore_fast.data import ImageRecord, make_loader, scan
from patchcore_fast.data.images import load_mask
from patchcore_fast.metrics import image_auroc, pixel_auroc
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.samplers import make_sampler
from patchcore_fast.scoring import anomaly_map
from patchcore_fast.search import INDEXES, SearchIndex, build_index

CHECKED = 500  # queries


def spread(items: list[ImageRecord], most: int) -> list[ImageRecord]:
    """At most so many, evenly over the list: test images stand sorted by defect."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int))]


def features(model: PatchCore, images: list[ImageRecord]) -> tuple[torch.Tensor, tuple[int, int]]:
    rows, grid = [], (0, 0)
    for batch in make_loader(images, model.config.resize, None, model.config.batch_size):
        found, grid = model.extractor(batch["image"].to(model.device))
        rows.append(found.cpu())
    return torch.cat(rows), grid


def check(kind: str, query: torch.Tensor, bank: torch.Tensor, index: SearchIndex) -> None:
    """Distances must be those of the rows that are named, and where the search is exact, the least."""
    part = query[:: max(1, len(query) // CHECKED)][:CHECKED]
    distance, rows = index.search(part, 1)
    named = (part.double() - bank[rows[:, 0]].double()).norm(dim=1)
    least = torch.stack([(bank.double() - q).norm(dim=1).min() for q in part.double()])
    good = torch.allclose(distance[:, 0].double(), named, rtol=1e-6, atol=0)
    if kind != "faiss-ivfpq":
        good = good and torch.allclose(distance[:, 0].double(), least, rtol=1e-6, atol=0)
    if not good:
        raise SystemExit(f"{kind}: distances are not those of brute force")


def measure(model: PatchCore, bank: torch.Tensor, query: torch.Tensor, grid: tuple[int, int],
            labels: np.ndarray, masks: np.ndarray | None, repeat: int) -> dict[str, Any]:  # fmt: skip
    made, built = {}, {}
    for kind in INDEXES:
        start = time.perf_counter()
        made[kind] = build_index(kind, bank, seed=0)
        built[kind] = time.perf_counter() - start
        check(kind, query, bank, made[kind])
    seconds: dict[str, list[float]] = {kind: [] for kind in INDEXES}
    distance: dict[str, torch.Tensor] = {}
    for _ in range(repeat):
        for kind in INDEXES:
            start = time.perf_counter()
            distance[kind] = made[kind].search(query, 1)[0][:, 0]
            seconds[kind].append(time.perf_counter() - start)
    rows = {}
    for kind in INDEXES:
        patches = distance[kind].view(len(labels), -1)
        maps = anomaly_map(patches.view(-1, *grid), model.config.input_size, model.config.sigma).numpy()
        content = made[kind].to_tensors().values()
        rows[kind] = {
            "recall": float((distance[kind] <= distance["exact"]).double().mean()),
            "largest_excess": float(((distance[kind] - distance["exact"]) / distance["exact"].clamp(min=1e-12)).max()),
            "image_auroc": image_auroc(patches.max(dim=1).values.numpy(), labels),
            "pixel_auroc": None if masks is None else pixel_auroc(maps, masks),
            "build_s": built[kind],
            "search_s": seconds[kind],
            "index_bytes": sum(part.nbytes for part in content),
        }
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.01, 0.25])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--images", type=int, default=10**9, help="of training and of test images take at most so many")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    model = PatchCore(PatchCoreConfig(device=args.device), progress=False)
    result = {"benchmark": "search_backends", "environment": describe(args.device), "options": vars(args) | {
        "folders": [f.name for f in args.folders], "json": None}, "problems": []}  # fmt: skip
    for folder in args.folders:
        images = scan(folder)
        test = spread(images.test, args.images)
        train, _ = features(model, spread(images.train, args.images))
        query, grid = features(model, test)
        labels = np.array([r.label for r in test])
        whole = all(r.mask is not None or r.label == 0 for r in test)
        size = model.config.input_size
        masks = np.stack([np.zeros(size, bool) if r.mask is None else load_mask(r.mask, size).numpy() for r in test])
        for ratio in args.ratios:
            bank = train[make_sampler("greedy", ratio, seed=0).select(train)]
            rows = measure(model, bank, query, grid, labels, masks if whole else None, args.repeat)
            problem = {
                "set": folder.name,
                "ratio": ratio,
                "bank": list(bank.shape),
                "queries": len(query),
                "rows": rows,
            }
            result["problems"].append(problem)
            show(problem)
    if args.json:
        records.write(args.json, result, schema=None)


def show(problem: dict[str, Any]) -> None:
    m, d = problem["bank"]
    print(f"\n{problem['set']}: {problem['queries']:,} patches against {m:,} x {d} ({m * d * 4 / 2**20:.1f} MB)")
    ours = statistics.median(problem["rows"]["exact"]["search_s"])
    for kind, row in problem["rows"].items():
        took = statistics.median(row["search_s"])
        pixel = "-" if row["pixel_auroc"] is None else f"{row['pixel_auroc']:.4f}"
        print(f"  {kind:12s} recall {row['recall']:.4f}  image AUROC {row['image_auroc']:.4f}  pixel AUROC {pixel}  "
              f"search {took:7.3f} s ({records.ratio(took / ours)})  build {row['build_s']:6.3f} s  "
              f"index {row['index_bytes'] / 2**20:5.2f} MB", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
