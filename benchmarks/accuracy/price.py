"""The mean of several rows and the price of unsupported rows, against the nearest row; clean and contaminated sets.

    python -m benchmarks.accuracy.price DATA... --json benchmarks/results/DEVICE/price/lite0.json
    python -m benchmarks.accuracy.price DATA... --holdout NEW... --json ...     # NEW: never looked at, the final table

DATA are folders in MVTec layout. Of each at most 100 training, 50 normal and 60 anomalous test images are drawn once.
Contaminated: as many defect images as 5 and 10 % of the training images moved into training. The test is the same at
every contamination, without any image that is ever moved, so that differences are paired. The bank is that of exact
greedy k-center, which does not know the rule; a rule is k, the rows whose mean distance is the score, and c, the price:

    score(x) = mean over the k smallest j of sqrt(|x - b_j|^2 + (c s_j)^2),   s_j = distance of b_j to other images

Constants are chosen leaving one set out: for a set that rule counts which is best on all others. `audit` takes those of
the 20 most suspicious images (`patchcore-fast audit`) out of the training that were really moved, as a person would who
looks at them; `truth` takes out all.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy import sets
from benchmarks.harness import records
from benchmarks.harness.environment import describe
from patchcore_fast.kernels import knn
from patchcore_fast.metrics import binary_curve
from patchcore_fast.model import PatchCoreConfig
from patchcore_fast.progress import bar
from patchcore_fast.samplers import ELFSCoresetSampler, GreedyCoresetSampler
from patchcore_fast.scores import support_distance, suspicion
from patchcore_fast.scoring import anomaly_map

COUNTS, PRICES = (1, 3, 9), (0.0, 0.25, 0.5, 1.0)
RULE = (3, 0.25)  # the defaults, which --holdout judges and the audit is measured with
SHARES = (0.0, 0.05, 0.1)
MEASURES = ("image_auroc", "pixel_auroc", "pixel_ap")
CLEAN = {"image_auroc": 0.0, "pixel_auroc": 0.008, "pixel_ap": 0.0, "worst": -0.015}  # asked of a default on clean sets
LOOKED_AT = 20  # images of the audit
Arm = tuple[int, float]


def some(truth: sets.Truth, train: int, good: int, bad: int) -> sets.Truth:
    """A set with at most so many images of each kind, drawn by its name."""
    random = np.random.default_rng([sets.number_of(truth.name), 3])
    kept = [random.permutation(np.flatnonzero(truth.labels == kind))[:most] for kind, most in ((0, good), (1, bad))]
    test = np.sort(np.concatenate(kept))
    parts = {n: getattr(truth, n)[test] for n in ("labels", "known", "strata", "masks", "gains", "regions")}
    return replace(truth, train=[truth.train[i] for i in np.sort(random.permutation(len(truth.train))[:train])],
                   test=[truth.test[i] for i in test], **parts)  # fmt: skip


def scored(features: sets.Features, bank: torch.Tensor, price: torch.Tensor, kept: np.ndarray,
           config: PatchCoreConfig, side: int, sigma: float,
           ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:  # fmt: skip
    """For each of COUNTS image scores [m] and maps [m, side, side] of the kept test images."""
    rows = features.test[torch.from_numpy(kept)]
    flat = torch.nn.functional.pad(rows.flatten(0, 1), (0, 1))
    most = min(max(COUNTS), len(bank))
    distance = knn(flat, torch.cat([bank, price[:, None]], dim=1), most)[0]
    for k in COUNTS:
        patches = distance[:, :k].mean(dim=1).view(len(rows), -1)
        maps = anomaly_map(patches.view(-1, *features.grid), (side, side), sigma, config.upsample, config.border)
        yield k, patches.amax(dim=1).numpy(), maps.numpy()


def measured(
    truth: sets.Truth, kept: np.ndarray, scores: np.ndarray, maps: np.ndarray, pixels: bool = True
) -> dict[str, float]:
    """The MEASURES of the kept test images; pixels where masks are known, and asked for."""
    image = binary_curve(scores, truth.labels[kept])
    known = truth.known[kept]
    found = {"image_auroc": image.auroc if image else float("nan")}
    if pixels and (truth.strata == 1).any():
        pixel = binary_curve(maps[known], truth.masks[kept][known])
        if pixel is not None:
            found |= {"pixel_auroc": pixel.auroc, "pixel_ap": pixel.average_precision}
    return found


def without(rows: torch.Tensor, positions: torch.Tensor, gone: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Training rows but those of some images, by their numbers in training order."""
    left = ~torch.isin(positions[:, 0], torch.as_tensor(gone, dtype=positions.dtype))
    return rows[left], positions[left]


