"""Means over seeds and sets, differences to exact greedy, and what of its loss to contamination is regained.

Intervals are percentiles of resampled values. Within a set they are those of the mean over seeds, all seeds under the
same resamples of images; a difference is taken resample by resample, so what both samplers find hard cancels. Sets
are resampled independently and averaged: the sets themselves, and the seeds, are taken as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.accuracy.bootstrap import METRICS, interval
from benchmarks.accuracy.samplers import BASELINE
from benchmarks.accuracy.store import Store

NO_LOSS = 0.005  # of image AUROC: below, a share of the loss says nothing
# What stands in a row's metrics: value and interval, difference to greedy and interval, largest less smallest seed.
FIELDS = ("value", "low", "high", "diff", "diff_low", "diff_high", "spread")


Seeds = dict[tuple[Any, ...], set[int]]  # (backbone, share, bank, sampler, set) -> seeds with values


def _seeds(store: Store) -> Seeds:
    found: Seeds = {}
    for (name, backbone, seed, share, bank, sampler), cell in store.cells.items():
        if cell["status"] == "ok":
            found.setdefault((backbone, share, bank, sampler, name), set()).add(seed)
    return found


def _values(store: Store, at: tuple[Any, ...], seeds: Iterable[int]) -> np.ndarray:
    """[seeds, B + 1, 5] at (backbone, share, bank, sampler, set): resampled values, and last the value itself."""
    backbone, share, bank, sampler, name = at
    found = []
    for seed in sorted(seeds):
        k = (name, backbone, seed, share, bank, sampler)
        metrics = store.cells[k]["metrics"]
        point = [np.nan if metrics[m][0] is None else metrics[m][0] for m in METRICS]
        found.append(np.vstack([store.replicates[k][:, : len(METRICS)], point]))
    return np.stack(found)


def _rest(store: Store, at: tuple[Any, ...], seeds: Iterable[int], share: float) -> np.ndarray:
    """[seeds, B + 1] image AUROC of clean cells at `at`, without the images that `share` moves."""
    backbone, clean, bank, sampler, name = at
    found = []
    for seed in sorted(seeds):
        k = (name, backbone, seed, clean, bank, sampler)
        rest = store.cells[k]["rest"]
        column = len(METRICS) + list(rest).index(f"{share:g}")
        found.append(np.append(store.replicates[k][:, column], rest[f"{share:g}"]))
    return np.stack(found)


def means(store: Store) -> list[dict[str, Any]]:
    """A row for each backbone, contamination, bank, sampler and set, and with "set" null one for the mean over sets.

    Rows have seeds, metrics (name -> FIELDS, null where undefined), and of the selections: select_s (median), ratio
    (geometric mean of the time over greedy's in the same cell), extra_bytes (largest), and from_moved (part of the bank
    that comes from moved images). Only seeds that greedy has too are counted, and in a mean only sets that both have.
    Mean rows have sets, their number, and worst: metric -> [set, difference to greedy] where that is lowest. Where no
    image was moved into some sets at some contamination, there is a second mean with "among" true, over the other sets:
    only these means can be compared between contaminations.
    """
    seeds = _seeds(store)
    rows: list[dict[str, Any]] = []
    over_sets: dict[tuple[Any, ...], dict[str, Any]] = {}
    for at, own in seeds.items():
        both = own & seeds.get((*at[:3], BASELINE, at[4]), set())
        if not both:
            continue
        mine, base = _values(store, at, both), _values(store, (*at[:3], BASELINE, at[4]), both)
        backbone, share, bank, sampler, name = at
        cells = [store.cells[(name, backbone, s, share, bank, sampler)] for s in sorted(both)]
        greedy = [store.cells[(name, backbone, s, share, bank, BASELINE)] for s in sorted(both)]
        ratios = [c["select_s"] / g["select_s"] for c, g in zip(cells, greedy, strict=True)]
        parts = (mine.mean(0), base.mean(0), np.ptp(mine[:, -1], axis=0))
        rows.append({**_head(at), "set": name, "seeds": len(both), "metrics": _metrics(*parts),
                     **_told(cells, ratios)})  # fmt: skip
        over_sets.setdefault(at[:4], {})[name] = (*parts, cells, ratios)
    shares = {at[1] for at in seeds if at[1] > 0}
    moved = {name for name in {at[4] for at in seeds}
             if all(any(at[1] == s and at[4] == name for at in seeds) for s in shares)}  # fmt: skip
    for at, found in over_sets.items():
        rows.append(_mean_row(at, found))
        if shares and set(found) - moved and (some := {name: v for name, v in found.items() if name in moved}):
            rows.append(_mean_row(at, some) | {"among": True})
    return rows


def _head(at: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(("backbone", "share", "bank", "sampler"), at[:4], strict=True))


def _mean_row(at: tuple[Any, ...], by_set: dict[str, Any]) -> dict[str, Any]:
    found = list(by_set.values())
    mine, base, spread = (np.stack([f[i] for f in found]) for i in range(3))
    metrics: dict[str, list[float] | None] = {}
    for i, m in enumerate(METRICS):  # each over the sets that have it
        has = np.isfinite(mine[:, -1, i])
        metrics[m] = _metrics(mine[has].mean(0), base[has].mean(0), spread[has].mean(0))[m] if has.any() else None
    lost = mine[:, -1] - base[:, -1]  # [sets, 5]
    worst = {m: [list(by_set)[i := int(np.nanargmin(lost[:, j]))], float(lost[i, j])]
             for j, m in enumerate(METRICS) if metrics[m] is not None}  # fmt: skip
    told = _told([c for f in found for c in f[3]], [r for f in found for r in f[4]])
    return {**_head(at), "set": None, "sets": len(found), "seeds": min(len(f[3]) for f in found), "metrics": metrics,
            "worst": worst, **told}  # fmt: skip


def _told(cells: list[dict[str, Any]], ratios: list[float]) -> dict[str, Any]:
    return {
        "select_s": float(np.median([c["select_s"] for c in cells])),
        "ratio": float(np.exp(np.mean(np.log(ratios)))),
        "extra_bytes": max(c["extra_bytes"] for c in cells),
        "from_moved": float(np.mean([c["from_moved"] for c in cells])),
    }


def _metrics(mine: np.ndarray, base: np.ndarray, spread: np.ndarray) -> dict[str, list[float] | None]:
    """[B + 1, 5] of a sampler and of greedy -> name -> FIELDS."""
    found: dict[str, list[float] | None] = {}
    for i, m in enumerate(METRICS):
        own, diff = mine[:, i], mine[:, i] - base[:, i]
        if np.isnan(own[-1]):
            found[m] = None
            continue
        found[m] = [float(own[-1]), *interval(own[:-1]), float(diff[-1]), *interval(diff[:-1]), float(spread[i])]
    return found


def regained(store: Store) -> list[dict[str, Any]]:
    """Image AUROC that contamination takes from greedy, and the share of it that a sampler gives back.

    With G and S the means of greedy and of the sampler over sets and seeds, loss = G(clean) - G(contaminated) and
    regained = (S(contaminated) - G(contaminated)) / loss; null where the loss is below NO_LOSS, its interval null
    where a resampled loss is. Only sets into which images were moved count. G(clean) is of the test images that are
    left when contaminated, seed by seed, so that a loss comes from the training set alone.
    """
    seeds = _seeds(store)
    names = list(dict.fromkeys(at[4] for at in seeds))
    rows = []
    for at in dict.fromkeys(at[:4] for at in seeds):
        backbone, share, bank, sampler = at
        if share == 0 or sampler == BASELINE:
            continue
        found = []
        for name in names:
            wanted = [(*at, name), (backbone, share, bank, BASELINE, name), (backbone, 0.0, bank, BASELINE, name)]
            if both := set.intersection(*(seeds.get(w, set()) for w in wanted)):
                clean = _rest(store, wanted[2], both, share)
                found.append([*(_values(store, w, both).mean(0)[:, 0] for w in wanted[:2]), clean.mean(0)])
        if not found:
            continue
        mine, base, before = np.mean(np.array(found), axis=0)  # each [B + 1]
        loss, gain = before - base, mine - base
        row = {**_head(at), "sets": len(found),
               "loss": [float(loss[-1]), *interval(loss[:-1])], "gain": [float(gain[-1]), *interval(gain[:-1])],
               "regained": None, "low": None, "high": None}  # fmt: skip
        if loss[-1] >= NO_LOSS:
            row["regained"] = float(gain[-1] / loss[-1])
            if loss[:-1].min() >= NO_LOSS:
                row["low"], row["high"] = interval(gain[:-1] / loss[:-1])
        rows.append(row)
    return rows
