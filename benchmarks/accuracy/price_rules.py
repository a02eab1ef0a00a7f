"""Other prices, and the image score: against the nearest row and the largest patch, clean and contaminated.

    python -m benchmarks.accuracy.price_rules DATA... --json benchmarks/results/DEVICE/price/rules.json

Sets, contaminations, banks and pairing are those of `benchmarks.accuracy.price`; here s_j is varied, and how an image's
score comes from its patches. Each price is measured by the largest patch ("max") and by the mean of the largest 1 %
("top:0.01"). A price is a number k of rows, a factor c and a column:

    all      s_j, the distance to the nearest row of another image, looked for among all rows
    fit      the same among the rows that `fit` looks among (`model.pricing.every_of`)
    over q   max(0, s_j - the q-quantile of s over the bank): what most rows pay is free

The rule of a set is also chosen by the other sets alone, by the mean of image AUROC over contaminations, clean twice.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from benchmarks.accuracy import sets
from benchmarks.accuracy.price import MEASURES, SHARES, interval, measured, some
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

IMAGE_SCORES = ("max", "top:0.01")


class Price(NamedTuple):
    """k rows, c times a column."""

    k: int
    c: float
    column: str

    def __str__(self) -> str:
        rows = f"{self.k} row{'s' * (self.k > 1)}"
        return f"{rows}, no price" if self.c == 0 else f"{rows}, {self.c:g} x {self.column}"


PRICES = (
    Price(1, 0.0, "all"), Price(3, 0.0, "all"), Price(3, 0.25, "all"), Price(3, 0.5, "all"), Price(3, 0.25, "fit"),
    Price(3, 0.5, "fit"), Price(3, 1.0, "over 0.75"), Price(3, 2.0, "over 0.75"),
)  # fmt: skip
BASE = (str(PRICES[0]), "max")


def columns_of(rows: torch.Tensor, chosen: torch.Tensor, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Each column of PRICES [M], of chosen rows [M] among rows [N, D] of images [N]."""
    every = {name: support_distance(rows, chosen, image_ids=images, every=n).distance
             for name, n in (("all", 1), ("fit", every_of(len(rows))))}  # fmt: skip
    s = every["all"]
    over = [p.column for p in PRICES if p.column.startswith("over")]
    return every | {name: (s - s.quantile(float(name.split()[1]))).clamp(min=0) for name in over}


def features_of(truth: sets.Truth, config: PatchCoreConfig, kept: Path | None) -> sets.Features:
    """Extracted, or as an earlier run kept them; by the set's name alone, so keep them for one choice of images."""
    path = None if kept is None else kept / f"{truth.name}.safetensors"
    if path is not None and path.is_file():
        t = load_file(path)
        height, width = t["grid"].tolist()
        return sets.Features(t["train"], t["test"], (height, width), "")
    found = sets.extract(truth, config)
    if path is not None:
        save_file({"train": found.train, "test": found.test, "grid": torch.tensor(found.grid)}, path)
    return found