def cells(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each seed, contamination and arm of a set."""
    config = PatchCoreConfig(backbone=args.backbone, weights=args.weights, image_size=args.image_size, device="cpu")
    truth = some(sets.read_truth(folder, args.map_size), *args.images)
    features = sets.extract(truth, config)
    found: list[dict[str, Any]] = []
    plan = [(seed, share) for seed in args.seeds for share in SHARES]
    with bar(len(plan), truth.name) as shown:
        for seed, share in plan:
            kept = sets.draw(truth, max(SHARES), seed).kept
            what = sets.draw(truth, share, seed)
            rows, positions = sets.training_rows(features, what)
            moved = np.flatnonzero(what.order < 0)
            facts = {"set": truth.name, "seed": seed, "share": share, "train": len(what.order), "moved": len(moved),
                     "tested": int(kept.sum())}  # fmt: skip

            def measure(name: str, rows: torch.Tensor, positions: torch.Tensor, chosen: torch.Tensor,
                        only: tuple[Arm, ...] | None = None, kept: np.ndarray = kept,
                        facts: dict[str, Any] = facts) -> None:  # fmt: skip
                bank = rows[chosen]
                s = support_distance(rows, chosen, image_ids=positions[:, 0].long()).distance
                for c in sorted({c for _, c in only}) if only else PRICES:
                    price = torch.where(torch.isfinite(s), s, 0.0) * c
                    for k, scores, maps in scored(features, bank, price, kept, config, args.map_size, args.sigma):
                        if only is None or (k, c) in only:
                            values = measured(truth, kept, scores, maps)
                            found.append(facts | {"arm": name, "k": k, "c": c, "bank": len(bank)} | values)

            greedy = GreedyCoresetSampler(args.ratio, seed=seed, device="cpu")
            measure("greedy", rows, positions, greedy.select(rows))
            if args.elfs:
                sampler = ELFSCoresetSampler(args.ratio, seed=seed, device="cpu", prune_support="rule")
                measure("elfs", rows, positions, sampler.select(rows, positions=positions), ((1, 0.0),))
            if share and len(what.order) > 2:
                suspect = suspicion(rows, positions=positions, seed=seed, progress=False).order[:LOOKED_AT]
                seen = np.intersect1d(suspect.numpy(), moved)
                for name, gone in (("truth", moved), ("audit", seen)):
                    left = without(rows, positions, gone)
                    measure(name, *left, greedy.select(left[0]), ((1, 0.0), RULE))
                found[-1]["found"] = len(seen)
            shown.update()
    return found


def differences(rows: list[dict[str, Any]], arm: str, rule: Arm, share: float) -> dict[str, dict[str, float]]:
    """By set, the mean over seeds of what a rule gives more than greedy with the nearest row, by measure."""
    of = {(r["set"], r["seed"]): r for r in rows if (r["arm"], r["k"], r["c"], r["share"]) == (arm, *rule, share)}
    base = {
        (r["set"], r["seed"]): r for r in rows if (r["arm"], r["k"], r["c"], r["share"]) == ("greedy", 1, 0.0, share)
    }
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(name for name, _ in of):
        seeds = [seed for other, seed in of if other == name]
        found[name] = {
            m: float(np.mean([of[name, s][m] - base[name, s][m] for s in seeds]))
            for m in MEASURES if all(m in of[name, s] for s in seeds)
        }  # fmt: skip
    return found


def lost(rows: list[dict[str, Any]], share: float) -> dict[str, float]:
    """By set, the image AUROC that contamination costs greedy with the nearest row; paired, the test is the same."""
    at = {(r["set"], r["seed"], r["share"]): r["image_auroc"] for r in rows
          if (r["arm"], r["k"], r["c"]) == ("greedy", 1, 0.0)}  # fmt: skip
    found = {}
    for name in dict.fromkeys(name for name, _, _ in at):
        found[name] = float(np.mean([at[n, s, 0.0] - at[n, s, share] for n, s, x in at if n == name and x == share]))
    return found


def interval(values: list[float], draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of a mean over sets."""
    random = np.random.default_rng(0)
    means = np.array(values)[random.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def worth(rows: list[dict[str, Any]], rule: Arm, names: list[str]) -> float:
    """What a rule is chosen by: the mean of all differences over sets, measures and contaminations, clean twice."""
    total = []
    for share, weight in ((0.0, 2.0), *((s, 1.0) for s in SHARES[1:])):
        found = differences(rows, "greedy", rule, share)
        total += [weight * float(np.mean(list(found[n].values()))) for n in names if n in found]
    return float(np.mean(total))


def left_out(rows: list[dict[str, Any]], best: Callable[..., Arm] | None = None) -> dict[str, Arm]:
    """For each set the rule that is best on all others: by `worth`, or as `best` says of rows and names."""
    names = list(dict.fromkeys(r["set"] for r in rows))
    arms = [(k, c) for k in COUNTS for c in PRICES]
    best = best or (lambda rows, names: max(arms, key=lambda arm: worth(rows, arm, names)))
    return {name: best(rows, [n for n in names if n != name]) for name in names}


def within(rows: list[dict[str, Any]], names: list[str]) -> Arm:
    """The rule that has the best image AUROC at the largest contamination of those that hold CLEAN on these sets."""
    held: dict[Arm, float] = {(1, 0.0): 0.0}
    for arm in ((k, c) for k in COUNTS for c in PRICES):
        clean, dirty = ([differences(rows, "greedy", arm, s)[n] for n in names] for s in (0.0, max(SHARES)))
        means = {m: np.mean([v[m] for v in clean if m in v] or [0.0]) for m in MEASURES}
        if all(means[m] >= CLEAN[m] for m in MEASURES) and min(v["image_auroc"] for v in clean) >= CLEAN["worst"]:
            held[arm] = float(np.mean([v["image_auroc"] for v in dirty]))
    return max(held, key=lambda arm: held[arm])


def line(label: str, by_set: list[dict[str, dict[str, float]]]) -> str:
    """A line of the table: for each contamination mean differences, worst set and interval of image AUROC."""
    parts = [label]
    for found in by_set:
        values = [[v[m] for v in found.values() if m in v] for m in MEASURES]
        image = [v["image_auroc"] for v in found.values()]
        low, high = interval(image)
        parts.append(
            " / ".join(f"{np.mean(v):+.3f}" if v else "" for v in values)
            + f" ({min(image):+.3f}; {low:+.3f} to {high:+.3f})"
        )
    return "| " + " | ".join(parts) + " |"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: every rule, the rule chosen by the other sets, and what is regained of what contamination costs."""
    lines = ["| rule | " + " | ".join("clean" if not s else f"{s:.0%} contaminated" for s in SHARES) + " |",
             "|" + " --- |" * (1 + len(SHARES))]  # fmt: skip
    present = {(r["arm"], r["k"], r["c"]) for r in rows}
    for arm, k, c in sorted(present, key=lambda x: (x[0] != "greedy", x)):
        if (arm, k, c) == ("greedy", 1, 0.0) or arm in ("truth", "audit"):
            continue
        name = f"{k} row{'s' * (k > 1)}, price {c:g}" + ("" if arm == "greedy" else f", {arm}")
        lines.append(line(name, [differences(rows, arm, (k, c), share) for share in SHARES]))
    for label, chosen in (
        ("chosen on the other sets", left_out(rows)),
        ("the same, of what holds clean", left_out(rows, within)),
    ):
        if len(chosen) <= 2:
            continue
        by_set = []
        for share in SHARES:
            all_of = {arm: differences(rows, "greedy", arm, share) for arm in set(chosen.values())}
            by_set.append({name: all_of[arm][name] for name, arm in chosen.items()})
        lines.append(line(label, by_set))
    columns = _regained(rows)
    lines += ["", "| " + " | ".join(["contaminated", "lost", *columns]) + " |",
              "|" + " --- |" * (2 + len(columns))]  # fmt: skip
    for share in SHARES[1:]:
        cost = float(np.mean(list(lost(rows, share).values())))
        parts = [f"{share:.0%}", f"{cost:.3f}"]
        for arm, rule in columns.values():
            gained = [v["image_auroc"] for v in differences(rows, arm, rule, share).values()]
            parts.append(f"{np.mean(gained) / cost:.0%}" if gained and cost > 0 else "")
        lines.append("| " + " | ".join(parts) + " |")
    return "\n".join(lines)


def _regained(rows: list[dict[str, Any]]) -> dict[str, tuple[str, Arm]]:
    """What may regain the loss, an arm and its rule: the price is that of the audit, the default of its time."""
    audited = [(r["k"], r["c"]) for r in rows if r["arm"] == "audit" and r["c"] > 0]
    rule = audited[0] if audited else RULE
    return {"by the price": ("greedy", rule), "by ELFS": ("elfs", (1, 0.0)),
            "by the audit, nearest row": ("audit", (1, 0.0)), "by the audit and the price": ("audit", rule),
            "by the truth, nearest row": ("truth", (1, 0.0))}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="DATA")
    parser.add_argument(
        "--holdout", nargs="+", type=Path, default=[], metavar="NEW", help="judged apart, by the defaults"
    )
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--image-size", type=int, help="the backbone's default when left out")
    parser.add_argument("--ratio", type=float, default=0.01)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--images", nargs=3, type=int, default=[100, 50, 60], metavar=("TRAIN", "GOOD", "BAD"))
    parser.add_argument("--elfs", action="store_true", help="measure ELFSCoresetSampler, pruning by its rule, too")
    parser.add_argument("--map-size", type=int, default=128)
    parser.add_argument("--sigma", type=float, default=2.0, help="of the maps' smoothing, in their pixels")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    if not args.folders and not args.holdout:
        parser.error("at least one folder in MVTec layout is wanted")
    result: dict[str, Any] = {
        "benchmark": "price", "environment": describe("cpu"), "weights": Path(args.weights).name,
        "options": {n: v for n, v in vars(args).items() if n not in ("folders", "holdout", "json", "weights")},
        "rows": [], "holdout": [],
    }  # fmt: skip
    for part, folders in (("rows", args.folders), ("holdout", args.holdout)):
        for folder in folders:
            result[part] += cells(folder, args)
            if args.json:
                records.write(args.json, result)
    for part in ("rows", "holdout"):
        if result[part]:
            print(f"{part}\n{table(result[part])}")


if __name__ == "__main__":
    main()
