"""What `inspect --signals` computes beside the selection, its pictures and its numbers; and the pool of a sampler."""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_fast.config.signals import chosen_signals

if TYPE_CHECKING:
    from patchcore_fast.data import ImageSet
    from patchcore_fast.model import PatchCore
    from patchcore_fast.model.collect import FeatureRows

SHOWN = 4  # photographs in signal_maps.png
FILES = ("signals.png", "signal_maps.png", "signal_correlations.png")
POOL_FILES = ("pool_plane.png", "pool_patches.png")

log = logging.getLogger(__name__)


@dataclass
class Computed:
    """signal -> [N] float32 (what a sampler knew under "sampler: NAME"), why others are missing, notes, seconds."""

    values: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def add_signals(parser: argparse.ArgumentParser) -> None:
    """--signals."""
    parser.add_argument("--signals", type=_names, metavar="NAMES",
                        help="compute and draw these signals of all patches, whatever the sampler: all, or names with "
                             "commas (docs/inspect.md lists them)")  # fmt: skip


def _names(text: str) -> tuple[str, ...]:
    try:
        return chosen_signals(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from None


def compute(names: tuple[str, ...], model: PatchCore, images: ImageSet, rows: FeatureRows, own: Any) -> Computed:
    """The signals of all rows; `own`: signal -> [N], what the sampler knew, shown beside them."""
    import torch

    from patchcore_fast.model.signals import view_instability
    from patchcore_fast.scores import signals

    whose = rows.positions(torch.arange(rows.total))
    found = signals(rows.features, names, positions=whose, seed=model.config.seed, device=model.device)
    if "views" in names:
        with found.timed("views"):
            found.values["views"] = view_instability(model, images, rows)
    for stage, spent in found.seconds.items():
        log.debug("signals, %s: %.2f s", stage, spent)
    values = found.values | {f"sampler: {name}": value for name, value in own.items()}
    return Computed(values, found.missing, found.notes, found.seconds)


def signal_facts(computed: Computed, picked: Any) -> dict[str, Any]:
    """Numbers of selection.json, under "signals" and "correlations"."""
    from patchcore_fast.report.ranks import spearman, tail_shares
    from patchcore_fast.report.selection import as_array, quantiles
    from patchcore_fast.report.signals import described

    rows = as_array(picked)
    one = {}
    for name, values in computed.values.items():
        array, what = as_array(values), described(name)
        one[name] = {"label": what.label, "unit": what.unit, "large": what.large, "note": computed.notes.get(name),
                     "all": quantiles(array), "picked": quantiles(array[rows]),
                     **tail_shares(array, rows)}  # fmt: skip
    return {
        "signals": one,
        "signals_missing": computed.missing,
        "signals_seconds": computed.seconds,
        "correlations": {"names": list(one), "spearman": spearman(computed.values) if one else []},
    }


def draw_signals(
    output: Path, computed: Computed, facts: dict[str, Any], photos: dict[int, Any], captions: dict[int, str],
    positions: Any, picked: Any, grid: tuple[int, int], title: str,
) -> None:  # fmt: skip
    """The three pictures of FILES; `facts` of `signal_facts`."""
    from patchcore_fast.report.signals import plot_correlations, plot_signal_maps, plot_signals

    plot_signals(computed.values, picked, output / FILES[0], title=f"{title}: signals of the training patches")
    plot_signal_maps(photos, computed.values, positions, grid, output / FILES[1], captions=captions,
                     title=f"{title}: signals on the photographs")  # fmt: skip
    table = facts["correlations"]
    plot_correlations(table["names"], table["spearman"], output / FILES[2],
                      title=f"{title}: which signals say the same")  # fmt: skip


def draw_pool(
    output: Path, pool: Any, rows: FeatureRows, picked: Any, photos: dict[int, Any], captions: dict[int, str],
    method: Any, seed: int, title: str,
) -> dict[str, Any]:  # fmt: skip
    """The two pictures of POOL_FILES: what greedy could choose from, and what it took. Returns the pool's numbers."""
    import numpy as np
    import torch

    from patchcore_fast.coverage import border_shares
    from patchcore_fast.report.plane import plot_plane
    from patchcore_fast.report.provenance import plot_kept_patches
    from patchcore_fast.report.selection import POOL

    assert rows.grid is not None, "the command looked"
    inside = torch.from_numpy(np.flatnonzero(pool))
    plot_plane(rows.features, picked, None, output / POOL_FILES[0], method=method, pruned={POOL: pool}, seed=seed,
               title=f"{title}: the pool, and the picks in it")  # fmt: skip
    plot_kept_patches(photos, rows.positions(picked), rows.grid, output / POOL_FILES[1],
                      pruned={POOL: rows.positions(inside)}, captions=captions,
                      title=f"{title}: the pool, and the picks in it")  # fmt: skip
    return {
        "rows": len(inside),
        "share": len(inside) / len(pool),
        "picked_inside": float(np.asarray(pool)[picked.numpy()].mean()),
        "border": border_shares(rows, inside).to_dict() if len(inside) else None,
    }


def signal_text(facts: dict[str, Any]) -> list[str]:
    """Lines for the screen: where the picks lie in each signal."""
    from patchcore_fast.report import metrics_table
    from patchcore_fast.report.selection import percent

    table: dict[str, dict[str, Any]] = {}
    for name, one in facts["signals"].items():
        tails = one["tails"]["0.05"]
        table[name] = {
            "mean rank of the picks": one["mean_rank"],
            "of them in the lowest 5 %": percent(tails["low"], 1) if tails["low_rows"] else "-",
            "in the highest 5 %": percent(tails["high"], 1) if tails["high_rows"] else "-",
        }
    lines = ["Where the picks lie in each signal (mean rank 0.5: as all patches):", ""]
    lines += [metrics_table(table, corner="signal"), ""] if table else []
    return lines + [f"{name}: not computed, {why}." for name, why in facts["signals_missing"].items()]