def cells(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each seed, contamination, price and image score of a set."""
    config = PatchCoreConfig(weights=args.weights, device="cpu")
    truth = some(sets.read_truth(folder, args.map_size), *args.images)
    features = features_of(truth, config, args.features)
    found: list[dict[str, Any]] = []
    plan = [(seed, share) for seed in args.seeds for share in SHARES]
    with bar(len(plan), truth.name) as shown:
        for seed, share in plan:
            kept = sets.draw(truth, max(SHARES), seed).kept
            what = sets.draw(truth, share, seed)
            rows, positions = sets.training_rows(features, what)
            chosen = GreedyCoresetSampler(args.ratio, seed=seed, device="cpu").select(rows)
            test = F.pad(features.test[torch.from_numpy(kept)].flatten(0, 1), (0, 1))
            columns = columns_of(rows, chosen, positions[:, 0].long())
            for price in PRICES:
                bank = with_price(rows[chosen], columns[price.column], price.c)
                distance = knn(test[:, : bank.shape[1]].contiguous(), bank, price.k)[0]
                patches = distance.mean(dim=1).view(int(kept.sum()), -1)
                small = patches.view(-1, *features.grid)
                maps = anomaly_map(small, (args.map_size,) * 2, args.sigma, config.upsample, config.border).numpy()
                pixels: dict[str, float] = {}  # the same for either image score
                for score in IMAGE_SCORES:
                    scores = image_score(patches, score).numpy()
                    values = pixels | measured(truth, kept, scores, maps, pixels=not pixels)
                    pixels = {m: v for m, v in values.items() if m != MEASURES[0]}
                    found.append({"set": truth.name, "seed": seed, "share": share, "price": str(price), "score": score,
                                  "bank": len(bank), "tested": int(kept.sum()), **values})  # fmt: skip
            shown.update()
    return found


def differences(rows: list[dict[str, Any]], rule: tuple[str, str], share: float) -> dict[str, dict[str, float]]:
    """By set, the mean over seeds of what a rule gives more than the nearest row and the largest patch, by measure."""
    own, base = (
        {(r["set"], r["seed"]): r for r in rows if (r["price"], r["score"], r["share"]) == (*pair, share)}
        for pair in (rule, BASE)
    )
    found: dict[str, dict[str, list[float]]] = {}
    for (name, seed), r in own.items():
        for m in MEASURES:
            if m in r:
                found.setdefault(name, {}).setdefault(m, []).append(r[m] - base[name, seed][m])
    return {name: {m: float(np.mean(v)) for m, v in of.items()} for name, of in found.items()}


def lost(rows: list[dict[str, Any]], share: float) -> float:
    """Image AUROC that contamination costs the nearest row and the largest patch, the mean over sets."""
    at = {(r["set"], r["seed"], r["share"]): r["image_auroc"] for r in rows if (r["price"], r["score"]) == BASE}
    names = dict.fromkeys(name for name, _, _ in at)
    return float(np.mean([np.mean([at[n, s, 0.0] - at[n, s, share] for n, s, x in at if (n, x) == (name, share)])
                          for name in names]))  # fmt: skip


def left_out(rows: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """For each set the rule that has the best image AUROC on all others."""
    rules = list(dict.fromkeys((r["price"], r["score"]) for r in rows))
    gains = {rule: [differences(rows, rule, share) for share in SHARES] for rule in rules}

    def worth(rule: tuple[str, str], without: str) -> float:
        means = [np.mean([v["image_auroc"] for n, v in of.items() if n != without]) for of in gains[rule]]
        return float(np.average(means, weights=[2.0, 1.0, 1.0]))

    return {name: max(rules, key=lambda rule: worth(rule, name)) for name in dict.fromkeys(r["set"] for r in rows)}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: every rule, and that chosen on the other sets; what is regained of the loss of image AUROC."""
    rules = list(dict.fromkeys((r["price"], r["score"]) for r in rows))
    heads = ["rule", "image score", *("clean" if not s else f"{s:.0%} contaminated" for s in SHARES)]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    gains = {rule: [differences(rows, rule, share) for share in SHARES] for rule in rules}
    for rule in rules:
        if rule != BASE:
            lines.append(_line(rule, gains[rule], rows))
    chosen = left_out(rows)
    by_set = [{name: gains[rule][i][name] for name, rule in chosen.items()} for i in range(len(SHARES))]
    lines.append(_line(("chosen on the other sets", ""), by_set, rows))
    picked = list(chosen.values())
    counts = [f"{price}, {score}: {picked.count((price, score))}" for price, score in dict.fromkeys(picked)]
    return "\n".join([*lines, "", f"Chosen on the other sets: {'; '.join(counts)} of {len(picked)} times."])


def _line(rule: tuple[str, str], gains: list[dict[str, dict[str, float]]], rows: list[dict[str, Any]]) -> str:
    parts = [rule[0], rule[1]]
    for share, of in zip(SHARES, gains, strict=True):
        values = [[v[m] for v in of.values() if m in v] for m in MEASURES]
        low, high = interval(values[0])
        means = " / ".join(f"{np.mean(v):+.3f}" if v else "" for v in values)
        parts.append(f"{means} ({min(values[0]):+.3f}; {low:+.3f} to {high:+.3f})")
        if share and (cost := lost(rows, share)) > 0:
            parts[-1] += f" {np.mean(values[0]) / cost:.0%}"
    return "| " + " | ".join(parts) + " |"


def main(argv: list[str] | None = None) -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DATA")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--ratio", type=float, default=0.01)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--images", nargs=3, type=int, default=[100, 50, 60], metavar=("TRAIN", "GOOD", "BAD"))
    parser.add_argument("--features", type=Path, metavar="FOLDER", help="where features are kept between runs")
    parser.add_argument("--map-size", type=int, default=64)
    parser.add_argument("--sigma", type=float, default=2.0, help="of the maps' smoothing, in their pixels")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    options = {n: v for n, v in vars(args).items() if n not in ("folders", "json", "weights", "features")}
    result: dict[str, Any] = {"benchmark": "price rules", "environment": describe("cpu"), "options": options,
                              "weights": Path(args.weights).name, "rows": []}  # fmt: skip
    for folder in args.folders:
        result["rows"] += cells(folder, args)
        if args.json:
            records.write(args.json, result)
    print(table(result["rows"]))


if __name__ == "__main__":
    main()
